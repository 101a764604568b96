"""What soak.py starts and stops: the service, its callers, who know when a call may be cut, and the chaos that stops it."""

import contextlib
import http.client
import json
import random
import signal
import subprocess
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

from callers import Service
from peers import EVERYTHING, Data
from processes import START_SECONDS, Failed, equal, expect, free_ports, http_call, until
from soak_model import COLLECTIONS, MARKER, PASSING, Content, Owner, check_equal, marker, rows_of
from subject import DATABASE

# An answer that takes longer is a fault, on a busy machine as well.
ANSWER_SECONDS, PAUSE_SECONDS = 240, 300
# The service closes connections that say nothing for 30 s.
IDLE_SECONDS = 10
# Requests are short and jobs stop when they are told to: who sits the grace period out waits for something that never comes.
GRACE_MS, EXIT_SECONDS = 60_000, 40
READY_SECONDS = START_SECONDS
# Collections whose records are compared after each restart.
COMPARED = 2
MAX_VIOLATIONS = 20
# How the names of copies begin, which are dropped again by whoever had them made.
COPIES = "copy-"
RATIO, MIN_BYTES, CHECK_INTERVAL_MS, PACK_GRACE_MS = 3.0, 16 << 20, 1_000, 30_000
# Such that rare things happen often: compactions, many packs and layers, catching up in rounds, tombstones that are forgotten.
SETTINGS = {
    "COMPACTION__RATIO": RATIO, "COMPACTION__MIN_BYTES": MIN_BYTES, "COMPACTION__CHECK_INTERVAL_MS": CHECK_INTERVAL_MS,
    "COMPACTION__MAX_LAST_ROUND": 20, "REPOSITORY__MAX_LAST_ROUND": 20, "STORAGE__MAX_TOMBSTONES": 500,
    "REPOSITORY__GRACE_MS": PACK_GRACE_MS, "REPOSITORY__SWEEP_INTERVAL_MS": 3_000, "REPOSITORY__PACK_BYTES": 262_144,
    "REPOSITORY__MAX_LAYERS": 6, "HEALTH__SCRUB_INTERVAL_MS": 10_000, "HEALTH__DEEP_MAX_AGE_MS": 0,
    "HEALTH__MONITOR_INTERVAL_MS": 1_000, "METRICS__REFRESH_INTERVAL_MS": 1_000,
    # All jobs are looked at in the end.
    "JOBS__KEPT": 100_000, "SERVER__SHUTDOWN_GRACE_MS": GRACE_MS,
}


class Away(Exception):
    """The service is down: nothing was sent."""


class Cut(Exception):
    """The service was stopped meanwhile: what was asked for may have been done."""


class Gate:
    """Many write at the same time, or one keeps all of them from it."""

    def __init__(self) -> None:
        self.condition, self.inside, self.closed = threading.Condition(), 0, False

    @contextlib.contextmanager
    def step(self):
        with self.condition:
            expect(self.condition.wait_for(lambda: not self.closed, PAUSE_SECONDS), "writers were kept waiting for too long")
            self.inside += 1
        try:
            yield
        finally:
            with self.condition:
                self.inside -= 1
                self.condition.notify_all()

    @contextlib.contextmanager
    def pause(self):
        with self.condition:
            expect(self.condition.wait_for(lambda: not self.closed, PAUSE_SECONDS), "another pause did not end")
            self.closed = True
            still = not self.condition.wait_for(lambda: not self.inside, PAUSE_SECONDS)
        try:
            expect(not still, "a writer did not end its step")
            yield
        finally:
            with self.condition:
                self.closed = False
                self.condition.notify_all()


