#!/usr/bin/env python3
"""wordnet.py HOST PORT --data DIR --phase load|check [--prefix NAME] [--batch N]

The 20,000 WordNet records and 200 queries with exact answers (DIR/README.md describes them), through
the unmodified Python client.

 --phase load    (re)creates NAME_l2, NAME_cosine and NAME_ip, loads the records into each and prints
                 records per second
 --phase check   every record bit for bit and in order in one collection, a sample in the others; the
                 top 10 of all queries in the three spaces and with a category filter: ids in order,
                 distances within 1e-5; scaled queries against brute force in float64, because the
                 data is normalised and cannot tell cosine from inner product; prints latencies

Exit status 0 only if everything passed; `check` ends with `N passed, M failed`.
"""

import argparse
import base64
import contextlib
import io
import json
import pathlib
import statistics
import sys
import time

import chromadb
import numpy as np
import zstandard
from chromadb.config import Settings
from chromadb.errors import NotFoundError

from reference import SPACES, equal, exact_distances, expect, same_bits

RECORDS = 20_000
DISTANCE_TOLERANCE = 1e-5
# Failures past this number are counted but not printed one by one.
PRINTED_FAILURES = 20


def decode(text):
    return np.frombuffer(base64.b64decode(text), dtype="<f4")


def read_records(data):
    """ids, documents, metadatas and one matrix of embeddings, in the order of the file."""
    with open(data / "wordnet_20k.jsonl.zst", "rb") as file:
        text = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
        rows = [json.loads(line) for line in text]
    equal(len(rows), RECORDS, "records in the file")
    columns = [[row[name] for row in rows] for name in ("id", "document", "metadata")]
    return *columns, np.stack([decode(row["embedding_b64"]) for row in rows])


def read_queries(data):
    with open(data / "queries_200.jsonl", encoding="utf-8") as file:
        queries = [json.loads(line) for line in file]
    equal(len(queries), 200, "queries in the file")
    return queries


def load(client, prefix, data, batch):
    ids, documents, metadatas, embeddings = read_records(data)
    size = min(batch, client.get_max_batch_size())
    for space in SPACES:
        name = f"{prefix}_{space}"
        with contextlib.suppress(NotFoundError):
            client.delete_collection(name)
        collection = client.create_collection(name, configuration={"hnsw": {"space": space}}, embedding_function=None)
        started = time.perf_counter()
        for start in range(0, len(ids), size):
            part = slice(start, start + size)
            collection.add(ids=ids[part], embeddings=list(embeddings[part]), documents=documents[part], metadatas=metadatas[part])
        seconds = time.perf_counter() - started
        equal(collection.count(), len(ids), f"{name}: count after loading")
        print(f"{name}: {len(ids)} records in batches of {size}: {seconds:.2f} s, {len(ids) / seconds:.0f} records/s", flush=True)
    return 0


class Tally:
    def __init__(self):
        self.passed = self.failed = 0

    def check(self, what, test, *arguments):
        try:
            test(*arguments)
        except Exception as error:
            self.failed += 1
            if self.failed <= PRINTED_FAILURES:
                print(f"FAIL {what}: {type(error).__name__}: {error}", flush=True)
        else:
            self.passed += 1


def check_records(collection, space, expected, positions):
    """The records at `positions` of the file: ids, embeddings, documents, metadata."""
    ids, documents, metadatas, embeddings = expected
    answer = collection.get(ids=[ids[p] for p in positions], include=["documents", "metadatas", "embeddings"])
    equal(list(answer["ids"]), [ids[p] for p in positions], "ids in insertion order")
    for row, position in enumerate(positions):
        equal(answer["documents"][row], documents[position], f"{ids[position]}: document")
        equal(dict(answer["metadatas"][row]), metadatas[position], f"{ids[position]}: metadata")
        expect(same_bits(answer["embeddings"][row], embeddings[position]), f"{ids[position]}: embedding differs ({space})")


def check_order(collection, ids):
    """All ids, page by page: exactly those of the file, in its order."""
    found = []
    for offset in range(0, len(ids) + 1, 3000):
        found += collection.get(limit=3000, offset=offset, include=[])["ids"]
    equal(found, ids, "all ids by pages")


def check_top10(answer, row, ids, distances):
    equal(list(answer["ids"][row]), ids, "ids")
    for rank, (found, wanted) in enumerate(zip(answer["distances"][row], distances, strict=True)):
        expect(abs(found - wanted) <= DISTANCE_TOLERANCE, f"rank {rank}: distance {found}, expected {wanted}")


