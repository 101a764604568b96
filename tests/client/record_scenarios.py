"""Scenarios of records: written, read, filtered and searched, each answer compared with a model."""

import asyncio
import random
import threading

import chromadb
import numpy as np
from chromadb.config import Settings
from chromadb.errors import ChromaError, DuplicateIDError, InvalidArgumentError, NotFoundError

import reference
from peer import LetterCount
from reference import (
    EVERYTHING,
    SPACES,
    Model,
    compare_collection,
    compare_query,
    compare_records,
    done,
    equal,
    expect,
    plain,
    raises,
    same_bits,
)
from samples import (
    DOCUMENT_FILTERS,
    SPECIAL_IDS,
    filtering_data,
    random_batch,
    random_operations,
    random_vector,
    random_where,
)
from scenarios import registry

SCENARIOS, scenario = registry()


@scenario
async def embedding_function_comes_back(peer):
    texts = ["granite and basalt", "a falcon over the harbor", "ivory", "juniper"]
    made = await done(peer.client.create_collection("letters", embedding_function=LetterCount(24)))
    await done(made.add(ids=["a", "b", "c", "d"], documents=texts))
    found = await done(peer.client.get_collection("letters"))
    equal(
        found.configuration_json["embedding_function"],
        {"type": "known", "name": "letter_count", "config": {"buckets": 24}},
        "stored function",
    )
    answer = await done(found.query(query_texts=texts, n_results=1))
    equal([row[0] for row in answer["ids"]], ["a", "b", "c", "d"], "each text finds itself")
    expect(all(abs(row[0]) < 1e-6 for row in answer["distances"]), f"at distance 0: {answer['distances']}")
    await done(found.update(ids=["c"], documents=["zzzz"]))
    vector = (await done(found.get(ids=["c"], include=["embeddings"])))["embeddings"][0]
    expect(same_bits(vector, LetterCount(24)(["zzzz"])[0]), "a new document is embedded again")


@scenario
async def add_get_and_include(peer):
    model, collection = Model(), await peer.create("things")
    batch = random_batch(random.Random(1), 5, SPECIAL_IDS + [f"t{n}" for n in range(40)])
    await done(collection.add(**batch))
    model.add(**batch)
    await compare_collection(collection, model, "after add")
    some = [SPECIAL_IDS[2], "t3", "unknown", SPECIAL_IDS[6]]
    answer = await done(collection.get(ids=some, include=EVERYTHING))
    compare_records(answer, model, model.select(ids=some), "get by ids")
    answer = await done(collection.get(ids=["t1", "t0"]))
    equal(list(answer["ids"]), ["t0", "t1"], "insertion order, not the order of the ids asked for")
    expect(answer["embeddings"] is None and answer["uris"] is None, "get gives embeddings or uris unasked")
    expect(answer["documents"] is not None and answer["metadatas"] is not None, "documents and metadatas by default")
    answer = await done(collection.get(include=[]))
    equal(list(answer["ids"]), list(model.records), "only ids")
    expect(answer["documents"] is None and answer["metadatas"] is None, "include=[] gave more than ids")
    answer = await done(collection.peek(3))
    equal(list(answer["ids"]), list(model.records)[:3], "peek")


@scenario
async def embeddings_keep_their_bits(peer):
    rows = [
        [1.0, -0.0, 1e-45, 3.4028235e38],
        [0.1, 1 / 3, -2.5e-30, 16777217.0],
        [1.1754944e-38, -3.4028235e38, 7e-46 * 2, 123456.789],
    ]
    for name, given in {
        "lists": rows,
        "float64": [np.float64(row) for row in rows],
        "float32": [np.float32(row) for row in rows],
    }.items():
        collection = await peer.create(f"bits_{name}", space="l2" if reference.REAL_CHROMA else "cosine")
        await done(collection.add(ids=["0", "1", "2"], embeddings=given))
        answer = await done(collection.get(include=["embeddings"]))
        for position, row in enumerate(rows):
            expect(
                same_bits(answer["embeddings"][position], np.float32(row)),
                f"{name}: {answer['embeddings'][position]} is not {row}",
            )


@scenario
async def limit_offset_and_order(peer):
    model, collection, rng = Model(), await peer.create("pages"), random.Random(2)
    ids = [f"p{n:03}" for n in range(100)]
    rng.shuffle(ids)
    for start in range(0, 100, 17):
        batch = random_batch(rng, 3, ids[start : start + 17])
        await done(collection.add(**batch))
        model.add(**batch)
    filters = [{}, {"where": {"int": {"$gte": 0}}}, {"where_document": {"$contains": "e"}}, {"ids": ids[10:60]}]
    for given in filters:
        full = model.select(**given)
        for limit, offset in [(10, 0), (10, 5), (33, 66), (1000, 0), (5, 99), (5, 100), (5, 1000), (None, 20), (7, None)]:
            answer = await done(collection.get(limit=limit, offset=offset, **given))
            start = offset or 0
            wanted = full[start : None if limit is None else start + limit]
            equal(list(answer["ids"]), wanted, f"{list(given)} limit {limit} offset {offset}")


