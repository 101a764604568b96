#!/usr/bin/env python3
"""frameworks.py BINARY [--only NAME]... [--chroma] [--list]

What docs/frameworks.md promises, for each framework that it names: installs the pinned versions into a directory of its own, and runs
the document's lines with framework_scripts/with_*: add, query with a filter and without, get, delete.

 * the blocks marked `framework NAME` against a service without keys
 * the blocks marked `framework NAME keys` against a service with keys, with one that is limited to a tenant and a database
 * clients from before Chroma 1.0, which have to fail, with what the document says

A block is run as it stands there; only the port is another one, and KEY is set. What was found is compared with brute force, and the
service has to hold what is left: many frameworks come with an embedded Chroma of their own. A framework that cannot be installed is a
failure; so are a block that nothing here runs, and a version that the document does not name.

--only: of the names that --list prints; repeatable. --chroma: the blocks without keys first against Chroma's own server, so that the
checks are known to describe Chroma.

Needs Python 3.11 or 3.12, Node 20 or newer with npm, and cargo. No model is loaded: embeddings are fixed, and where a framework only
knows OpenAI's, a server here gives those. Exits 1 after all ran if one failed. It takes minutes.
"""

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from callers import Service
from framework_runtimes import Command, Environment, Node, OldNode, OldPython, Python, Runtime, Rust, Uv, articles
from processes import START_SECONDS, Failed, Process, equal, expect, free_ports, http_call, until
from readme_blocks import fenced

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "frameworks.md"
# The address in the document.
PORT = "8000"
RUN_SECONDS = 180
TOLERANCE = 1e-5
QUIET = {"ANONYMIZED_TELEMETRY": "False", "MEM0_TELEMETRY": "False", "CREWAI_DISABLE_TELEMETRY": "true", "OTEL_SDK_DISABLED": "true",
         "HAYSTACK_TELEMETRY_ENABLED": "False", "AGNO_TELEMETRY": "false", "HF_HUB_OFFLINE": "1"}


# ---------------- what the document says


def blocks() -> dict[tuple[str, bool], str]:
    """The lines by framework and whether they are those with a key."""
    found = {}
    for line, _, _, words, content in fenced(DOCUMENT.read_text()):
        if words[1:2] == ["framework"]:
            key = (words[2], words[3:] == ["keys"])
            expect(key not in found and words[3:] in ([], ["keys"]), f"line {line} of {DOCUMENT.name}: {' '.join(words)}")
            found[key] = content
    return found


# ---------------- the frameworks


@dataclass(frozen=True)
class Framework:
    runtime: type[Runtime]
    script: str
    # Pinned. The document names the first and its version.
    packages: tuple[str, ...]
    # The document's blocks without and with a key.
    blocks: tuple[str, ...] = ("open", "keys")
    # What the user sees of a client that cannot connect.
    fails_with: str | None = None


CHROMA = "chromadb==1.5.9"
FRAMEWORKS = {
    "chromadb": Framework(Python, "with_chromadb.py", (CHROMA,)),
    "chromadb-cloud": Framework(Python, "with_chromadb.py", (CHROMA,), blocks=("keys",)),
    "javascript-3": Framework(Node, "with_javascript.mjs", ("chromadb@3.5.0",)),
    "javascript-2": Framework(Node, "with_javascript.mjs", ("chromadb@2.4.6",)),
    "langchain": Framework(Python, "with_langchain.py", ("langchain-chroma==1.1.0", CHROMA)),
    "llamaindex": Framework(Python, "with_llamaindex.py", ("llama-index-vector-stores-chroma==0.6.0", CHROMA)),
    "haystack": Framework(Python, "with_haystack.py", ("chroma-haystack==5.0.0", CHROMA)),
    "mem0": Framework(Python, "with_mem0.py", ("mem0ai==2.2.1", CHROMA)),
    "agno": Framework(Python, "with_agno.py", ("agno==3.1.10", CHROMA)),
    "crewai": Framework(Python, "with_crewai.py", ("crewai==1.15.30", CHROMA)),
    "open-webui": Framework(Environment, "with_open_webui.py", ("open-webui==0.12.4",)),
    "chroma-mcp": Framework(Command, "with_chroma_mcp.py", ("chroma-mcp==0.2.6", CHROMA, "openai==2.29.0", "pydantic==2.12.5")),
    "rust": Framework(Rust, "with_rust.rs", ("chroma==0.15.0",)),
    "python-0.5": Framework(OldPython, "with_old_client.py", ("chromadb==0.5.15", "numpy==1.26.4"), ("open",),
                            "ValueError: Could not connect to tenant default_tenant. Are you sure it exists?"),
    "python-0.6": Framework(OldPython, "with_old_client.py", ("chromadb==0.6.3", "numpy==1.26.4"), ("open",), "KeyError: '_type'"),
    "javascript-1": Framework(OldNode, "with_old_client.mjs", ("chromadb@1.8.1",), ("open",), "Error: Unexpected end of JSON input"),
}


# ---------------- the embeddings of those that only know OpenAI's


