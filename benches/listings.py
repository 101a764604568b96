#!/usr/bin/env python3
"""listings.py BINARY [--collections N] [--backups N]

Starts the service with a new directory under TMPDIR and a repository beside it, makes many collections of one record, as
applications do that make one per file, and many backups, between which one collection changes. Prints a Markdown table: how long
the first backup and an unchanged one take and how many bytes they write; how long listings take, and the most memory that the
service takes meanwhile. Figures are printed, never asserted. Linux only. Only the standard library, and compare.py with what it
needs.

How to read it:
- Memory is resident memory at rest, and its peak during the requests (/proc/PID/clear_refs).
- "written" is what the repository's directory has grown by.
"""

import argparse
import statistics
import tempfile
import threading
from pathlib import Path

from backups import note, table
from compare import Vectorkeep, mebibytes
from service import DATABASE, seconds

LISTERS = 4


def bytes_of(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


class Bench:
    def __init__(self, process: Vectorkeep, repository: Path, total: int) -> None:
        self.process, self.repository, self.total = process, repository, total
        self.server, self.rows = process.connect(), []

    def fill(self) -> None:
        for number in range(self.total):
            made = self.server.call("POST", f"{DATABASE}/collections", {"name": f"file-{number}"})
            self.write(made["id"], number, 0)

    def write(self, collection: str, number: int, turn: int) -> None:
        body = {"ids": [f"r{number}"], "embeddings": [[number, turn]]}
        self.server.call("POST", f"{DATABASE}/collections/{collection}/upsert", body)

    def change(self, turn: int) -> None:
        found = self.server.call("GET", f"{DATABASE}/collections/file-{turn}")
        self.write(found["id"], turn, turn + 1)

    def backup(self) -> tuple[float, int]:
        before = bytes_of(self.repository)
        took = seconds(lambda: self.server.call("POST", "/backups?wait=true", {}))
        return took, bytes_of(self.repository) - before

    def memory(self, field: str) -> int:
        status = Path(f"/proc/{self.process.pid()}/status").read_text()
        return int(status.split(f"{field}:")[1].split()[0]) * 1024

    def measured(self, what: str, call) -> None:
        self.process.rest()
        before = self.memory("VmRSS")
        Path(f"/proc/{self.process.pid()}/clear_refs").write_text("5")
        took = seconds(call)
        self.rows.append([what, f"{took * 1000:,.0f} ms", mebibytes(before), mebibytes(self.memory("VmHWM"))])

    def list(self, query: str) -> None:
        server = self.process.connect()
        server.send("GET", f"/backups{query}")

    def list_at_once(self, query: str) -> None:
        listers = [threading.Thread(target=self.list, args=(query,)) for _ in range(LISTERS)]
        for lister in listers:
            lister.start()
        for lister in listers:
            lister.join()


def run(binary: Path, total: int, backups: int, home: Path) -> None:
    process = Vectorkeep(binary, home)
    process.start(process.ready)
    try:
        bench = Bench(process, home / "backups", total)
        note(f"{total} collections")
        bench.fill()
        first = bench.backup()
        unchanged = bench.backup()
        changed = []
        for turn in range(backups - 2):
            bench.change(turn % total)
            changed.append(bench.backup())
        note(f"{backups} backups")
        time, written = (statistics.median(part) for part in zip(*changed))
        rows = [[what, f"{took * 1000:,.0f} ms", f"{size:,.0f} bytes"] for what, (took, size) in
                (("the first", first), ("nothing changed", unchanged), ("one collection changed, median", (time, written)))]
        print(table([f"backup of {total} collections", "time", "written"], rows))
        for query in ("?limit=1", "?limit=10", ""):
            bench.measured(f"`GET /backups{query}`", lambda: bench.list(query))
        bench.measured(f"`GET /backups?limit=1`, {LISTERS} at once", lambda: bench.list_at_once("?limit=1"))

        print(table([f"{backups} backups of {total} collections", "time", "memory", "at most"], bench.rows))
    finally:
        process.stop()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", type=Path)
    parser.add_argument("--collections", type=int, default=2_000)
    parser.add_argument("--backups", type=int, default=60)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="listings-") as home:
        run(arguments.binary.resolve(), arguments.collections, arguments.backups, Path(home))


if __name__ == "__main__":
    main()
