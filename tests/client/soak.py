#!/usr/bin/env python3
"""soak.py BINARY [--seconds N] [--writers N] [--seed N] [--report FILE.json] [--spoil record|pack]

Starts the service in a temporary directory and does to it what a long life does, all at the same time:

 * writers add, upsert, update and delete in collections of several spaces and dimensions, one of them through Chroma's own
   client, and read what they wrote; readers query, get and count; somebody makes, drops, renames and forks collections
 * backups are made every few seconds, pruned, deleted, verified, exported, rehearsed and restored, collections are migrated,
   the store is compacted (when asked to, and by itself), deep health checks are asked for
 * the process is killed (SIGKILL), sometimes twice in a row, sometimes before it is ready, and stopped (SIGTERM). After each
   restart what was in doubt is settled: a batch is there as a whole or not at all; then collections are compared record by record

No answer may be a 5xx, and no connection may be cut, unless the service was stopped meanwhile. Every backup, fork and migration
must hold whole batches, and all of it must be of one moment. At the end every record, every digest and every listed backup is
looked at; what is restored is compared with what it was made of; nothing may be left that nobody needs. soak_model.py says how
that is known.

Prints a line per minute and a table; exits 1 if anything is wrong, and then says where the service's directory and log are.
With --spoil it does damage behind the service's back after half the time, and has to exit 1: run that by hand after a change here.

The seed decides what is asked for and when, not how threads and the service take turns. Needs chromadb, numpy, psutil, zstandard.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import psutil

from processes import Failed, equal, expect, until
from soak_clients import IDS, ChromaWriter, Namer, Reader, Writer, create
from soak_model import COLLECTIONS, PASSING, check_equal
from soak_operations import (ASKED, CHOSEN, FINAL, GONE, KEEP_LAST, PRUNE_AFTER, RESTORES, THERE, Backup, Backups, Inspector, Keeper,
                             Mover, back_up, check_health, check_moment, content_of, digests, exported, is_copy, job, listed, verify)
from soak_world import ANSWER_SECONDS, CHECK_INTERVAL_MS, MIN_BYTES, RATIO, Caller, Chaos, World, compare, settle
from subject import DATABASE

BACKUP_SECONDS, STOP_SECONDS, JOIN_SECONDS, READERS = 10, 45, 300, 2
# Files are counted in whole segments; by itself a compaction comes again when they have grown by a quarter.
FILES_TOLERANCE, FILES_TOLERANCE_BYTES, FILES_GROWTH = 1.1, 4 << 20, 1.25
STALE_MS = 2_000
# The data is small; what threads, packs and the store's caches once took levels off far below this after some minutes.
MEMORY_BYTES = 1 << 30


def stamp(text: str) -> float:
    return datetime.fromisoformat(text[:26].rstrip("Z") + "+00:00").timestamp()


def megabytes(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"


def directory_bytes(directory: Path) -> int:
    total = 0
    for place, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(place, name)).st_blocks * 512
    return total


class Soak:
    """One run."""

    def __init__(self, binary: Path, home: Path, arguments) -> None:
        self.world, self.arguments = World(binary, home, arguments.seed), arguments
        self.caller, self.backups = Caller(self.world, always=True), Backups(self.world)
        self.memory, self.files, self.numbers, self.checks = [], [], {}, {}
        self.began = time.monotonic()

    # ---------------- the run

    def run(self) -> None:
        world, seconds = self.world, self.arguments.seconds
        world.spawn()
        world.wait_ready()
        create(world, self.caller)
        writers = [ChromaWriter(world, 0), *(Writer(world, number) for number in range(1, self.arguments.writers))]
        users = [*writers, *(Reader(world, f"reader{number}") for number in range(READERS)), Namer(world)]
        # A short run has some of everything as well.
        operators = [Keeper(world, self.backups, min(BACKUP_SECONDS, seconds / 15)), Inspector(world, "inspector", self.backups),
                     Mover(world, self.backups)]
        chaos = Chaos(world, min(STOP_SECONDS, seconds / 6))
        world.started()
        self.began = time.monotonic()
        for worker in (workers := [*users, *operators, chaos]):
            worker.start()
        self.watch(seconds)
        world.over.set()
        for worker in workers:
            worker.join(JOIN_SECONDS)
            expect(not worker.is_alive(), f"{worker.name} did not end its step within {JOIN_SECONDS} s")
        self.numbers["seconds"] = round(time.monotonic() - self.began)

    def watch(self, seconds: float) -> None:
        minute, spoiled = 1, self.arguments.spoil is None
        while not self.world.over.wait(1) and (now := time.monotonic() - self.began) < seconds:
            process = self.world.service.process
            with contextlib.suppress(psutil.NoSuchProcess):
                self.memory.append(psutil.Process(process.pid).memory_info().rss)
            self.files.append(directory_bytes(self.world.home / "data"))
            if process.poll() is not None and not self.world.stopping.is_set() and process is self.world.service.process:
                self.world.violated("the process", f"the service ended by itself with {process.returncode}")
            if now >= 60 * minute:
                self.say(now)
                minute += 1
            if not spoiled and now > seconds / 2 and (self.backups.pinned or now > seconds - 5):
                spoiled = True
                self.spoil()

    def say(self, now: float) -> None:
        tally = self.world.tally
        names = ("batches", "records written", "queries", "gets", "kills", "terms", "backups, full", "backups, incremental",
                 "verifications", "drills", "restores", "migrations", "forks")
        numbers = [f"{tally[name]:,} {name}" for name in names]
        sizes = f"memory {megabytes(self.memory[-1])}; files {megabytes(self.files[-1])}"
        print(f"{now / 60:.0f} min: {'; '.join(numbers)}; {sizes}", flush=True)

    def spoil(self) -> None:
        """Behind everybody's back; the run must find it."""
        world = self.world
        with world.writing.pause():
            if self.arguments.spoil == "record":
                [(name, identity), *_] = [key for owner in world.owners if owner.name == "w1" for key in owner.records]
                self.caller.call("POST", f"{self.caller.path(name)}/delete", {"ids": [identity]})
                print(f"spoilt: {identity} was deleted from {name}", flush=True)
            else:
                [manifest] = (path for path in (world.home / "backups").rglob("*") if path.is_file() and "packs" not in path.parts
                              and path.name.startswith(self.backups.pinned.id) and b"layers" in path.read_bytes())
                named = manifest.read_bytes()
                pack = next(pack for pack in (world.home / "backups" / "packs").glob("*/*") if pack.stem.encode() in named)
                content = bytearray(pack.read_bytes())
                content[len(content) // 2] ^= 1
                pack.write_bytes(content)
                print(f"spoilt: a bit of {pack}", flush=True)

    # ---------------- the end

    def check(self, name: str, look) -> None:
        try:
            look()
            self.checks[name] = True
        except Exception as error:
            self.checks[name] = False
            self.world.violated(name, error)

    def finish(self) -> None:
        world = self.world
        world.over.set()
        if world.service.process.poll() is not None:
            world.spawn()
            world.wait_ready()
        for name, look in self.lasting().items():
            self.check(name, look)
        # What was found wrong is left for inspection, and a run that it ended early says nothing about the rest.
        for name, look in self.closing().items():
            if not world.violations:
                self.check(name, look)

    def lasting(self) -> dict:
        return {
            "nothing runs for ever": self.quiet,
            "what was in doubt is there or not": lambda: settle(self.world, self.caller),
            "no other collections": self.names,
            "every record is as acknowledged": self.compare_all,
            "digests: fresh backup and deep check": self.fresh,
            "listed backups are those asked for": self.listed,
            "every backup verifies and is of one moment": self.every_backup,
            "the newest backup restores": self.newest,
            "jobs end as they may": self.jobs,
            "health": self.health,
            "SIGTERM, a start, and all is there": self.start_again,
        }

    def closing(self) -> dict:
        return {
            "the pinned backup is what it was": self.pinned,
            "files are bounded": self.bounded,
            "memory is bounded": self.bounded_memory,
            "nothing is left that nobody needs": self.nothing_left,
        }

    def quiet(self) -> None:
        active = lambda state: self.caller.call("GET", f"/jobs?state={state}")["jobs"]
        until("the end of all jobs", ANSWER_SECONDS, lambda: not any(map(active, ("queued", "running"))))

    def names(self) -> None:
        for name in filter(is_copy, self.caller.listed()):
            self.caller.call("DELETE", f"{DATABASE}/collections/{name}")
        wanted = {key[0] for owner in self.world.owners for key in owner.records} | set(COLLECTIONS)
        equal(sorted(self.caller.listed()), sorted(wanted), "collections")
        equal([name for name in wanted if name not in COLLECTIONS and not name.startswith(PASSING)], [], "names of collections")

    def compare_all(self) -> None:
        self.world.tally["records at the end"] = sum(len(owner.records) for owner in self.world.owners)
        for name in self.caller.listed():
            compare(self.world, self.caller, name)

    def fresh(self) -> None:
        backup = back_up(self.caller, self.backups, {})
        for each in backup.manifest["collections"]:
            name, wanted = each["name"], (each["records"], each["digest"])
            equal(digests(self.caller, name), wanted, f"records and digest of {name}: checked, and backed up")
        wanted = {key: record for owner in self.world.owners for key, record in owner.records.items()}
        check_equal(content_of(exported(self.caller, backup)), wanted, "the export of a fresh backup")

    def listed(self) -> None:
        found = listed(self.caller)
        self.backups.check(found)
        equal(self.backups.of(ASKED), [], "backups that are in doubt")
        # Of everything and of the chosen ones each: the newest, and the newest verified one. The pinned one, another if the first
        # was in doubt, and what came since a pruning, which a stop puts off by a turn.
        bound = 2 * (KEEP_LAST + 1) + 2 + PRUNE_AFTER + len(self.world.stops)
        expect(self.backups.most <= bound, f"{self.backups.most} backups were listed at a time, more than {bound}")

    def every_backup(self) -> None:
        for backup in self.backups.of(THERE):
            verify(self.caller, backup, "records")
            check_moment(self.world.owners, self.caller, backup)
            found = self.caller.call("GET", f"/backups/{backup.id}")["verification"]
            expect(found["ok"] and found["checked_records"] == backup.manifest["records"], f"what stands in {backup.id}: {found}")

    def newest(self) -> None:
        self.restore_beside(self.backups.of(THERE)[0])

    def restore_beside(self, backup: Backup) -> dict:
        """All of it under other names, with its digests; its content by the old names."""
        sources = [each for each in backup.manifest["collections"] if not is_copy(each["name"])]
        wanted = [{"name": each["name"], "to": {"name": f"{RESTORES}{each['name']}"}} for each in sources]
        result = job(self.caller, "/restore", {"backup": backup.id, "collections": wanted})
        content = {}
        for source, restored in zip(sources, result["collections"], strict=True):
            to = restored["to"]["name"]
            wanted = source["records"], source["digest"]
            equal((restored["digest"], digests(self.caller, to)), (source["digest"], wanted), f"digests of {to}")
            content[source["name"]] = self.caller.stored(to)
            self.caller.call("DELETE", f"{DATABASE}/collections/{to}")
        self.world.count("restores")
        return content_of(content)

    def pinned(self) -> None:
        pinned, frozen = self.backups.pinned, self.backups.frozen
        expect(pinned is not None, "no backup was pinned")
        found = self.caller.call("GET", f"/backups/{pinned.id}")
        equal((found["pinned"], found["records"]), (True, pinned.manifest["records"]), f"{pinned.id} now")
        check_equal(content_of(exported(self.caller, pinned)), frozen, "the export of the pinned backup")
        check_equal(self.restore_beside(pinned), frozen, "what the pinned backup restores")

    def ended_jobs(self) -> list[dict] | None:
        """All of them; none while any goes on, as a compaction does that came by itself."""
        path, cursor, found = "/jobs?limit=1000", "", []
        while cursor is not None:
            page = self.caller.call("GET", f"{path}&cursor={cursor}" if cursor else path)
            found, cursor = found + page["jobs"], page["next_cursor"]
        return found if all(each["state"] in FINAL for each in found) else None

    def jobs(self) -> None:
        """Stopped ones only where the service was stopped while they were there; failed ones only on a backup that was removed."""
        found = until("the end of all jobs", ANSWER_SECONDS, self.ended_jobs)
        states = {each["id"]: each["state"] for each in found}
        lost = {identity: states.get(identity) for identity in self.world.jobs if states.get(identity) != "succeeded"}
        expect(not lost, f"jobs that were answered as succeeded: {lost}")
        gone = {backup.id for backup in self.backups.of(GONE)}
        for each in found:
            kind, state, problem = each["kind"], each["state"], each["problem"]
            self.world.count(f"jobs, {kind} {state}")
            if state in ("interrupted", "canceled"):
                created, finished = stamp(each["created_at"]) - 1, stamp(each["finished_at"]) + 1
                stopped = any(began <= finished and ended >= created for began, ended in self.world.stops)
                expect(stopped, f"nobody stopped this job: {each}")
            elif state == "failed":
                expect(problem["status"] == 404 and each["request"].get("backup") in gone, f"a job failed: {each}")
        compactions = sum(each["kind"] == "compaction" and each["state"] == "succeeded" for each in found)
        self.world.tally["compactions by themselves"] = compactions - self.world.tally["compactions asked for"]

    def health(self) -> None:
        health = self.caller.call("GET", "/health")
        odd = {name: check for name, checks in health["checks"].items() for check in checks if check["status"] != "pass"}
        # The machine's disk is not the service's fault.
        explained = {name for name, check in odd.items() if check["status"] == "warn" and name.startswith("storage:")}
        expect(health["status"] != "fail" and odd.keys() <= explained, f"/health is {health['status']}: {odd}")
        self.numbers["health"] = health["status"] + (f" ({', '.join(sorted(odd))})" if odd else "")
        for path in ("/health/collections", "/health/embeddings?sample=all"):
            check_health(self.caller, path)

    def gauge(self, name: str) -> float:
        text = self.caller.call("GET", "/metrics").decode()
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))

    def bounded(self) -> None:
        """Nobody writes any more: the next look compacts the store, or there is no need to."""
        time.sleep(4 * CHECK_INTERVAL_MS / 1000)
        self.quiet()
        time.sleep(2)
        used, live = self.gauge("vectorkeep_store_file_bytes"), self.gauge("vectorkeep_store_live_bytes")
        last = [each for each in self.caller.call("GET", "/jobs?kind=compaction&state=succeeded&limit=1")["jobs"]]
        left = last[0]["result"]["after_bytes"] if last else 0
        bound = max(MIN_BYTES, RATIO * live, FILES_GROWTH * left) * FILES_TOLERANCE + FILES_TOLERANCE_BYTES
        self.numbers |= {"files": used, "live": live, "files at most": max(self.files)}
        expect(used <= bound, f"{used} bytes of files, {live} live, {left} after the last compaction: more than {bound:.0f}")
        stores = sorted(place.name for place in (self.world.home / "data").iterdir() if place.is_dir() and (place / "db").exists())
        equal(len(stores), 1, f"stores in the data directory: {stores}")

    def bounded_memory(self) -> None:
        most = max(self.memory)
        self.numbers |= {"memory at begin": self.memory[0], "memory at end": self.memory[-1], "memory at most": most}
        expect(most <= MEMORY_BYTES, f"the service took {most} bytes of memory, more than {MEMORY_BYTES}")

    def start_again(self, **settings) -> None:
        world = self.world
        world.stop(signal.SIGTERM)
        world.count("terms")
        world.service.environment |= {f"VECTORKEEP__{key}": str(value) for key, value in settings.items()}
        world.spawn()
        world.wait_ready()
        for name in self.caller.listed():
            compare(world, self.caller, name)

    def nothing_left(self) -> None:
        """Without backups there are no packs, without collections the store holds nothing, and nobody holds a lock."""
        # No compaction comes by itself in between. A pack that a kill left unfinished is removed when it is as old as a lock that
        # was left behind.
        self.start_again(REPOSITORY__GRACE_MS=0, REPOSITORY__LOCK_STALE_MS=STALE_MS, COMPACTION__RATIO=0)
        time.sleep(STALE_MS / 1000)
        repository = self.world.home / "backups"
        for manifest in listed(self.caller):
            self.caller.call("PATCH", f"/backups/{manifest['id']}", {"pinned": False})
            self.caller.call("DELETE", f"/backups/{manifest['id']}")
        places = [repository / name for name in ("packs", "locks")]
        left = lambda: [str(path.relative_to(repository)) for place in places for path in place.rglob("*") if path.is_file()]
        with contextlib.suppress(Failed):
            until("an empty repository", 30, lambda: not left())
        equal(left(), [], "packs and locks in a repository without backups")
        for name in self.caller.listed():
            self.caller.call("DELETE", f"{DATABASE}/collections/{name}")
        equal(job(self.caller, "/compactions", {})["live_bytes"], 0, "bytes that live in a store without collections")

    # ---------------- what is said

    def table(self) -> list[tuple[str, str]]:
        tally, numbers, world = self.world.tally, self.numbers, self.world
        sizes = lambda *names: ", ".join(f"{name} {megabytes(numbers[name])}" for name in names if name in numbers)
        parts = lambda what, *names: ", ".join(f"{tally[f'{what}{name}']:,} {name}" for name in names)
        jobs = {what.split()[1]: count for what, count in sorted(tally.items()) if what.endswith(" interrupted")}
        rows = {
            "seconds": numbers.get("seconds"),
            "batches acknowledged": tally["batches"],
            "records in them": tally["records written"],
            "batches in doubt": parts("in doubt, ", "there", "not there", "no difference"),
            "queries": tally["queries"],
            "gets": tally["gets"],
            "counts": tally["counts"],
            "kills, and stops by SIGTERM": f"{tally['kills']}, {tally['terms']}",
            "restarts": max(0, len(world.ready_seconds) - 1),
            "longest time to ready": f"{max(world.ready_seconds, default=0):.2f} s",
            "longest end after SIGTERM": f"{max(world.term_seconds, default=0):.2f} s",
            "calls that were cut": sum(count for what, count in tally.items() if what.endswith("that were cut")),
            "records compared": tally["records compared"],
            "records at the end": tally["records at the end"],
            "collections": parts("collections ", "created", "dropped", "renamed") + f", {tally['forks']} forks",
            "backups made": parts("backups, ", "full", "incremental"),
            "backups in doubt": parts("backups in doubt, ", "there", "not there"),
            "backups removed": f"{tally['backups removed']}; {tally['prunings']} prunings; at most {self.backups.most} listed",
            "verifications": tally["verifications"],
            "exports": tally["exports"],
            "drills": tally["drills"],
            "restores": tally["restores"],
            "migrations": tally["migrations"],
            "compactions": parts("compactions ", "asked for", "by themselves"),
            "refused, the backup was removed meanwhile": tally["refused, as the backup was removed meanwhile"],
            "health checks": f"{tally['health checks']}; /health at the end: {numbers.get('health')}",
            "jobs interrupted": ", ".join(f"{count} {kind}" for kind, count in jobs.items()) or 0,
            "memory": sizes("memory at begin", "memory at end", "memory at most"),
            "files": sizes("files", "live", "files at most"),
        }
        return [(name, f"{value:,}" if isinstance(value, int) else str(value)) for name, value in rows.items()]

    def report(self) -> bool:
        world = self.world
        during = ("writers", "readers", "collections", "backups", "inspections", "moves", "restarts")
        # None: not looked at.
        looked_at = dict.fromkeys(during, True if "seconds" in self.numbers else None)
        later = dict.fromkeys((*self.lasting(), *self.closing()))
        self.checks = looked_at | later | self.checks | {kind: False for kind, _ in world.violations}
        words = {True: "held", False: "VIOLATED", None: "not looked at"}
        rows = [*self.table(), *((f"check: {name}", words[held]) for name, held in self.checks.items())]
        print("\n| | |\n|---|---|")
        for name, value in rows:
            print(f"| {name} | {value} |")
        for kind, text in world.violations:
            print(f"\nVIOLATION ({kind}): {text}")
        if self.arguments.report:
            found = {"seed": world.seed, "numbers": dict(self.table()), "checks": self.checks, "violations": world.violations,
                     "tally": dict(sorted(world.tally.items())), "ready_seconds": world.ready_seconds}
            self.arguments.report.write_text(json.dumps(found, indent=1, default=str) + "\n")
        return all(self.checks.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--seconds", type=float, default=1_200)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--report", type=Path, help="the numbers and checks as JSON")
    parser.add_argument("--spoil", choices=["record", "pack"], help="do damage that must be found")
    arguments = parser.parse_args()
    if arguments.writers < 2 or arguments.seconds < 30:
        parser.error("give at least 2 writers and 30 seconds")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    home = Path(tempfile.mkdtemp(prefix="soak-"))
    print(f"soak: seed {arguments.seed}, {arguments.seconds:.0f} s, {arguments.writers} writers with {IDS} ids in each of "
          f"{len(COLLECTIONS)} collections; backups of everything, and of {CHOSEN}; in {home}", flush=True)
    soak = Soak(arguments.binary.resolve(), home, arguments)
    try:
        try:
            soak.run()
            soak.finish()
        except Exception as error:
            soak.world.violated("the run", error)
        held = soak.report()
    finally:
        soak.world.over.set()
        soak.world.service.stop(signal.SIGKILL)
    if not held:
        print(f"\nFAIL: seed {arguments.seed}; everything of the service is in {home}, its log is {home / 'log'}", file=sys.stderr)
        return 1
    shutil.rmtree(home)
    print("\nsoak: all as it must be")
    return 0


if __name__ == "__main__":
    sys.exit(main())
