#!/usr/bin/env python3
"""compare.py --data DIR [--vectorkeep BINARY] [--chroma BINARY] [--records N]

Starts vectorkeep and Chroma (the `chroma` of a venv, as `chroma run`) one after the other, each with a new directory
under TMPDIR and a free port on loopback, does the same to both over HTTP, and prints a Markdown table. Timings are
printed, never asserted; progress goes to stderr. Servers are stopped and directories removed whatever happens.
Linux only. Needs `zstandard` and `numpy` (PyPI); the requests are those of service.py.

How to read it:
- Each server runs as it comes: vectorkeep syncs a write before it is acknowledged, Chroma leaves that to its SQLite.
- Queries are timed after the server has come to rest (next to no CPU time for a second), once all have been asked for
  the recall. What was put off until then shows in the first query and in the rest after the load.
- Clients and server share the machine: with few cores, the four clients of the throughput take their part of them.
- The peak of memory is that of the server's process from its start to the end of the scans. Chroma's contains the
  Python that it runs in; see the memory of the empty server.
- Disk is what the directory takes after the server has stopped, sparse files as what they occupy.
"""
import argparse
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy

from service import Collection, Refused, Server, count_ids, latencies, question, records, seconds, upserts, vectors

HOST = "127.0.0.1"
CONNECTIONS = 4
THROUGHPUT_S = 5.0
PATIENCE_S = 600.0
PLAIN, ONE_PERCENT, HALF = "query, top 10", "query, filter leaves 1 %", "query, filter leaves 50 %"


@dataclass
class Question:
    body: bytes
    nearest: set[str]  # the right answer, by brute force


@dataclass
class Workload:
    total: int
    batches: list[bytes]
    questions: dict[str, list[Question]]


def workload(data: Path, total: int) -> Workload:
    rows = records(data, total)
    ids = [row["id"] for row in rows]
    percent = numpy.array([row["metadata"]["percent"] for row in rows])
    matrix = numpy.frombuffer(b"".join(b64decode(row["embedding_b64"]) for row in rows), "<f4").reshape(total, -1)
    matrix = matrix / numpy.linalg.norm(matrix, axis=1, keepdims=True)
    queries = vectors(data)

    def ask(vector, where=None, kept=True) -> Question:
        score = numpy.where(kept, matrix @ numpy.array(vector, "f4"), -numpy.inf)
        best = [i for i in numpy.argsort(-score)[:10] if score[i] > -numpy.inf]
        return Question(question(vector, where), {ids[i] for i in best})

    return Workload(total, upserts(rows), {
        PLAIN: [ask(v) for v in queries],
        ONE_PERCENT: [ask(v, {"percent": i}, percent == i) for i, v in enumerate(queries[:100])],
        HALF: [ask(v, {"percent": {"$lt": 50}}, percent < 50) for v in queries[:100]],
    })


