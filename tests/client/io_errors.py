#!/usr/bin/env python3
"""io_errors.py BINARY [--faults N] [--seed N]

I/O errors: runs the service with a library before the C library's ($SHARED/powercut/shim.c) that makes the n-th operation on
its files fail, once or from then on, under writers and a backup. Each time: every write is answered, within
storage.sync_timeout_ms and a margin; a service that refuses writes says so in /health; SIGTERM ends it within its grace; and
started again without the fault it has everything acknowledged, no batch in part, and takes writes. Before that a sync that
never ends, and a repository that never answers. Fails as well when fewer faults than asked were met. Needs cc.
"""
import argparse
import collections
import concurrent.futures
import contextlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from power_cuts import build_shim
from processes import Failed, Process, equal, expect, free_ports, until

DATABASE = "/api/v2/tenants/default_tenant/databases/default_database"
SYNC_TIMEOUT_MS, GRACE_MS, CLOSE_TIMEOUT_MS = 1_500, 1_000, 1_000
# Beyond these: the watchdog's last look, a thread's last chance, and a machine that is busy.
MARGIN_SECONDS = 20
ANSWER_SECONDS = SYNC_TIMEOUT_MS / 1_000 + MARGIN_SECONDS
READY_SECONDS = 60
WRITERS, WRITES = 8, 20
AT_ONCE = 3
EIO, ENOSPC = 5, 28
# As docs/operate.md lists it.
STUCK = 6
OPEN, WRITE, TRUNCATE, FSYNC, FDATASYNC, RENAME, UNLINK = (1 << number for number in (1, 2, 3, 4, 5, 7, 8))
# What fails: in words, which operations, on which paths, the greatest n.
PLACES = [
    ("a write to the log", WRITE, "/data/store/db", 60),
    ("a sync of the log", FDATASYNC, "/data/store/db", 60),
    ("a write or sync of the log", WRITE | FDATASYNC, "/data/store/db", 100),
    ("anything in the data directory", OPEN | WRITE | TRUNCATE | FSYNC | FDATASYNC | RENAME, "/data/", 100),
    ("anything in the repository", OPEN | WRITE | FSYNC | FDATASYNC | RENAME, "/repository/", 25),
]


class Fault:
    def __init__(self, generator: random.Random) -> None:
        self.what, self.operations, self.path, most = generator.choice(PLACES)
        self.first = generator.randint(1, most)
        self.count = generator.choice([1, 1, 1_000_000])
        self.errno = generator.choice([EIO, EIO, EIO, ENOSPC])

    def environment(self, gate: Path) -> dict:
        values = dict(FAULT_OPS=self.operations, FAULT_PATH=self.path, FAULT_N=self.first, FAULT_COUNT=self.count,
                      FAULT_ERRNO=self.errno, FAULT_GATE=gate)
        return {name: str(value) for name, value in values.items()}

    def __str__(self) -> str:
        return f"{self.what}, from the {self.first}th, {self.count} times, errno {self.errno}"