@scenario
async def where_filters(peer):
    model, collection, rng = Model(), await peer.create("filters"), random.Random(3)
    batch = filtering_data(rng)
    await done(collection.add(**batch))
    model.add(**batch)
    selective = 0
    for _ in range(150):
        where = random_where(rng)
        wanted = model.select(where=where)
        selective += 0 < len(wanted) < len(model.records)
        answer = await done(collection.get(where=where, include=[]))
        equal(list(answer["ids"]), wanted, f"where {where}")
    expect(selective > 75, f"only {selective} of 150 filters tell records apart: the data is wrong")


@scenario
async def where_document_filters(peer):
    model, collection, rng = Model(), await peer.create("texts"), random.Random(4)
    batch = filtering_data(rng)
    await done(collection.add(**batch))
    model.add(**batch)
    for where_document in DOCUMENT_FILTERS:
        answer = await done(collection.get(where_document=where_document, include=[]))
        equal(list(answer["ids"]), model.select(where_document=where_document), f"where_document {where_document}")
    both = dict(where={"i": {"$gte": 0}}, where_document={"$contains": "amber"}, ids=batch["ids"][:80])
    answer = await done(collection.get(include=[], **both))
    equal(list(answer["ids"]), model.select(**both), "ids, where and where_document together")


@scenario
async def query_against_brute_force(peer):
    for space in SPACES:
        for dimension in (2, 6, 384):
            model, rng = Model(), random.Random(f"{space}{dimension}")
            collection = await peer.create(f"space-{space}-{dimension}", space=space)
            batch = filtering_data(rng, dimension)
            await done(collection.add(**batch))
            model.add(**batch)
            queries = [random_vector(rng, dimension) * rng.choice([0.1, 1, 10]) for _ in range(4)]
            what = f"{space} {dimension}"
            await compare_query(collection, model, space, queries, 10, what)
            await compare_query(collection, model, space, queries[:1], 500, f"{what}, more than there are")
            await compare_query(collection, model, space, queries, 5, f"{what}, where", where={"s": {"$in": ["red", "blue"]}})
            await compare_query(
                collection, model, space, queries, 5, f"{what}, where_document", where_document={"$contains": "e"}
            )
            await compare_query(collection, model, space, queries, 3, f"{what}, ids", ids=batch["ids"][20:30])
            both = dict(where={"i": {"$gte": 1}}, where_document={"$not_contains": "amber"})
            await compare_query(collection, model, space, queries, 5, f"{what}, both filters", **both)
            await compare_query(collection, model, space, queries, 5, f"{what}, nothing matches", where={"s": "no such"})


@scenario
async def query_answer_columns(peer):
    collection = await peer.create("columns")
    answer = await done(collection.query(query_embeddings=[[1.0, 2.0], [3.0, 4.0]], n_results=3))
    equal([list(row) for row in answer["ids"]], [[], []], "an empty collection answers with empty lists")
    await done(collection.add(ids=["a"], embeddings=[[1.0, 2.0]], documents=["one"], metadatas=[{"k": 1}], uris=["u"]))
    answer = await done(collection.query(query_embeddings=[[1.0, 2.0]]))
    expect(answer["embeddings"] is None and answer["uris"] is None, "query gives embeddings or uris unasked")
    equal((answer["documents"], answer["distances"]), ([["one"]], [[0.0]]), "documents and distances by default")
    answer = await done(collection.query(query_embeddings=[[1.0, 2.0]], include=["uris"]))
    expect(answer["documents"] is None and answer["distances"] is None, "include is not obeyed")
    equal(answer["uris"], [["u"]], "uris")


@scenario
async def add_leaves_existing_records(peer):
    collection = await peer.create("twice")
    await done(collection.add(ids=["a"], embeddings=[[1.0, 2.0]], documents=["old"], metadatas=[{"v": 1}]))
    await done(collection.add(ids=["a", "b"], embeddings=[[9.0, 9.0], [3.0, 4.0]], documents=["new", "b"]))
    answer = await done(collection.get(include=["documents", "metadatas", "embeddings"]))
    equal((list(answer["ids"]), answer["documents"]), (["a", "b"], ["old", "b"]), "the first record stays")
    expect(same_bits(answer["embeddings"][0], [1.0, 2.0]), "the first embedding stays")


