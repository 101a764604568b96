"""The servers of environments.py: the service under test, a second one, Chroma's own, and a proxy with faults."""

import base64
import collections
import contextlib
import json
import os
import random
import secrets
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from contents import Record, articles, as_text, same_content
from peer import LetterCount
from processes import CALL_SECONDS, START_SECONDS, Gate, Process, equal, expect, free_ports, http_call, until
from subject import DATABASE, HIDDEN, Service

TOPIC = {"topic": "wörter", "n": 3, "x": 2.0, "ok": True, "tiny": 5.68e-227}
LETTERS = {"type": "known", "name": LetterCount.name(), "config": {"buckets": 16}}
PAGE = 1_000
EVERYTHING = ["embeddings", "documents", "metadatas", "uris"]
STAGING = "vectorkeep-staging-"
TOKENS = {name: f"{name}{secrets.token_hex(16)}" for name in ("bearer", "header")}
# The part of each that nothing else can contain; whatever a service says is searched for it.
HIDDEN.update({f"{name} token": token[len(name):] for name, token in TOKENS.items()})
TOKEN_VARIABLE = "MIGRATION_TOKEN"
HOP_BY_HOP = {"content-length", "transfer-encoding", "connection", "keep-alive", "expect", "host"}
# A remote that is gone is given up after this.
MAX_RETRIES, RETRY_TIMEOUT_MS, REQUEST_TIMEOUT_MS = 5, 6_000, 20_000
GIVES_UP_SECONDS = 3 * (RETRY_TIMEOUT_MS + REQUEST_TIMEOUT_MS) / 1000


class Data:
    """Collections on a server, through Chroma's API."""

    def send(self, method: str, path: str, body=None):
        data = None if body is None else json.dumps(body).encode()
        status, _, raw = http_call(self.port, method, path, data, {"Content-Type": "application/json"} if data else {})
        with contextlib.suppress(ValueError):
            return status, json.loads(raw)
        return status, raw.decode(errors="replace")

    def call(self, method: str, path: str, body=None, wanted: int = 200):
        status, answer = self.send(method, path, body)
        equal(status, wanted, f"status of {method} {path} on {self.place} ({str(answer)[:600]})")
        return answer

    def listed(self) -> dict[str, str]:
        """Ids by name."""
        return {each["name"]: each["id"] for each in self.call("GET", f"{DATABASE}/collections")}

    def staged(self) -> int:
        """Records in copies that are not finished."""
        found = self.listed()
        return sum(self.call("GET", f"{DATABASE}/collections/{found[name]}/count") for name in found if name.startswith(STAGING))

    def definition(self, name: str) -> str:
        found = self.call("GET", f"{DATABASE}/collections/{name}")
        return as_text([found["metadata"] or None, found["configuration_json"], found["dimension"]])

    def path(self, name: str) -> str:
        return f"{DATABASE}/collections/{self.call('GET', f'{DATABASE}/collections/{name}')['id']}"

    def make(self, name: str, content: dict[str, Record], **definition) -> None:
        self.call("POST", f"{DATABASE}/collections", {"name": name} | definition)
        self.upsert(name, content)

    def upsert(self, name: str, content: dict[str, Record]) -> None:
        path, rows = self.path(name), list(content.items())
        for start in range(0, len(rows), PAGE):
            self.call("POST", f"{path}/upsert", batch(dict(rows[start:start + PAGE])))

    def delete(self, name: str, ids: list[str]) -> None:
        self.call("POST", f"{self.path(name)}/delete", {"ids": ids})

    def drop(self, name: str) -> None:
        """Emptied first: Chroma's own server leaves list metadata behind, where it turns up in later records."""
        if ids := list(self.stored(name)):
            self.delete(name, ids)
        self.call("DELETE", f"{DATABASE}/collections/{name}")

    def stored(self, name: str) -> dict[str, Record]:
        """Everything, in order; no id twice."""
        path, found = self.path(name), {}
        count = self.call("GET", f"{path}/count")
        for offset in range(0, count, PAGE):
            page = self.call("POST", f"{path}/get", {"limit": PAGE, "offset": offset, "include": EVERYTHING})
            twice = sorted(set(page["ids"]) & set(found))
            expect(not twice and len(set(page["ids"])) == len(page["ids"]), f"{name} on {self.place}: ids twice: {twice[:5]}")
            vectors = [vector.tobytes() for vector in np.array(page["embeddings"], "<f4")]
            rows = zip(vectors, page["documents"], page["uris"], map(as_text, page["metadatas"]))
            found.update(zip(page["ids"], (Record(*row) for row in rows)))
        equal(len(found), count, f"{name} on {self.place}: records by pages, and counted")
        return found


