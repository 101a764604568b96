#!/usr/bin/env python3
"""chroma_client.py HOST PORT [--phase all|write|verify] [--real-chroma]

Drives a running server with the unmodified Python client (`chromadb`), the synchronous and the
asynchronous one, and compares every answer with a model kept here: a dict of records, a reference
evaluator of filters, and numpy brute force in float64. Nothing is compared with recorded answers, so
the same script runs against Chroma's own server, which is how it was itself checked.

 --phase write   leaves a seeded data set in the server (replaces what an earlier run left)
 --phase verify  checks, usually after a restart, that exactly this data set is there
 --phase all     both, then every scenario with both clients, then a RESET of the server if it allows one
 --real-chroma   the server is Chroma's own (1.5.9): tolerate what it gets wrong, and nothing else. It
                 normalises under cosine (embeddings come back with other last bits, huge and tiny
                 values are lost), stores -0.0 as 0.0, answers {} in place of null for a record with
                 a uri and no metadata, leaves the list metadata of a deleted collection behind,
                 where it turns up in records written later, and searches approximately (so the
                 scenarios give it a large graph).

Exit status 0 only if everything passed; the last line is `N passed, M failed`.
"""

import argparse
import asyncio
import contextlib
import functools
import json
import random
import sys
import time
import traceback
from dataclasses import dataclass

import chromadb
from chromadb.errors import ChromaError, InvalidArgumentError, NotFoundError

import catalog_scenarios
import record_scenarios
import reference
from peer import LetterCount, Peer
from reference import Mismatch, Model, compare_collection, compare_query, done, equal, expect, raises
from samples import random_operations, random_vector

# Where the write phase leaves its data: fixed, because the verify phase is another process.
KEPT_TENANT, KEPT_DATABASE = "client_check_tenant", "client_check_database"
KEPT_SEED = 20260101


# ---------------- what must survive a restart


@dataclass
class Kept:
    """One collection of the data set that outlives the server's process."""

    name: str
    space: str
    dimension: int
    operations: int
    metadata: dict | None = None
    default_database: bool = False

    def history(self):
        """The same operations in every process: the data set is this seed, not a file."""
        return random_operations(random.Random(f"{KEPT_SEED} {self.name}"), self.dimension, self.operations)

    def model(self):
        model = Model()
        for verb, arguments in self.history() if self.operations else ():
            getattr(model, verb)(**arguments)
        return model


KEPT = [
    Kept("kept_l2", "l2", 8, 40, {"purpose": "survive", "n": 1, "x": 2.0, "flag": False}),
    Kept("kept_cosine", "cosine", 384, 30),
    Kept("kept_ip", "ip", 32, 40, {"пример": "да"}),
    Kept("kept_empty", "cosine", 3, 0, {"empty": True}),
    Kept("kept_in_default", "l2", 4, 20, {"database": "default"}, default_database=True),
]
KEPT_LEDGER = "kept_ledger"  # remembers the uuids, which the seed cannot know


async def kept_clients(peer):
    own = await peer.connect(KEPT_TENANT, KEPT_DATABASE)
    return {False: own, True: await peer.connect()}


async def write_kept(peer):
    with contextlib.suppress(ChromaError):  # tenants cannot be deleted: an earlier run's is used again
        await done(peer.admin.create_tenant(KEPT_TENANT))
    with contextlib.suppress(NotFoundError):
        await peer.drop_database(KEPT_DATABASE, KEPT_TENANT)
    await done(peer.admin.create_database(KEPT_DATABASE, KEPT_TENANT))
    clients, ledger = await kept_clients(peer), {}
    for kept in KEPT:
        client = clients[kept.default_database]
        if kept.default_database:
            with contextlib.suppress(NotFoundError):
                if reference.REAL_CHROMA:
                    await peer.empty(await done(client.get_collection(kept.name, embedding_function=None)))
                await done(client.delete_collection(kept.name))
        configuration = {"hnsw": {"space": kept.space}}
        collection = await done(
            client.create_collection(
                f"{kept.name}_draft", metadata=kept.metadata, configuration=configuration, embedding_function=None
            )
        )
        for verb, arguments in kept.history() if kept.operations else ():
            await done(getattr(collection, verb)(**arguments))
        await done(collection.modify(name=kept.name))
        ledger[kept.name] = str(collection.id)
    notes = await done(clients[False].create_collection(KEPT_LEDGER, embedding_function=LetterCount(8)))
    await done(notes.add(ids=["ledger"], documents=[json.dumps(ledger)]))
    # Made and deleted again: it must not come back with the restart.
    doomed = await done(clients[False].create_collection("kept_doomed", embedding_function=None))
    await done(doomed.add(ids=["a"], embeddings=[[1.0]]))
    await done(clients[False].delete_collection("kept_doomed"))