@scenario
async def update_merges_and_none_deletes(peer):
    collection = await peer.create("merge")
    await done(
        collection.add(
            ids=["a", "b"],
            embeddings=[[1.0, 2.0], [3.0, 4.0]],
            documents=["da", "db"],
            metadatas=[{"x": 1, "y": "two", "z": [1, 2]}, {"only": True}],
            uris=["ua", "ub"],
        )
    )
    await done(
        collection.update(ids=["a", "b", "unknown"], metadatas=[{"x": 1.5, "y": None, "n": "new"}, {"only": None}, {"q": 1}])
    )
    answer = await done(collection.get(include=EVERYTHING))
    equal(list(answer["ids"]), ["a", "b"], "an unknown id is not created by update")
    equal(plain(answer["metadatas"][0]), {"x": 1.5, "z": [1, 2], "n": "new"}, "merged key by key")
    equal(plain(answer["metadatas"][1]), None, "the last key deleted")
    equal((answer["documents"], answer["uris"]), (["da", "db"], ["ua", "ub"]), "what was not given stays")
    await done(collection.update(ids=["b"], embeddings=[[7.0, 8.0]]))
    answer = await done(collection.get(ids=["b"], include=EVERYTHING))
    expect(same_bits(answer["embeddings"][0], [7.0, 8.0]), "the embedding is replaced")
    equal(answer["documents"], ["db"], "the document stays")
    answer = await done(collection.query(query_embeddings=[[7.0, 8.0]], n_results=1))
    equal((answer["ids"], answer["distances"]), ([["b"]], [[0.0]]), "search sees the new embedding")
    equal(list((await done(collection.get(where={"y": "two"})))["ids"]), [], "filters see the deletion")
    equal(list((await done(collection.get(where={"n": "new"})))["ids"]), ["a"], "filters see the new key")


@scenario
async def upsert_inserts_or_updates(peer):
    collection = await peer.create("upserts")
    await done(
        collection.add(
            ids=["a", "b"], embeddings=[[1.0, 0.0], [0.0, 1.0]], documents=["a1", "b1"], metadatas=[{"k": 1, "l": 2}, {"k": 2}]
        )
    )
    await done(
        collection.upsert(
            ids=["c", "a"], embeddings=[[5.0, 5.0], [6.0, 6.0]], documents=["c1", "a2"], metadatas=[{"k": 3}, {"k": "text"}]
        )
    )
    answer = await done(collection.get(include=["documents", "metadatas", "embeddings"]))
    equal(list(answer["ids"]), ["a", "b", "c"], "an updated record keeps its place")
    equal(answer["documents"], ["a2", "b1", "c1"], "documents")
    equal([dict(m) for m in answer["metadatas"]], [{"k": "text", "l": 2}, {"k": 2}, {"k": 3}], "metadata merged")
    expect(same_bits(answer["embeddings"][0], [6.0, 6.0]), "the embedding is replaced")
    equal(await done(collection.count()), 3, "count")


@scenario
async def delete_by_ids_and_filters(peer):
    model, collection, rng = Model(), await peer.create("deletes"), random.Random(5)
    batch = filtering_data(rng)
    await done(collection.add(**batch))
    model.add(**batch)
    steps = [
        dict(ids=["f001", "f004", "f077"]),
        dict(where={"s": "red"}),
        dict(where_document={"$contains": "amber"}),
        dict(ids=batch["ids"][:40], where={"b": True}),
        dict(where={"i": 5555}),
    ]
    for step in steps:
        gone = model.select(**step)
        answer = await done(collection.delete(**step))
        equal(answer["deleted"], len(gone), f"deleted by {step}")
        model.delete(gone)
        await compare_collection(collection, model, f"after delete {step}")
    first = model.select(where={"i": {"$gte": -3}})[:2]
    await done(collection.delete(where={"i": {"$gte": -3}}, limit=2))
    model.delete(first)
    await compare_collection(collection, model, "after delete with a limit")
    await compare_query(collection, model, "l2", [random_vector(rng, 6)], 20, "query after deletes")
    again = {key: column[4:5] for key, column in batch.items()}
    await done(collection.add(**again))
    model.add(**again)
    equal(list(model.records)[-1], "f004", "the model puts a record that was added again last")
    await compare_collection(collection, model, "added again: last in order")


@scenario
async def random_history_equals_the_model(peer):
    for seed, space in enumerate(SPACES):
        model, collection = Model(), await peer.create(f"history_{space}", space=space)
        for verb, arguments in random_operations(random.Random(seed), 7, 60):
            await done(getattr(collection, verb)(**arguments))
            getattr(model, verb)(**arguments)
        await compare_collection(collection, model, f"{space} history {seed}", space)
        rng = random.Random(seed)
        await compare_query(collection, model, space, [random_vector(rng, 7) for _ in range(3)], 10, f"{space} history {seed}")


