"""Who operates the service in soak.py: backups are made, pruned, verified, exported, rehearsed and restored, collections are
migrated, the store is compacted, its health is looked at. What is known of each backup is kept here.
"""

import json
import threading
import time
from dataclasses import dataclass

from processes import Failed, equal, expect, until
from soak_model import COLLECTIONS, MARKER, PASSING, WHOLE, Content, Owner, check_cut, marker, rows_of
from soak_world import ANSWER_SECONDS, COPIES, Caller, Cut, Worker, World
from subject import DATABASE

LABEL, KEEP_LAST, PRUNE_AFTER = "soak", 5, 3
# A backup of chosen collections, which retention compares with its like only.
CHOSEN = ["soak-cosine", "soak-small"]
RESTORED, RESTORES, MIGRATIONS = "-restored-", f"{COPIES}restore-", f"{COPIES}migrate-"
FINAL = ("succeeded", "failed", "canceled", "interrupted")
ASKED, THERE, MAY_GO, GONE, NEVER = "asked for", "there", "may go", "gone", "never made"


class Refused(Failed):
    """The answer was not the success that was asked for."""

    def __init__(self, what: str, status: int, answer) -> None:
        super().__init__(f"{what}: {status}: {str(answer)[:1_000]}")
        self.status = status


@dataclass
class Backup:
    """A backup that was asked for."""

    number: int
    body: dict
    since: float
    until: float = float("inf")
    state: str = ASKED
    manifest: dict | None = None

    @property
    def id(self) -> str:
        return self.manifest["id"]

    @property
    def pinned(self) -> bool:
        return self.body.get("pinned", False)

    @property
    def chosen(self) -> bool:
        return "collections" in self.body


class Backups:
    """All that were asked for; only the keeper makes and removes any."""

    def __init__(self, world: World) -> None:
        self.world, self.lock, self.asked = world, threading.Lock(), {}
        # The most that were ever listed; the number of the pinned one, and what it was made of.
        self.most, self.pinned, self.frozen = 0, None, None

    def begin(self, body: dict) -> Backup:
        with self.lock:
            number = len(self.asked) + 1
            self.asked[number] = Backup(number, body | {"labels": {LABEL: str(number)}}, time.monotonic())
            return self.asked[number]

    def made(self, backup: Backup, manifest: dict) -> None:
        backup.manifest, backup.until, backup.state = manifest, time.monotonic(), THERE
        self.world.count(f"backups, {manifest['kind']}")

    def of(self, *states: str) -> list[Backup]:
        """Newest first."""
        with self.lock:
            found = [backup for backup in self.asked.values() if backup.state in states]
        made = lambda backup: (backup.manifest["created_at"], backup.number) if backup.manifest else ("", 0)
        return sorted(found, key=made, reverse=True)

    def may_go(self, keep_last: int) -> None:
        """Before a pruning is asked for."""
        for chosen in (False, True):
            alike = [backup for backup in self.of(THERE) if backup.chosen == chosen]
            for backup in alike[keep_last:]:
                if not backup.pinned:
                    backup.state = MAY_GO

    def check(self, listed: list[dict]) -> None:
        """When no backup is made and none is removed: what was acknowledged is there, and nothing that nobody asked for."""
        found = {}
        for manifest in listed:
            backup = self.asked.get(int(manifest["labels"].get(LABEL, 0)))
            what = f"{manifest['id']} {manifest['labels']}"
            expect(backup is not None and backup.number not in found, f"a backup that nobody asked for: {what}")
            expect(backup.state not in (GONE, NEVER), f"{manifest['id']} is listed again: it was {backup.state}")
            found[backup.number] = manifest
        for backup in self.of(ASKED, THERE, MAY_GO):
            manifest = found.get(backup.number)
            if backup.state == ASKED:
                self.world.count(f"backups in doubt, {'there' if manifest else 'not there'}")
                if manifest:
                    self.made(backup, manifest)
                backup.state = THERE if manifest else NEVER
            elif manifest:
                same = {name: manifest[name] for name in backup.manifest if name not in ("verification", "restorable")}
                equal(same, {name: backup.manifest[name] for name in same}, f"what is listed of {backup.id}")
                backup.state = THERE
            else:
                expect(backup.state == MAY_GO, f"{backup.id} is not listed, and nobody removed it (pinned: {backup.pinned})")
                self.world.count("backups removed")
                backup.state = GONE
        self.most = max(self.most, len(listed))


