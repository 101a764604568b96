"""Those who call the service in load.py, and the service: clients that know what every answer must be, and such as ask slowly
or never."""

import asyncio
import base64
import contextlib
import json
import os
import random
import socket
import statistics
import struct
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import psutil

from processes import START_SECONDS, Failed, Process, equal, expect, free_ports, http_call, until

DATABASE = "/api/v2/tenants/default_tenant/databases/default_database"
DIMENSION, POOL, COLLECTIONS = 384, 256, 5
RECORDS, BATCH, PAGE, NEIGHBOURS = 40, 10, 500, 10
ANSWER_SECONDS = 60
# Refused for a reason that the client can wait out.
REFUSED = (429, 503)
# What a client can meet that is wrong.
WRONG = (OSError, EOFError, ValueError, LookupError, Failed, asyncio.LimitOverrunError)
COMMON = "host: localhost\r\ncontent-type: application/json\r\n"
HEADS = ["kind", "status", "rate", "p50 ms", "p95 ms", "p99 ms", "max ms"]
IDLE, SLOW_HEADERS, SLOW_BODIES = "say nothing", "slow headers", "slow bodies"


class Pool:
    """Vectors, and the ways in which requests carry them."""

    def __init__(self) -> None:
        chance = random.Random(20_261_123)
        vectors = [[round(chance.gauss(0, 1), 3) for _ in range(DIMENSION)] for _ in range(POOL)]
        self.stored = [struct.pack(f"<{DIMENSION}f", *vector) for vector in vectors]
        self.as_json = [json.dumps(vector, separators=(",", ":")) for vector in vectors]
        self.as_base64 = [json.dumps(base64.b64encode(raw).decode()) for raw in self.stored]


VECTORS = Pool()


class Tally:
    """Answers by kind: how many of which status, and how long they took."""

    def __init__(self) -> None:
        self.seconds, self.statuses = defaultdict(list), defaultdict(Counter)
        self.errors, self.refused = [], 0

    def note(self, kind: str, status: int, began: float) -> None:
        self.seconds[kind].append(time.perf_counter() - began)
        self.statuses[kind][status] += 1

    def wrong(self, who: str, error: BaseException) -> None:
        self.errors.append(f"{who}: {type(error).__name__}: {str(error)[:300]}")

    def rows(self, took: float) -> list[list[str]]:
        rows = []
        for kind, times in sorted(self.seconds.items()):
            statuses = " ".join(f"{status}:{count}" for status, count in sorted(self.statuses[kind].items()))
            cuts = [f"{cut(times, part) * 1000:.1f}" for part in (0.5, 0.95, 0.99, 1)]
            rows.append([kind, statuses, f"{len(times) / took:,.1f}/s", *cuts])
        return rows

    def check_limit(self, limit_ms: float | None) -> None:
        for kind, times in self.seconds.items() if limit_ms else ():
            late = cut(times, 0.99) * 1000
            expect(late <= limit_ms, f"the p99 of {kind} is {late:.1f} ms, above --fail-over-ms {limit_ms}")


def cut(times: list[float], part: float) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * part))]


def show(title: str, heads: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(row[place]) for row in [heads, *rows]) for place in range(len(heads))]
    print(f"\n{title}")
    for row in [heads, *rows]:
        print("  ".join(cell.ljust(width) if place < 2 else cell.rjust(width) for place, (cell, width) in enumerate(zip(row, widths))))
    sys.stdout.flush()


class Connection:
    """HTTP/1.1 on one connection, opened when it is needed."""

    def __init__(self, port: int) -> None:
        self.port, self.reader, self.writer = port, None, None

    async def send(self, method: str, path: str, body: bytes = b"") -> tuple[int, dict, bytes]:
        async with asyncio.timeout(ANSWER_SECONDS):
            if self.writer is None:
                self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
            head = f"{method} {path} HTTP/1.1\r\n{COMMON}content-length: {len(body)}\r\n\r\n"
            self.writer.write(head.encode() + body)
            first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
            body = await self.reader.readexactly(int(headers["content-length"]))
            if headers.get("connection", "").lower() == "close":
                self.close()
            return int(first.split()[1]), headers, body

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