class World:
    """The service, what is known of it, and what was found wrong."""

    def __init__(self, binary: Path, home: Path, seed: int) -> None:
        self.home, self.seed, self.port = home, seed, free_ports(1)[0]
        self.service = Service(binary, home, SERVER__LISTEN=f"127.0.0.1:{self.port}", **SETTINGS)
        self.service.port = self.port
        self.over, self.up, self.stopping, self.generation = threading.Event(), threading.Event(), threading.Event(), 0
        self.writing, self.lock = Gate(), threading.Lock()
        self.owners: list[Owner] = []
        # Of the collections that stay.
        self.ids: dict[str, str] = {}
        self.tally, self.violations = Counter(), []
        # By the clock that jobs are stamped with.
        self.stops: list[tuple[float, float]] = []
        # Jobs that were answered as succeeded; explicit compactions among them.
        self.jobs: set[str] = set()
        self.ready_seconds: list[float] = []
        self.term_seconds: list[float] = []

    def owner(self, name: str) -> Owner:
        self.owners.append(Owner(name))
        return self.owners[-1]

    def chance(self, name: str) -> random.Random:
        return random.Random(f"{self.seed} {name}")

    def count(self, what: str, number: int = 1) -> None:
        with self.lock:
            self.tally[what] += number

    def violated(self, kind: str, error: BaseException | str) -> None:
        """It ends the run: what comes after could hide what it is about."""
        text = str(error) if isinstance(error, (Failed, str)) else "".join(traceback.format_exception(error))[-3_000:]
        with self.lock:
            if len(self.violations) < MAX_VIOLATIONS:
                self.violations.append((kind, text))
                print(f"VIOLATION ({kind}): {text}", flush=True)
        self.over.set()

    def cut_since(self, generation: int) -> bool:
        return self.stopping.is_set() or self.generation != generation

    # ---------------- the process

    def spawn(self) -> None:
        self.service.spawn([self.service.binary, "serve"], self.service.environment)

    def wait_ready(self) -> None:
        began = time.monotonic()
        look = lambda: self.service.alive() and http_call(self.port, "GET", "/health/ready")[0] == 200
        until("a service that is ready", READY_SECONDS, look, 0.02)
        self.ready_seconds.append(time.monotonic() - began)

    def stop(self, how: int) -> None:
        """Callers may be cut from just before until the next start."""
        self.stopping.set()
        self.generation += 1
        began, process = time.time(), self.service.process
        process.send_signal(how)
        # While it drains it is asked on, for a moment.
        if how == signal.SIGTERM:
            time.sleep(0.2)
        self.up.clear()
        try:
            code = process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(EXIT_SECONDS)
            raise Failed(f"still there {EXIT_SECONDS} s after {signal.Signals(how).name}") from None
        self.stops.append((began, time.time()))
        if how == signal.SIGTERM:
            self.term_seconds.append(self.stops[-1][1] - began)
        equal(code, 0 if how == signal.SIGTERM else -how, f"exit status after {signal.Signals(how).name}")

    def started(self) -> None:
        self.stopping.clear()
        self.up.set()


class Caller(Data):
    """One thread's connection. What is wrong with any answer is `Failed`."""

    place = "the service"

    def __init__(self, world: World, always: bool = False) -> None:
        self.world, self.port, self.always = world, world.port, always
        self.connection, self.generation, self.used = None, -1, 0.0

    def send(self, method: str, path: str, body=None):
        world = self.world
        generation, stopping = world.generation, world.stopping.is_set()
        if not (self.always or world.up.is_set()):
            raise Away
        if self.generation != generation or time.monotonic() - self.used > IDLE_SECONDS:
            self.close()
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            if self.connection is None:
                self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)
                self.generation = generation
            self.connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
            answer = self.connection.getresponse()
            status, media_type, raw = answer.status, answer.headers.get_content_type(), answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if stopping or world.cut_since(generation):
                raise Cut(f"{method} {path}") from error
            raise Failed(f"{method} {path}: {error!r}, though nobody stopped the service") from error
        self.used = time.monotonic()
        # A job that still waits for a worker does not begin any more: whoever waits for it is told so.
        unbegun = status == 202 and "wait=true" in path
        if (status == 503 or unbegun) and (stopping or world.cut_since(generation)):
            raise Cut(f"{method} {path}")
        expect(status < 500, f"{method} {path}: {status}: {raw[:600]!r}")
        return status, json.loads(raw) if media_type.endswith(("/json", "+json")) else raw

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection = None

    # ---------------- reading

    def path(self, name: str) -> str:
        known = self.world.ids.get(name)
        return f"{DATABASE}/collections/{known}" if known else super().path(name)

    def records(self, name: str, body: dict) -> dict:
        """What a get finds, by id."""
        found = self.call("POST", f"{self.path(name)}/get", body | {"include": EVERYTHING})
        self.world.count("gets")
        return rows_of(found)

    def content(self, name: str) -> Content:
        """A collection; of those that come and go, with what says that it is there."""
        stored = {(name, identity): record for identity, record in self.stored(name).items()}
        return stored | ({marker(name): MARKER} if name.startswith(PASSING) else {})

    def look(self, keys) -> Content:
        """What is there now of these."""
        found, listed = {}, self.listed()
        for name in {key[0] for key in keys} & listed.keys():
            if name.startswith(PASSING):
                found |= self.content(name)
                continue
            ids = [identity for collection, identity in keys if collection == name]
            found |= {(name, identity): record for identity, record in self.records(name, {"ids": ids}).items()}
        return found


