#!/usr/bin/env python3
"""probes.py BINARY [--cronjob FILE.yaml] [--config FILE] [--need-root] [--need-cronjob]

Does to the service what Kubernetes does to a pod, and looks at what the probes say meanwhile. They are asked every 200 ms
on fresh connections, each waits for a second at most, as a kubelet's:

 * start: refused or 503 until the store is open, 200 from then on, with light load as well
 * SIGTERM: not ready at once, but served on for server.drain_delay_ms where there is such a setting; the request that
   runs is answered, exit status 0 within the grace period; also with connections that say nothing, and within twice the
   grace period with a client that never ends its request
 * SIGKILL, and a start on the same volume: everything acknowledged is there
 * a volume that comes to storage.min_free_bytes: writes 507, reads 200, ready and alive, /health 200 but not "pass",
   /health/storage 503; the same after a restart; all is well again when there is room, without one
 * a volume that is full to the last byte: a storage fault. Not ready, /health 503 (a restart helps), alive; after a
   start with room everything acknowledged is there, and writes are taken
 * the command of the CronJob (default: deploy/kubernetes/cronjob.yaml), run with sh and curl: 0 when the backup is made
   and sound, however long that takes; not 0 when the service is away, the key is wrong, the repository cannot be
   written, or what it made is damaged

The full volumes are small tmpfs, for which one has to be root and allowed to mount; elsewhere they are skipped loudly,
unless --need-root. Only the standard library, and processes.py beside it. Exits 1 at the first thing that is wrong.
"""

import argparse
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import tomllib
from pathlib import Path

from processes import START_SECONDS, Failed, Process, equal, expect, free_ports, http_call, until

ROOT = Path(__file__).resolve().parents[2]
DATABASE = "/api/v2/tenants/default_tenant/databases/default_database"
PROBES = LIVE, READY, HEALTH = "/health/live", "/health/ready", "/health"
PERIOD_SECONDS, PROBE_SECONDS = 0.2, 1.0
MIB = 1 << 20
VOLUME_BYTES, FLOOR_BYTES = 96 * MIB, 16 * MIB
GRACE_MS, DELAY_MS = 3_000, 1_000
# What is no request's and no job's: closing the store, on a busy machine.
CLOSING_SECONDS = 10
NORMAL_SECONDS = 3
DOCUMENT_BYTES = 16_384
REFUSED = "refused"