def job(caller: Caller, path: str, body: dict, wanted: int = 200):
    """The result of a long verb that must succeed."""
    generation = caller.world.generation
    status, answer = caller.send("POST", f"{path}?wait=true", body)
    # Told to stop, the service does not begin it any more, or not again before the next start.
    if status == 202 and caller.world.cut_since(generation):
        raise Cut(f"POST {path}")
    if status != wanted:
        raise Refused(f"POST {path}", status, answer)
    equal((answer["state"], answer["problem"]), ("succeeded", None), f"the job of {path} {body}")
    caller.world.jobs.add(answer["id"])
    return answer["result"]


def back_up(caller: Caller, backups: Backups, body: dict) -> Backup | None:
    """None where there was nothing that it could be an increment of."""
    backup = backups.begin(body)
    try:
        manifest = job(caller, "/backups", backup.body, 201)
    except Refused as refused:
        if body.get("kind") == "incremental" and refused.status == 422 and "no earlier backup" in str(refused):
            backup.state = NEVER
            return None
        raise
    backups.made(backup, manifest)
    records = sum(each["records"] for each in manifest["collections"])
    equal((manifest["labels"], manifest["pinned"], manifest["records"]), (backup.body["labels"], backup.pinned, records),
          f"labels, pin and records of {manifest['id']}")
    equal(manifest["kind"], body.get("kind", manifest["kind"]), f"the kind of {manifest['id']}")
    return backup


def listed(caller: Caller) -> list[dict]:
    page = caller.call("GET", "/backups?limit=1000")
    equal((page["damaged"], page["next_cursor"]), ({}, None), "damaged backups, and another page of them")
    return page["backups"]


def exported(caller: Caller, backup: Backup, lines: bool = False) -> dict[str, dict]:
    """The records of each collection in an export, which must be as many as the manifest says, with its digest."""
    path = f"/backups/{backup.id}/export?format={'jsonl' if lines else 'json'}"
    status, answer = caller.send("GET", path)
    if status != 200:
        raise Refused(f"GET {path}", status, answer)
    document = {"backup": None, "collections": []} if lines else answer
    for line in map(json.loads, answer.splitlines()) if lines else ():
        kind = line.pop("type")
        if kind == "export":
            document["backup"] = line["backup"]
        elif kind == "collection":
            document["collections"].append(line | {"records": []})
        elif kind == "record":
            document["collections"][-1]["records"].append(line)
        elif kind == "collection_end":
            document["collections"][-1]["digest"] = line["digest"]
    equal(document["backup"]["id"], backup.id, "the backup in its export")
    found = [(each["name"], len(each["records"]), each["digest"]) for each in document["collections"]]
    wanted = [(each["name"], each["records"], each["digest"]) for each in backup.manifest["collections"]]
    equal(found, wanted, f"names, records and digests in the export of {backup.id}")
    columns = {"ids": "id", "embeddings": "embedding", "documents": "document", "uris": "uri", "metadatas": "metadata"}
    rows = {each["name"]: rows_of({name: [record[member] for record in each["records"]] for name, member in columns.items()})
            for each in document["collections"]}
    caller.world.count("exports")
    return {name: records for name, records in rows.items() if not is_copy(name)}


def is_copy(name: str) -> bool:
    return name.startswith(COPIES) or RESTORED in name


def content_of(collections: dict[str, dict]) -> Content:
    content = {marker(name): MARKER for name in collections if name.startswith(PASSING)}
    return content | {(name, identity): record for name, records in collections.items() for identity, record in records.items()}


def check_moment(owners: list[Owner], caller: Caller, backup: Backup, lines: bool = False) -> Content:
    """A backup holds whole batches of each writer, and all of it is of one moment while it was made."""
    collections = exported(caller, backup, lines)
    names = set(CHOSEN if backup.chosen else COLLECTIONS)
    others = {name for name in collections if not name.startswith(PASSING)}
    equal(sorted(others), sorted(names), f"collections of {backup.id}")
    content = content_of(collections)
    check_cut(owners, content, sorted(names) if backup.chosen else [WHOLE], backup.since, backup.until, backup.id)
    return content


class Operator(Worker):
    """One who works on backups that the keeper may remove meanwhile."""

    def __init__(self, world: World, name: str, backups: Backups) -> None:
        super().__init__(world, name)
        self.backups = backups

    def step(self) -> None:
        verbs, weights = zip(*self.verbs().items())
        [verb] = self.chance.choices(verbs, weights)
        if there := self.backups.of(THERE):
            backup = self.chance.choice(there)
            try:
                verb(backup)
            except Refused as refused:
                if refused.status != 404 or backup.state not in (MAY_GO, GONE):
                    raise
                self.world.count("refused, as the backup was removed meanwhile")


