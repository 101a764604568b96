#!/usr/bin/env python3
"""service.py HOST PORT --data DIR [--records N]

Times a running server over HTTP, vectors as base64 like the official clients send them: load in batches of 500, query
p50 on one connection (plain, and with filters that leave about 1 % and 50 %), scan with and without vectors. With
--operations also backup, restore and migration, which only vectorkeep has. Works against any server of Chroma's API v2.
Needs `zstandard` (PyPI). Timings are printed, never asserted.
"""
import argparse
import http.client
import json
import statistics
import time
from pathlib import Path

import zstandard

DATABASE = "/api/v2/tenants/default_tenant/databases/default_database"


class Server:
    def __init__(self, host: str, port: int) -> None:
        self.connection = http.client.HTTPConnection(host, port, timeout=600)

    def call(self, method: str, path: str, body=None):
        data = None if body is None else json.dumps(body).encode()
        self.connection.request(method, path, data, {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{method} {path}: {answer.status} {text[:300]!r}")
        return json.loads(text)


def records(data: Path, limit: int) -> list[dict]:
    raw = zstandard.ZstdDecompressor().stream_reader((data / "wordnet_20k.jsonl.zst").open("rb")).read()
    base = [json.loads(line) for line in raw.splitlines()]
    return [dict(base[i % len(base)], id=f"{base[i % len(base)]['id']}-{i // len(base)}") for i in range(limit)]


def vectors(data: Path) -> list[list[float]]:
    import base64
    import struct

    queries = [json.loads(line) for line in (data / "queries_200.jsonl").open()]
    return [list(struct.unpack("<384f", base64.b64decode(q["embedding_b64"]))) for q in queries]


def timed(what: str, unit: float, call) -> None:
    began = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - began
    rate = f", {unit / seconds:,.0f}/s" if unit else ""
    print(f"{what:44} {seconds:8.3f} s{rate}", flush=True)
    return result


def p50(what: str, calls) -> None:
    times = []
    for call in calls:
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1000)
    print(f"{what:44} {statistics.median(times):8.2f} ms p50, {sorted(times)[int(len(times) * 0.95)]:.2f} ms p95", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--operations", action="store_true")
    arguments = parser.parse_args()
    server = Server(arguments.host, arguments.port)
    rows = records(arguments.data, arguments.records)
    name = f"bench-{time.time_ns()}"
    collection = server.call("POST", f"{DATABASE}/collections", {"name": name, "configuration": {"hnsw": {"space": "cosine"}}})
    path = f"{DATABASE}/collections/{collection['id']}"

    def load() -> None:
        for start in range(0, len(rows), 500):
            batch = rows[start : start + 500]
            server.call("POST", f"{path}/upsert", {
                "ids": [r["id"] for r in batch],
                "embeddings": [r["embedding_b64"] for r in batch],
                "documents": [r["document"] for r in batch],
                "metadatas": [dict(r["metadata"], percent=(start + i) % 100) for i, r in enumerate(batch)],
            })

    timed(f"upsert {len(rows)} in batches of 500", len(rows), load)
    queries = vectors(arguments.data)

    def query(vector, where=None):
        return lambda: server.call("POST", f"{path}/query", {"query_embeddings": [vector], "n_results": 10, "where": where})

    p50("query, top 10", [query(v) for v in queries])
    p50("query, filter leaves 1 % (int equality)", [query(v, {"percent": i % 100}) for i, v in enumerate(queries[:100])])
    p50("query, filter leaves 50 % (int range)", [query(v, {"percent": {"$lt": 50}}) for v in queries[:50]])

    def scan(include):
        def run() -> None:
            for offset in range(0, len(rows), 1000):
                server.call("POST", f"{path}/get", {"limit": 1000, "offset": offset, "include": include})
        return run

    timed("scan of documents and metadata", len(rows), scan(["documents", "metadatas"]))
    timed("scan with vectors", len(rows), scan(["documents", "metadatas", "embeddings"]))
    if arguments.operations:
        only = [{"name": name}]
        timed("backup", len(rows), lambda: server.call("POST", "/backups?wait=true", {"collections": only}))
        timed("restore beside it", len(rows), lambda: server.call(
            "POST", "/restore?wait=true", {"backup": "latest", "on_conflict": "rename"}))
        timed("migration", len(rows), lambda: server.call(
            "POST", "/migrate?wait=true", {"source": {"collection": name}, "target": {"collection": name + "-copy"}}))
        timed("health check of the collection", len(rows), lambda: server.call("GET", f"/health/collections/{name}"))


main()
