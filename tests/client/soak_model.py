"""What soak.py knows: each record as its owner last had it acknowledged, and every state that it had, with its time.

Whoever writes owns what it writes: nobody else does. An owner does one thing at a time, so its records went through a
sequence of states, and what a backup, a fork or a migration holds of them must be one of these as a whole: never a part of
a batch, never a later batch without an earlier one. All owners' states in one copy must also have been there at one moment.
A state is known by the sum of its records' hashes, so that remembering all of them takes little room.
"""

import hashlib
import json
import random
import threading
import time
from collections import defaultdict
from typing import NamedTuple

import numpy as np

from contents import RARE_COMPONENTS, Record, as_text
from processes import Failed, expect
from samples import SPECIAL_IDS, random_document, random_metadata

# Name, space, dimension.
COLLECTIONS = {"soak-l2": ("l2", 16), "soak-cosine": ("cosine", 128), "soak-ip": ("ip", 48), "soak-small": ("l2", 3),
               "soak-wide": ("cosine", 384)}
# Collections that come and go; the owner of all of them; whose records never change.
PASSING, NAMER, STILL = "life-", "namer", "still"
# The scope of a state that goes over all collections of its owner.
WHOLE = ""
SCOPES = {WHOLE, *COLLECTIONS}
ALWAYS, NEVER_YET = float("-inf"), float("inf")
MODULUS = 1 << 128
# Above the length from which the store splits a value over several keys.
LONG_DOCUMENT = 30_000

Key = tuple[str, str]
Content = dict[Key, Record]
# Stands for a collection that is there, as a record with an id that no record can have.
MARKER = Record(b"", None, None, as_text(None))


def rows_of(answer: dict) -> dict[str, Record]:
    """The records of a get that includes everything, or of a collection in an export."""
    vectors = [np.array(vector, "<f4").tobytes() for vector in answer["embeddings"]]
    rows = zip(vectors, answer["documents"], answer["uris"], map(as_text, answer["metadatas"]))
    return dict(zip(answer["ids"], (Record(*row) for row in rows), strict=True))


def marker(name: str) -> Key:
    return name, ""


def hash_of(key: Key, record: Record | None) -> int:
    if record is None:
        return 0
    text = json.dumps([*key, record.document, record.uri, record.metadata])
    return int.from_bytes(hashlib.blake2b(text.encode() + b"\0" + record.vector, digest_size=16).digest(), "little")


def owner_of(key: Key) -> str:
    collection, identity = key
    return NAMER if collection.startswith(PASSING) else identity.partition(".")[0]


class Change(NamedTuple):
    """What one request does to its owner's records, as a whole or not at all."""

    before: dict[Key, Record | None]
    after: dict[Key, Record | None]
    # The sums of the state that it leads to, by scope; and which of them were never seen before.
    totals: dict[str, int]
    fresh: list[tuple[str, int]]


class Owner:
    """Who alone writes certain records."""

    def __init__(self, name: str) -> None:
        self.name, self.records, self.totals = name, {}, defaultdict(int)
        # From when until when a state may have been there, by scope and sum.
        self.spans: dict[tuple[str, int], tuple[float, float]] = {(scope, 0): (ALWAYS, NEVER_YET) for scope in SCOPES}
        self.doubt: Change | None = None
        # Others look at the spans while they are changed.
        self.lock = threading.Lock()

    def of(self, collection: str) -> dict[str, Record]:
        return {key[1]: record for key, record in self.records.items() if key[0] == collection}

    def begin(self, after: dict[Key, Record | None]) -> Change:
        """Before it is sent: from now on the state that it leads to may be there."""
        before, totals = {key: self.records.get(key) for key in after}, {WHOLE: self.totals[WHOLE]}
        for key, record in after.items():
            difference = hash_of(key, record) - hash_of(key, before[key])
            for scope in {WHOLE, key[0]} & SCOPES:
                totals[scope] = (totals.get(scope, self.totals[scope]) + difference) % MODULUS
        change = Change(before, after, totals, [])
        with self.lock:
            for state in totals.items():
                if state not in self.spans:
                    change.fresh.append(state)
                self.spans[state] = (self.spans.get(state, (time.monotonic(),))[0], NEVER_YET)
        return change

    def acknowledge(self, change: Change) -> None:
        now = time.monotonic()
        with self.lock:
            for scope, total in change.totals.items():
                if (earlier := (scope, self.totals[scope])) != (scope, total):
                    self.spans[earlier] = (self.spans[earlier][0], now)
            self.totals.update(change.totals)
        for key, record in change.after.items():
            if record is None:
                self.records.pop(key, None)
            else:
                self.records[key] = record

    def revoke(self, change: Change) -> None:
        """It was not carried out."""
        with self.lock:
            for state in change.fresh:
                del self.spans[state]

    def settle(self, found: Content, where: str) -> str:
        """After a stop, with what is there now of all that the request in doubt was about."""
        change, self.doubt = self.doubt, None
        there, absent = (present(side) for side in (change.after, change.before))
        if found == there:
            self.acknowledge(change)
            return "there" if there != absent else "no difference"
        self.revoke(change)
        expect(found == absent, f"{where}: a request of {self.name} that was not answered is neither there as a whole nor not at "
                                f"all: of {len(change.after)} records {differing(found, there)} differ from all of it, "
                                f"{differing(found, absent)} from nothing of it")
        return "not there"


def present(records: dict[Key, Record | None]) -> Content:
    return {key: record for key, record in records.items() if record is not None}


def differing(found: dict, wanted: dict) -> str:
    keys = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
    return f"{len(keys)} {keys[:3]}"


