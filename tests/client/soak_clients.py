"""Who uses collections in soak.py: writers, who know what every read of their own records must give, readers, and one who
makes, drops, renames and forks collections.
"""

import base64
import time

import chromadb
import numpy as np
from chromadb.config import Settings

from contents import Record
from peers import EVERYTHING, batch
from processes import equal, expect
from reference import exact_distances, matches, tolerance
from samples import random_where
from soak_model import (COLLECTIONS, MARKER, NAMER, PASSING, STILL, Author, Key, Row, applied, check_cut, check_equal, marker,
                        rows_of)
from soak_world import COPIES, Away, Caller, Cut, Worker, World
from subject import DATABASE

IDS, BATCH, LARGE_BATCH, STILL_RECORDS = 120, 12, 60, 40
NAMES, PASSING_RECORDS = [f"{PASSING}{number}" for number in range(8)], 30
FORKS = f"{COPIES}fork-"


def create(world: World, caller: Caller) -> None:
    """The collections that stay, each with some records that nobody changes."""
    owner, author = world.owner(STILL), Author(f"{world.seed} {STILL}", STILL)
    for name, (space, _) in COLLECTIONS.items():
        body = {"name": name, "configuration": {"hnsw": {"space": space}}, "metadata": {"space": space, "tags": ["soak", name]}}
        world.ids[name] = caller.call("POST", f"{DATABASE}/collections", body)["id"]
        ids = author.ids(STILL_RECORDS)
        change = owner.begin({(name, identity): applied("add", None, author.row(name, "add")) for identity in ids})
        caller.call("POST", f"{caller.path(name)}/add", batch({key[1]: record for key, record in change.after.items()}), 201)
        owner.acknowledge(change)


def query(caller: Caller, name: str, records: dict[str, Record], identity: str, where: dict | None, count: int) -> None:
    """By the vector of a record that nobody changes meanwhile. With a filter that leaves only such, by brute force."""
    vector = np.frombuffer(records[identity].vector, "<f4")
    body = {"query_embeddings": [vector.tolist()], "n_results": count, "include": ["distances"]}
    answer = caller.call("POST", f"{caller.path(name)}/query", body | ({"where": where} if where else {}))
    caller.world.count("queries")
    [ids], [distances] = answer["ids"], answer["distances"]
    what = f"{name}, the query by the vector of {identity} where {where}"
    space, dimension = COLLECTIONS[name]
    expect(ids[:1] == [identity] and abs(distances[0]) <= 2 * tolerance(dimension, 1) and distances == sorted(distances)
           and len(set(ids)) == len(ids), f"{what} found {list(zip(ids, distances))}")
    if where is None:
        return
    matching = {each: record for each, record in records.items() if matches(where, record.values)}
    expect(len(ids) == min(count, len(matching)) and set(ids) <= matching.keys(), f"{what} found {ids}, {len(matching)} match")
    exact = exact_distances(space, vector, [np.frombuffer(record.vector, "<f4") for record in matching.values()])
    by_id, nearest = dict(zip(matching, exact)), np.sort(exact)
    for rank, (found, distance) in enumerate(zip(ids, distances)):
        allowed = 2 * tolerance(dimension, max(1.0, abs(nearest[rank])))
        expect(max(abs(distance - by_id[found]), abs(by_id[found] - nearest[rank])) <= allowed,
               f"{what}: rank {rank} is {found} at {distance}, which is at {by_id[found]}; the nearest is at {nearest[rank]}")


