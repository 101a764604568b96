#!/usr/bin/env python3
"""power_cuts.py BINARY [--states N] [--aimed N] [--seconds S] [--seed N]

Power cuts: records what the service asks of the file system under a load ($SHARED/powercut), builds disks that a cut could
leave, and opens each with the service. Everything acknowledged before the cut has to be there, no batch in part, every
backup sound, and writes are taken.

Random states come from both models of that directory: *general* (writes lost, torn, reordered) and *ext4-like*. Aimed ones
are built here, around each header that sled writes to a segment in place: the header is there, in whole or with its first
sector alone, and nothing else that was not synced. A header names what sled calls stable; one that names a segment which is
not synced is how a whole store was once lost ("hits", 0 since sled's syncs are full ones). Fails as well when fewer states
than asked were tried. Needs cc and numpy.
"""
import argparse
import collections
import importlib
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from processes import Failed, equal, expect

POWERCUT = Path(os.environ.get("SHARED", "../shared")).resolve() / "powercut"
SEGMENT, SECTOR, MASK = 2 * 1024 * 1024, 512, 0x7FFF_FFFF_FFFF_FFFF
PROCESSES = 2


def build_shim(home: Path) -> Path:
    """The library that records, and that makes operations fail."""
    shim = home / "shim.so"
    subprocess.run(["cc", "-O2", "-w", "-shared", "-fPIC", "-o", shim, POWERCUT / "shim.c", "-ldl", "-lpthread"], check=True)
    return shim


def script(name: str, *arguments) -> str:
    command = [sys.executable, str(POWERCUT / name), *map(str, arguments)]
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    expect(done.returncode == 0, f"{name} ended with {done.returncode}: {done.stdout[-3000:]}")
    return done.stdout.strip()


def scripts(name: str):
    """A module of that directory; they import one another by name."""
    if str(POWERCUT) not in sys.path:
        sys.path.insert(0, str(POWERCUT))
    return importlib.import_module(name)


def pruned_meanwhile(operations, state: dict) -> bool:
    """Whether all that is wrong is that backups went that a pruning may delete which the cut interrupted. It is taken up again
    after the start and decides anew, while each backup is verified: the newest of them is the newest verified one then, and
    an older one need not be kept for that any more. The newest that it was told to keep stay."""
    cut = state["T"]
    prunings = [one for one in operations.ops if one["kind"] == "prune" and one["t"] <= cut and (one["end"] is None or one["end"] >= cut)]
    if state["outcome"] not in ("bad", "bad-second") or not prunings:
        return False
    _, acknowledged, may_be_gone, _ = operations.at(cut)
    made = [((one.get("ans") or {}).get("result") or {}).get("id") for one in operations.ops if one["kind"] == "backup"]
    in_order = [backup for backup in made if backup in acknowledged]
    may_be_gone = may_be_gone | set(in_order[:-prunings[-1]["what"]["keep"]])
    for problem in state["problems"]:
        gone = re.match(r"verify (\S+): 404 |backups acknowledged and not listed: ", problem)
        if not gone or not set(re.findall(r"backup_[0-9_-]+", problem)) <= may_be_gone:
            return False
    return True