class Embedder:
    def __init__(self) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                texts = [request["input"]] if isinstance(request["input"], str) else request["input"]
                data = [{"object": "embedding", "index": place, "embedding": articles.EMBEDDINGS[text]} for place, text in enumerate(texts)]
                usage = {"prompt_tokens": 1, "total_tokens": 1}
                body = json.dumps({"object": "list", "model": request["model"], "data": data, "usage": usage}).encode()
                self.send_response(200 if self.path == "/v1/embeddings" else 404)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_) -> None:
                pass

        self.listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.listener.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.listener.shutdown()
        self.listener.server_close()

    @property
    def settings(self) -> dict:
        keys = dict.fromkeys(("OPENAI_API_KEY", "CHROMA_OPENAI_API_KEY"), "none")
        return keys | {"OPENAI_BASE_URL": f"http://127.0.0.1:{self.listener.server_port}/v1"}


# ---------------- what must come out


def distance(space: str, left: list[float], right: list[float]) -> float:
    if space == "l2":
        return sum((one - other) ** 2 for one, other in zip(left, right))
    inner = sum(one * other for one, other in zip(left, right))
    return 1 - inner / math.hypot(*left) / math.hypot(*right)


def compare(found: dict) -> None:
    question = articles.EMBEDDINGS[articles.QUESTION]
    # The order is the same in both spaces.
    for space in ("l2", "cosine"):
        distances = {id_: distance(space, vector, question) for id_, (_, _, vector) in articles.ARTICLES.items()}
        order = sorted(distances, key=distances.get)
        if space == found["space"] and found["distances"] is not None:
            wanted = [distances[id_] for id_ in order]
            near = [abs(one - other) <= TOLERANCE for one, other in zip(found["distances"], wanted, strict=True)]
            expect(all(near), f"distances {found['distances']}, expected {wanted}")
    text, topic, _ = articles.ARTICLES[articles.GOT]
    wanted = {"found": order, "filtered": [id_ for id_ in order if articles.ARTICLES[id_][1] == articles.TOPIC], "text": text,
              "topic": topic, "left": sorted(set(articles.IDS) - {articles.DELETED})}
    equal({name: found[name] for name in wanted}, wanted, "what the framework found")


# ---------------- the servers


class Open:
    """The service without keys."""

    title, tenant, database, key = "without keys", "default_tenant", "default_database", None

    def __init__(self, home: Path, binary: Path) -> None:
        home.mkdir()
        self.process, self.watching_key = self.made(home, binary), None
        self.port = self.process.port
        try:
            self.process.start()
            self.prepare()
        except BaseException:
            self.process.stop()
            raise

    def made(self, home: Path, binary: Path) -> Process:
        return Service(binary, home)

    def prepare(self) -> None:
        pass

    def call(self, method: str, path: str, body: dict | None = None):
        headers = {"content-type": "application/json"} | ({"x-chroma-token": self.watching_key} if self.watching_key else {})
        data = None if body is None else json.dumps(body).encode()
        status, _, raw = http_call(self.port, method, f"/api/v2/tenants{path}", data, headers)
        equal(status, 200, f"status of {method} {path} ({raw[:300]})")
        return json.loads(raw)

    def check(self) -> None:
        """What the framework left is here, and where it was meant to be."""
        self.process.alive()
        collections = f"/{self.tenant}/databases/{self.database}/collections"
        found = self.call("GET", f"{collections}/articles")
        equal(self.call("GET", f"{collections}/{found['id']}/count"), len(articles.IDS) - 1, "records that the server holds")


class Limited(Open):
    """The service with keys; the framework's is limited to a tenant and a database."""

    title, tenant, database = "with a limited key", "shop", "search"

    def made(self, home: Path, binary: Path) -> Process:
        keys = home / "keys.toml"

        def key(name: str, *limits: str) -> str:
            made = subprocess.run([binary, "key", name, "--role", "writer", *limits], text=True, capture_output=True, check=True,
                                  timeout=START_SECONDS)
            with keys.open("a") as file:
                file.write(made.stdout)
            return made.stderr.strip()

        self.every = key("every")
        self.key = key("framework", "--tenant", self.tenant, "--database", self.database)
        return Service(binary, home, ACCESS__KEYS_FILE=keys)

    def prepare(self) -> None:
        self.watching_key = self.every
        self.call("POST", "", {"name": self.tenant})
        self.call("POST", f"/{self.tenant}/databases", {"name": self.database})


class ChromaServer(Process):
    """Chroma's own server."""

    def __init__(self, command: Path, home: Path) -> None:
        super().__init__(home / "log")
        self.command, self.home, self.port = command, home, free_ports(1)[0]

    def start(self) -> None:
        where = ["--path", self.home / "data", "--host", "127.0.0.1", "--port", str(self.port)]
        self.spawn([self.command, "run", *where], os.environ | QUIET)
        until("Chroma's server", START_SECONDS, lambda: self.alive() and http_call(self.port, "GET", "/api/v2/heartbeat")[0] == 200)