class Service(Process):
    """The service with its data on a volume; what it has acknowledged is known."""

    def __init__(self, binary: Path, home: Path, volume: Path, **settings) -> None:
        super().__init__(home / "log")
        self.binary, self.port, self.volume = binary, free_ports(1)[0], volume
        foreign = ("VECTORKEEP", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
        self.environment = {key: value for key, value in os.environ.items() if not key.upper().startswith(foreign)}
        settings = {"SERVER__LISTEN": f"127.0.0.1:{self.port}", "SERVER__SHUTDOWN_GRACE_MS": GRACE_MS,
                    "STORAGE__DATA_DIR": volume / "store", "REPOSITORY__URL": home / "backups"} | settings
        self.environment |= {f"VECTORKEEP__{key}": str(value) for key, value in settings.items()}
        self.acknowledged: dict[str, str] = {}
        self.path, self.number, self.headers = None, 0, {"Content-Type": "application/json"}

    def start(self) -> None:
        self.spawn([self.binary, "serve"], self.environment)
        until("the service", START_SECONDS, lambda: self.alive() and self.probe(READY) == 200, 0.02)
        self.path = f"{DATABASE}/collections/{self.call('POST', f'{DATABASE}/collections', {'name': 'pods', 'get_or_create': True})['id']}"

    def probe(self, path: str):
        """As a kubelet does it: a fresh connection, a second of patience."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PROBE_SECONDS)
        try:
            with contextlib.closing(connection):
                connection.request("GET", path)
                return connection.getresponse().status
        except TimeoutError:
            return "timeout"
        except (OSError, http.client.HTTPException):
            return REFUSED

    def send(self, method: str, path: str, body=None):
        data = None if body is None else json.dumps(body).encode()
        status, _, raw = http_call(self.port, method, path, data, self.headers)
        return status, json.loads(raw)

    def call(self, method: str, path: str, body=None, wanted: int = 200):
        status, answer = self.send(method, path, body)
        equal(status, wanted, f"status of {method} {path} ({str(answer)[:600]})")
        return answer

    def write(self, size: int = 100) -> int:
        """One more record; its status."""
        self.number += 1
        identity = f"record-{self.number:06}"
        document = f"{identity} " + os.urandom(size // 2).hex()
        status, _ = self.send("POST", f"{self.path}/add", {"ids": [identity], "embeddings": [[self.number, 1.0]], "documents": [document]})
        if status == 201:
            self.acknowledged[identity] = document
        return status

    def check_content(self, may_be_there: int = 0) -> None:
        """Everything acknowledged, and at most so many writes whose answer was an error or never came."""
        found = {}
        for offset in range(0, self.call("GET", f"{self.path}/count"), 100):
            page = self.call("POST", f"{self.path}/get", {"limit": 100, "offset": offset, "include": ["documents"]})
            found |= dict(zip(page["ids"], page["documents"]))
        missing = [identity for identity, document in self.acknowledged.items() if found.get(identity) != document]
        expect(not missing, f"{len(missing)} of {len(self.acknowledged)} acknowledged records are not there: {missing[:5]}")
        extra = found.keys() - self.acknowledged.keys()
        expect(len(extra) <= may_be_there, f"records that were refused are there: {sorted(extra)[:5]}")
        self.acknowledged |= {identity: found[identity] for identity in extra}
        equal(self.call("GET", "/health/collections")["status"], "pass", "/health/collections")

    def leave(self, within_seconds: float) -> float:
        """SIGTERM; it must end well, and in time."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.left(began, within_seconds)

    def left(self, began: float, within_seconds: float) -> float:
        try:
            status = self.process.wait(within_seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"still there {within_seconds} s after SIGTERM: {self.tail()}") from None
        equal(status, 0, "exit status after SIGTERM")
        return time.monotonic() - began


class Kubelet:
    """Asks all the time, and remembers what was said."""

    def __init__(self, service: Service) -> None:
        self.service, self.over, self.said = service, threading.Event(), {path: [] for path in PROBES}
        self.threads = [threading.Thread(target=self.ask, args=(path,), daemon=True) for path in PROBES]

    def ask(self, path: str) -> None:
        while not self.over.is_set():
            self.said[path].append(self.service.probe(path))
            self.over.wait(PERIOD_SECONDS)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def says(self, **wanted) -> None:
        """Waits until the newest answers are these: live, ready, health."""
        paths = dict(zip(("live", "ready", "health"), PROBES))
        now = lambda: {name: self.said[paths[name]][-1:] for name in wanted}
        with contextlib.suppress(Failed):
            until("the probes", START_SECONDS, lambda: now() == {name: [status] for name, status in wanted.items()}, 0.02)
        equal(now(), {name: [status] for name, status in wanted.items()}, "what the probes say")

    def only(self, path: str, *wanted) -> int:
        """How often it was asked; nothing else may have been said."""
        others = [status for status in self.said[path] if status not in wanted]
        expect(not others, f"{path} said {others[:5]} in {len(self.said[path])} answers, expected only {wanted}")
        return len(self.said[path])


# ---------------- start, light load, SIGTERM, SIGKILL


def check_start_and_load(service: Service) -> None:
    with Kubelet(service) as kubelet:
        service.start()
        kubelet.says(live=200, ready=200, health=200)
    for path in PROBES:
        said = kubelet.said[path]
        first = said.index(200)
        expect(set(said[:first]) <= {REFUSED, 503} and set(said[first:]) == {200}, f"{path} during the start: {said}")
    with Kubelet(service) as kubelet:
        end = time.monotonic() + NORMAL_SECONDS
        while time.monotonic() < end:
            equal(service.write(), 201, "status of a write")
            time.sleep(0.01)
    asked = sum(kubelet.only(path, 200) for path in PROBES)
    print(f"start: refused or 503 until open, then 200; {asked} probes beside {len(service.acknowledged)} writes: all 200", flush=True)


@contextlib.contextmanager
def half_sent(service: Service, identity: str):
    """A write of which the first half has arrived; the other half, and a way to read the answer."""
    body = json.dumps({"ids": [identity], "embeddings": [[1.0, 1.0]], "documents": [identity]}).encode()
    head = f"POST {service.path}/add HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=START_SECONDS) as connection:
        connection.sendall(head.encode() + body[:20])
        # The service has surely taken the connection once a later one is answered.
        service.call("GET", "/api/v2/heartbeat")
        yield connection, body[20:]


def check_drain(service: Service, delayed: bool) -> None:
    with half_sent(service, "slow-but-sure") as (connection, rest), Kubelet(service) as kubelet:
        kubelet.says(ready=200)
        began = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        until("not ready", GRACE_MS / 1000, lambda: kubelet.said[READY][-1] in (503, REFUSED), 0.02)
        if delayed:
            equal((kubelet.said[READY][-1], service.write()), (503, 201), "readiness and a write while it drains")
        connection.sendall(rest)
        answer = connection.recv(65_536)
        expect(answer.startswith(b"HTTP/1.1 201"), f"the request that ran at SIGTERM: {answer[:300]!r}")
        service.acknowledged["slow-but-sure"] = "slow-but-sure"
        took = service.left(began, (DELAY_MS + GRACE_MS) / 1000 + CLOSING_SECONDS)
    said = kubelet.said[READY]
    turned = next(place for place, status in enumerate(said) if status != 200)
    expect(200 not in said[turned:], f"ready after SIGTERM: {said}")
    service.start()
    service.check_content()
    print(f"SIGTERM: ready turned {said[turned]}, the running request was answered 201, exit status 0 after {took:.2f} s", flush=True)


def check_stubborn_clients(service: Service) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(socket.create_connection(("127.0.0.1", service.port)))
        service.call("GET", "/api/v2/heartbeat")
        silent = service.leave((DELAY_MS + GRACE_MS) / 1000 + CLOSING_SECONDS)
    service.start()
    with half_sent(service, "never"):
        # First the requests get it, then the jobs.
        stubborn = service.leave((DELAY_MS + 2 * GRACE_MS) / 1000 + CLOSING_SECONDS)
    service.start()
    service.check_content()
    print(f"SIGTERM: exit status 0 after {silent:.2f} s with 50 silent connections, after {stubborn:.2f} s with a request that never ends "
          f"(grace {GRACE_MS / 1000:.0f} s)", flush=True)


def check_kill(service: Service) -> None:
    over = threading.Event()

    def write() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            while not over.is_set():
                service.write()

    writer = threading.Thread(target=write)
    before = len(service.acknowledged)
    writer.start()
    until("writes", START_SECONDS, lambda: len(service.acknowledged) > before + 50, 0.01)
    service.stop(signal.SIGKILL)
    over.set()
    writer.join()
    service.start()
    service.check_content(may_be_there=1)
    print(f"SIGKILL between writes, started on the same volume: {len(service.acknowledged)} acknowledged records are there", flush=True)


# ---------------- full volumes


@contextlib.contextmanager
def small_volume(home: Path):
    """A tmpfs; None where it cannot be mounted."""
    place = home / "volume"
    place.mkdir(parents=True)
    mounted = os.geteuid() == 0 and shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={VOLUME_BYTES}", "tmpfs", place], capture_output=True).returncode == 0
    try:
        yield place if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", place], check=True)


def fill(volume: Path, leave_bytes: int) -> Path:
    """A file that leaves so many bytes free."""
    filler, chunk = volume / "filler", bytes(4_096)
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while shutil.disk_usage(volume).free > leave_bytes:
            file.write(chunk)
    return filler


def found_short(service: "Service") -> dict | None:
    """The overview, once it says that the disk is short of room."""
    overview = service.call("GET", HEALTH)
    return overview if overview["status"] in ("warn", "fail") else None


def check_floor(binary: Path, home: Path, volume: Path) -> None:
    """The repository is elsewhere: only the data's disk is short of room."""
    settings = {"STORAGE__MIN_FREE_BYTES": FLOOR_BYTES, "HEALTH__DISK_FAIL_BYTES": FLOOR_BYTES + 4 * MIB,
                "HEALTH__DISK_WARN_BYTES": 2 * FLOOR_BYTES, "HEALTH__MONITOR_INTERVAL_MS": 100, "HEALTH__DEEP_MAX_AGE_MS": 0}
    service = Service(binary, home, volume, **settings)
    service.start()
    try:
        for _ in range(20):
            equal(service.write(DOCUMENT_BYTES), 201, "status of a write with room")
        with Kubelet(service) as kubelet:
            kubelet.says(live=200, ready=200, health=200)
            filler = fill(volume, FLOOR_BYTES - MIB)
            status, answer = service.send("POST", f"{service.path}/upsert", {"ids": ["refused"], "embeddings": [[1.0, 1.0]]})
            expect(status == 507 and str(FLOOR_BYTES) in answer["message"], f"a write at the floor: {status} {answer}")
            service.check_content()
            # The disk is looked at in the background.
            overview = until("/health to see the floor", START_SECONDS, lambda: found_short(service))
            equal(service.call("GET", "/health/storage", wanted=503)["status"], "fail", "/health/storage at the floor")
        for path in PROBES:
            kubelet.only(path, 200)
        # A node that is drained does not wait for room.
        service.leave(GRACE_MS / 1000 + CLOSING_SECONDS)
        service.start()
        service.check_content()
        with Kubelet(service) as kubelet:
            kubelet.says(live=200, ready=200, health=200)
            equal(service.write(), 507, "status of a write at the floor, after a restart")
            filler.unlink()
            equal(until("a write when there is room again", START_SECONDS, lambda: service.write() == 201), True, "a write")
            until("/health to see the room", START_SECONDS, lambda: service.call("GET", HEALTH)["status"] == "pass")
            equal(service.call("GET", "/health/storage")["status"], "pass", "/health/storage when there is room again")
        for path in PROBES:
            kubelet.only(path, 200)
        service.check_content()
        print(f"volume at the floor: writes 507, reads 200, all probes 200 (/health: {overview['status']}), /health/storage 503; the same "
              f"after a restart; well again with room", flush=True)
    finally:
        service.stop()


def check_fault(binary: Path, home: Path, volume: Path) -> None:
    service = Service(binary, home, volume, STORAGE__MIN_FREE_BYTES=0)
    service.start()
    try:
        for _ in range(20):
            equal(service.write(DOCUMENT_BYTES), 201, "status of a write with room")
        with Kubelet(service) as kubelet:
            kubelet.says(live=200, ready=200, health=200)
            filler = fill(volume, 0)
            statuses = []
            # What is already allocated takes some more.
            until("a storage fault", START_SECONDS, lambda: statuses.append(service.write(DOCUMENT_BYTES)) or statuses[-1] != 201, 0)
            expect(500 <= statuses[-1] < 600, f"a write on a full disk: {statuses[-1]}")
            kubelet.says(live=200, ready=503, health=503)
            refused, _ = service.send("POST", f"{service.path}/upsert", {"ids": ["refused"], "embeddings": [[1.0, 1.0]]})
            equal(refused, 503, "status of a write after the fault")
            kubelet.only(LIVE, 200)
        filler.unlink()
        service.process.send_signal(signal.SIGTERM)
        ended = service.process.wait(2 * GRACE_MS / 1000 + CLOSING_SECONDS)
        with Kubelet(service) as kubelet:
            service.start()
            # The write whose answer was an error is there or not; it was not acknowledged.
            service.check_content(may_be_there=1)
            kubelet.says(live=200, ready=200, health=200)
        equal(service.write(), 201, "status of a write after the restart")
        print(f"full volume: a write {statuses[-1]}, the next {refused}; not ready, /health 503, alive; ended with {ended}; after a start "
              f"with room {len(service.acknowledged)} acknowledged records are there", flush=True)
    finally:
        service.stop(signal.SIGKILL)


# ---------------- the CronJob


def cronjob_command(manifest: Path) -> str | None:
    """The script of the manifest's CronJob: the block below `args:` or `command:` with `- |`."""
    for part in re.split(r"^---$", manifest.read_text(), flags=re.MULTILINE):
        if re.search(r"^kind: CronJob$", part, re.MULTILINE):
            found = re.search(r"^( *)- \|\n((?:\1 .*\n| *\n)+)", part, re.MULTILINE)
            expect(found, f"the CronJob in {manifest} has no script after `- |`")
            return textwrap.dedent(found[2])
    return None


def new_key(binary: Path, name: str, role: str) -> tuple[str, str]:
    """The key, and its table for the file of keys."""
    made = subprocess.run([binary, "key", name, "--role", role], text=True, capture_output=True, check=True, timeout=START_SECONDS)
    return made.stderr.strip(), made.stdout


def with_keys(binary: Path, home: Path) -> tuple[dict, str, str]:
    """Settings for a service with keys; the operator's key and one that may only read."""
    (operator, first), (reader, second) = (new_key(binary, role, role) for role in ("operator", "reader"))
    (home / "keys.toml").write_text(f"{first}\n{second}")
    return {"ACCESS__KEYS_FILE": home / "keys.toml"}, operator, reader


def check_cronjob(binary: Path, home: Path, command: str, has_keys: bool) -> None:
    settings, key, reader = with_keys(binary, home) if has_keys else ({}, "none-is-needed", None)
    # A backup takes longer than a client is let wait.
    service = Service(binary, home, home, JOBS__WAIT_TIMEOUT_MS=1, **settings)
    service.headers["Authorization"] = f"Bearer {key}"
    environment = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
    environment |= {"VECTORKEEP_URL": f"http://127.0.0.1:{service.port}", "VECTORKEEP_KEY": key}

    def run(pod: str, **other) -> tuple[int, str]:
        variables = environment | {"HOSTNAME": pod} | other
        done = subprocess.run(["sh", "-c", command], env=variables, text=True, capture_output=True, timeout=300)
        return done.returncode, done.stdout + done.stderr

    def fails(why: str, pod: str, **other) -> str:
        status, said = run(pod, **other)
        expect(status != 0, f"the CronJob's command ends with 0 although {why}: {said}")
        return f"{status} when {why}"

    failures = [fails("the service is away", "pod-1")]
    service.start()
    try:
        for _ in range(50):
            equal(service.write(), 201, "status of a write")
        for number in range(2):
            status, said = run(f"pod-2{number}")
            equal(status, 0, f"exit status of the CronJob's command ({said})")
            newest = service.call("GET", "/backups?limit=1")["backups"][0]
            verification = newest["verification"]
            equal((newest["records"], verification and verification["ok"]), (50, True), f"what it made: {newest}")
        if reader:
            failures.append(fails("the key is unknown", "pod-3", VECTORKEEP_KEY="unknown"))
            failures.append(fails("the key may only read", "pod-4", VECTORKEEP_KEY=reader))
        for pack in (home / "backups" / "packs").glob("*/*"):
            content = bytearray(pack.read_bytes())
            content[len(content) // 2] ^= 0xFF
            pack.write_bytes(content)
        failures.append(fails("a pack that its backup refers to is damaged", "pod-5"))
        shutil.rmtree(home / "backups")
        (home / "backups").write_text("a file where the repository was")
        failures.append(fails("the repository cannot be written", "pod-6"))
    finally:
        service.stop()
    print(f"the CronJob's command: 0 when the backup is made and sound, with jobs longer than the wait; {'; '.join(failures)}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--cronjob", type=Path, default=ROOT / "deploy/kubernetes/cronjob.yaml", help="the manifest of the CronJob")
    parser.add_argument("--config", type=Path, default=ROOT / "config.toml", help="the baseline that the binary was built with")
    parser.add_argument("--need-root", action="store_true", help="fail where no tmpfs can be mounted")
    parser.add_argument("--need-cronjob", action="store_true", help="fail where the manifest has no CronJob")
    arguments = parser.parse_args()
    binary = arguments.binary.resolve()
    try:
        with tempfile.TemporaryDirectory(prefix="probes-") as temporary:
            home = Path(temporary)
            everything(binary, home, arguments)
    except Failed as error:
        print(f"FAIL: {error}", file=sys.stderr)
        return 1
    print("probes: all as it must be")
    return 0


def everything(binary: Path, home: Path, arguments) -> None:
    for name in ("pod", "floor", "fault", "cronjob"):
        (home / name).mkdir()
    baseline = tomllib.loads(arguments.config.read_text())
    delayed = "drain_delay_ms" in baseline["server"]
    service = Service(binary, home / "pod", home / "pod", **({"SERVER__DRAIN_DELAY_MS": DELAY_MS} if delayed else {}))
    try:
        check_start_and_load(service)
        check_drain(service, delayed)
        check_stubborn_clients(service)
        check_kill(service)
    finally:
        service.stop()
    for name, check in (("floor", check_floor), ("fault", check_fault)):
        with small_volume(home / name) as volume:
            if volume:
                check(binary, home / name, volume)
                continue
        expect(not arguments.need_root, "no tmpfs can be mounted")
        print(f"SKIPPED: the {name} of a volume: no tmpfs can be mounted here (not root, or not allowed to)", file=sys.stderr, flush=True)
    if command := cronjob_command(arguments.cronjob):
        check_cronjob(binary, home / "cronjob", command, "access" in baseline)
        return
    expect(not arguments.need_cronjob, f"{arguments.cronjob} has no CronJob")
    print(f"SKIPPED: {arguments.cronjob} has no CronJob", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