def batch(content: dict[str, Record]) -> dict:
    """As a body of add or upsert."""
    vectors, documents, uris, _ = zip(*content.values())
    metadatas = [record.values or None for record in content.values()]
    embeddings = [base64.b64encode(vector).decode() for vector in vectors]
    return {"ids": list(content), "embeddings": embeddings, "documents": documents, "metadatas": metadatas, "uris": uris}


class Chroma(Data, Process):
    """Chroma's own server, on the same port and directory whenever it is started."""

    place = kind = "chroma"

    def __init__(self, command: str, home: Path) -> None:
        super().__init__(home / "chroma.log")
        self.command, self.home, self.port = command, home / "chroma", free_ports(1)[0]

    def start(self) -> None:
        environment = dict(os.environ) | {"NO_PROXY": "127.0.0.1,localhost", "ANONYMIZED_TELEMETRY": "False"}
        self.spawn([self.command, "run", "--path", self.home, "--host", "127.0.0.1", "--port", str(self.port)], environment)
        heartbeat = lambda: self.alive() and http_call(self.port, "GET", "/api/v2/heartbeat")[0] == 200
        until("Chroma's server", START_SECONDS, heartbeat)


class Vectorkeep(Service, Data):
    """The service with a configuration file; whatever it says is searched for tokens."""

    kind = "vectorkeep"

    def __init__(self, binary: Path, home: Path, place: str, **settings) -> None:
        # A request that waits for a job is answered before its client gives up.
        settings = {"REPOSITORY__URL": home / f"{place}-backups", "JOBS__WAIT_TIMEOUT_MS": 200_000} | settings
        super().__init__(binary, home, place, {TOKEN_VARIABLE: TOKENS["bearer"]}, **settings)
        self.place, self.file = place, home / f"{place}.toml"
        self.configure({})

    def configure(self, environments: dict[str, dict]) -> None:
        sections = {f"environments.{name}": members for name, members in environments.items()}
        if environments:
            sections["migration"] = {"max_retries": MAX_RETRIES, "retry_timeout_ms": RETRY_TIMEOUT_MS,
                                     "request_timeout_ms": REQUEST_TIMEOUT_MS}
        lines = []
        for section, members in sections.items():
            lines += [f"[{section}]"] + [f"{name} = {json.dumps(value)}" for name, value in members.items()]
        self.file.write_text("".join(f"{line}\n" for line in lines))

    def start(self) -> None:
        self.spawn([self.binary, "serve", "--config", self.file], self.environment)
        ready = lambda: self.alive() and http_call(self.port, "GET", "/health/ready")[0] == 200
        until(f"the service {self.place}", START_SECONDS, ready)


class FaultyProxy:
    """Passes requests on to a server. While `rate` is above 0, that part of them meets a fault, by the seed. While there
    is a gate, what comes to it waits there."""

    # Nothing is passed on; what was done is not answered; an error instead of the answer; an error instead of the
    # request; a late answer; half an answer; the request arrives twice.
    KINDS = ("reset", "lost", "500", "503", "slow", "cut", "twice")
    slow = 0.3

    def __init__(self, port: int, seed: int) -> None:
        self.behind, self.rate, self.requests = port, 0.0, 0
        self.chance, self.lock, self.deck, self.gate = random.Random(seed), threading.Lock(), [], None
        self.injected, self.tokens = collections.Counter(), collections.Counter()
        self.listener = Listener(("127.0.0.1", 0), type("Passing", (Passing,), {"proxy": self}))
        self.port = self.listener.server_port
        threading.Thread(target=self.listener.serve_forever, daemon=True).start()

    @contextlib.contextmanager
    def faults(self, rate: float):
        self.rate = rate
        try:
            yield
        finally:
            self.rate = 0.0

    @contextlib.contextmanager
    def held(self, path_end: str, through: int):
        """Requests to such paths wait after the first ones: what is asked for is in its middle as long as one wants."""
        self.gate = Gate(f"…{path_end}", lambda _, path: path.endswith(path_end), through)
        try:
            yield self.gate
        finally:
            self.gate.open(passes=True)
            self.gate = None

    def next(self) -> str | None:
        """The fault of the next request: every kind comes as often as the others."""
        with self.lock:
            self.requests += 1
            if self.chance.random() >= self.rate:
                return None
            self.deck = self.deck or self.chance.sample(self.KINDS, len(self.KINDS))
            kind = self.deck.pop()
            self.injected[kind] += 1
            return kind

    def coin(self) -> bool:
        with self.lock:
            return self.chance.random() < 0.5

    def stop(self) -> None:
        self.listener.shutdown()
        self.listener.server_close()


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_) -> None:
        """Both sides hang up."""