class Client:
    """Owns some ids of a collection: nobody else writes them, so it knows what every answer must be."""

    def __init__(self, number: int, port: int, collection: str, tally: Tally, may_refuse: bool = False, fresh: bool = False) -> None:
        self.number, self.path, self.tally = number, f"{DATABASE}/collections/{collection}", tally
        self.may_refuse, self.fresh, self.connection = may_refuse, fresh, Connection(port)
        self.chance, self.turn = random.Random(number), 0
        self.ids = [f"client-{number:05}-{place:03}" for place in range(RECORDS)]
        # Vector and turn by id.
        self.content: dict[str, tuple[int, int]] = {}
        self.embeddings = VECTORS.as_base64 if number % 2 else VECTORS.as_json

    async def ask(self, kind: str, verb: str, body: str, wanted: int = 200):
        """The answer; none where it was refused and may be."""
        began = time.perf_counter()
        status, headers, answer = await self.connection.send("POST", f"{self.path}/{verb}", body.encode())
        self.tally.note(kind, status, began)
        if self.fresh:
            self.connection.close()
        if self.may_refuse and status in REFUSED and "retry-after" in headers:
            self.tally.refused += 1
            await asyncio.sleep(self.chance.uniform(0.01, 0.1))
            return None
        equal(status, wanted, f"status of {verb} ({answer[:300]})")
        return json.loads(answer)

    def document(self, identity: str, turn: int) -> str:
        return f"{identity} as of turn {turn}: öäü"

    async def write(self, verb: str, ids: list[str], wanted: int = 200) -> None:
        self.turn += 1
        part = {identity: (self.chance.randrange(POOL), self.turn) for identity in ids}
        embeddings = ",".join(self.embeddings[vector] for vector, _ in part.values())
        rest = json.dumps({"ids": ids, "documents": [self.document(identity, self.turn) for identity in ids],
                           "metadatas": [{"owner": self.number, "turn": self.turn} for _ in ids]})
        if await self.ask(verb, verb, f'{rest[:-1]},"embeddings":[{embeddings}]}}', wanted) is not None:
            self.content |= part

    async def upsert(self) -> None:
        await self.write("upsert", self.chance.sample(self.ids, self.chance.randint(1, BATCH)))

    async def add(self) -> None:
        absent = [identity for identity in self.ids if identity not in self.content]
        await (self.write("add", absent[:BATCH], 201) if absent else self.upsert())

    async def delete(self) -> None:
        ids = self.chance.sample(sorted(self.content), min(3, len(self.content) // 2))
        if ids and (answer := await self.ask("delete", "delete", json.dumps({"ids": ids}))) is not None:
            equal(answer, {"deleted": len(ids)}, "the answer to a deletion")
            for identity in ids:
                del self.content[identity]

    async def get(self) -> None:
        ids, members = self.chance.sample(self.ids, 5), ["documents", "metadatas"]
        if whole := self.chance.random() < 0.2:
            members.append("embeddings")
        if (answer := await self.ask("get", "get", json.dumps({"ids": ids, "include": members}))) is not None:
            wanted = {identity: self.record(identity, whole) for identity in ids if identity in self.content}
            compare(records_of(answer), wanted, f"client {self.number}")

    def record(self, identity: str, whole: bool = True) -> tuple:
        vector, turn = self.content[identity]
        return (self.document(identity, turn), {"owner": self.number, "turn": turn}, VECTORS.stored[vector] if whole else None)

    async def query(self) -> None:
        """By a vector that is there: nothing is nearer. Every other time only among its own."""
        if not self.content:
            return
        vector, own = self.content[self.chance.choice(sorted(self.content))][0], self.chance.random() < 0.5
        where = f',"where":{{"owner":{self.number}}}' if own else ""
        body = f'{{"query_embeddings":[{VECTORS.as_json[vector]}],"n_results":{NEIGHBOURS},"include":["distances","metadatas"]{where}}}'
        answer = await self.ask("query, filtered" if own else "query", "query", body)
        if answer is None:
            return
        [ids], [distances], [metadatas] = answer["ids"], answer["distances"], answer["metadatas"]
        expect(0 <= distances[0] < 1e-3 and distances == sorted(distances), f"distances of a query by a stored vector: {distances}")
        if own:
            equal((len(ids), len(set(ids))), (min(NEIGHBOURS, len(self.content)),) * 2, "own records that were found")
            for identity, metadata in zip(ids, metadatas):
                equal(metadata, {"owner": self.number, "turn": self.content.get(identity, (0, 0))[1]}, f"metadata of {identity}")
            expect(self.content[ids[0]][0] == vector, f"the nearest to vector {vector} is {ids[0]}: {self.content[ids[0]]}")

    async def load(self) -> None:
        for start in range(0, RECORDS, BATCH):
            await self.write("upsert", self.ids[start:start + BATCH])

    async def run(self, over) -> None:
        verbs = (self.upsert, self.add, self.delete, self.get, self.query)
        try:
            while not over():
                [verb] = self.chance.choices(verbs, (30, 8, 8, 27, 27))
                await verb()
        except WRONG as error:
            self.tally.wrong(f"client {self.number}", error)
        finally:
            self.connection.close()


async def load_all(clients: list[Client]) -> None:
    await asyncio.gather(*(client.load() for client in clients))
    for client in clients:
        # Of another event loop than the one that comes.
        client.connection.close()


def records_of(answer: dict) -> dict[str, tuple]:
    vectors = answer.get("embeddings") or [None] * len(answer["ids"])
    stored = [vector and struct.pack(f"<{DIMENSION}f", *vector) for vector in vectors]
    return dict(zip(answer["ids"], zip(answer["documents"], answer["metadatas"], stored)))


def compare(found: dict, wanted: dict, where) -> None:
    expect(found.keys() == wanted.keys(), f"{where}: missing {sorted(wanted.keys() - found.keys())[:5]}, "
                                          f"never written or deleted {sorted(found.keys() - wanted.keys())[:5]}")
    for identity, record in wanted.items():
        expect(found[identity] == record, f"{where}: {identity} is {str(found[identity])[:300]}, expected {str(record)[:300]}")


class Service(Process):
    """The service on a free port, with all that it keeps in `home`."""

    def __init__(self, binary: Path, home: Path, **settings) -> None:
        super().__init__(home / "log")
        self.binary, self.port = binary, free_ports(1)[0]
        foreign = ("VECTORKEEP", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
        self.environment = {key: value for key, value in os.environ.items() if not key.upper().startswith(foreign)}
        settings = {"SERVER__LISTEN": f"127.0.0.1:{self.port}", "STORAGE__DATA_DIR": home / "data",
                    "REPOSITORY__URL": home / "backups"} | settings
        self.environment |= {f"VECTORKEEP__{key}": str(value) for key, value in settings.items()}

    def start(self) -> psutil.Process:
        self.spawn([self.binary, "serve"], self.environment)
        until("the service", START_SECONDS, lambda: self.alive() and http_call(self.port, "GET", "/health/ready")[0] == 200)
        return psutil.Process(self.process.pid)

    def call(self, method: str, path: str, body=None, wanted: int = 200):
        data = None if body is None else json.dumps(body).encode()
        status, _, raw = http_call(self.port, method, path, data, {"Content-Type": "application/json"} if data else {})
        equal(status, wanted, f"status of {method} {path} ({raw[:600]})")
        return json.loads(raw)

    def collections(self) -> list[str]:
        bodies = [{"name": f"load-{number}"} for number in range(COLLECTIONS)]
        return [self.call("POST", f"{DATABASE}/collections", body)["id"] for body in bodies]

    def stored(self, collection: str) -> dict:
        path, found, members = f"{DATABASE}/collections/{collection}", {}, ["documents", "metadatas", "embeddings"]
        total = self.call("GET", f"{path}/count")
        for offset in range(0, total, PAGE):
            found |= records_of(self.call("POST", f"{path}/get", {"limit": PAGE, "offset": offset, "include": members}))
        equal(len(found), total, "records that were read, and the count")
        return found


def clients_of(service: Service, count: int, tally: Tally, **how) -> tuple[list[str], list[Client]]:
    collections = service.collections()
    return collections, [Client(number, service.port, collections[number % COLLECTIONS], tally, **how) for number in range(count)]


class Crowd:
    """Connections that are slow or silent, and when the service ended them."""

    def __init__(self, port: int) -> None:
        self.port, self.began, self.ended, self.refused = port, defaultdict(dict), defaultdict(list), Counter()
        self.open: dict[socket.socket, str] = {}

    async def connect(self, kind: str, count: int, first: bytes = b"") -> None:
        for start in range(0, count, 100):
            await asyncio.gather(*(self.connect_one(kind, number, first) for number in range(start, min(start + 100, count))))

    async def connect_one(self, kind: str, number: int, first: bytes) -> None:
        loop, one = asyncio.get_running_loop(), socket.socket()
        one.setblocking(False)
        # Each address of this machine has ports of its own.
        one.bind((f"127.0.0.{2 + number % 8}", 0))
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await loop.sock_connect(one, ("127.0.0.1", self.port))
                await loop.sock_sendall(one, first)
        except (OSError, TimeoutError):
            self.refused[kind] += 1
            one.close()
            return
        self.open[one] = kind
        self.began[kind][one] = time.monotonic()
        loop.add_reader(one, self.readable, one)

    def readable(self, one: socket.socket) -> None:
        """Nothing was asked: an answer is a refusal, and what follows is the end."""
        with contextlib.suppress(BlockingIOError):
            try:
                if one.recv(65_536):
                    return
            except ConnectionError:
                pass
            self.let_go(one)

    def let_go(self, one: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(one)
        if kind := self.open.pop(one, None):
            self.ended[kind].append(time.monotonic() - self.began[kind].pop(one))
        one.close()

    def left(self, *kinds: str) -> int:
        return sum(kind in kinds for kind in self.open.values())

    async def drip(self, over) -> None:
        while not over():
            for one in [one for one, kind in self.open.items() if kind != IDLE]:
                try:
                    one.send(b"a")
                except BlockingIOError:
                    pass
                except OSError:
                    self.let_go(one)
            await asyncio.sleep(1)

    def close(self) -> None:
        for one in self.open:
            asyncio.get_running_loop().remove_reader(one)
            one.close()
        self.open.clear()

    def report(self, kind: str, held: float) -> str:
        times, left = self.ended[kind], self.left(kind)
        cut_off = "none cut off"
        if times:
            cut_off = f"{len(times)} cut off after {min(times):.1f} to {max(times):.1f} s (median {statistics.median(times):.1f})"
        return f"{kind}: {left + len(times)} connected, {self.refused[kind]} not; {cut_off} within {held:.0f} s"