class Process:
    """A server's process on a free port, with all its files in `home`. May be started again after a stop."""

    def __init__(self, home: Path) -> None:
        self.data, self.log = home / "data", home / "log"
        self.running: subprocess.Popen | None = None
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port = probe.getsockname()[1]
        self.settings: dict[str, str] = {}

    def connect(self) -> Server:
        return Server(HOST, self.port)

    def start(self, attempt: Callable[[], object]) -> float:
        """Starts the server and gives the seconds until `attempt` has succeeded for the first time."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("VECTORKEEP__", "CHROMA_"))}
        began = time.perf_counter()
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(self.command, env=inherited | self.settings, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, cwd=self.log.parent)
        while True:
            try:
                attempt()
                return time.perf_counter() - began
            except (OSError, HTTPException, Refused) as error:
                late = time.perf_counter() - began > PATIENCE_S
                if late or self.running.poll() is not None:
                    raise SystemExit(f"{self.command} does not serve: {error}\n{self.log.read_text()[-3000:]}")
                time.sleep(0.005)

    def ready(self) -> None:
        self.connect().send("GET", self.ready_path)

    def stop(self) -> None:
        """SIGTERM, and wait until it is gone."""
        if self.running and self.running.poll() is None:
            server = self.pid()
            os.kill(server, signal.SIGTERM)
            try:
                self.running.wait(PATIENCE_S)
            except BaseException:
                os.kill(server, signal.SIGKILL)
                self.running.kill()
                self.running.wait()
                raise

    def pid(self) -> int:
        """The server itself: the last of a chain of wrappers, should there be any."""
        pid = self.running.pid
        while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            pid = int(children[0])
        return pid

    def memory(self, field: str) -> str:
        status = Path(f"/proc/{self.pid()}/status").read_text()
        return mebibytes(int(status.split(f"{field}:")[1].split()[0]) * 1024)

    def rest(self) -> float:
        """Waits until the server has used less than 5 % of a core for a second; gives the seconds before that one."""
        began = time.perf_counter()
        while (quiet_since := time.perf_counter()) - began < PATIENCE_S:
            used = self.cpu_s()
            time.sleep(1)
            if self.cpu_s() - used < 0.05:
                break
        return quiet_since - began

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid()}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def disk(self) -> str:
        return mebibytes(sum(file.lstat().st_blocks * 512 for file in [self.data, *self.data.rglob("*")]))


class Vectorkeep(Process):
    ready_path = "/health/ready"

    def __init__(self, binary: Path, home: Path) -> None:
        super().__init__(home)
        self.command = [binary, "serve"]
        self.settings = {
            "VECTORKEEP__SERVER__LISTEN": f"{HOST}:{self.port}",
            "VECTORKEEP__STORAGE__DATA_DIR": str(self.data),
            "VECTORKEEP__REPOSITORY__URL": str(home / "backups"),
        }


class Chroma(Process):
    ready_path = "/api/v2/healthcheck"

    def __init__(self, binary: Path, home: Path) -> None:
        super().__init__(home)
        config = home / "config.yaml"
        settings = {"port": self.port, "listen_address": HOST, "persist_path": str(self.data)}
        config.write_text(json.dumps(settings))  # JSON is YAML
        self.command = [binary, "run", config]


def mebibytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def recall(collection: Collection, questions: list[Question]) -> float:
    found = sum(len(q.nearest.intersection(json.loads(collection.query(q.body))["ids"][0])) for q in questions)
    return found / sum(len(q.nearest) for q in questions)


def ask_until(port: int, path: str, bodies: list[bytes], begin: float, end: float) -> int:
    """One client: how many queries are answered between two points of the clock that all processes share."""
    collection = Collection(Server(HOST, port), path)
    collection.query(bodies[0])
    time.sleep(max(0.0, begin - time.monotonic()))
    answered = 0
    while time.monotonic() < end:
        collection.query(bodies[answered % len(bodies)])
        answered += 1
    return answered


def throughput(collection: Collection, port: int, questions: list[Question]) -> float:
    """Queries per second on several connections, each of which is a process and begins at another query."""
    bodies = [q.body for q in questions]
    begin = time.monotonic() + 1
    step = len(bodies) // CONNECTIONS
    tasks = [(port, collection.path, bodies[i * step :] + bodies[: i * step], begin, begin + THROUGHPUT_S)
             for i in range(CONNECTIONS)]
    with multiprocessing.Pool(CONNECTIONS, signal.signal, (signal.SIGTERM, signal.SIG_DFL)) as pool:
        return sum(pool.starmap(ask_until, tasks, chunksize=1)) / THROUGHPUT_S


def measure(process: Process, work: Workload) -> dict[str, str]:
    """What one server does with the work: rows of the table."""
    rows: dict[str, str] = {}

    def note(what: str, value: str) -> None:
        rows[what] = value
        print(f"{type(process).__name__:12} {what:46} {value}", file=sys.stderr, flush=True)

    def rate(took: float) -> str:
        return f"{work.total / took:,.0f}/s"

    note("start of an empty server", f"{process.start(process.ready):.2f} s")
    note("memory of the empty server", process.memory("VmRSS"))
    collection = Collection.create(process.connect(), "comparison")
    plain = work.questions[PLAIN]
    note("upsert, batches of 500", rate(seconds(lambda: collection.load(work.batches))))
    note("first query after the load", f"{seconds(lambda: collection.query(plain[0].body)) * 1000:,.1f} ms")
    note("rest after the load", f"{process.rest():.0f} s")
    for what, questions in work.questions.items():
        exact = recall(collection, questions)
        p50, p95 = latencies(collection, [q.body for q in questions])
        note(f"{what}: p50 / p95", f"{p50:.2f} / {p95:.2f} ms")
        note(f"{what}: recall@10", f"{exact:.4f}")
    note(f"query, top 10, {CONNECTIONS} connections", f"{throughput(collection, process.port, plain):,.0f}/s")
    scans = {"documents and metadata": ["documents", "metadatas"],
             "documents, metadata, embeddings": ["documents", "metadatas", "embeddings"]}
    for what, include in scans.items():
        note(f"scan of {what}", rate(seconds(lambda: collection.scan(work.total, include))))
    note("peak of memory", process.memory("VmHWM"))
    note("stop (SIGTERM to exit)", f"{seconds(process.stop):.2f} s")
    note("disk", process.disk())

    def full_answer() -> None:
        answer = Collection(process.connect(), collection.path).query(plain[0].body)
        if count_ids(answer) != len(plain[0].nearest):
            raise Refused(f"not all is back: {answer[:300]!r}")

    note("start again until the first query is answered", f"{process.start(full_answer):.2f} s")
    return rows


def table(columns: dict[str, dict[str, str]], total: int) -> str:
    whats = next(iter(columns.values()))
    lines = [[f"{total:,} records", *columns], ["---", *["---:"] * len(columns)]]
    lines += [[what, *[rows[what] for rows in columns.values()]] for what in whats]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectorkeep", type=Path, help="the vectorkeep binary")
    parser.add_argument("--chroma", type=Path, help="the chroma executable")
    parser.add_argument("--data", type=Path, required=True, help="the directory of wordnet_20k.jsonl.zst")
    parser.add_argument("--records", type=int, default=100_000)
    arguments = parser.parse_args()
    servers = {kind: binary.absolute() for kind, binary in
               [(Vectorkeep, arguments.vectorkeep), (Chroma, arguments.chroma)] if binary}
    if not servers:
        parser.error("nothing to measure: give --vectorkeep or --chroma")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work = workload(arguments.data, arguments.records)
    columns = {}
    for kind, binary in servers.items():
        with tempfile.TemporaryDirectory(prefix="compare-") as home:
            process = kind(binary, Path(home))
            try:
                columns[kind.__name__.lower()] = measure(process, work)
            finally:
                process.stop()
    print(table(columns, work.total))


if __name__ == "__main__":
    main()