class Writer(Worker):
    """Adds, upserts, updates and deletes in all collections, one batch at a time, and reads what it wrote."""

    kind, pause = "writers", 0.02
    VERBS, WEIGHTS = ("add", "upsert", "update", "delete", "delete where"), (22, 34, 24, 14, 6)

    def __init__(self, world: World, number: int) -> None:
        super().__init__(world, f"w{number}")
        self.owner, self.author = world.owner(self.name), Author(f"{world.seed} {self.name} content", self.name)
        self.ids = self.author.ids(IDS)

    def step(self) -> None:
        with self.world.writing.step():
            collection, verb = self.chance.choice(list(COLLECTIONS)), self.chance.choices(self.VERBS, self.WEIGHTS)[0]
            if verb == "delete where":
                self.delete_where(collection)
            else:
                self.write(collection, verb)
            if self.chance.random() < 0.4:
                self.read(collection)

    def write(self, collection: str, verb: str) -> None:
        largest = LARGE_BATCH if self.chance.random() < 0.05 else BATCH
        ids = self.chance.sample(self.ids, self.chance.randint(1, largest))
        self.author.turn += 1
        rows = {identity: None if verb == "delete" else self.author.row(collection, verb) for identity in ids}
        self.carry_out(self.after(collection, verb, rows), lambda: self.request(collection, verb, rows))

    def after(self, collection: str, verb: str, rows: dict[str, Row | None]) -> dict[Key, Record | None]:
        keys = {(collection, identity): row for identity, row in rows.items()}
        return {key: applied(verb, self.owner.records.get(key), row) for key, row in keys.items()}

    def delete_where(self, collection: str) -> None:
        where = self.own(random_where(self.chance))
        gone = [identity for identity, record in self.owner.of(collection).items() if matches(where, record.values)]
        after = {(collection, identity): None for identity in gone}
        answer = self.carry_out(after, lambda: self.ask(collection, "delete", {"where": where}))
        equal(answer, {"deleted": len(gone)}, f"deleted in {collection} where {where}")

    def carry_out(self, after: dict[Key, Record | None], request):
        """Acknowledged with its answer; in doubt where none came."""
        change = self.owner.begin(after)
        try:
            answer = request()
        except Away:
            self.owner.revoke(change)
            raise
        except BaseException:
            self.owner.doubt = change
            raise
        self.owner.acknowledge(change)
        self.world.count("batches")
        self.world.count("records written", len(after))
        return answer

    def ask(self, collection: str, verb: str, body: dict, wanted: int = 200):
        return self.caller.call("POST", f"{self.caller.path(collection)}/{verb}", body, wanted)

    def request(self, collection: str, verb: str, rows: dict[str, Row | None]) -> None:
        ids = list(rows)
        if verb == "delete":
            equal(self.ask(collection, verb, {"ids": ids}), {"deleted": len(ids)}, "the answer to a deletion")
            return
        columns = self.columns(rows)
        # The two ways in which requests carry them.
        encode = self.chance.choice([lambda vector: base64.b64encode(vector.tobytes()).decode(), np.ndarray.tolist])
        columns["embeddings"] = [None if vector is None else encode(vector) for vector in columns["embeddings"]]
        self.ask(collection, verb, {"ids": ids} | columns, 201 if verb == "add" else 200)

    @staticmethod
    def columns(rows: dict[str, Row]) -> dict[str, list]:
        return dict(zip(("embeddings", "documents", "uris", "metadatas"), map(list, zip(*rows.values()))))

    def own(self, where: dict) -> dict:
        return {"$and": [{"owner": self.name}, where]}

    def read(self, collection: str) -> None:
        """Right after an acknowledged write, and nobody else writes to these records."""
        own, how = self.owner.of(collection), self.chance.randrange(3)
        if how == 0:
            ids = self.chance.sample(self.ids, 12)
            check_equal(self.get(collection, ids), {each: own[each] for each in ids if each in own}, f"own records of {collection}")
        elif how == 1:
            where = self.own(random_where(self.chance))
            wanted = {identity: record for identity, record in own.items() if matches(where, record.values)}
            check_equal(self.caller.records(collection, {"where": where}), wanted, f"own records of {collection} where {where}")
        elif own:
            where = {"owner": self.name} if self.chance.random() < 0.6 else None
            query(self.caller, collection, own, self.chance.choice(list(own)), where, 5)

    def get(self, collection: str, ids: list[str]) -> dict[str, Record]:
        return self.caller.records(collection, {"ids": ids})


class ChromaWriter(Writer):
    """The same through Chroma's own client."""

    def __init__(self, world: World, number: int) -> None:
        super().__init__(world, number)
        self.handles, self.made = {}, -1
        # The client makes up embeddings that are left out.
        self.author.always_vectors = True

    def through_client(self, call):
        """Its errors are of many kinds: what matters is whether the service was stopped."""
        world = self.world
        generation, stopping = world.generation, world.stopping.is_set()
        if not world.up.is_set():
            raise Away
        try:
            if self.made != generation:
                quiet = Settings(anonymized_telemetry=False)
                self.client = chromadb.HttpClient(host="127.0.0.1", port=world.port, settings=quiet)
                self.handles = {name: self.client.get_collection(name, embedding_function=None) for name in COLLECTIONS}
                self.made = generation
            return call(self.handles)
        except Exception as error:
            self.made = -1
            if stopping or world.cut_since(generation):
                raise Cut("Chroma's client") from error
            raise

    def request(self, collection: str, verb: str, rows: dict[str, Row | None]) -> None:
        ids = list(rows)
        if verb == "delete":
            self.through_client(lambda handles: handles[collection].delete(ids=ids))
            return
        self.through_client(lambda handles: getattr(handles[collection], verb)(ids=ids, **self.columns(rows)))

    def get(self, collection: str, ids: list[str]) -> dict[str, Record]:
        answer = self.through_client(lambda handles: handles[collection].get(ids=ids, include=EVERYTHING))
        self.world.count("gets")
        return rows_of(answer)