class Service(Process):
    def __init__(self, binary: Path, home: Path, name: str) -> None:
        super().__init__(home / f"{name}.log")
        self.binary, self.home, self.port = binary, home, free_ports(1)[0]

    def start(self, extra: dict) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("VECTORKEEP", "FAULT", "SHIM"))}
        settings = dict(SERVER__LISTEN=f"127.0.0.1:{self.port}", STORAGE__DATA_DIR=f"{self.home}/data",
                        REPOSITORY__URL=f"{self.home}/repository", STORAGE__SYNC_TIMEOUT_MS=SYNC_TIMEOUT_MS,
                        STORAGE__CLOSE_TIMEOUT_MS=CLOSE_TIMEOUT_MS, SERVER__SHUTDOWN_GRACE_MS=GRACE_MS,
                        JOBS__WAIT_TIMEOUT_MS=3_000, REPOSITORY__LOCK_STALE_MS=2_500)
        environment.update({f"VECTORKEEP__{name}": str(value) for name, value in settings.items()})
        self.spawn([str(self.binary), "serve"], environment | extra)
        until("ready", READY_SECONDS, lambda: self.alive() and self.ask("GET", "/health/ready")[0] == 200, 0.02)

    def ask(self, method: str, path: str, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)
        with contextlib.closing(connection):
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            try:
                return answer.status, json.loads(text) if text else None
            except ValueError:
                return answer.status, text

    def collection(self, name: str) -> str:
        status, made = self.ask("POST", f"{DATABASE}/collections", {"name": name, "get_or_create": True})
        equal(status, 200, f"creating {name}: {made}")
        return f"{DATABASE}/collections/{made['id']}"

    def end(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        limit = (GRACE_MS + CLOSE_TIMEOUT_MS) / 1_000 + MARGIN_SECONDS
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise Failed(f"the service did not end within {limit} s after SIGTERM") from None


class Writer(threading.Thread):
    """Writes batches to a collection of its own until one is not acknowledged."""

    def __init__(self, service: Service, name: str, seed: int) -> None:
        super().__init__(daemon=True)
        self.service, self.name_of, self.generator = service, name, random.Random(seed)
        self.path = service.collection(name)
        # What is there; what may be there instead, when the last write was not acknowledged.
        self.known, self.maybe, self.refusal, self.failure = {}, None, None, None

    def run(self) -> None:
        for number in range(WRITES):
            ids = sorted({f"r{self.generator.randrange(40)}" for _ in range(self.generator.choice([1, 8, 30]))})
            documents = [f"{one}|{number}|" + "x" * self.generator.choice([10, 3_000]) for one in ids]
            changed = self.known | dict(zip(ids, documents))
            body = {"ids": ids, "documents": documents, "embeddings": [[number, 1.0] for _ in ids]}
            began = time.monotonic()
            try:
                status, answer = self.service.ask("POST", f"{self.path}/upsert", body)
            except (OSError, http.client.HTTPException) as error:
                self.maybe, self.failure = changed, f"a write had no answer after {time.monotonic() - began:.1f} s: {error!r}"
                return
            if status in (200, 201):
                self.known = changed
                continue
            self.maybe, self.refusal = changed, (status, str(answer)[:300])
            if status not in (500, 503, 507):
                self.failure = f"a write was answered {status}: {answer}"
            return


def contents(service: Service, name: str) -> dict:
    status, found = service.ask("POST", f"{service.collection(name)}/get", {"include": ["documents"], "limit": 1_000})
    equal(status, 200, f"reading {name}: {found}")
    return dict(zip(found["ids"], found["documents"]))


def check_after(service: Service, writers: list[Writer], backup: str | None) -> None:
    for writer in writers:
        allowed = [writer.known] + ([writer.maybe] if writer.maybe is not None else [])
        found = contents(service, writer.name_of)
        expect(found in allowed, f"{writer.name_of}: {len(found)} records that are none of the {len(allowed)} allowed states of "
                                 f"{[len(state) for state in allowed]} records")
    status, health = service.ask("GET", "/health/collections")
    equal((status, health["status"]), (200, "pass"), "/health/collections")
    if backup is not None:
        status, verified = service.ask("POST", f"/backups/{backup}/verify?wait=true", {})
        expect(status == 200 and verified["result"]["ok"], f"backup {backup}: {status} {verified}")
    path = service.collection("afterwards")
    status, answer = service.ask("POST", f"{path}/upsert", {"ids": ["a"], "embeddings": [[1, 2]]})
    equal(status, 200, f"a write afterwards: {answer}")


def refuses(service: Service) -> bool:
    status, health = service.ask("GET", "/health")
    accepting = health["checks"]["storage:accepting_writes"][0]["status"]
    return status == 503 and accepting == "fail"


def trial(binary: Path, seed: int, environment) -> tuple[list[str], int, str]:
    """A run under `environment(home, gate)`, whose fault begins with the gate's file, and one without it: the refusals of
    writers after a storage fault, the exit status of the first, its log."""
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        gate = home / "gate"
        service, again = Service(binary, home, "faulty"), Service(binary, home, "again")
        try:
            service.start(environment(home, gate))
            writers = [Writer(service, f"writer-{number}", seed * 10 + number) for number in range(WRITERS)]
            gate.touch()
            for writer in writers:
                writer.start()
            status, made = service.ask("POST", "/backups?wait=true", {})
            backup = made["result"]["id"] if status == 201 else None
            for writer in writers:
                writer.join()
                expect(writer.failure is None, f"{writer.failure}")
            refusals = [writer.refusal[1] for writer in writers if writer.refusal and "storage fault" in writer.refusal[1]]
            if refusals:
                until("health that says that writes are refused", ANSWER_SECONDS, lambda: refuses(service))
            ended = service.end()
            again.start({})
            check_after(again, writers, backup)
            equal(again.end(), 0, "exit status without a fault")
            return refusals, ended, service.log.read_text(errors="replace")
        except Failed as failure:
            raise Failed(f"{failure}\n{service.tail()}") from None
        except (OSError, http.client.HTTPException) as error:
            raise Failed(f"a request had no answer: {error!r}\n{service.tail()}") from None
        finally:
            service.stop(signal.SIGKILL)
            again.stop(signal.SIGKILL)


def is_hang(refusals: list[str]) -> bool:
    return any("has not ended within" in text for text in refusals)


def one_fault(binary: Path, shim: Path, seed: int) -> str | None:
    """What came of it; `None` when the fault was not met."""
    fault = Fault(random.Random(seed))

    def environment(home: Path, gate: Path) -> dict:
        return {"LD_PRELOAD": str(shim), "SHIM_WATCH": f"{home}/data:{home}/repository"} | fault.environment(gate)

    try:
        refusals, ended, log = trial(binary, seed, environment)
    except Failed as failure:
        raise Failed(f"{fault} (seed {seed}): {failure}") from None
    if "SHIM fault" not in log:
        return None
    return f"{'hung' if is_hang(refusals) else 'refused' if refusals else 'went on'}, exit status {ended}"


# A sync of the log that never ends, once there is the gate's file.
HANGING = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
int fdatasync(int descriptor) {
    char name[64], path[4096];
    const char *gate = getenv("HANG_GATE");
    snprintf(name, sizeof name, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(name, path, sizeof path - 1);
    path[length > 0 ? length : 0] = 0;
    while (gate && !access(gate, F_OK) && strstr(path, "/data/store/db")) pause();
    return syscall(SYS_fdatasync, descriptor);
}
"""


def built(home: Path, name: str, text: str) -> Path:
    source, library = home / f"{name}.c", home / f"{name}.so"
    source.write_text(text)
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    return library


def one_hang(binary: Path, home: Path, seed: int) -> None:
    """What one failed sync in a hundred does to sled, every time: it is waited for in vain."""
    library = built(home, "hanging", HANGING)
    refusals, ended, _ = trial(binary, seed, lambda _, gate: {"LD_PRELOAD": str(library), "HANG_GATE": str(gate)})
    expect(is_hang(refusals) and len(refusals) == WRITERS, f"a sync hung, and the writers were told: {refusals}")
    equal(ended, STUCK, "exit status after SIGTERM, with a sync that hangs")
    print(f"a sync that never ends: {len(refusals)} of {WRITERS} writers were answered 503, exit status {ended}", flush=True)


# A file system that never answers, as one on another machine that is gone: calls on the repository wait while the gate is there.
HANGING_FILES = """
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>
static void wait_for(const char *path) {
    const char *gate = getenv("HANG_GATE");
    while (gate && path && strstr(path, "/repository") && !syscall(SYS_access, gate, F_OK)) usleep(20000);
}
#define NEXT(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))
int open64(const char *path, int flags, ...) {
    va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest);
    wait_for(path);
    return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}
int statx(int at, const char *path, int flags, unsigned mask, struct statx *found) { wait_for(path); return NEXT(statx)(at, path, flags, mask, found); }
int stat64(const char *path, struct stat64 *found) { wait_for(path); return NEXT(stat64)(path, found); }
int lstat64(const char *path, struct stat64 *found) { wait_for(path); return NEXT(lstat64)(path, found); }
int statvfs64(const char *path, struct statvfs64 *found) { wait_for(path); return NEXT(statvfs64)(path, found); }
DIR *opendir(const char *path) { wait_for(path); return NEXT(opendir)(path); }
int mkdir(const char *path, mode_t mode) { wait_for(path); return NEXT(mkdir)(path, mode); }
int rename(const char *from, const char *to) { wait_for(from); return NEXT(rename)(from, to); }
int link(const char *from, const char *to) { wait_for(from); return NEXT(link)(from, to); }
int unlink(const char *path) { wait_for(path); return NEXT(unlink)(path); }
"""
REQUEST_TIMEOUT_MS, MAX_REQUESTS = 700, 8


def one_hanging_repository(binary: Path, home: Path) -> None:
    """Requests that need it are refused in time, again and again; records are read and written; what was begun can be canceled; when
    it answers again all is as before; and while it does not SIGTERM ends the service."""
    library = built(home, "hanging-files", HANGING_FILES)
    with tempfile.TemporaryDirectory() as directory:
        gate = Path(directory) / "gate"
        service = Service(binary, Path(directory), "hanging")
        try:
            service.start({"LD_PRELOAD": str(library), "HANG_GATE": str(gate), "VECTORKEEP__JOBS__WORKERS": "1",
                           "VECTORKEEP__REPOSITORY__REQUEST_TIMEOUT_MS": str(REQUEST_TIMEOUT_MS),
                           "VECTORKEEP__REPOSITORY__MAX_REQUESTS": str(MAX_REQUESTS)})
            path = service.collection("hanging")
            write = lambda turn: service.ask("POST", f"{path}/upsert", {"ids": ["a"], "embeddings": [[turn, 1]]})[0]
            equal(write(0), 200, "a write")
            status, made = service.ask("POST", "/backups?wait=true", {})
            equal(status, 201, f"a backup: {made}")
            gate.touch()
            asked, longest = 0, 0.0
            for turn in range(3 * MAX_REQUESTS):
                method, where, body = [("GET", "/backups", None), ("GET", "/backups/latest", None), ("POST", "/backups", {}),
                                       ("POST", "/restore?wait=true", {"backup": made["result"]["id"]})][turn % 4]
                began = time.monotonic()
                status, answer = service.ask(method, where, body)
                longest = max(longest, time.monotonic() - began)
                # A job may be queued; it is one that fails.
                expect(status in (202, 429, 502, 503), f"{method} {where} of a repository that hangs: {status} {str(answer)[:300]}")
                asked += 1
                equal(write(turn + 1), 200, "a write while the repository hangs")
                equal(service.ask("GET", "/health/live")[0], 200, "/health/live")
            expect(longest < MARGIN_SECONDS, f"a refusal took {longest:.1f} s")
            health = service.ask("GET", "/health/storage")[1]["checks"]["repository:reachable"][0]
            equal(health["status"], "fail", f"repository:reachable: {health}")
            gate.unlink()
            until("the repository, which answers again", ANSWER_SECONDS, lambda: service.ask("GET", "/backups")[0] == 200, 0.1)
            status, again = service.ask("POST", "/backups?wait=true", {})
            equal(status, 201, f"a backup after it: {again}")
            status, verified = service.ask("POST", f"/backups/{made['result']['id']}/verify?wait=true", {})
            equal((status, verified["result"]["ok"]), (200, True), f"the verification: {verified}")
            gate.touch()
            service.ask("POST", "/backups", {})
            service.end()
        except Failed as failure:
            raise Failed(f"{failure}\n{service.tail()}") from None
        finally:
            service.stop(signal.SIGKILL)
    print(f"a repository that never answers: {asked} requests, the longest took {longest:.1f} s; records were written meanwhile", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--faults", type=int, default=40)
    parser.add_argument("--seed", type=int, default=int(os.environ.get("VECTORKEEP_CRASH_SEED", "1")) % 1_000_000)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    outcomes, tries = collections.Counter(), 0
    with tempfile.TemporaryDirectory() as directory, concurrent.futures.ThreadPoolExecutor(AT_ONCE) as threads:
        shim, binary = build_shim(Path(directory)), Path(arguments.binary).resolve()
        one_hang(binary, Path(directory), arguments.seed)
        one_hanging_repository(binary, Path(directory))
        while sum(outcomes.values()) < arguments.faults:
            expect(tries < 3 * arguments.faults, f"only {sum(outcomes.values())} of {tries} faults were met")
            batch = arguments.faults - sum(outcomes.values())
            seeds = [arguments.seed * 10_000 + tries + number for number in range(batch)]
            tries += batch
            for outcome in threads.map(lambda seed: one_fault(binary, shim, seed), seeds):
                if outcome is not None:
                    outcomes[outcome] += 1
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:4} {outcome}")
    print(f"I/O errors: {sum(outcomes.values())} met in {tries} runs; everything acknowledged was there, nothing in part, no hang")


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"FAIL: {failure}")
