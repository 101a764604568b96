#!/usr/bin/env python3
"""backups.py BINARY [--records N] [--dimension N] [--json FILE]

Starts the service with a new directory under TMPDIR and a repository beside it, loads records over HTTP, and prints
Markdown tables: what a backup does to those who write meanwhile, what it takes beside a plain copy of the same bytes,
what one of 1 % of changes takes, how long verify, export, import, restore and a drill take (and
a restore to the first query beside an ingest through the API), and how much memory each needs.
Timings are printed, never asserted; progress goes to stderr. Linux only. Needs `numpy` and, for service.py, `zstandard`
(PyPI).

How to read it:
- A backup is deleted, its packs with it, before the next full one: packs are named by their content, and what is there
  already would not be written again. Full backups are repeated; the median is shown.
- The writer upserts 10 records, which are there already, on one connection, one request after the other. It shares the
  machine with the service. Its samples during a backup are those that were sent between the backup's request and answer.
- The plain copy is `cp -r` of a directory with one file of vectors and documents as they were sent, as long as the
  backup's raw bytes, and `sync` of what it made. The vectors are noise: they hardly compress.
- Memory is resident memory before the operation, and its peak during it (/proc/PID/clear_refs).
- The client reads an export and throws it away; the import sends a file. Neither disk cache nor memory is cold.
"""

import argparse
import base64
import http.client
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import numpy

from compare import HOST, Vectorkeep
from service import DATABASE, Refused, Server, seconds

SEED = 20_261_123
LOAD_BATCH, WRITE_BATCH, WRITE_BODIES = 500, 10, 200
REPEATS = 3
IDLE_SECONDS = 10.0
CHANGED = 0.01
CHUNK_BYTES = 1 << 20
# Longest answer that is waited for, here and by ?wait=true.
WAIT_SECONDS = 3_600
WORDS = ("amber basin cedar delta ember fjord grove haven inlet jetty kelp ledge marsh north ocean pearl quarry ridge shoal "
         "tidal upland vale willow yonder").split()
TOPICS = ("rivers", "roads", "cities", "birds", "ships")