def check_scaled(collection, space, query, scale, ids, embeddings):
    """A query that is not normalised, against brute force; compared by distance, ties may swap."""
    vector = np.float32(query * np.float32(scale))
    exact = exact_distances(space, vector, embeddings)
    nearest, by_id = np.sort(exact)[:10], dict(zip(ids, exact, strict=True))
    answer = collection.query(query_embeddings=[vector], n_results=10, include=["distances"])
    equal(len(set(answer["ids"][0])), 10, "ten different results")
    for rank, (record_id, distance) in enumerate(zip(answer["ids"][0], answer["distances"][0], strict=True)):
        allowed = DISTANCE_TOLERANCE * max(1.0, abs(nearest[rank]))
        expect(abs(distance - by_id[record_id]) <= allowed, f"rank {rank}: distance {distance}, exact {by_id[record_id]}")
        expect(abs(by_id[record_id] - nearest[rank]) <= allowed, f"rank {rank}: {record_id} is not the nearest")


def check(client, prefix, data):
    expected, queries = read_records(data), read_queries(data)
    ids, _, _, embeddings = expected
    vectors = [decode(query["embedding_b64"]) for query in queries]
    tally, latencies = Tally(), {}

    def timed(kind, collection, vector, **restriction):
        started = time.perf_counter()
        answer = collection.query(query_embeddings=[vector], n_results=10, include=["distances"], **restriction)
        latencies.setdefault(kind, []).append((time.perf_counter() - started) * 1000)
        return answer

    for space in SPACES:
        collection = client.get_collection(f"{prefix}_{space}", embedding_function=None)
        tally.check(f"{space} count", lambda c: equal(c.count(), RECORDS, "count"), collection)
        tally.check(f"{space} order", check_order, collection, ids)
        step = 1 if space == "cosine" else 37
        for start in range(0, RECORDS, 2000):
            positions = range(start, start + 2000, step)
            tally.check(f"{space} records {start}", check_records, collection, space, expected, positions)
        for number, (query, vector) in enumerate(zip(queries, vectors, strict=True)):
            what, wanted = f"{space} query {number}", (query[f"top10_{space}"], query[f"top10_{space}_distance"])
            tally.check(what, lambda: check_top10(timed(space, collection, vector), 0, *wanted))
        together = collection.query(query_embeddings=vectors, n_results=10, include=["distances"])
        for number, query in enumerate(queries):
            wanted = query[f"top10_{space}"], query[f"top10_{space}_distance"]
            tally.check(f"{space} query {number}, 200 in one request", check_top10, together, number, *wanted)
        for number, scale in enumerate([0.25, 0.5, 2.0, 3.0, 10.0] * 4):
            what = f"{space} query {number} times {scale}"
            tally.check(what, check_scaled, collection, space, vectors[number], scale, ids, embeddings)

    collection = client.get_collection(f"{prefix}_cosine", embedding_function=None)
    for number, (query, vector) in enumerate(zip(queries, vectors, strict=True)):
        where = {"category": query["filter_category"]}
        wanted = query["top10_cosine_filtered"], query["top10_cosine_filtered_distance"]
        tally.check(
            f"filtered query {number}", lambda: check_top10(timed("cosine filtered", collection, vector, where=where), 0, *wanted)
        )

    if tally.failed > PRINTED_FAILURES:
        print(f"... and {tally.failed - PRINTED_FAILURES} more failures")
    for kind, values in latencies.items():
        ordered = sorted(values)
        p50, p95 = statistics.median(ordered), ordered[len(ordered) * 95 // 100]
        print(f"{kind}: query p50 {p50:.2f} ms, p95 {p95:.2f} ms ({len(ordered)} queries, through the client)")
    everything = [value for values in latencies.values() for value in values]
    print(f"query p50 {statistics.median(everything or [0.0]):.2f} ms over all {len(everything)}")
    print(f"{tally.passed} passed, {tally.failed} failed", flush=True)
    return 0 if tally.passed and not tally.failed else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--phase", choices=("load", "check"), required=True)
    parser.add_argument("--prefix", default="wordnet")
    parser.add_argument("--batch", type=int, default=1000)
    arguments = parser.parse_args()
    client = chromadb.HttpClient(arguments.host, arguments.port, settings=Settings(anonymized_telemetry=False))
    if arguments.phase == "load":
        return load(client, arguments.prefix, arguments.data, arguments.batch)
    return check(client, arguments.prefix, arguments.data)


if __name__ == "__main__":
    sys.exit(main())