def random_states(recording: Path, states: int, seed: int) -> None:
    each = -(-states // PROCESSES)
    print(script("cuts.py", recording, each * PROCESSES, seed, PROCESSES), flush=True)
    found = [json.loads(line) for line in (recording / "results.jsonl").read_text().splitlines()]
    operations = scripts("check").Ops(str(recording / "ops.jsonl"))
    for state in found:
        if pruned_meanwhile(operations, state):
            state["outcome"] = "ok"
    outcomes = collections.Counter((one["model"], one["outcome"]) for one in found)
    print("random states:", dict(outcomes), flush=True)
    bad = [one for one in found if one["outcome"] != "ok"]
    expect(not bad, f"{len(bad)} of {len(found)} states are not sound, such as {json.dumps(bad[:2])[:3000]}")
    expect(len(found) >= states, f"{len(found)} states were tried, {states} were asked for")
    for model in ("general", "ext4"):
        expect(outcomes[model, "ok"] >= states // 10, f"only {outcomes[model, 'ok']} states of the model {model}")


class Header:
    """A write of a segment's header into the part of the log that the disk has already."""

    def __init__(self, memory, write) -> None:
        self.write = write
        lsn, stable = struct.unpack("<qq", memory[write.data[0] + 4:write.data[0] + 20])
        self.lsn, self.stable = lsn ^ MASK, stable ^ MASK

    def is_one(self) -> bool:
        return self.lsn >= 0 and self.lsn % SEGMENT == 0


def headers(world, inode) -> list:
    writes = [w for w in inode.pending if w.kind == "w" and w.off % SEGMENT == 0 and w.data[1] >= 20]
    return [header for write in writes if (header := Header(world.m, write)).is_one()]


def claims_too_much(header: Header, all_headers: list, durable: int) -> bool:
    """Whether it names a segment as stable that lies where the file has grown and is not synced."""
    unsynced = [other.lsn for other in all_headers if other.write.off >= durable]
    return header.write.off < durable and any(lsn < header.lsn and lsn <= header.stable for lsn in unsynced)


def with_only(world, inode, write, first_bytes: int) -> dict:
    """The disk with all that is synced and this write of the log, or its beginning."""
    state = {}
    for path, found in world.pick_dirs(random.Random(0), "all").items():
        if found == "dir":
            state[path] = None
            continue
        content = bytearray(found.durable)
        if found is inode:
            at, length = write.data
            length = min(length, first_bytes)
            content.extend(bytes(max(0, write.off + length - len(content))))
            content[write.off:write.off + length] = world.m[at:at + length]
        state[path] = content
    return state


def aimed_states(recording: Path, wanted: int, scratch: Path) -> None:
    check, model = scripts("check"), scripts("model")
    scripts("vk").BIN = os.environ["VKBIN"]
    memory, events = model.parse(str(recording / "shim.log"))
    roots = [f"{recording}/data", f"{recording}/repo"]
    world, operations = model.World(memory, events, roots), check.Ops(str(recording / "ops.jsonl"))
    seen, hits, tried = 0, 0, 0
    for event in world.ev:
        at = world.key(event)
        world.advance(at)
        if event.op != model.WRITE or not event.p.endswith("/db") or event.a % SEGMENT != 0:
            continue
        descriptor = world.fds.get(event.fd)
        if not descriptor or descriptor[0] != "file":
            continue
        inode = descriptor[1]
        pending = headers(world, inode)
        header = next((one for one in pending if one.write.data == (event.off, event.n)), None)
        if header is None:
            continue
        seen += 1
        hits += claims_too_much(header, pending, len(inode.durable))
        for first_bytes in (event.n, SECTOR):
            if tried == wanted:
                break
            place = scratch / "aimed"
            shutil.rmtree(place, ignore_errors=True)
            data, repository = f"{place}/data", f"{place}/repo"
            model.write(model.visible(with_only(world, inode, header.write, first_bytes), roots), roots, [data, repository])
            expected = operations.at(at)
            outcome, problems = check.check(data, repository, expected, str(scratch / "aimed.log"), verify=False)
            tried += 1
            expect(outcome == "ok", f"aimed state {tried} ({first_bytes} bytes of the header of LSN {header.lsn}): {outcome}: {str(problems)[:3000]}")
    print(f"aimed states: {tried} ok, around {seen} headers; hits: {hits}", flush=True)
    equal(hits, 0, "headers that name as stable what is not synced")
    expect(tried >= wanted, f"{tried} aimed states were tried, {wanted} were asked for: record for longer")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--states", type=int, default=60)
    parser.add_argument("--aimed", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=int(os.environ.get("VECTORKEEP_CRASH_SEED", "1")) % 1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        scratch, recording = Path(home), Path(home) / f"rec-{os.getpid()}"
        os.environ.update(VKBIN=str(Path(arguments.binary).resolve()), LAB=home, SHIM=str(build_shim(scratch)))
        print(f"seed {arguments.seed}", flush=True)
        print(script("record.py", recording, "small", arguments.seconds, arguments.seed), flush=True)
        random_states(recording, arguments.states, arguments.seed)
        aimed_states(recording, arguments.aimed, scratch)
    print(f"power cuts: {arguments.states} random states and {arguments.aimed} aimed ones, all sound")


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"FAIL: {failure}")
