#!/usr/bin/env python3
"""service.py HOST PORT --data DIR [--records N] [--operations]

Times a running server over HTTP, vectors as base64 like the official clients send them: load in batches of 500, query
p50 on one connection (plain, and with filters that leave about 1 % and 50 %), scan with and without vectors. With
--operations also backup, restore and migration, which only vectorkeep has. Works against any server of Chroma's API v2.
Needs `zstandard` (PyPI). Timings are printed, never asserted.

Requests are encoded before the clock starts and answers are not parsed: the times are the server's, not Python's.
compare.py measures whole servers with the parts below.
"""
import argparse
import base64
import http.client
import json
import statistics
import struct
import time
from pathlib import Path

import zstandard

DATABASE = "/api/v2/tenants/default_tenant/databases/default_database"
BATCH = 500
PAGE = 1_000


class Refused(Exception):
    """An answer that is no success."""


class Server:
    """One connection to a server."""

    def __init__(self, host: str, port: int) -> None:
        self.connection = http.client.HTTPConnection(host, port, timeout=600)

    def send(self, method: str, path: str, body: bytes | None = None) -> bytes:
        self.connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise Refused(f"{method} {path}: {answer.status} {text[:300]!r}")
        return text

    def call(self, method: str, path: str, body=None):
        return json.loads(self.send(method, path, None if body is None else json.dumps(body).encode()))


class Collection:
    """A collection of WordNet records, by the path it has on a server."""

    def __init__(self, server: Server, path: str) -> None:
        self.server, self.path = server, path

    @classmethod
    def create(cls, server: Server, name: str) -> "Collection":
        body = {"name": name, "configuration": {"hnsw": {"space": "cosine"}}}
        return cls(server, f"{DATABASE}/collections/{server.call('POST', f'{DATABASE}/collections', body)['id']}")

    def load(self, batches: list[bytes]) -> None:
        for batch in batches:
            self.server.send("POST", f"{self.path}/upsert", batch)

    def query(self, question: bytes) -> bytes:
        return self.server.send("POST", f"{self.path}/query", question)

    def scan(self, total: int, include: list[str]) -> None:
        """Reads every record, page by page."""
        seen = 0
        for offset in range(0, total, PAGE):
            body = json.dumps({"limit": PAGE, "offset": offset, "include": include}).encode()
            seen += count_ids(self.server.send("POST", f"{self.path}/get", body))
        if seen != total:
            raise Refused(f"the scan gave {seen} records of {total}")


def count_ids(answer: bytes) -> int:
    """How many records an answer holds, without parsing it: only ids begin like this."""
    return answer.count(b'"wn-')


def records(data: Path, limit: int) -> list[dict]:
    """The first `limit` records. Past the end they come again with other ids and nearby vectors: no two are alike."""
    raw = zstandard.ZstdDecompressor().stream_reader((data / "wordnet_20k.jsonl.zst").open("rb")).read()
    base = [json.loads(line) for line in raw.splitlines()]
    rows = []
    for i in range(limit):
        turn, place = divmod(i, len(base))
        row = base[place]
        vector = row["embedding_b64"]
        if turn:
            vector = nearby(vector, base[(place + turn) % len(base)]["embedding_b64"])
        metadata = dict(row["metadata"], percent=i % 100)
        rows.append(dict(row, id=f"{row['id']}-{turn}", embedding_b64=vector, metadata=metadata))
    return rows


def nearby(vector: str, other: str) -> str:
    """`vector` turned a quarter towards `other`: where these have nothing in common, the cosine to `vector` is 0.97."""
    mixed = [x + 0.25 * y for x, y in zip(decode(vector), decode(other))]
    return base64.b64encode(struct.pack("<384f", *mixed)).decode()


def decode(vector: str) -> tuple[float, ...]:
    return struct.unpack("<384f", base64.b64decode(vector))


def upserts(rows: list[dict]) -> list[bytes]:
    """The bodies that load `rows`, in batches."""
    batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    return [json.dumps({
        "ids": [r["id"] for r in batch],
        "embeddings": [r["embedding_b64"] for r in batch],
        "documents": [r["document"] for r in batch],
        "metadatas": [r["metadata"] for r in batch],
    }).encode() for batch in batches]


def vectors(data: Path) -> list[tuple[float, ...]]:
    with (data / "queries_200.jsonl").open() as lines:
        return [decode(json.loads(line)["embedding_b64"]) for line in lines]


def question(vector: tuple[float, ...], where=None) -> bytes:
    return json.dumps({"query_embeddings": [vector], "n_results": 10, "where": where}).encode()


def seconds(call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def latencies(collection: Collection, questions: list[bytes]) -> tuple[float, float]:
    """p50 and p95 of one query after the other, in milliseconds."""
    times = sorted(seconds(lambda: collection.query(q)) * 1000 for q in questions)
    return statistics.median(times), times[int(len(times) * 0.95)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--operations", action="store_true")
    arguments = parser.parse_args()
    server = Server(arguments.host, arguments.port)
    total = arguments.records
    batches = upserts(records(arguments.data, total))
    queries = vectors(arguments.data)
    name = f"bench-{time.time_ns()}"
    collection = Collection.create(server, name)

    def timed(what: str, call) -> None:
        took = seconds(call)
        print(f"{what:44} {took:8.3f} s, {total / took:,.0f}/s", flush=True)

    def p50(what: str, questions: list[bytes]) -> None:
        middle, slow = latencies(collection, questions)
        print(f"{what:44} {middle:8.2f} ms p50, {slow:.2f} ms p95", flush=True)

    timed(f"upsert {total} in batches of {BATCH}", lambda: collection.load(batches))
    p50("query, top 10", [question(v) for v in queries])
    p50("query, filter leaves 1 % (int equality)", [question(v, {"percent": i}) for i, v in enumerate(queries[:100])])
    p50("query, filter leaves 50 % (int range)", [question(v, {"percent": {"$lt": 50}}) for v in queries[:50]])
    timed("scan of documents and metadata", lambda: collection.scan(total, ["documents", "metadatas"]))
    timed("scan with vectors", lambda: collection.scan(total, ["documents", "metadatas", "embeddings"]))
    if arguments.operations:
        def post(path: str, body: dict) -> None:
            server.call("POST", f"{path}?wait=true", body)

        timed("backup", lambda: post("/backups", {"collections": [{"name": name}]}))
        timed("restore beside it", lambda: post("/restore", {"backup": "latest", "on_conflict": "rename"}))
        copy = {"source": {"collection": name}, "target": {"collection": f"{name}-copy"}}
        timed("migration", lambda: post("/migrate", copy))
        timed("health check of the collection", lambda: server.call("GET", f"/health/collections/{name}"))


if __name__ == "__main__":
    main()
