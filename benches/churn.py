#!/usr/bin/env python3
"""churn.py BINARY [--records N] [--rounds N] [--dimension N] [--ratio X] [--kills N] [--allow-growth]

Starts the service with a new directory under TMPDIR and writes the same records over and over: each round upserts all of
them with new embeddings and documents, deletes every tenth and adds it again. The store compacts itself at
compaction.ratio, which is looked at more often than usual and for small files as well. Prints a Markdown table of the
rounds, and what a compaction does to those who write and read meanwhile. Timings are printed, never asserted; progress
goes to stderr. What is asserted:

- The store's files (`storage:used`) are within the ratio times the live bytes once the next check has come, give or take
  TOLERANCE. The service also waits until the files are twice what the last compaction left, which can be more, because
  one that runs beside writes leaves more: with --allow-growth that is within the bound. What is beyond it is said at
  the end: kills are looked at all the same.
- Every record is what the last write made it, before and after a last compaction, and /health/collections passes.
- Killed (SIGKILL) at different moments of a compaction, while writes go on: what was acknowledged is there, a batch that
  was not is there as a whole or not at all, no second copy of the store is left, and no job runs for ever.

How to read it:
- "live" is the service's own estimate, from the last compaction. "peak" is what the data directory took at most in the
  round, with the old files and the copy side by side.
- Writes and reads count as "during" when they overlap a compaction. The reader asks for ten records by id, and a query,
  in turn, on one connection; the writer sends batches on another. All share the machine with the service.

Needs `numpy` and, for service.py, `zstandard` (PyPI).
"""

import argparse
import base64
import http.client
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path

import numpy

from backups import WORDS, note, table
from compare import Vectorkeep, mebibytes
from service import DATABASE, Refused

SEED = 20_261_123
BATCH, PAGE = 500, 1_000
CHECK_INTERVAL_MS, MIN_BYTES = 500, 8 << 20
# Files are counted in whole segments of 2 MiB, and job records and snapshots are no live bytes.
TOLERANCE, TOLERANCE_BYTES = 1.1, 4 << 20
# By itself, a compaction comes again only when the files have grown by this factor since the last.
GROWTH = 2
PATIENCE_S = 120
FINAL = ("succeeded", "failed", "canceled", "interrupted")
ROUND_HEADS = ["round", "files", "live", "times", "peak", "compactions", "writes alone", "during", "p99 of reads alone", "during"]


class Wrong(Exception):
    """Something is not as it must be."""


def expect(condition, what: str) -> None:
    if not condition:
        raise Wrong(what)


def until(what: str, look, pause: float = 0.05):
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(pause)
    raise Wrong(f"{what}: not within {PATIENCE_S} s")


class Truth:
    """What the collection must hold: an embedding and a turn per record; the turn says the rest."""

    def __init__(self, total: int, dimension: int) -> None:
        self.vectors, self.turns = numpy.zeros((total, dimension), "<f4"), numpy.zeros(total, int)
        self.random = numpy.random.default_rng(SEED)

    def identity(self, number: int) -> str:
        return f"record-{number:08}"

    def document(self, number: int, turn: int) -> str:
        return f"{number} in turn {turn}: " + " ".join(WORDS[(number * 7 + turn * place) % len(WORDS)] for place in range(2, 19))

    def batches(self, numbers: numpy.ndarray) -> list[numpy.ndarray]:
        return [numbers[start:start + BATCH] for start in range(0, len(numbers), BATCH)]

    def next(self, numbers: numpy.ndarray) -> tuple[numpy.ndarray, int, bytes]:
        """New embeddings for the records, their turn, and the request's body."""
        vectors = self.random.standard_normal((len(numbers), self.vectors.shape[1]), "f4").astype("<f4", copy=False)
        turn = int(self.turns.max()) + 1
        return vectors, turn, json.dumps({
            "ids": [self.identity(number) for number in numbers],
            "embeddings": [base64.b64encode(vector).decode() for vector in vectors],
            "documents": [self.document(int(number), turn) for number in numbers],
            "metadatas": [{"turn": turn, "number": int(number)} for number in numbers],
        }).encode()

    def written(self, numbers: numpy.ndarray, vectors: numpy.ndarray, turn: int) -> None:
        self.vectors[numbers], self.turns[numbers] = vectors, turn


class Times:
    """When something was done, by the clock that jobs are stamped with."""

    def __init__(self) -> None:
        self.spans: list[tuple[float, float, int]] = []

    def add(self, began: float, records: int = 1) -> None:
        self.spans.append((began, time.time(), records))

    def split(self, compactions: list[tuple[float, float]], since: float = 0.0) -> tuple[list, list]:
        """Those beside no compaction, and those during one."""
        apart = ([], [])
        for span in self.spans:
            if span[0] >= since:
                apart[any(span[0] < end and span[1] > begin for begin, end in compactions)].append(span)
        return apart


