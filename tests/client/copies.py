"""Migrations as environments.py asks for them: requests, plans, results, what can be seen meanwhile, and writers."""

import collections
import contextlib
import http.client
import json
import random
import threading
import time

import numpy as np

from contents import Record, as_text
from peers import STAGING, Data, Vectorkeep, batch
from processes import CALL_SECONDS, equal, expect, http_call, until
from subject import DATABASE

PLAN = ("source", "target", "action", "records", "insert", "update", "unchanged", "delete", "skip", "needed_bytes",
        "available_bytes", "gap", "losses", "notes")
RESULT = ("source", "target", "action", "read", "inserted", "updated", "unchanged", "skipped", "failed", "bytes", "duration_ms",
          "records_per_second", "source_digest", "target_digest", "verified", "resumed", "differences")
COUNTS = (("insert", "inserted"), ("update", "updated"), ("unchanged", "unchanged"), ("skip", "skipped"))
FINAL = ("succeeded", "failed", "canceled", "interrupted")


def request(source: tuple[str, str], target: tuple[str, str], **more) -> dict:
    """Each end an environment and a collection; `local` is what is meant where none is named."""
    ends = [{"collection": name} | ({} if place == "local" else {"environment": place}) for place, name in (source, target)]
    return {"source": ends[0], "target": ends[1]} | more


def end(place: str, name: str) -> dict:
    return {"environment": place, "tenant": "default_tenant", "database": "default_database", "collection": name}


def job_of(service: Vectorkeep, identity: str) -> dict:
    return service.call("GET", f"/jobs/{identity}")


def ended(service: Vectorkeep, identity: str, seconds: float = CALL_SECONDS, look=None) -> dict:
    """The job at its end; until then `look` is called with it, and with the time before it was asked for."""
    def final():
        at = time.monotonic()
        job = job_of(service, identity)
        if job["state"] in FINAL:
            return job
        if look is not None:
            look(job, at)
        return None

    return until(f"the end of job {identity}", seconds, final, 0.05)


def attempted(service: Vectorkeep, body: dict, look=None) -> dict:
    """The job at its end, or what stands in for it where the request was refused."""
    status, answer = service.send("POST", "/migrate", body)
    if status != 202:
        return {"state": "refused", "result": None, "problem": answer}
    return ended(service, answer["id"], look=look)


def migrated(service: Vectorkeep, body: dict, action: str | None = None, lossless: bool = True, look=None) -> dict:
    """The result of a migration that must succeed, looked through."""
    job = attempted(service, body, look)
    equal((job["state"], job["problem"]), ("succeeded", None), f"the migration {body}")
    result = job["result"]
    check_result(result, f"the result of {body}", lossless)
    if action is not None:
        equal(result["action"], action, f"action of {body}")
    return result


def check_result(result: dict, what: str, lossless: bool = True) -> None:
    expect(set(RESULT) <= set(result), f"{what} lacks {sorted(set(RESULT) - set(result))}")
    equal(result["failed"], 0, f"{what}: failed")
    if result["action"] == "skipped":
        return
    # An attempt that goes on reads the rest.
    expect(result["resumed"] or result["read"] >= result["inserted"] + result["updated"], f"{what}: read {result}")
    expect(result["bytes"] > 0 and result["records_per_second"] > 0, f"{what}: bytes and records per second: {result}")
    if lossless:
        equal((result["verified"], result["differences"]), (True, []), f"{what}: verified and differences")
        if result["action"] != "merged":
            equal(result["target_digest"], result["source_digest"], f"{what}: digests")


def snapshot(service: Vectorkeep, server: Data) -> tuple:
    """What a dry run may not change: collections, how many records they have, and the jobs."""
    counts = {name: (found, server.call("GET", f"{DATABASE}/collections/{found}/count")) for name, found in server.listed().items()}
    return counts, [job["id"] for job in service.call("GET", "/jobs?limit=1000")["jobs"]]


def planned(service: Vectorkeep, body: dict, servers: list[Data], wanted: int = 200) -> dict:
    """The plan of a dry run, which changed nothing."""
    before = [snapshot(service, server) for server in servers]
    plan = service.call("POST", "/migrate", body | {"dry_run": True}, wanted)
    equal([snapshot(service, server) for server in servers], before, f"collections and jobs after a dry run of {body}")
    if wanted == 200:
        expect(set(PLAN) <= set(plan), f"the plan of {body} lacks {sorted(set(PLAN) - set(plan))}")
        expect(isinstance(plan["gap"], bool), f"the plan of {body}: gap {plan['gap']!r}")
    return plan


def same_counts(plan: dict, result: dict, what: str) -> None:
    found = {name: result[done] for name, done in COUNTS} | {name: result[name] for name in ("source", "target", "action")}
    equal(found, {name: plan[name] for name in found}, f"{what}: what was done, and its plan")


def check_refusal(status: int, problem: dict, wanted: int, what: str) -> None:
    equal((status, problem.get("status")), (wanted, wanted), f"{what}: status ({str(problem)[:600]})")
    expect(problem.get("detail") and problem.get("type"), f"{what}: no reason is given: {problem}")


