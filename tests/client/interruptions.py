"""What happens to migrations in environments.py: writers, servers that are killed, a network that fails."""

import collections
import contextlib
import signal
import time

from contents import same_content
from copies import (FINAL, Watcher, Writer, attempted, check_failed, check_refusal, check_result, ended, job_of, migrated, no_staging,
                    one_moment, request)
from peers import GIVES_UP_SECONDS, World
from processes import CALL_SECONDS, equal, expect, until

WRITERS = ("early", "late")
DELETED = 50
# Part of the requests that meet a fault, one migration after the other.
RATES = (0.1, 0.25, 0.5, 0.1, 0.25, 0.7)
FAULTY_RECORDS, FAULTY_BATCH = 3_000, 200
# Of the requests that carry records this many are let through before something happens.
THROUGH = 2
# Writes of each writer while a copy waits.
STEPS = 10


# ---------------- writers


def check_writers(world: World) -> None:
    service, records = world.service, world.articles()
    dimension = len(next(iter(records.values())).vector) // 4
    # What one writes to is copied first, what the other writes to last.
    writers = [Writer(service, "busy", prefix, max(40, world.records // 50), dimension) for prefix in WRITERS]
    early, late = writers
    service.make("busy", early.start | records | late.start, configuration={"hnsw": {"space": "ip"}})
    gone = list(records)[7::max(1, len(records) // DELETED)]
    service.delete("busy", gone)
    untouched = {identity: record for identity, record in records.items() if identity not in set(gone)}
    # Small batches: what is read ahead of what is written is a part of it.
    body = request(("local", "busy"), ("gated-chroma", "busy"), batch_size=max(1, world.records // 40))

    def written_since(counts: list[int]) -> bool:
        return all(len(writer.steps) >= count + STEPS or writer.error for writer, count in zip(writers, counts))

    def steps() -> list[int]:
        return [len(writer.steps) for writer in writers]

    with contextlib.ExitStack() as writing:
        for writer in writers:
            writing.enter_context(writer)
        until("writes before the request", CALL_SECONDS, lambda: written_since([0, 0]))
        gate = writing.enter_context(world.gates["gated-chroma"].held("/upsert", THROUGH))
        asked = time.monotonic()
        job = service.call("POST", "/migrate", body, 202)["id"]
        gate.reached()
        # While records are left to be read the moment of the copy has not come: what was written until then is there
        # by catching up.
        at_the_gate = steps()
        until("writes while it copies", CALL_SECONDS, lambda: written_since(at_the_gate))
        progress, copying = job_of(service, job), time.monotonic()
        expect(progress["phase"] == "copy" and progress["progress"]["done"] < progress["progress"]["total"], f"in the middle: {progress}")
        gate.open(passes=True)
        finished = ended(service, job)
        over = time.monotonic()
    equal((finished["state"], finished["problem"]), ("succeeded", None), f"the migration {body}")
    result = finished["result"]
    check_result(result, f"the result of {body}")
    equal(result["action"], "created", f"action of {body}")
    for writer in writers:
        expect(writer.error is None, f"a writer failed: {writer.error!r}")
    found = world.chroma.stored("busy")
    of_writers = {writer: {each: record for each, record in found.items() if each.startswith(f"{writer.prefix}-")} for writer in writers}
    written = {identity for part in of_writers.values() for identity in part}
    same_content({each: record for each, record in found.items() if each not in written}, untouched, "records nobody wrote to")
    counts = [writer.steps_in(of_writers[writer]) for writer in writers]
    moments = (asked, copying, over)
    before, first_pass, meanwhile = ([writer.acknowledged(moment) for writer in writers] for moment in moments)
    for writer, count, acknowledged in zip(writers, counts, first_pass):
        expect(count >= acknowledged, f"{writer.prefix}: {count} steps are in the copy; {before} were acknowledged before it began, "
                                      f"{first_pass} in its first pass of {copying - asked:.1f} s")
    one_moment(writers, counts)
    copy = migrated(service, request(("chroma", "busy"), ("local", "busy-back")), "created")
    equal(copy["source_digest"], result["target_digest"], "digest of the copy, and what another migration finds")
    longest = max(acked - began for writer in writers for began, acked, _ in writer.steps)
    print(f"writers: {counts} of {meanwhile} batches acknowledged until its end are in the copy of {len(found)} records ({before} "
          f"before it began, {first_pass} in its first pass of {copying - asked:.1f} s of {over - asked:.1f} s); one moment of both, {len(gone)} deleted before it "
          f"absent; longest write {longest * 1000:.0f} ms", flush=True)


# ---------------- servers that are killed


def requested(world: World, source: tuple, target: tuple) -> dict:
    """In batches of which there are four."""
    return request(source, target, batch_size=max(1, world.records // 4))


def in_the_middle(world: World, gate, job: str, done) -> int:
    """Waits until the copy does; how many records there are of it."""
    gate.reached()
    now = job_of(world.service, job)
    expect(now["state"] == "running" and done() < world.records, f"in the middle: {now}")
    return done()


def check_kills(world: World) -> None:
    world.articles()
    chroma_killed(world, ("local", "articles"), ("gated-chroma", "killed-target"))
    chroma_killed(world, ("gated-chroma", "killed-target"), ("local", "killed-source"))
    service_killed(world, ("local", "articles"), ("gated-second", "killed-service"))
    service_killed(world, ("gated-chroma", "killed-target"), ("local", "killed-service"))
    no_staging(world.service, world.chroma, world.second)
    world.same("local", "articles", world.articles())


def chroma_killed(world: World, source: tuple, target: tuple) -> None:
    service, chroma, server = world.service, world.chroma, world.server(target[0])
    body, what = requested(world, source, target), f"{source[0]} to {target[0]}"
    copied = chroma.staged if server is chroma else lambda: 0
    with Watcher(server, target[1], world.records) as watcher:
        with world.gates["gated-chroma"].held("/upsert" if server is chroma else "/get", THROUGH) as gate:
            job = service.call("POST", "/migrate", body, 202)["id"]
            done = in_the_middle(world, gate, job, copied)
            chroma.stop(signal.SIGKILL)
            gate.open(passes=False)
        killed = time.monotonic()
        reason = check_failed(ended(service, job, GIVES_UP_SECONDS), f"{what}, killed")
        took = time.monotonic() - killed
        reachable = {each["name"]: each["reachable"] for each in service.call("GET", "/environments")}
        names = ("chroma", "gated-chroma", "second")
        equal([reachable[name] for name in names], [False, False, True], f"{names} are reachable while Chroma's server is gone")
        check_refusal(*service.send("POST", "/migrate?wait=true", body), 502, f"{what} while Chroma's server is gone")
        chroma.start()
        expect(target[1] not in server.listed(), f"{target} is visible after a failure")
        left = chroma.staged() if server is chroma else 0
        result = migrated(service, body, "created")
    if server is chroma:
        equal(result["resumed"], True, f"{what} went on from {left} records")
    world.same(*target, world.articles())
    equal(server.definition(target[1]), service.definition("articles"), f"definition of {target}")
    no_staging(service, chroma)
    print(f"{what}: Chroma's server killed at {done} of {world.records} records, failed {took:.1f} s later ({reason}); went on: resumed "
          f"{result['resumed']}, {left} were there, {result['read']} read; equal; seen (records: times) {dict(watcher.seen)}", flush=True)


def service_killed(world: World, source: tuple, target: tuple) -> None:
    service, server = world.service, world.server(target[0])
    body, what = requested(world, source, target), f"{source[0]} to {target[0]}"
    gated, path_end = (target[0], "/upsert") if server is not service else (source[0], "/get")
    with Watcher(server, target[1], world.records) as watcher:
        with world.gates[gated].held(path_end, THROUGH) as gate:
            job = service.call("POST", "/migrate", body, 202)["id"]
            done = in_the_middle(world, gate, job, server.staged if server is not service else lambda: 0)
            service.stop(signal.SIGKILL)
            gate.open(passes=False)
        service.start()
        state = ended(service, job)["state"]
        expect(state != "canceled", f"{what}: nobody canceled the job")
        equal(target[1] in server.listed(), state == "succeeded", f"{target} is visible, the job {state}")
        if state == "succeeded":
            result = job_of(service, job)["result"]
            check_result(result, f"{what}, gone on by itself")
            check_refusal(*service.send("POST", "/migrate", body), 409, f"{what}, again")
        else:
            result = migrated(service, body, "created")
            expect(result["resumed"] or server is service, f"{what}: {done} records were there, and it did not go on from them")
    world.same(*target, world.articles())
    equal(server.definition(target[1]), service.definition("articles"), f"definition of {target}")
    no_staging(service, server)
    print(f"{what}: the service killed at {done} of {world.records} records; the job {state}; resumed {result['resumed']}, "
          f"{result['read']} read; equal; seen (records: times) {dict(watcher.seen)}", flush=True)


# ---------------- a network that fails


def check_faults(world: World) -> None:
    records = dict(list(world.articles().items())[:FAULTY_RECORDS])
    for server in (world.service, world.second):
        server.make("faulty", records, metadata={"n": 1}, configuration={"hnsw": {"space": "ip"}})
    outcomes, before, began = collections.Counter(), world.proxy.requests, time.monotonic()
    for number, rate in enumerate(RATES):
        for origin, place in (("local", "faulty"), ("faulty", "local")):
            source, target = (origin, "faulty"), (place, f"faulty-{number}")
            outcomes[f"{source[0]} to {target[0]}: {under_faults(world, records, source, target, rate)}"] += 1
    injected = dict(world.proxy.injected)
    equal(sorted(injected), sorted(world.proxy.KINDS), "kinds of faults")
    no_staging(world.service, world.second)
    listed = [f"{what} {times}" for what, times in sorted(outcomes.items())]
    print(f"faults in {world.proxy.requests - before} requests: {injected}; {len(records)} records each, {'; '.join(listed)}; "
          f"{time.monotonic() - began:.0f} s", flush=True)


def under_faults(world: World, records: dict, source: tuple, target: tuple, rate: float) -> str:
    """Whole, or failed with a reason, and then whole where there are no faults."""
    service, server = world.service, world.server(target[0])
    body, what = request(source, target, batch_size=FAULTY_BATCH), f"{source[0]} to {target[0]} with {rate:.0%} faults"
    with Watcher(server, target[1], len(records)):
        with world.proxy.faults(rate):
            job = attempted(service, body)
        if job["state"] == "succeeded":
            check_result(job["result"], what)
        else:
            check_failed(job, what)
            if target[1] in server.listed():
                # The last answer was lost, not what it answered.
                world.same(*target, records)
            migrated(service, body)
    world.same(*target, records)
    equal(server.definition(target[1]), world.server(source[0]).definition("faulty"), f"definition after {what}")
    return "succeeded" if job["state"] == "succeeded" else "failed, then succeeded"