class Passing(BaseHTTPRequestHandler):
    """One connection to a FaultyProxy."""

    protocol_version = "HTTP/1.1"
    proxy: FaultyProxy

    def pass_on(self) -> None:
        body, proxy = self.body(), self.proxy
        token = self.headers.get("x-chroma-token") or (self.headers.get("authorization") or "").removeprefix("Bearer ")
        proxy.tokens[token] += 1
        gate = proxy.gate
        if gate is not None and not gate.goes_on(self.command, self.path):
            return self.reset()
        fault = proxy.next()
        if fault == "reset":
            return self.reset()
        if fault == "503":
            return self.answer(503, {}, b'{"error":"ChromaError","message":"busy"}')
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
        answers = [http_call(proxy.behind, self.command, self.path, body, headers) for _ in range(1 + (fault == "twice"))]
        status, headers, answer = answers[0] if proxy.coin() else answers[-1]
        if fault == "lost":
            return self.reset()
        if fault == "500":
            return self.answer(500, {}, b'{"error":"InternalError","message":"something broke"}')
        if fault == "slow":
            time.sleep(proxy.slow)
        return self.answer(status, headers, answer, len(answer) // 2 if fault == "cut" else None)

    do_GET = do_HEAD = do_PUT = do_PATCH = do_POST = do_DELETE = pass_on

    def body(self) -> bytes | None:
        if "chunked" not in (self.headers.get("transfer-encoding") or ""):
            length = self.headers.get("content-length")
            return self.rfile.read(int(length)) if length else None
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def answer(self, status: int, headers, body: bytes, cut: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        length = headers.get("content-length", "0") if self.command == "HEAD" else str(len(body))
        self.send_header("content-length", length)
        self.end_headers()
        self.wfile.write(body[:cut])
        self.close_connection = self.close_connection or cut is not None

    def reset(self) -> None:
        """Drops the connection without so much as an end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.rfile.close()
        self.connection.close()

    def log_message(self, *_) -> None:
        pass


class World:
    """The servers, each with its name as an environment, and the WordNet records in the service."""

    def __init__(self, binary: Path, chroma: str, home: Path, data: Path, records: int) -> None:
        self.binary, self.home, self.data, self.records, self.loaded = binary, home, data, records, None
        self.chroma, self.second = Chroma(chroma, home), Vectorkeep(binary, home, "second")
        self.service, self.proxy = Vectorkeep(binary, home, "local"), FaultyProxy(self.second.port, 20261123)
        self.gates = {"gated-chroma": FaultyProxy(self.chroma.port, 0), "gated-second": FaultyProxy(self.second.port, 0)}
        self.header_file = home / "header-token"
        self.header_file.write_text(f"{TOKENS['header']}\n")
        self.environments = {
            "chroma": {"kind": "chroma", "url": f"http://127.0.0.1:{self.chroma.port}"},
            "second": {"kind": "vectorkeep", "url": f"http://127.0.0.1:{self.second.port}"},
            "faulty": {"kind": "vectorkeep", "url": f"http://127.0.0.1:{self.proxy.port}", "token_file": str(self.header_file),
                       "token_header": "x-chroma-token"},
            "bearer": {"kind": "chroma", "url": f"http://127.0.0.1:{self.proxy.port}", "token_env": TOKEN_VARIABLE},
            "dead": {"kind": "chroma", "url": f"http://127.0.0.1:{free_ports(1)[0]}", "token_env": TOKEN_VARIABLE},
        }
        for name, proxy in self.gates.items():
            self.environments[name] = {"kind": name.removeprefix("gated-").replace("second", "vectorkeep"), "url": f"http://127.0.0.1:{proxy.port}"}
        self.service.configure(self.environments)

    def server(self, place: str) -> Data:
        return {"local": self.service, "chroma": self.chroma, "gated-chroma": self.chroma}.get(place, self.second)

    def articles(self) -> dict[str, Record]:
        if self.loaded is None:
            content, began = articles(self.data, self.records), time.monotonic()
            configuration = {"hnsw": {"space": "ip", "max_neighbors": 24}, "embedding_function": LETTERS}
            self.service.make("articles", content, metadata=TOPIC, configuration=configuration)
            self.service.call("PUT", self.service.path("articles"), {"new_configuration": {"hnsw": {"ef_search": 77}}})
            self.loaded = content
            print(f"loaded {len(content)} records in {time.monotonic() - began:.1f} s", flush=True)
        return self.loaded

    def same(self, place: str, name: str, content: dict, ordered: bool = True) -> None:
        same_content(self.server(place).stored(name), content, f"{name} in {place}", ordered)