def per_second(spans: list) -> str:
    return f"{sum(span[2] for span in spans) / sum(span[1] - span[0] for span in spans):,.0f}/s" if spans else ""


def percentiles(spans: list) -> list[str]:
    if not spans:
        return ["0", "", "", ""]
    times = [(span[1] - span[0]) * 1000 for span in spans]
    p50, p99 = numpy.percentile(times, [50, 99])
    return [f"{len(times):,}", f"{p50:.2f} ms", f"{p99:.2f} ms", f"{max(times):.2f} ms"]


def directory_bytes(directory: Path) -> int:
    """Files that go away meanwhile do not count."""
    total = 0
    for place, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(place, name)).st_blocks * 512
            except FileNotFoundError:
                pass
    return total


class Beside(threading.Thread):
    """Does something over and over until it is told to stop; its error is raised there."""

    def __init__(self, once) -> None:
        super().__init__(daemon=True)
        self.once, self.over, self.error = once, threading.Event(), None

    def run(self) -> None:
        try:
            while not self.over.is_set():
                self.once()
        except Exception as error:
            self.error = error

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, *_) -> None:
        self.over.set()
        self.join()
        if self.error and kind is None:
            raise self.error


class Churn:
    """A running service and the collection in it."""

    def __init__(self, process: Vectorkeep, truth: Truth, ratio: float) -> None:
        self.process, self.truth, self.ratio = process, truth, ratio
        self.everything = numpy.arange(len(truth.turns))
        self.writes, self.reads, self.peak = Times(), Times(), 0
        body = {"name": "churn", "configuration": {"hnsw": {"space": "cosine"}}}
        self.path = f"{DATABASE}/collections/{self.call('POST', f'{DATABASE}/collections', body)['id']}"
        self.server = process.connect()

    def call(self, method: str, path: str, body=None):
        """On a connection of its own: the service may have been another one before."""
        server = self.process.connect()
        try:
            return server.call(method, path, body)
        finally:
            server.connection.close()

    def used(self) -> int:
        return self.call("GET", "/health/storage")["checks"]["storage:used"][0]["observed_value"]

    def compactions(self) -> list[dict]:
        """Those that have succeeded, oldest first."""
        jobs = self.call("GET", "/jobs?kind=compaction&limit=1000")["jobs"]
        failed = [job for job in jobs if job["state"] in ("failed", "canceled")]
        expect(not failed, f"compactions failed: {failed}")
        return sorted((job for job in jobs if job["state"] == "succeeded"), key=lambda job: job["finished_at"])

    def spans(self) -> list[tuple[float, float]]:
        stamp = lambda text: datetime.fromisoformat(text[:26].rstrip("Z") + "+00:00").timestamp()
        return [(stamp(job["started_at"]), stamp(job["finished_at"])) for job in self.compactions()]

    def send(self, verb: str, numbers: numpy.ndarray) -> None:
        vectors, turn, body = self.truth.next(numbers)
        began = time.time()
        self.server.send("POST", f"{self.path}/{verb}", body)
        self.writes.add(began, len(numbers))
        self.truth.written(numbers, vectors, turn)

    def write_round(self) -> None:
        for batch in self.truth.batches(self.everything):
            self.send("upsert", batch)
        tenth = numpy.sort(self.truth.random.choice(self.everything, len(self.everything) // 10, replace=False))
        for batch in self.truth.batches(tenth):
            deleted = self.server.call("POST", f"{self.path}/delete", {"ids": [self.truth.identity(number) for number in batch]})
            expect(deleted == {"deleted": len(batch)}, f"a deletion of {len(batch)}: {deleted}")
            self.send("add", batch)

    def rounds(self, count: int) -> list[list[str]]:
        reader, rows = Reader(self), []
        self.write_round()
        with Beside(reader.once) as reading, Beside(self.look_at_disk):
            for number in range(count):
                since, self.peak = time.time(), 0
                self.write_round()
                if reading.error:
                    raise reading.error
                done = self.compactions()
                live = done[-1]["result"]["live_bytes"] if done else 0
                spans, used = self.spans(), self.used()
                alone, during = self.writes.split(spans, since)
                reads = self.reads.split(spans, since)
                rows.append([str(number + 1), mebibytes(used), mebibytes(live), f"{used / live:.1f}" if live else "", mebibytes(self.peak),
                             str(len(done)), per_second(alone), per_second(during), *(percentiles(each)[2] for each in reads)])
                note(", ".join(f"{head} {cell}" for head, cell in zip(ROUND_HEADS, rows[-1])))
        print(f"{reader.short} of {reader.queries} queries were answered with fewer than the 10 neighbours that there always are: "
              "what is deleted while a query runs is left out of its answer.\n")
        return rows

    def look_at_disk(self) -> None:
        self.peak = max(self.peak, directory_bytes(self.process.data))
        time.sleep(0.1)

    def check_size(self, allow_growth: bool) -> str | None:
        """Nothing is written any more: the next check compacts, or there is nothing to do. What is wrong afterwards."""
        done = self.compactions()
        expect(done, "the store never compacted itself: too few rounds for the ratio")
        result = done[-1]["result"]
        allowed = self.ratio * result["live_bytes"]
        if allow_growth:
            allowed = max(allowed, GROWTH * result["after_bytes"])
        bound, running = allowed * TOLERANCE + TOLERANCE_BYTES, "/jobs?kind=compaction&limit=1&state="
        # A check that finds something to do has begun within this time, and the job is there.
        time.sleep(4 * CHECK_INTERVAL_MS / 1000)
        until("the end of compactions", lambda: not any(self.call("GET", running + state)["jobs"] for state in ("queued", "running")))
        used, done = self.used(), self.compactions()
        result = done[-1]["result"]
        live, left = result["live_bytes"], result["after_bytes"]
        print(f"After the last round: {mebibytes(used)} of files, {mebibytes(live)} live ({used / live:.1f} times), "
              f"{len(done)} compactions; the last left {mebibytes(left)}\n")
        if used <= bound:
            return None
        return f"{used} bytes of files are more than {bound:,.0f}, with compaction.ratio {self.ratio}; the last compaction: {result}"

    def compact(self) -> dict:
        job = self.call("POST", "/compactions?wait=true", {})
        expect(job["state"] == "succeeded", f"a compaction: {job}")
        return job["result"]

    def check_content(self, unsure: numpy.ndarray | None = None, attempt: tuple | None = None) -> None:
        """Every record; those of an unanswered batch are all as before or all as attempted."""
        total, seen, turns = len(self.truth.turns), 0, set()
        wanted_turns, wanted = self.truth.turns.copy(), self.truth.vectors
        for offset in range(0, self.call("GET", f"{self.path}/count"), PAGE):
            include = ["embeddings", "documents", "metadatas"]
            page = self.call("POST", f"{self.path}/get", {"limit": PAGE, "offset": offset, "include": include})
            numbers = numpy.array([metadata["number"] for metadata in page["metadatas"]])
            found = numpy.array(page["embeddings"], "<f4")
            if unsure is not None:
                inside = numpy.isin(numbers, unsure)
                turns |= {metadata["turn"] == attempt[1] for metadata, place in zip(page["metadatas"], inside) if place}
                if True in turns:
                    self.truth.written(unsure, *attempt)
                    wanted_turns = self.truth.turns
            where = f"the page that begins with {page['ids'][:1]}"
            expect(numpy.array_equal(found, wanted[numbers]), f"{where}: embeddings are not what was written last")
            for identity, document, metadata in zip(page["ids"], page["documents"], page["metadatas"]):
                number = metadata["number"]
                turn = int(wanted_turns[number])
                expect((identity, document, metadata["turn"]) == (self.truth.identity(number), self.truth.document(number, turn), turn),
                       f"{identity} is {document!r} of {metadata}, expected turn {turn}")
            seen += len(set(page["ids"]))
        expect(seen == total, f"{seen} records, expected {total}")
        expect(len(turns) <= 1, "a batch that was not acknowledged is half there")
        health = self.call("GET", "/health/collections")
        expect(health["status"] == "pass", f"/health/collections: {health}")

    # ---------------- kills

    def kill(self, share: float) -> str:
        """In the middle of a compaction, with writes beside it; then a start, and a look at what is there."""
        unanswered: list[tuple] = []
        self.server = self.process.connect()

        def write() -> None:
            for batch in self.truth.batches(self.everything):
                vectors, turn, body = self.truth.next(batch)
                unanswered[:] = [(batch, (vectors, turn))]
                self.server.send("POST", f"{self.path}/upsert", body)
                self.truth.written(batch, vectors, turn)
                unanswered.clear()

        took = self.compact()["duration_ms"] / 1000
        writer = Beside(write)
        writer.start()
        time.sleep(0.1)
        job = self.call("POST", "/compactions", {})["id"]
        time.sleep(took * share)
        state = self.call("GET", f"/jobs/{job}")
        os.kill(self.process.pid(), signal.SIGKILL)
        self.process.running.wait()
        writer.over.set()
        writer.join()
        expect(isinstance(writer.error, (OSError, http.client.HTTPException)), f"the writer ended with {writer.error!r}")
        self.process.start(self.process.ready)
        if unanswered:
            self.check_content(*unanswered[0])
        else:
            self.check_content()
        look = lambda: (now := self.call("GET", f"/jobs/{job}")["state"]) in FINAL and now
        ended = until("the end of the job that was killed", look)
        stores = sorted(place.name for place in self.process.data.iterdir() if place.is_dir() and (place / "db").exists())
        size, used = directory_bytes(self.process.data), self.used()
        expect(len(stores) == 1, f"stores in the data directory after a start: {stores}")
        expect(size <= used * TOLERANCE + TOLERANCE_BYTES, f"{size} bytes lie in the data directory, the store takes {used}")
        return f"{state['state']}, {state['phase']}; after the start {ended}, {mebibytes(size)} in the data directory"


class Reader:
    """Gets and queries in turn; answers must hold what was asked for."""

    def __init__(self, churn: Churn) -> None:
        self.churn, self.server, self.random, self.queries, self.short = churn, churn.process.connect(), random.Random(SEED), 0, 0
        vector = numpy.random.default_rng(SEED).standard_normal(churn.truth.vectors.shape[1]).round(4).tolist()
        self.question = json.dumps({"query_embeddings": [vector], "n_results": 10, "include": ["distances"]}).encode()

    def once(self) -> None:
        wanted = [self.churn.truth.identity(number) for number in self.random.sample(range(len(self.churn.truth.turns)), 10)]
        body = json.dumps({"ids": wanted, "include": ["documents"]}).encode()
        for verb, data in (("get", body), ("query", self.question)):
            began = time.time()
            answer = self.server.send("POST", f"{self.churn.path}/{verb}", data)
            self.churn.reads.add(began)
            ids = json.loads(answer)["ids"]
            expect(set(ids) <= set(wanted) if verb == "get" else 0 < len(ids[0]) <= 10, f"{verb} answered {answer[:300]!r}")
            if verb == "query":
                self.queries, self.short = self.queries + 1, self.short + (len(ids[0]) < 10)
        time.sleep(0.005)


def measure(churn: Churn, rounds: int, kills: int, allow_growth: bool) -> None:
    rows = churn.rounds(rounds)
    print(table(ROUND_HEADS, rows))
    spans = churn.spans()
    (writes_alone, writes_during), (reads_alone, reads_during) = churn.writes.split(spans), churn.reads.split(spans)
    print(table(["all rounds", "records", "writes", "p50", "p99", "longest"], [
        ["batches written alone", per_second(writes_alone), *percentiles(writes_alone)],
        ["during a compaction", per_second(writes_during), *percentiles(writes_during)]]))
    print(table(["", "reads", "p50", "p99", "longest"], [
        ["gets and queries alone", *percentiles(reads_alone)], ["during a compaction", *percentiles(reads_during)]]))
    wrong = churn.check_size(allow_growth)
    churn.check_content()
    result = churn.compact()
    churn.check_content()
    before, after, live = (mebibytes(result[name]) for name in ("before_bytes", "after_bytes", "live_bytes"))
    print(f"A last compaction: {before} before, {after} after, {live} live, {result['duration_ms'] / 1000:.2f} s. "
          f"All {len(churn.truth.turns):,} records are as the last round left them.\n")
    for number in range(kills):
        # Beside writes it takes about twice as long.
        print(f"Killed in a compaction: {churn.kill(2 * (number + 0.5) / kills)}", flush=True)
    expect(not wrong, wrong)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--ratio", type=float, default=4.0, help="compaction.ratio")
    parser.add_argument("--kills", type=int, default=0, help="SIGKILLs in the middle of compactions")
    parser.add_argument("--allow-growth", action="store_true", help="files may be twice what the last compaction left")
    arguments = parser.parse_args()
    if arguments.records < BATCH:
        parser.error(f"give at least {BATCH} records")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="churn-") as home:
        process = Vectorkeep(arguments.binary.absolute(), Path(home))
        process.settings |= {"VECTORKEEP__COMPACTION__RATIO": str(arguments.ratio), "VECTORKEEP__COMPACTION__MIN_BYTES": str(MIN_BYTES),
                             "VECTORKEEP__COMPACTION__CHECK_INTERVAL_MS": str(CHECK_INTERVAL_MS)}
        try:
            process.start(process.ready)
            print(f"{arguments.records:,} records of {arguments.dimension} dimensions, {os.cpu_count()} cores, compaction.ratio "
                  f"{arguments.ratio}\n")
            churn = Churn(process, Truth(arguments.records, arguments.dimension), arguments.ratio)
            measure(churn, arguments.rounds, arguments.kills, arguments.allow_growth)
        except (Wrong, Refused) as error:
            sys.exit(f"FAIL: {error}\n{process.log.read_text()[-3000:]}")
        finally:
            process.stop()
    print("churn: all as it must be")


if __name__ == "__main__":
    main()