class Worker(threading.Thread):
    """Does its step over and over, beside the others, until the time is over."""

    kind, pause = "", 0.05

    def __init__(self, world: World, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.world, self.chance, self.caller, self.cleaned = world, world.chance(name), Caller(world), 0

    def run(self) -> None:
        world = self.world
        while not world.over.is_set():
            if not world.up.wait(0.2):
                continue
            try:
                self.step()
            except Away:
                continue
            except Cut:
                world.count(f"calls of {self.name} that were cut")
            except Exception as error:
                return world.violated(self.kind, error)
            world.over.wait(self.chance.uniform(0, 2 * self.pause))

    def step(self) -> None:
        raise NotImplementedError

    def clean(self, *parts: str) -> None:
        """Drops the copies that were there when the service was stopped."""
        if (generation := self.world.generation) == self.cleaned:
            return
        for name in self.caller.listed():
            if any(part in name for part in parts):
                self.caller.call("DELETE", f"{DATABASE}/collections/{name}")
        self.cleaned = generation


class Chaos(Worker):
    """Stops the service and starts it again, looks at what is there, and only then lets the others go on."""

    kind = "restarts"
    # Twice: killed again as soon as it is ready. Early: killed before it is.
    KINDS, WEIGHTS = ("kill", "aimed", "twice", "early", "term"), (40, 20, 10, 12, 18)

    def __init__(self, world: World, mean_seconds: float) -> None:
        super().__init__(world, "chaos")
        self.caller, self.mean = Caller(world, always=True), mean_seconds
        # Of a short run, each kind once before any comes again.
        self.first = self.chance.sample(self.KINDS, len(self.KINDS))

    def run(self) -> None:
        try:
            while not self.world.over.wait(min(max(self.chance.expovariate(1 / self.mean), self.mean / 6), 3 * self.mean)):
                self.event(self.first.pop() if self.first else self.chance.choices(self.KINDS, self.WEIGHTS)[0])
        except Exception as error:
            self.world.violated(self.kind, error)

    def event(self, how: str) -> None:
        world = self.world
        if how == "aimed":
            self.wait_for_a_job()
        self.stop(signal.SIGTERM if how == "term" else signal.SIGKILL)
        # Who waits for an answer gets an error at once.
        with world.writing.pause():
            world.spawn()
            if how == "early":
                time.sleep(self.chance.uniform(0, 1.2 * min(world.ready_seconds)))
                self.stop(signal.SIGKILL)
                world.spawn()
            world.wait_ready()
            if how == "twice":
                time.sleep(self.chance.uniform(0, 1.5))
                self.stop(signal.SIGKILL)
                world.spawn()
                world.wait_ready()
            self.caller.close()
            settle(world, self.caller)
            for name in self.chance.sample(list(COLLECTIONS), COMPARED):
                compare(world, self.caller, name)
            world.started()

    def stop(self, how: int) -> None:
        self.world.count("terms" if how == signal.SIGTERM else "kills")
        self.world.stop(how)

    def wait_for_a_job(self) -> None:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and not self.caller.call("GET", "/jobs?state=running&limit=1")["jobs"]:
            time.sleep(0.01)
        time.sleep(self.chance.uniform(0, 0.1))


def settle(world: World, caller: Caller) -> None:
    """What was not answered is there as a whole or not at all. Nobody writes meanwhile."""
    for owner in world.owners:
        if owner.doubt is not None:
            change = owner.doubt
            world.count(f"in doubt, {owner.settle(caller.look(change.after.keys()), 'after a restart')}")


def compare(world: World, caller: Caller, name: str) -> None:
    """Every record of a collection with the model. Nobody writes meanwhile."""
    wanted = {(name, identity): record for owner in world.owners for identity, record in owner.of(name).items()}
    check_equal(caller.content(name), wanted, name)
    world.count("collections compared")
    world.count("records compared", len(wanted))