class Records:
    """Batches of records, always the same for the same numbers and seed; another seed changes what stands under the ids."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension

    def vectors(self, numbers: numpy.ndarray, seed: int) -> numpy.ndarray:
        random = numpy.random.default_rng([seed, int(numbers[0])])
        return random.standard_normal((len(numbers), self.dimension), "f4").astype("<f4", copy=False)

    def documents(self, numbers: numpy.ndarray, seed: int) -> list[str]:
        chosen = numpy.random.default_rng([seed, int(numbers[0]), 1]).integers(len(WORDS), size=(len(numbers), 17))
        return [" ".join(WORDS[word] for word in row) for row in chosen]

    def upsert(self, numbers: numpy.ndarray, seed: int = SEED) -> bytes:
        """The body that writes them, vectors as base64 of little-endian f32."""
        topic = lambda number: TOPICS[number % len(TOPICS)]
        return json.dumps({
            "ids": [f"record-{number:08}" for number in numbers],
            "embeddings": [base64.b64encode(vector).decode() for vector in self.vectors(numbers, seed)],
            "documents": self.documents(numbers, seed),
            "metadatas": [{"topic": topic(number), "number": int(number), "weight": number / 7} for number in numbers],
        }).encode()

    def raw(self, batches: list[numpy.ndarray]) -> Iterator[bytes]:
        for batch in batches:
            for vector, document in zip(self.vectors(batch, SEED), self.documents(batch, SEED)):
                yield vector.tobytes() + document.encode()


class Bench:
    """A running service with the records in it."""

    def __init__(self, process: Vectorkeep, records: Records, total: int) -> None:
        self.process, self.records, self.total = process, records, total
        self.batches = [numpy.arange(start, min(start + LOAD_BATCH, total)) for start in range(0, total, LOAD_BATCH)]
        self.server = self.connect()
        body = {"name": "bench", "configuration": {"hnsw": {"space": "cosine"}}}
        self.path = f"{DATABASE}/collections/{self.server.call('POST', f'{DATABASE}/collections', body)['id']}"
        self.memory: dict[str, dict] = {}

    def connect(self) -> Server:
        server = self.process.connect()
        server.connection = http.client.HTTPConnection(HOST, self.process.port, timeout=WAIT_SECONDS, blocksize=CHUNK_BYTES)
        return server

    def load(self) -> None:
        for batch in self.batches:
            self.server.send("POST", f"{self.path}/upsert", self.records.upsert(batch))

    def ingest_again(self) -> None:
        """What an application does that has no backup: all of it through the API, and a query that finds the right one."""
        body = {"name": "again", "configuration": {"hnsw": {"space": "cosine"}}}
        path = f"{DATABASE}/collections/{self.server.call('POST', f'{DATABASE}/collections', body)['id']}"
        for batch in self.batches:
            self.server.send("POST", f"{path}/upsert", self.records.upsert(batch))
        self.find("again")

    def find(self, name: str) -> None:
        """A stored vector is nearest to itself."""
        path = f"{DATABASE}/collections/{self.server.call('GET', f'{DATABASE}/collections/{name}')['id']}"
        batch = self.batches[len(self.batches) // 2]
        # Of the seed that changed records were not written with.
        vector = self.records.vectors(batch, SEED)[-1]
        body = {"query_embeddings": [vector.tolist()], "n_results": 1, "include": []}
        [[found]] = self.server.call("POST", f"{path}/query", body)["ids"]
        if found != f"record-{batch[-1]:08}":
            raise Refused(f"{name}: {found} was found in the place of record-{batch[-1]:08}")

    def job(self, path: str, body: dict | None = None) -> dict:
        """The result of a long verb."""
        job = self.connect().call("POST", f"{path}?wait=true", body or {})
        if job["state"] != "succeeded":
            raise Refused(f"POST {path}: {job}")
        return job["result"]

    def full(self) -> dict:
        return self.job("/backups", {"kind": "full"})

    def delete(self, backup: dict) -> None:
        freed = self.server.call("DELETE", f"/backups/{backup['id']}")["freed_bytes"]
        if freed < backup["stored_bytes"]:
            raise Refused(f"{freed} bytes were freed of {backup['stored_bytes']}: the next backup would write less")

    def status_bytes(self, field: str) -> int:
        status = Path(f"/proc/{self.process.pid()}/status").read_text()
        return int(status.split(f"{field}:")[1].split()[0]) * 1024

    def watched(self, what: str, call: Callable):
        """Does it; notes how long it took and the memory before and at the peak. Repeated: the median, the highest peak."""
        note(what)
        Path(f"/proc/{self.process.pid()}/clear_refs").write_text("5")
        before = self.status_bytes("VmRSS")
        began = time.perf_counter()
        result = call()
        took = time.perf_counter() - began
        seen = self.memory.setdefault(what, {"seconds": [], "rss_before_bytes": before, "rss_peak_bytes": 0})
        seen["seconds"].append(took)
        peak = self.status_bytes("VmHWM")
        if peak - before >= seen["rss_peak_bytes"] - seen["rss_before_bytes"]:
            seen |= {"rss_before_bytes": before, "rss_peak_bytes": peak}
        return result

    def took(self, what: str) -> float:
        return statistics.median(self.memory[what]["seconds"])


def note(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


class Writer:
    """Upserts small batches, one after the other."""

    def __init__(self, bench: Bench) -> None:
        random = numpy.random.default_rng(SEED)
        chosen = [numpy.sort(random.choice(bench.total, WRITE_BATCH, replace=False)) for _ in range(WRITE_BODIES)]
        self.bodies = cycle([bench.records.upsert(numbers, SEED + 1) for numbers in chosen])
        self.server, self.path = bench.connect(), f"{bench.path}/upsert"

    def until(self, over: Callable[[], bool]) -> list[float]:
        """Milliseconds of each write that was sent before it was over."""
        times = []
        while not over():
            body = next(self.bodies)
            times.append(seconds(lambda: self.server.send("POST", self.path, body)) * 1000)
        return times

    def during(self, call: Callable) -> tuple[list[float], dict]:
        """The times while `call` runs beside it, and what that gave."""
        outcome: list = []

        def run() -> None:
            try:
                outcome.append(call())
            except BaseException as error:
                outcome.append(error)

        beside = threading.Thread(target=run)
        beside.start()
        times = self.until(lambda: bool(outcome))
        beside.join()
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return times, outcome[0]


def write_latency(bench: Bench) -> dict:
    writer = Writer(bench)
    writer.until(lambda end=time.monotonic() + 1: time.monotonic() > end)  # not the first ones
    idle, busy, durations = [], [], []
    for turn in range(REPEATS):
        note(f"writes, idle and during a full backup, {turn + 1} of {REPEATS}")
        end = time.monotonic() + IDLE_SECONDS / REPEATS
        idle += writer.until(lambda: time.monotonic() > end)
        times, backup = writer.during(bench.full)
        busy += times
        durations.append(backup["duration_ms"] / 1000)
        bench.delete(backup)
    return {"idle": summary(idle), "during_backup": summary(busy), "backup_seconds": durations,
            "p99_ratio": summary(busy)["p99_ms"] / summary(idle)["p99_ms"]}


def summary(times: list[float]) -> dict:
    p50, p99 = numpy.percentile(times, [50, 99])
    return {"writes": len(times), "p50_ms": float(p50), "p99_ms": float(p99), "max_ms": max(times)}


def full_backup(bench: Bench, home: Path) -> tuple[dict, dict]:
    for turn in range(REPEATS):
        backup = bench.watched("full backup", bench.full)
        if turn + 1 < REPEATS:
            bench.delete(backup)
    copies = copy_seconds(bench, home, backup["raw_bytes"])
    took, copied = bench.took("full backup"), statistics.median(copies)
    return backup, {"seconds": took, "raw_bytes": backup["raw_bytes"], "stored_bytes": backup["stored_bytes"],
                    "megabytes_per_second": backup["raw_bytes"] / took / 1e6, "copy_seconds": copied,
                    "copy_megabytes_per_second": backup["raw_bytes"] / copied / 1e6, "ratio_to_copy": took / copied}


def copy_seconds(bench: Bench, home: Path, size: int) -> list[float]:
    note("cp -r and sync of as many bytes")
    source, target = home / "raw", home / "copied"
    source.mkdir()
    with (source / "records").open("wb") as file:
        # Metadata and ids are not in it: where it ends before `size`, it begins again.
        while (left := size - file.tell()) > 0:
            for piece in bench.records.raw(bench.batches):
                left -= file.write(piece[:left])
    subprocess.run(["sync", source / "records"], check=True)
    times = []
    for _ in range(REPEATS):
        times.append(seconds(lambda: (subprocess.run(["cp", "-r", source, target], check=True),
                                      subprocess.run(["sync", target / "records", target], check=True))))
        shutil.rmtree(target)
    shutil.rmtree(source)
    return times


def incremental_backup(bench: Bench, full: dict) -> dict:
    random = numpy.random.default_rng(SEED + 2)
    changed = numpy.sort(random.choice(bench.total, max(1, int(bench.total * CHANGED)), replace=False))
    for start in range(0, len(changed), LOAD_BATCH):
        bench.server.send("POST", f"{bench.path}/upsert", bench.records.upsert(changed[start:start + LOAD_BATCH], SEED + 2))
    backup = bench.watched("incremental backup", lambda: bench.job("/backups", {"kind": "incremental"}))
    return {"seconds": bench.took("incremental backup"), "changed_records": len(changed), "new_records": backup["new_records"],
            "new_bytes": backup["new_bytes"], "full_new_bytes": full["new_bytes"],
            "share_of_full": backup["new_bytes"] / full["new_bytes"]}


def export(bench: Bench, backup: dict, layout: str, sink: Callable[[bytes], object]) -> int:
    """Bytes of the document."""
    connection = bench.connect().connection
    connection.request("GET", f"/backups/{backup['id']}/export?format={layout}")
    answer, size = connection.getresponse(), 0
    if answer.status != 200:
        raise Refused(f"export: {answer.status} {answer.read(300)!r}")
    while chunk := answer.read(CHUNK_BYTES):
        size += len(chunk)
        sink(chunk)
    return size


def documents(bench: Bench, full: dict, home: Path) -> dict:
    sizes = {}
    for layout in ("json", "jsonl"):
        sizes[f"export {layout}"] = bench.watched(f"export {layout}", lambda: export(bench, full, layout, len))
    for layout in ("json", "jsonl"):
        file = home / f"export.{layout}"
        with file.open("wb") as sink:
            export(bench, full, layout, sink.write)
        sizes[f"import {layout}"] = file.stat().st_size
        imported = bench.watched(f"import {layout}", lambda: import_file(bench, file))
        if imported["collections"][0]["digest"] != full["collections"][0]["digest"]:
            raise Refused(f"the import of {layout} is not what was exported: {imported}")
        file.unlink()
        bench.server.call("DELETE", f"/backups/{imported['id']}")
    return {what: {"seconds": bench.took(what), "bytes": size} for what, size in sizes.items()}


def import_file(bench: Bench, file: Path) -> dict:
    connection = bench.connect().connection
    with file.open("rb") as body:
        headers = {"Content-Type": {"json": "application/json", "jsonl": "application/x-ndjson"}[file.suffix[1:]], "Content-Length": str(file.stat().st_size)}
        connection.request("POST", "/backups/import?wait=true", body, headers)
        answer = connection.getresponse()
        text = answer.read()
    if answer.status != 201:
        raise Refused(f"import: {answer.status} {text[:300]!r}")
    return json.loads(text)["result"]


def measure(bench: Bench, home: Path) -> dict:
    note(f"loading {bench.total} records")
    found: dict = {"records": bench.total, "dimension": bench.records.dimension, "cores": os.cpu_count()}
    found["load_seconds"] = seconds(bench.load)
    bench.process.rest()
    found["write_latency"] = write_latency(bench)
    full, found["full_backup"] = full_backup(bench, home)
    found["incremental_backup"] = incremental_backup(bench, full)
    bench.watched("verify, level records", lambda: bench.job(f"/backups/{full['id']}/verify", {"level": "records"}))
    found["documents"] = documents(bench, full, home)
    target = {"name": "bench", "to": {"name": "restored"}}
    restore = {"backup": full["id"], "collections": [target]}
    began = time.perf_counter()
    bench.watched("restore under another name", lambda: bench.job("/restore", restore))
    bench.find("restored")
    found["restore_to_first_query_seconds"] = time.perf_counter() - began
    bench.watched("drill", lambda: bench.job("/drills"))
    found["ingest_to_first_query_seconds"] = seconds(bench.ingest_again)
    found["operations"] = {what: dict(seen, seconds=bench.took(what)) for what, seen in bench.memory.items()}
    return found


def mega(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"


def table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def report(found: dict) -> str:
    writes, full, changed = found["write_latency"], found["full_backup"], found["incremental_backup"]
    latency = [[what, f"{each['writes']:,}", *[f"{each[name]:.2f} ms" for name in ("p50_ms", "p99_ms", "max_ms")]]
               for what, each in (("idle", writes["idle"]), (f"during {REPEATS} full backups", writes["during_backup"]))]
    latency.append(["ratio of p99", "", "", f"{writes['p99_ratio']:.2f}", ""])
    backups = [
        ["full backup", f"{full['seconds']:.2f} s, {full['megabytes_per_second']:,.0f} MB/s"],
        ["its raw bytes / stored bytes", f"{mega(full['raw_bytes'])} / {mega(full['stored_bytes'])}"],
        ["`cp -r` and `sync` of as many bytes", f"{full['copy_seconds']:.2f} s, {full['copy_megabytes_per_second']:,.0f} MB/s"],
        ["full backup, ratio to the copy", f"{full['ratio_to_copy']:.2f}"],
        [f"incremental backup of {changed['changed_records']:,} changed records", f"{changed['seconds']:.2f} s"],
        ["its new bytes, share of the full one's", f"{mega(changed['new_bytes'])}, {changed['share_of_full']:.2%}"],
    ]
    operations = []
    for what, each in found["operations"].items():
        before, peak = each["rss_before_bytes"], each["rss_peak_bytes"]
        document = mega(found["documents"][what]["bytes"]) if what in found["documents"] else ""
        operations.append([what, f"{each['seconds']:.2f} s", document, mega(before), mega(peak), mega(peak - before)])
    title = f"{found['records']:,} records of {found['dimension']} dimensions, {found['cores']} cores"
    return "\n".join([
        f"{title}\n", table(["one upsert of 10 records", "writes", "p50", "p99", "longest"], latency),
        table(["backups", ""], backups),
        table(["until a query finds the right record", ""], [
            ["restore of the backup", f"{found['restore_to_first_query_seconds']:.2f} s"],
            ["ingest through the API", f"{found['ingest_to_first_query_seconds']:.2f} s"],
            ["ratio", f"{found['restore_to_first_query_seconds'] / found['ingest_to_first_query_seconds']:.2f}"]]),
        table(["operation", "duration", "document", "memory before", "peak", "more"], operations)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--json", type=Path, help="writes the numbers to this file as well")
    arguments = parser.parse_args()
    if arguments.records < 1_000:
        parser.error("give at least 1000 records")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="backups-") as home:
        process = Vectorkeep(arguments.binary.absolute(), Path(home))
        # Packs go with the backup; the answer to a long verb comes when it is over.
        process.settings |= {"VECTORKEEP__REPOSITORY__GRACE_MS": "0",
                             "VECTORKEEP__JOBS__WAIT_TIMEOUT_MS": str(WAIT_SECONDS * 1000),
                             "VECTORKEEP__SERVER__REQUEST_TIMEOUT_MS": str(WAIT_SECONDS * 1000)}
        try:
            process.start(process.ready)
            found = measure(Bench(process, Records(arguments.dimension), arguments.records), Path(home))
        finally:
            process.stop()
    print(report(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
