"""Scenarios of tenants, databases and collections: made, found, changed, listed and gone."""

import random
import re
import time
import uuid

from chromadb.errors import ChromaError, NotFoundError

import reference
from peer import DEFAULT_DATABASE, DEFAULT_TENANT
from reference import Model, compare_collection, done, equal, expect, raises
from samples import random_operations
from scenarios import registry

SCENARIOS, scenario = registry()


@scenario
async def server_facts(peer):
    beat = await done(peer.client.heartbeat())
    expect(isinstance(beat, int) and abs(beat / 1e9 - time.time()) < 600, f"heartbeat is not the time in ns: {beat}")
    version = await done(peer.client.get_version())
    expect(re.fullmatch(r"\d+\.\d+\.\d+", version), f"version {version!r}")
    batch = await done(peer.client.get_max_batch_size())
    expect(isinstance(batch, int) and 1 <= batch <= 20_000, f"max_batch_size {batch}")
    identity = await done(peer.client.get_user_identity())
    equal(identity.tenant, DEFAULT_TENANT, "identity: tenant")
    expect(DEFAULT_DATABASE in identity.databases, f"identity: databases {identity.databases}")


@scenario
async def create_get_and_get_or_create(peer):
    client, metadata = peer.client, {"topic": "stones", "n": 3, "x": 2.0, "ok": True, "tiny": 5.68e-227}
    made = await peer.create("stones", space="cosine", metadata=metadata)
    equal(dict(made.metadata), metadata, "metadata of the created collection")
    equal((made.tenant, made.database), (DEFAULT_TENANT, peer.database), "tenant and database")
    for again in (
        await done(client.get_collection("stones", embedding_function=None)),
        await done(client.get_collection_by_id(made.id)),
        # An existing collection comes back unchanged: the other metadata and space are ignored.
        await done(client.get_or_create_collection("stones", metadata={"other": 1}, embedding_function=None)),
    ):
        equal((again.id, again.name, dict(again.metadata)), (made.id, "stones", metadata), "the collection read again")
        equal(again.configuration_json["hnsw"]["space"], "cosine", "space read again")
    bare = await done(client.get_or_create_collection("bare.name_1", embedding_function=None))
    equal(bare.metadata, None, "no metadata")
    equal(bare.configuration_json["hnsw"]["space"], "l2", "default space")
    expect(bare.id != made.id, "two collections share an id")


@scenario
async def configuration_round_trip(peer):
    wanted = {
        "space": "ip",
        "ef_construction": 77,
        "ef_search": 55,
        "max_neighbors": 9,
        "resize_factor": 1.5,
        "sync_threshold": 500,
    }
    await done(peer.client.create_collection("tuned", configuration={"hnsw": wanted}, embedding_function=None))
    tuned = await done(peer.client.get_collection("tuned", embedding_function=None))
    equal({key: tuned.configuration_json["hnsw"][key] for key in wanted}, wanted, "hnsw configuration")
    await done(tuned.modify(configuration={"hnsw": {"ef_search": 66}}))
    tuned = await done(peer.client.get_collection("tuned", embedding_function=None))
    equal(tuned.configuration_json["hnsw"]["ef_search"], 66, "ef_search after modify")
    equal(tuned.configuration_json["hnsw"]["space"], "ip", "space after modify")


@scenario
async def rename_and_modify(peer):
    client = peer.client
    collection, other = await peer.create("before", metadata={"a": 1, "b": 2}), await peer.create("taken")
    await done(collection.add(ids=["x"], embeddings=[[1.0, 2.0]]))
    await done(collection.modify(name="after"))
    with raises(NotFoundError, "does not exist", "the old name"):
        await done(client.get_collection("before", embedding_function=None))
    found = await done(client.get_collection("after", embedding_function=None))
    equal(
        (found.id, await done(found.count()), dict(found.metadata)),
        (collection.id, 1, {"a": 1, "b": 2}),
        "the renamed collection",
    )
    equal(await done(collection.count()), 1, "a handle taken before the rename")
    await done(collection.modify(metadata={"c": 3.0}))
    found = await done(client.get_collection("after", embedding_function=None))
    equal(dict(found.metadata), {"c": 3.0}, "metadata is replaced, not merged")
    with raises(ChromaError, "", "rename to a taken name"):
        await done(found.modify(name="taken"))
    equal((await done(client.get_collection("after", embedding_function=None))).id, collection.id, "after a refused rename")
    equal((await done(client.get_collection("taken", embedding_function=None))).id, other.id, "the taken name")
    reused = await peer.create("before")
    equal(await done(reused.count()), 0, "the old name is free again and empty")