def check_equal(found: dict, wanted: dict, where: str) -> None:
    """Every record, bit for bit."""
    if found == wanted:
        return
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    changed = sorted(key for key in wanted.keys() & found.keys() if found[key] != wanted[key])
    example = ""
    if changed:
        names = [name for name, one, other in zip(Record._fields, found[changed[0]], wanted[changed[0]]) if one != other]
        sides = [[getattr(side[changed[0]], name) for name in names] for side in (found, wanted)]
        example = f"; {changed[0]} in {names}: {str(sides[0])[:200]}, expected {str(sides[1])[:200]}"
    raise Failed(f"{where}: {len(found)} records, expected {len(wanted)}; {len(missing)} missing {missing[:3]}, {len(extra)} that "
                 f"should not be there {extra[:3]}, {len(changed)} changed {changed[:3]}{example}")


def check_cut(owners: list[Owner], content: Content, scopes: list[str], since: float, until: float, where: str) -> None:
    """A copy of everything, or of some collections, must hold a state of each owner, all of one moment between the two."""
    totals: dict[tuple[str, str], int] = defaultdict(int)
    for key, record in content.items():
        for scope in {WHOLE, key[0]}.intersection(scopes):
            totals[owner_of(key), scope] += hash_of(key, record)
    known = {owner.name for owner in owners}
    strangers = sorted({owner for owner, _ in totals} - known)
    expect(not strangers, f"{where} holds records of nobody: {strangers[:5]}")
    begin, begun_by, end, ended_by = since, "the request", until, "the answer"
    for owner in owners:
        for scope in scopes:
            total = totals[owner.name, scope] % MODULUS
            with owner.lock:
                span, state = owner.spans.get((scope, total)), (scope, owner.totals[scope])
            now = "" if (scope, total) != state else " (that of now)"
            expect(span, f"{where}: {owner.name} never had this state{f' of {scope}' if scope else ''}: "
                         f"{differing(mine(content, owner, scope), mine(owner.records, owner, scope))} differ from what it has now")
            if span[0] > begin:
                begin, begun_by = span[0], f"{owner.name}{now}"
            if span[1] < end:
                end, ended_by = span[1], f"{owner.name}{now}"
    expect(begin <= end, f"{where} is of no one moment: the state of {ended_by} was over {begin - end:.3f} s before that of "
                         f"{begun_by} could begin")


def mine(content: Content, owner: Owner, scope: str) -> Content:
    return {key: record for key, record in dict(content).items() if owner_of(key) == owner.name and scope in (WHOLE, key[0])}


# ---------------- what is written


class Row(NamedTuple):
    """A record of a request; what is None is not written, in metadata as well."""

    vector: np.ndarray | None
    document: str | None
    uri: str | None
    metadata: dict | None


def applied(verb: str, there: Record | None, row: Row | None) -> Record | None:
    """What a verb makes of a record."""
    if verb == "delete":
        return None
    if there is None:
        if verb == "update":
            return None
        there = Record(b"", None, None, as_text(None))
    elif verb == "add":
        return there
    metadata = there.values | (row.metadata or {})
    return Record(
        there.vector if row.vector is None else row.vector.tobytes(),
        there.document if row.document is None else row.document,
        there.uri if row.uri is None else row.uri,
        as_text({key: value for key, value in metadata.items() if value is not None}),
    )


class Author:
    """Makes up rows, the same for the same seed."""

    def __init__(self, seed: str, name: str) -> None:
        self.name, self.turn, self.always_vectors = name, 0, False
        self.chance, self.normal = random.Random(seed), np.random.default_rng(list(seed.encode()))

    def vector(self, collection: str) -> np.ndarray:
        space, dimension = COLLECTIONS.get(collection, ("l2", 8))
        vector = self.normal.standard_normal(dimension, "f4")
        if dimension > 8 and self.chance.random() < 0.1:
            vector[:3] = RARE_COMPONENTS
        # With vectors of one length the nearest by inner product is the same vector.
        return vector / np.sqrt((vector * vector).sum(dtype="f4"), dtype="f4") if space == "ip" else vector

    def row(self, collection: str, verb: str) -> Row:
        """An update may leave out anything."""
        metadata = self.filtered() | random_metadata(self.chance, may_delete=verb != "add")
        metadata |= {"owner": self.name, "turn": self.turn}
        document, uri = random_document(self.chance), f"https://example.org/{self.turn}?q=ä"
        if document is not None:
            document += f" of turn {self.turn}" + " and on" * (LONG_DOCUMENT // 7 if self.chance.random() < 0.005 else 0)
        row = Row(self.vector(collection), document, uri if self.chance.random() < 0.5 else None, metadata)
        if verb != "update":
            return row
        vector, *others = (part if self.chance.random() < 0.7 else None for part in row)
        return Row(row.vector if self.always_vectors else vector, *others)

    def filtered(self) -> dict:
        """The keys that samples.random_where asks for."""
        values = {
            "i": self.chance.randint(-3, 6),
            "f": self.chance.choice([-1.5, 0.0, 0.5, 2.0, 2.5]),
            "b": self.chance.random() < 0.5,
            "s": self.chance.choice(["red", "green", "blue", "Red"]),
            "li": self.chance.sample(range(6), 2),
            "ls": self.chance.sample(["x", "y", "z"], 2),
        }
        return {key: values[key] for key in self.chance.sample(list(values), self.chance.randint(0, 6))}

    def ids(self, count: int) -> list[str]:
        rare = [f"{self.name}.{identity}" for identity in SPECIAL_IDS]
        return rare + [f"{self.name}.{number:04}" for number in range(count - len(rare))]