@scenario
async def refusals(peer):
    client, collection = peer.client, await peer.create("strict")
    await done(collection.add(ids=["a"], embeddings=[[1.0, 2.0, 3.0]], documents=["text"], metadatas=[{"k": 1}]))
    with raises(ChromaError, "already exists", "a second collection of the same name"):
        await peer.create("strict")
    for verb, call in {
        "add": lambda: collection.add(ids=["b"], embeddings=[[1.0, 2.0]]),
        "upsert": lambda: collection.upsert(ids=["b", "c"], embeddings=[[1.0, 2.0], [3.0, 4.0]]),
        "update": lambda: collection.update(ids=["a"], embeddings=[[1.0, 2.0, 3.0, 4.0]]),
        "query": lambda: collection.query(query_embeddings=[[1.0, 2.0]]),
    }.items():
        with raises(InvalidArgumentError, "dimension", f"wrong dimension in {verb}"):
            await done(call())
    with raises(InvalidArgumentError, "regex", "a pattern that is none"):
        await done(collection.get(where_document={"$regex": "(unclosed"}))
    with raises(InvalidArgumentError, "", "an unknown space in legacy metadata"):
        await done(client.create_collection("legacy", metadata={"hnsw:space": "nope"}, embedding_function=None))
    with raises(Exception, "name", "a name that is too short"):
        await peer.create("x")
    with raises(DuplicateIDError, "duplicate", "an id twice in one batch"):
        await done(collection.add(ids=["d", "d"], embeddings=[[1.0, 2.0, 3.0]] * 2))
    with raises(ValueError, "limit", "delete with a limit and no filter"):
        await done(collection.delete(ids=["a"], limit=1))
    try:
        await done(client.get_collection("nowhere", embedding_function=None))
    except NotFoundError as error:
        expect(error.trace_id, "an error without a trace id")
    answer = await done(collection.get(include=EVERYTHING))
    equal((list(answer["ids"]), answer["documents"]), (["a"], ["text"]), "refused requests changed nothing")
    expect(same_bits(answer["embeddings"][0], [1.0, 2.0, 3.0]), "refused requests changed the embedding")


@scenario
async def batches_up_to_the_limit(peer):
    collection, limit = await peer.create("batches"), await done(peer.client.get_max_batch_size())
    vectors = np.random.default_rng(6).standard_normal((limit + 1, 3)).astype(np.float32)
    ids = [f"n{n}" for n in range(limit + 1)]
    with raises(ValueError, "batch size", "more than max_batch_size"):
        await done(collection.add(ids=ids, embeddings=list(vectors)))
    equal(await done(collection.count()), 0, "the refused batch left nothing")
    await done(collection.add(ids=ids[:limit], embeddings=list(vectors[:limit])))
    equal(await done(collection.count()), limit, "count of a full batch")
    answer = await done(collection.get(include=["embeddings"]))
    equal(list(answer["ids"]), ids[:limit], "ids of a full batch, in order")
    expect(same_bits(answer["embeddings"], vectors[:limit]), "embeddings of a full batch")


@scenario
async def concurrent_writers(peer):
    """Eight writers on one collection: the sync client in threads, the async one in tasks."""
    collection, rng = await peer.create("busy"), np.random.default_rng(7)
    vectors = rng.standard_normal((8, 40, 4)).astype(np.float32)

    def batches(writer):
        for start in range(0, 40, 5):
            ids = [f"w{writer}-{n}" for n in range(start, start + 5)]
            metadatas = [{"writer": writer, "n": n} for n in range(start, start + 5)]
            yield dict(ids=ids, embeddings=list(vectors[writer, start : start + 5]), metadatas=metadatas)

    errors = []

    def write(writer):
        try:
            client = chromadb.HttpClient(
                peer.host, peer.port, settings=Settings(anonymized_telemetry=False), database=peer.database
            )
            own = client.get_collection("busy", embedding_function=None)
            for batch in batches(writer):
                own.add(**batch)
        except Exception as error:
            errors.append(f"writer {writer}: {error!r}")

    async def write_async(writer):
        for batch in batches(writer):
            await collection.add(**batch)

    if peer.kind == "sync":
        threads = [threading.Thread(target=write, args=(writer,)) for writer in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    else:
        await asyncio.gather(*(write_async(writer) for writer in range(8)))
    equal(errors, [], "errors of the writers")
    equal(await done(collection.count()), 320, "count")
    answer = await done(collection.get(include=["embeddings", "metadatas"]))
    for record_id, vector, metadata in zip(answer["ids"], answer["embeddings"], answer["metadatas"], strict=True):
        writer, n = metadata["writer"], metadata["n"]
        equal(record_id, f"w{writer}-{n}", "id and metadata belong together")
        expect(same_bits(vector, vectors[writer, n]), f"{record_id}: embedding")