async def verify_kept_catalog(peer):
    clients = await kept_clients(peer)
    wanted = {kept.name for kept in KEPT if not kept.default_database} | {KEPT_LEDGER}
    equal({one.name for one in await done(clients[False].list_collections())}, wanted, "collections of the kept database")
    notes = await done(clients[False].get_collection(KEPT_LEDGER))
    ledger = json.loads((await done(notes.get(ids=["ledger"])))["documents"][0])
    for kept in KEPT:
        found = await done(clients[kept.default_database].get_collection(kept.name, embedding_function=None))
        equal(str(found.id), ledger[kept.name], f"{kept.name}: uuid")
        equal(None if found.metadata is None else dict(found.metadata), kept.metadata, f"{kept.name}: metadata")
        equal(found.configuration_json["hnsw"]["space"], kept.space, f"{kept.name}: space")
    answer = await done(notes.query(query_texts=[json.dumps(ledger)], n_results=1))
    equal(answer["ids"], [["ledger"]], "the embedding function found again")


async def verify_kept_records(peer, kept):
    client = (await kept_clients(peer))[kept.default_database]
    collection, model = await done(client.get_collection(kept.name, embedding_function=None)), kept.model()
    expect(bool(model.records) == bool(kept.operations), "the seeded history leaves nothing to compare")
    await compare_collection(collection, model, kept.name, kept.space)
    rng = random.Random(kept.name)
    if not model.records:
        return
    queries = [random_vector(rng, kept.dimension) for _ in range(5)]
    await compare_query(collection, model, kept.space, queries, 10, f"{kept.name}: query")
    await compare_query(collection, model, kept.space, queries, 5, f"{kept.name}: filtered", where={"bool": True})
    for where in ({"int": {"$lt": 0}}, {"string": "Cedar"}, {"strings": {"$contains": "東京"}}, {"floats": {"$contains": 2.5}}):
        answer = await done(collection.get(where=where, include=[]))
        equal(list(answer["ids"]), model.select(where=where), f"{kept.name}: where {where}")
    with raises(InvalidArgumentError, "dimension", f"{kept.name}: the dimension is remembered"):
        await done(collection.add(ids=["wrong"], embeddings=[[0.0] * (kept.dimension + 1)]))
    # Writes go on where they stopped; afterwards everything is as before, so that verify can run again.
    await done(collection.add(ids=["after restart"], embeddings=[random_vector(rng, kept.dimension)]))
    answer = await done(collection.get(include=[]))
    equal(list(answer["ids"]), [*model.records, "after restart"], f"{kept.name}: a new record comes last")
    await done(collection.delete(ids=["after restart"]))
    await compare_collection(collection, model, f"{kept.name}: after one more write", kept.space)


# ---------------- command line


class Report:
    """Counts what passed; a failure is printed at once and does not stop the others."""

    def __init__(self):
        self.passed = 0
        self.failures = []

    async def check(self, name, make):
        started = time.monotonic()
        try:
            await make()
        except Exception as error:
            self.failures.append(name)
            print(f"FAIL {name}: {type(error).__name__}: {error}", flush=True)
            if not isinstance(error, Mismatch):
                print("".join(traceback.format_exception(error)[-6:]), flush=True)
        else:
            self.passed += 1
            print(f"ok   {name} ({time.monotonic() - started:.2f} s)", flush=True)

    def close(self):
        for name in self.failures:
            print(f"failed: {name}")
        print(f"{self.passed} passed, {len(self.failures)} failed", flush=True)
        # A run that looked at nothing is a failure, too.
        return 0 if self.passed and not self.failures else 1


async def run_with(report, host, port, kind, function, name):
    async def body():
        async with Peer(kind, host, port) as peer:
            await function(peer)

    await report.check(f"{kind} {name}", body)


async def run(host, port, phase):
    report = Report()
    print(f"chromadb {chromadb.__version__} against {host}:{port}, phase {phase}", flush=True)
    if phase in ("all", "write"):
        await run_with(report, host, port, "sync", write_kept, "write the kept data set")
    if phase in ("all", "verify"):
        for kind in ("sync", "async"):
            await run_with(report, host, port, kind, verify_kept_catalog, "verify the kept catalog")
            for kept in KEPT:
                await run_with(report, host, port, kind, functools.partial(verify_kept_records, kept=kept), f"verify {kept.name}")
    if phase == "all":
        for kind in ("sync", "async"):
            for function in catalog_scenarios.SCENARIOS + record_scenarios.SCENARIOS:
                await run_with(report, host, port, kind, function, function.__name__)
        for kind in ("sync", "async"):
            await run_with(report, host, port, kind, catalog_scenarios.reset_if_allowed, "reset_if_allowed")
    return report.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--phase", choices=("all", "write", "verify"), default="all")
    parser.add_argument("--real-chroma", action="store_true")
    arguments = parser.parse_args()
    reference.REAL_CHROMA = arguments.real_chroma
    return asyncio.run(run(arguments.host, arguments.port, arguments.phase))


if __name__ == "__main__":
    sys.exit(main())