@scenario
async def fork_and_indexing_status(peer):
    if reference.REAL_CHROMA:
        return  # Chroma's own single node offers none of these.
    model, origin = Model(), await peer.create("origin", space="cosine", metadata={"a": 1})
    for verb, arguments in random_operations(random.Random(5), 7, 20):
        await done(getattr(origin, verb)(**arguments))
        getattr(model, verb)(**arguments)
    fork = await done(origin.fork("the-fork"))
    expect(fork.id != origin.id, "a fork has an id of its own")
    equal((fork.name, dict(fork.metadata)), ("the-fork", {"a": 1}), "the fork")
    await compare_collection(fork, model, "the fork", "cosine")
    await done(fork.add(ids=["only in the fork"], embeddings=[[1.0] * 7]))
    await compare_collection(origin, model, "the origin", "cosine")
    equal((await done(origin.fork_count()), await done(fork.fork_count())), (1, 1), "fork_count")
    status = await done(origin.get_indexing_status())
    equal((status.num_unindexed_ops, status.op_indexing_progress), (0, 1.0), "indexing status")
    equal(status.num_indexed_ops, status.total_ops, "indexing status")
    with raises(ChromaError, "exists", "a fork to a taken name"):
        await done(origin.fork("the-fork"))


@scenario
async def list_and_count_collections(peer):
    names = [f"list-{n}" for n in range(7)]
    made = {name: (await peer.create(name, metadata={"n": int(name[5:])})).id for name in names}
    listed = await done(peer.client.list_collections())
    equal({one.name: one.id for one in listed}, made, "all of them")
    equal({one.name: one.metadata["n"] for one in listed}, {name: int(name[5:]) for name in names}, "with metadata")
    equal(await done(peer.client.count_collections()), 7, "count")
    order = [one.name for one in listed]
    for limit, offset in [(3, 0), (3, 3), (3, 6), (10, 2), (2, 10)]:
        page = await done(peer.client.list_collections(limit=limit, offset=offset))
        equal([one.name for one in page], order[offset : offset + limit], f"limit {limit} offset {offset}")
    await done(peer.client.delete_collection("list-3"))
    equal(await done(peer.client.count_collections()), 6, "count after a delete")
    expect("list-3" not in [one.name for one in await done(peer.client.list_collections())], "the deleted one is listed")