class Keeper(Worker):
    """Makes backups and removes old ones."""

    kind = "backups"

    def __init__(self, world: World, backups: Backups, every_seconds: float) -> None:
        super().__init__(world, "keeper")
        self.backups, self.pause, self.turn = backups, every_seconds / 2, 0
        # Turns since the last pruning that was answered.
        self.unpruned = 0

    def step(self) -> None:
        self.look()
        self.turn, self.unpruned = self.turn + 1, self.unpruned + 1
        if self.backups.pinned is None and self.turn >= 2:
            self.pin()
        elif self.turn % 4 == 0:
            back_up(self.caller, self.backups, {"collections": [{"name": name} for name in CHOSEN]})
        else:
            back_up(self.caller, self.backups, self.chance.choice([{}, {}, {"kind": "full"}, {"kind": "incremental"}]))
        if self.unpruned >= PRUNE_AFTER:
            self.prune()
            self.unpruned = 0
        if self.turn % 5 == 0 and self.backups.of(THERE):
            self.delete()
        self.look()

    def look(self) -> None:
        """A pruning that was stopped is taken up again, and then there is nobody who asked for it."""
        running = lambda state: self.caller.call("GET", f"/jobs?kind=prune&state={state}")["jobs"]
        until("the end of a pruning", ANSWER_SECONDS, lambda: not any(map(running, ("queued", "running"))))
        self.backups.check(listed(self.caller))

    def pin(self) -> None:
        """While nobody writes: what it restores is then known to the last bit."""
        with self.world.writing.pause():
            backup = back_up(self.caller, self.backups, {"pinned": True})
            self.backups.frozen = {key: record for owner in self.world.owners for key, record in owner.records.items()}
            self.backups.pinned = backup

    def prune(self) -> None:
        rules = {"keep_last": KEEP_LAST}
        plan = self.caller.call("POST", "/backups/prune", rules | {"dry_run": True})
        self.backups.may_go(KEEP_LAST)
        result = job(self.caller, "/backups/prune", rules)
        verified = [[each["id"] for each in side["kept"] if "newest_verified" in each["reasons"]] for side in (plan, result)]
        # A verification that ends in between may keep another one.
        if verified[0] == verified[1]:
            equal((result["kept"], result["deleted"]), (plan["kept"], plan["deleted"]), "what a pruning did, and its plan")
        self.world.count("prunings")

    def delete(self) -> None:
        backup = self.chance.choice(self.backups.of(THERE))
        if backup.pinned:
            self.caller.call("DELETE", f"/backups/{backup.id}", wanted=409)
            return
        backup.state = MAY_GO
        equal(self.caller.call("DELETE", f"/backups/{backup.id}")["deleted"], backup.id, "the backup that was deleted")


class Inspector(Operator):
    """Reads: backups, the store, health."""

    kind, pause = "inspections", 0.3

    def verbs(self) -> dict:
        return {self.verify: 4, self.drill: 2, self.export: 3, self.collections: 3, self.embeddings: 2, self.storage: 1}

    def verify(self, backup: Backup) -> None:
        level = self.chance.choice(["manifest", "checksums", "records", "records"])
        verify(self.caller, backup, level)

    def drill(self, backup: Backup) -> None:
        result = job(self.caller, "/drills", {"backup": backup.id})
        equal((result["ok"], result["checked_records"], result["problems"]), (True, backup.manifest["records"], []),
              f"a drill of {backup.id}")
        self.world.count("drills")

    def export(self, backup: Backup) -> None:
        check_moment(self.world.owners, self.caller, backup, self.chance.random() < 0.5)

    def collections(self, _: Backup) -> None:
        name = self.chance.choice([None, *COLLECTIONS])
        check_health(self.caller, f"/health/collections/{name}" if name else "/health/collections")

    def embeddings(self, _: Backup) -> None:
        name = self.chance.choice([None, *COLLECTIONS])
        sample = self.chance.choice(["50", "all"])
        check_health(self.caller, f"/health/embeddings?sample={sample}" + (f"&collection={name}" if name else ""))

    def storage(self, _: Backup) -> None:
        # A busy disk is slow, and may be nearly full.
        check_health(self.caller, "/health/storage", "warn")


def verify(caller: Caller, backup: Backup, level: str) -> None:
    result = job(caller, f"/backups/{backup.id}/verify", {"level": level})
    equal((result["level"], result["ok"], result["problems"]), (level, True, []), f"the verification of {backup.id}")
    expect(result["checked_bytes"] > 0, f"the verification of {backup.id} looked at nothing: {result}")
    if level == "records":
        equal(result["checked_records"], backup.manifest["records"], f"records of {backup.id} that were verified")
    caller.world.count("verifications")


def check_health(caller: Caller, path: str, *allowed: str) -> dict:
    """A check that takes longer than is waited says so."""
    found = caller.call("GET", path)
    outputs = [check.get("output") or "" for checks in found["checks"].values() for check in checks if check["status"] != "pass"]
    running = outputs and all("running" in output for output in outputs)
    expect(found["status"] in ("pass", *allowed) or running and found["status"] == "warn",
           f"{path}: {found['status']}: {outputs} {str(found)[:1_500]}")
    caller.world.count("health checks")
    return found