class Reader(Worker):
    """Asks for what nobody changes, while everything else changes."""

    kind, pause = "readers", 0.05

    def step(self) -> None:
        name, still = self.chance.choice(list(COLLECTIONS)), self.world.owners[0]
        records, how = still.of(name), self.chance.randrange(6)
        if how < 2:
            where = {"$and": [{"owner": STILL}, {"turn": 0}]} if self.chance.random() < 0.3 else None
            query(self.caller, name, records, self.chance.choice(list(records)), where, self.chance.choice([1, 5, 20]))
        elif how == 2:
            where = {"$and": [{"owner": STILL}, random_where(self.chance)]}
            wanted = {identity: record for identity, record in records.items() if matches(where, record.values)}
            check_equal(self.caller.records(name, {"where": where}), wanted, f"records of {name} where {where}")
        elif how == 3:
            check_equal(self.caller.records(name, {"ids": list(records)}), records, f"records of {name}")
        elif how == 4:
            self.count(name)
        else:
            self.glance()

    def count(self, name: str) -> None:
        number = self.caller.call("GET", f"{self.caller.path(name)}/count")
        writers = sum(owner.name.startswith("w") for owner in self.world.owners)
        self.world.count("counts")
        expect(STILL_RECORDS <= number <= STILL_RECORDS + writers * IDS, f"{name} has {number} records")

    def glance(self) -> None:
        listed = self.caller.listed()
        expect(self.world.ids.items() <= listed.items(), f"collections that stay are not there: {listed}")
        metrics = self.caller.call("GET", "/metrics").decode()
        expect("\nvectorkeep_store_poisoned 0" in metrics, f"metrics: {metrics[:300]}")
        health = self.caller.call("GET", "/health")
        expect(health["status"] in ("pass", "warn"), f"/health: {health}")


class Namer(Writer):
    """Owns collections that come and go; what it knows of them is their records, and a mark for each that is there."""

    kind, pause = "collections", 0.4

    def __init__(self, world: World) -> None:
        Worker.__init__(self, world, NAMER)
        self.owner, self.author = world.owner(NAMER), Author(f"{world.seed} {NAMER} content", NAMER)

    def step(self) -> None:
        with self.world.writing.step():
            there = sorted({key[0] for key in self.owner.records})
            free = [name for name in NAMES if name not in there]
            verbs = [self.create] * bool(free) + [self.fill, self.fill, self.drop] * bool(there)
            verbs += [self.rename, self.fork] * bool(there and free)
            self.author.turn += 1
            name = self.chance.choice(there) if there else ""
            self.chance.choice(verbs)(name, self.chance.choice(free) if free else "")
        if self.chance.random() < 0.1:
            self.fork_of_others()

    def at(self, name: str) -> str:
        return f"{DATABASE}/collections/{name}"

    def now(self, *names: str) -> dict[Key, Record | None]:
        """All that it has under these names: what a request in doubt is compared with."""
        return {key: record for key, record in self.owner.records.items() if key[0] in names}

    def create(self, _: str, name: str) -> None:
        space = self.chance.choice(["l2", "cosine"])
        definition = {"name": name, "configuration": {"hnsw": {"space": space}}, "metadata": {"turn": self.author.turn}}
        self.carry_out({marker(name): MARKER}, lambda: self.caller.call("POST", f"{DATABASE}/collections", definition))
        self.world.count("collections created")
        problem = self.caller.call("POST", f"{DATABASE}/collections", definition, 409)
        expect("exists" in problem["message"], f"the answer to a name that is taken: {problem}")

    def fill(self, name: str, _: str) -> None:
        ids = self.chance.sample(self.author.ids(PASSING_RECORDS), self.chance.randint(1, PASSING_RECORDS))
        rows = {identity: self.author.row(name, "upsert") for identity in ids}
        after = self.now(name) | self.after(name, "upsert", rows)
        self.carry_out(after, lambda: self.request(name, "upsert", rows))

    def drop(self, name: str, _: str) -> None:
        self.carry_out(dict.fromkeys(self.now(name)), lambda: self.caller.call("DELETE", self.at(name)))
        self.world.count("collections dropped")

    def rename(self, name: str, new: str) -> None:
        moved = {(new, identity): record for (_, identity), record in self.now(name).items()}
        path = self.caller.path(name)
        self.carry_out(dict.fromkeys(self.now(name)) | moved, lambda: self.caller.call("PUT", path, {"new_name": new}))
        self.world.count("collections renamed")

    def fork(self, name: str, new: str) -> None:
        copied = {(new, identity): record for (_, identity), record in self.now(name).items()}
        path = self.caller.path(name)
        self.carry_out(self.now(name) | copied, lambda: self.caller.call("POST", f"{path}/fork", {"new_name": new}))
        self.world.count("forks")
        check_equal(self.caller.content(new), copied, f"the fork of {name}")

    def fork_of_others(self) -> None:
        """While they write to it: a moment of all of them."""
        name, fork = self.chance.choice(list(COLLECTIONS)), f"{FORKS}{self.author.turn}"
        self.clean(FORKS)
        since = time.monotonic()
        self.caller.call("POST", f"{self.caller.path(name)}/fork", {"new_name": fork})
        until = time.monotonic()
        content = {(name, identity): record for identity, record in self.caller.stored(fork).items()}
        check_cut(self.world.owners, content, [name], since, until, f"a fork of {name}")
        equal(self.caller.definition(fork), self.caller.definition(name), f"definition of a fork of {name}")
        self.caller.call("DELETE", self.at(fork))
        self.world.count("forks")