@scenario
async def tenants_and_databases(peer):
    admin, mark = peer.admin, uuid.uuid4().hex[:8]
    tenant, names = f"tenant_{mark}", [f"db_{mark}_{n}" for n in (2, 0, 1)]
    with raises(NotFoundError, tenant, "a tenant that does not exist"):
        await done(admin.get_tenant(tenant))
    await done(admin.create_tenant(tenant))
    equal((await done(admin.get_tenant(tenant)))["name"], tenant, "tenant")
    with raises(ChromaError, "already exists", "the same tenant again"):
        await done(admin.create_tenant(tenant))
    for name in names:
        await done(admin.create_database(name, tenant))
        found = await done(admin.get_database(name, tenant))
        equal((found["name"], found["tenant"]), (name, tenant), "database")
    with raises(ChromaError, "already exists", "the same database again"):
        await done(admin.create_database(names[0], tenant))
    listed = [one["name"] for one in await done(admin.list_databases(tenant=tenant))]
    equal(listed, sorted(names), "databases by name")
    page = await done(admin.list_databases(limit=1, offset=1, tenant=tenant))
    equal([one["name"] for one in page], [sorted(names)[1]], "one page of databases")

    first, second = [await peer.connect(tenant, name) for name in names[:2]]
    one = await done(first.create_collection("same", embedding_function=None))
    two = await done(second.create_collection("same", embedding_function=None))
    await done(one.add(ids=["a"], embeddings=[[1.0]]))
    equal((await done(one.count()), await done(two.count())), (1, 0), "one name in two databases")
    equal(await done(peer.client.count_collections()), 0, "another tenant's collections are not seen")
    await done(admin.delete_database(names[0], tenant))
    with raises(NotFoundError, "does not exist", "a collection of a deleted database"):
        await done(one.count())
    equal(await done(two.count()), 0, "the collection of the same name elsewhere")
    for missing in (names[0], "never_made"):
        with raises(NotFoundError, "not found", f"database {missing}"):
            await done(admin.get_database(missing, tenant))
        with raises(NotFoundError, "not found", f"delete database {missing}"):
            await done(admin.delete_database(missing, tenant))
    await done(admin.delete_database(names[1], tenant))
    await done(admin.delete_database(names[2], tenant))
    equal(list(await done(admin.list_databases(tenant=tenant))), [], "no database left")


@scenario
async def missing_collections(peer):
    client = peer.client
    with raises(NotFoundError, "does not exist", "get"):
        await done(client.get_collection("nowhere", embedding_function=None))
    with raises(NotFoundError, "does not exist", "get by id"):
        await done(client.get_collection_by_id(uuid.uuid4()))
    with raises(NotFoundError, "does not exist", "delete"):
        await done(client.delete_collection("nowhere"))
    gone = await peer.create("gone")
    await done(gone.add(ids=["a"], embeddings=[[1.0, 2.0]]))
    await done(client.delete_collection("gone"))
    calls = {
        "add": lambda: gone.add(ids=["b"], embeddings=[[1.0, 2.0]]),
        "upsert": lambda: gone.upsert(ids=["b"], embeddings=[[1.0, 2.0]]),
        "update": lambda: gone.update(ids=["a"], embeddings=[[1.0, 2.0]]),
        "get": lambda: gone.get(),
        "peek": lambda: gone.peek(),
        "count": lambda: gone.count(),
        "query": lambda: gone.query(query_embeddings=[[1.0, 2.0]]),
        "delete": lambda: gone.delete(ids=["a"]),
        "modify": lambda: gone.modify(name="risen"),
    }
    for verb, call in calls.items():
        with raises(NotFoundError, "Collection .* does not exist", f"{verb} on a deleted collection"):
            await done(call())
    again = await peer.create("gone")
    expect(again.id != gone.id, "a new collection has the id of the deleted one")
    equal(await done(again.count()), 0, "the new collection is empty")


async def reset_if_allowed(peer):
    """Last of all: after a reset only the default tenant and database are left, and they work at once."""
    kept = await peer.create("kept_or_not")
    await done(kept.add(ids=["a"], embeddings=[[1.0]]))
    try:
        answer = await done(peer.client.reset())
    except ChromaError as error:
        expect("disabled" in str(error).lower(), f"reset failed: {error}")
        equal(await done(kept.count()), 1, "count after a refused reset")
        print("     (this server does not allow a reset; the refusal was checked instead)")
        return
    equal(answer, True, "answer of reset")
    with raises(NotFoundError, "does not exist", "a collection from before the reset"):
        await done(kept.count())
    client = await peer.connect()
    equal(await done(client.count_collections()), 0, "collections after the reset")
    with raises(NotFoundError, "not found", "a database from before the reset"):
        await done(peer.admin.get_database(peer.database))
    fresh = await done(client.create_collection("kept_or_not", embedding_function=None))
    await done(fresh.add(ids=["z"], embeddings=[[1.0, 2.0]]))
    equal(await done(fresh.count()), 1, "a write right after the reset")
    await done(client.delete_collection("kept_or_not"))