class Chroma(Open):
    title = "at Chroma's own server"

    def made(self, home: Path, binary: Path) -> Process:
        return ChromaServer(binary, home)


# ---------------- one framework


class Run:
    """All that one framework is asked for, each time of a server of its own."""

    def __init__(self, name: str, home: Path, uv: Uv, document: dict) -> None:
        self.name, self.framework, self.home = name, FRAMEWORKS[name], home / name
        self.lines = {kind: document.get((name, kind == "keys"), "") for kind in self.framework.blocks}
        self.runtime = self.framework.runtime(self.home, uv, self.framework.packages, self.framework.script)

    def all(self, binary: Path, chroma: Path | None, embedder: Embedder) -> None:
        began = time.monotonic()
        self.runtime.install(self.lines)
        print(f"{self.name}: {', '.join(self.framework.packages)} installed in {time.monotonic() - began:.0f} s", flush=True)
        servers = [(Chroma, chroma, "open")] if chroma else []
        servers += [(Open, binary, "open"), (Limited, binary, "keys")]
        for kind, program, block in servers:
            if block in self.lines:
                server = kind(self.home / f"server-{kind.__name__.lower()}", program)
                try:
                    self.one(block, server, embedder)
                finally:
                    server.process.stop()

    def one(self, block: str, server: Open, embedder: Embedder) -> None:
        began = time.monotonic()
        command = self.runtime.command(block, self.lines[block].replace(PORT, str(server.port)), server.port)
        foreign = ("VECTORKEEP", "CHROMA", "OPENAI", "KEY", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
        environment = {name: value for name, value in os.environ.items() if not name.upper().startswith(foreign)}
        # What a framework leaves in a home directory goes with this one; its own commands are found first.
        environment |= QUIET | embedder.settings | {"HOME": str(self.home)}
        environment["PATH"] = f"{self.home / 'venv' / 'bin'}{os.pathsep}{environment['PATH']}"
        environment |= {"KEY": server.key} if server.key else {}
        done = subprocess.run(command, cwd=self.home, env=environment, text=True, capture_output=True, timeout=RUN_SECONDS,
                              stdin=subprocess.DEVNULL)
        said = (done.stdout + done.stderr)[-4_000:]
        if self.framework.fails_with is not None:
            expect(done.returncode != 0, f"{server.title}: it could connect")
            expect(self.framework.fails_with in done.stderr, f"{server.title}: it failed with something else: {said}")
            server.process.alive()
            print(f"{self.name}: fails {server.title}, with {self.framework.fails_with}", flush=True)
            return
        expect(done.returncode == 0, f"{server.title}: exit status {done.returncode}: {said}")
        compare(json.loads(done.stdout.strip().splitlines()[-1]))
        server.check()
        print(f"{self.name}: passed {server.title}, {time.monotonic() - began:.0f} s", flush=True)


def check_document(document: dict) -> None:
    """It has the blocks that are run and no others, and names what is pinned here."""
    wanted = {(name, kind == "keys") for name, each in FRAMEWORKS.items() if each.fails_with is None for kind in each.blocks}
    equal(sorted(document), sorted(wanted), f"blocks of {DOCUMENT.name}")
    text = DOCUMENT.read_text()
    for name, framework in FRAMEWORKS.items():
        package, version = framework.packages[0].replace("@", "==").split("==")
        named = re.search(rf"`{re.escape(package)}` ([0-9.]+ and )?{re.escape(version)}\b", text)
        expect(named, f"{DOCUMENT.name} does not name {package} {version}")
        expect(framework.fails_with is None or framework.fails_with in text, f"{DOCUMENT.name} does not say what {name} fails with")


def run(names: list[str], binary: Path, with_chroma: bool, home: Path) -> list[str]:
    """The names of those that failed."""
    document, failed, chroma = blocks(), [], None
    check_document(document)
    uv = Uv(home / "uv")
    if with_chroma:
        uv.environment(home / "chroma", CHROMA)
        chroma = home / "chroma" / "bin" / "chroma"
    embedder = Embedder()
    try:
        for name in names:
            try:
                Run(name, home, uv, document).all(binary, chroma, embedder)
            except (Failed, OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
                print(f"FAIL {name}: {error}", flush=True)
                failed.append(name)
            # Some are hundreds of megabytes.
            shutil.rmtree(home / name, ignore_errors=True)
    finally:
        embedder.stop()
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path, nargs="?")
    parser.add_argument("--only", action="append", choices=list(FRAMEWORKS), metavar="NAME")
    parser.add_argument("--chroma", action="store_true")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(FRAMEWORKS))
        return 0
    if arguments.binary is None:
        parser.error("no binary")
    names, began = arguments.only or list(FRAMEWORKS), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vectorkeep-frameworks-") as home:
        try:
            failed = run(names, arguments.binary.resolve(), arguments.chroma, Path(home))
        except (Failed, OSError, subprocess.SubprocessError) as error:
            print(f"FAIL: {error}")
            return 1
    print(f"{len(names) - len(failed)} passed, {len(failed)} failed, in {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