def digests(caller: Caller, name: str) -> tuple[int, str]:
    """Records and digest, recomputed from every stored byte."""
    checks = check_health(caller, f"/health/collections/{name}")["checks"].get("collections:integrity")
    expect(checks, f"the check of {name} did not end in time")
    [seen] = [check["observed_value"] for check in checks]
    equal(seen["recomputed_digest"], seen["digest"], f"digests of {name}: recomputed, and kept")
    return seen["count"], seen["digest"]


class Mover(Operator):
    """Writes collections of its own: restores, migrates, compacts; drops them again."""

    kind, pause = "moves", 0.5

    def __init__(self, world: World, backups: Backups) -> None:
        super().__init__(world, "mover", backups)
        self.turn = 0

    def verbs(self) -> dict:
        return {self.restore: 4, self.migrate: 3, self.compact: 1}

    def step(self) -> None:
        self.clean(RESTORES, MIGRATIONS, RESTORED)
        self.turn += 1
        super().step()

    def drop(self, name: str) -> None:
        self.caller.call("DELETE", f"{DATABASE}/collections/{name}")

    def restore(self, backup: Backup) -> None:
        source = self.chance.choice([each for each in backup.manifest["collections"] if each["name"] in COLLECTIONS])
        name, renamed = source["name"], self.chance.random() < 0.4
        to = f"{name}{RESTORED}1" if renamed else f"{RESTORES}{self.turn}"
        action, target = ("renamed", {}) if renamed else ("created", {"to": {"name": to}})
        self.restore_to(backup, source, to, target, action, on_conflict="rename")
        records = {(name, identity): record for (_, identity), record in self.caller.content(to).items()}
        check_cut(self.world.owners, records, [name], backup.since, backup.until, f"{name} restored from {backup.id}")
        if self.chance.random() < 0.4:
            policy, action = self.chance.choice([("replace", "replaced"), ("merge", "merged")])
            self.restore_to(backup, source, to, {"to": {"name": to}}, action, on_conflict=policy)
        self.drop(to)

    def restore_to(self, backup: Backup, source: dict, to: str, more: dict, action: str, **policy) -> None:
        body = {"backup": backup.id, "collections": [{"name": source["name"]} | more]} | policy
        [restored] = job(self.caller, "/restore", body)["collections"]
        members = [restored["to"]["name"], *(restored[name] for name in ("action", "records", "digest", "verified"))]
        equal(members, [to, action, source["records"], source["digest"], True], f"the restore {body}")
        equal(digests(self.caller, to), (source["records"], source["digest"]), f"what {to} holds after {body}")
        equal(self.caller.definition(to), self.caller.definition(source["name"]), f"definition of {to} after {body}")
        self.world.count("restores")

    def migrate(self, _: Backup) -> None:
        """While writers write to the source: a moment of all of them."""
        name, to = self.chance.choice(list(COLLECTIONS)), f"{MIGRATIONS}{self.turn}"
        since = time.monotonic()
        result = job(self.caller, "/migrate", {"source": {"collection": name}, "target": {"collection": to}})
        end = time.monotonic()
        members = [result[name] for name in ("action", "verified", "target_digest", "failed")]
        equal(members, ["created", True, result["source_digest"], 0], f"the migration of {name}")
        equal(digests(self.caller, to)[1], result["target_digest"], f"digest of {to}")
        equal(self.caller.definition(to), self.caller.definition(name), f"definition of {to}")
        records = {(name, identity): record for (_, identity), record in self.caller.content(to).items()}
        check_cut(self.world.owners, records, [name], since, end, f"the migration of {name}")
        self.drop(to)
        self.world.count("migrations")

    def compact(self, _: Backup) -> None:
        status, answer = self.caller.send("POST", "/compactions", {})
        if status == 409:
            # One that came by itself is under way.
            expect("compaction is under way" in answer["detail"], f"a compaction: {answer}")
            return
        equal(status, 202, f"status of POST /compactions ({answer})")
        generation = self.caller.generation

        def ended():
            found = self.caller.call("GET", f"/jobs/{answer['id']}")
            return found if found["state"] in FINAL else None

        found = until("the end of a compaction", ANSWER_SECONDS, ended)
        if found["state"] == "interrupted" and self.world.cut_since(generation):
            raise Cut("a compaction")
        equal((found["state"], found["problem"]), ("succeeded", None), "a compaction")
        self.world.jobs.add(answer["id"])
        self.world.count("compactions asked for")