def check_failed(job: dict, what: str) -> str:
    """A job that met a remote that answers badly; the reason that it gives."""
    expect(job["state"] in ("failed", "refused"), f"{what}: {job['state']}, expected failed ({job['problem']})")
    expect(not (job["result"] or {}).get("verified"), f"{what}: failed, but verified: {job['result']}")
    check_refusal(job["problem"]["status"], job["problem"], 502, what)
    return job["problem"]["detail"]


def no_staging(*servers: Data) -> None:
    for server in servers:
        left = [name for name in server.listed() if name.startswith(STAGING)]
        equal(left, [], f"staging collections left on {server.place}")


class Watcher:
    """Looks all the time at what stands under a name: nothing, or all of it."""

    def __init__(self, server: Data, name: str, records: int) -> None:
        self.port, self.path, self.records, self.what = server.port, f"{DATABASE}/collections", records, f"{name} on {server.place}"
        self.seen, self.over = collections.Counter(), threading.Event()
        self.name, self.thread = name, threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        while not self.over.wait(0.01):
            # The server may be killed, or slow, at any time.
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                self.look()

    def look(self) -> None:
        status, _, raw = http_call(self.port, "GET", f"{self.path}/{self.name}")
        if status == 404:
            self.seen["nothing"] += 1
        elif status == 200:
            status, _, count = http_call(self.port, "GET", f"{self.path}/{json.loads(raw)['id']}/count")
            if status == 200:
                self.seen[int(count)] += 1

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, *_) -> None:
        self.over.set()
        self.thread.join()
        halves = {count: times for count, times in self.seen.items() if count not in ("nothing", self.records)}
        if kind is None:
            expect(self.seen, f"{self.what} was never looked at")
            expect(not halves, f"{self.what}: seen with other than {self.records} records (records: times): {halves}")


class Writer:
    """Writes to records of its own, batch after batch, and remembers every state that they had."""

    # Together a part of what Chroma takes in a second, so that catching up comes to an end.
    SIZE, PAUSE_SECONDS = 5, 0.05

    def __init__(self, service: Vectorkeep, name: str, prefix: str, count: int, dimension: int) -> None:
        self.service, self.name, self.prefix, self.dimension = service, name, prefix, dimension
        self.chance, self.normal = random.Random(prefix), np.random.default_rng(list(prefix.encode()))
        self.turn, self.steps, self.deleted, self.error = 0, [], [], None
        self.start = {f"{prefix}-{number}": self.record() for number in range(count)}
        self.state = dict(self.start)
        self.over, self.thread = threading.Event(), threading.Thread(target=self.run, daemon=True)

    def record(self) -> Record:
        """They all have the same members: an upsert leaves nothing of what was there."""
        vector = self.normal.standard_normal(self.dimension, "f4").tobytes()
        metadata = {"turn": self.turn, "list": [self.prefix, str(self.turn)]}
        return Record(vector, f"turn {self.turn}", f"{self.prefix}:{self.turn}", as_text(metadata))

    def run(self) -> None:
        try:
            self.path = self.service.path(self.name)
            while not self.over.wait(self.PAUSE_SECONDS):
                self.step()
        except Exception as error:
            self.error = error

    def step(self) -> None:
        self.turn += 1
        verb = self.chance.choice(("update", "update", "insert", "delete"))
        if verb == "delete":
            changes = dict.fromkeys(self.chance.sample(list(self.state), 3))
            self.deleted += changes
            path, body = "delete", {"ids": list(changes)}
        else:
            known = self.chance.sample(list(self.state), self.SIZE)
            # One that was deleted comes again.
            fresh = [f"{self.prefix}-{self.turn}-{each}" for each in range(1, self.SIZE)] + self.deleted[-1:]
            changes = {identity: self.record() for identity in (known if verb == "update" else fresh)}
            self.deleted = [identity for identity in self.deleted if identity not in changes]
            path, body = "upsert", batch(changes)
        began = time.monotonic()
        self.service.call("POST", f"{self.path}/{path}", body)
        self.steps.append((began, time.monotonic(), changes))
        self.state = applied(self.state, changes)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.over.set()
        self.thread.join()

    def acknowledged(self, moment: float) -> int:
        return sum(acked <= moment for _, acked, _ in self.steps)

    def steps_in(self, found: dict[str, Record]) -> int:
        """How many of its steps a copy holds: all of these, and nothing of those after them."""
        state, wrong = dict(self.start), set()
        for identity in self.start.keys() | found.keys():
            if state.get(identity) != found.get(identity):
                wrong.add(identity)
        for number, (_, _, changes) in enumerate(self.steps):
            if not wrong:
                return number
            for identity, record in changes.items():
                (wrong.discard if found.get(identity) == record else wrong.add)(identity)
        expect(not wrong, f"the copy is no state of the records of {self.name} that ever was: {sorted(wrong)[:5]}")
        return len(self.steps)


def applied(state: dict, changes: dict) -> dict:
    after = state | changes
    return {identity: record for identity, record in after.items() if record is not None}


def one_moment(writers: list[Writer], counts: list[int]) -> None:
    """No step is in a copy that began only after a step that is not in it was acknowledged."""
    for writer, count in zip(writers, counts):
        for other, included in zip(writers, counts):
            if count < len(writer.steps) and included:
                expect(writer.steps[count][1] >= other.steps[included - 1][0],
                       f"step {included} of one writer is in the copy, an earlier one of the other, step {count + 1}, is not")
