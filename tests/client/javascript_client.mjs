#!/usr/bin/env node
// javascript_client.mjs URL [--chroma] [--erase]
//
// Drives a running server with the unmodified JavaScript client (the package `chromadb`) and compares every answer with a model of
// what was written, a reference evaluator of filters and brute force in float64 (javascript_model.mjs). Nothing is compared with
// recorded answers, so the same script runs against Chroma's own server, which is how it was itself checked. Node looks for the
// package beside the script: javascript.py copies the scripts to where it is installed.
//
//  --chroma  the server is Chroma's own (1.5.9). What it refuses or gets wrong is named by the check, which must then fail in just
//            that way; one that passes is an error as well
//  --erase   resets the server at the end, and looks whether that took everything
//  KEY       in the environment: a writer's key, limited to default_tenant and default_database. Everything is done there, and what
//            is outside must be forbidden. Without a key the script makes a tenant and a database of its own
//
// One line for each check. Ends with 0 if all passed, with 1 at the first that did not.

import { once } from "node:events";
import { createServer } from "node:net";

import {
  ChromaClientError, ChromaConnectionError, ChromaForbiddenError, ChromaNotFoundError, ChromaUnauthorizedError, ChromaUniqueError,
  FtsIndexConfig, Schema, SparseVectorIndexConfig, StringInvertedIndexConfig,
} from "chromadb";

import { compareCollection, compareQuery, equal, expect, refused } from "./javascript_model.mjs";
import { checkRecords } from "./javascript_records.mjs";
import {
  administer, check, client, conclude, connect, create, database, filled, freshName, key, named, options, random, sent, tenant, tidy,
} from "./javascript_session.mjs";

// ---------------- the server, tenants, databases

async function checkSystem() {
  await check("heartbeat", async () => {
    const nanoseconds = await client.heartbeat();
    expect(Math.abs(nanoseconds / 1e6 - Date.now()) < 3_600_000, `the time: found ${nanoseconds}, expected ${Date.now()} ms`);
  });
  await check("version", async () => expect(/^\d+\.\d+\.\d+$/.test(await client.version()), "three numbers"));
  await check("pre-flight checks", async () => {
    expect((await client.getMaxBatchSize()) >= 1_000, "a batch of a thousand");
    equal(await client.supportsBase64Encoding(), true, "base64");
  });
  await check("tenant and database from the identity", async () => {
    const guided = connect({ tenant: "", database: "" });
    await guided.countCollections();
    equal([guided.tenant, guided.database], ["default_tenant", "default_database"], "taken");
  });
  await check("nothing listens: a connection error", async () => {
    const listener = createServer().listen(0, "127.0.0.1");
    await once(listener, "listening");
    const { port } = listener.address();
    await new Promise((done) => listener.close(done));
    const nobody = connect({ host: "127.0.0.1", port, ssl: false });
    await refused(() => nobody.heartbeat(), ChromaConnectionError, /Failed to connect/, "heartbeat");
  });
}

async function checkTenancy() {
  const admin = administer(), other = freshName(), missing = freshName();
  await check("tenants", async () => {
    await admin.createTenant({ name: tenant });
    equal(await admin.getTenant({ name: tenant }), tenant, "its name");
    await refused(() => admin.createTenant({ name: tenant }), ChromaUniqueError, /exists/, "once more");
    await refused(() => admin.getTenant({ name: missing }), ChromaNotFoundError, /not be found/, "a missing one");
    await refused(() => admin.createTenant({ name: "t" }), ChromaClientError, /name/, "a name of one letter");
  });
  await check("databases", async () => {
    for (const name of [database, other]) await admin.createDatabase({ name, tenant });
    const found = await admin.getDatabase({ name: database, tenant });
    equal([found.name, found.tenant, typeof found.id], [database, tenant, "string"], "one");
    const listed = await admin.listDatabases({ tenant });
    equal(listed.map((each) => each.name), [database, other].sort(), "all, by name");
    equal(await admin.listDatabases({ tenant, limit: 1, offset: 1 }), listed.slice(1), "a page");
    await refused(() => admin.createDatabase({ name: database, tenant }), ChromaUniqueError, /exists/, "once more");
    await refused(() => admin.createDatabase({ name: "ä b", tenant }), ChromaClientError, /Expected a name/, "a bad name");
    await refused(() => admin.getDatabase({ name: missing, tenant }), ChromaNotFoundError, /not be found/, "a missing one");
    await refused(() => admin.deleteDatabase({ name: missing, tenant }), ChromaNotFoundError, /not be found/, "deleting it");
  });
  await check("a database of a missing tenant makes the tenant", async () => {
    await admin.createDatabase({ name: other, tenant: missing });
    equal((await admin.getDatabase({ name: other, tenant: missing })).name, other, "the database");
    equal(await admin.getTenant({ name: missing }), missing, "its tenant");
    await admin.deleteDatabase({ name: other, tenant: missing });
  }, /not be found/);
  await check("databases hold their own collections; a deleted one takes them along", async () => {
    const there = connect({ database: other }), name = freshName();
    const [here, gone] = [await create({ name }), await there.createCollection({ name, embeddingFunction: null })];
    await here.add({ ids: ["here"], embeddings: [[1]] });
    await gone.add({ ids: ["there"], embeddings: [[1]] });
    equal((await gone.get()).ids, ["there"], "there");
    await admin.deleteDatabase({ name: other, tenant });
    await refused(() => gone.count(), ChromaNotFoundError, /not be found/, "its collection");
    equal(await there.listCollections(), [], "its list");
    const again = () => there.createCollection({ name, embeddingFunction: null });
    await refused(again, ChromaClientError, /does not exist/, "a new one there");
    equal((await (await named(name)).get()).ids, ["here"], "the one of the same name here");
  });
}

/** With a limited key: what is outside its tenant and database. */
async function checkKey() {
  await check("no key, a wrong key", async () => {
    for (const headers of [undefined, { "x-chroma-token": "wrong" }, { authorization: "Bearer wrong" }]) {
      await refused(() => connect({ headers }).listCollections(), ChromaUnauthorizedError, /Unauthorized/, "a list");
      await refused(() => administer({ headers }).getTenant({ name: tenant }), ChromaUnauthorizedError, /Unauthorized/, "a tenant");
    }
  });
  await check("the key is sent, under either name", async () => {
    const requests = await sent(() => client.listCollections());
    equal(requests.map((request) => request.headers.get("x-chroma-token")), [key], "the header");
    const bearer = connect({ headers: { authorization: `Bearer ${key}` } });
    equal(await bearer.countCollections(), await client.countCollections(), "as a bearer");
  });
  await check("what the key's limits leave out", async () => {
    const admin = administer(), foreign = connect({ database: "another" }), collection = await create();
    const forbidden = (action, what) => refused(action, ChromaForbiddenError, /permission/, what);
    await forbidden(() => foreign.listCollections(), "another database's list");
    await forbidden(() => foreign.createCollection({ name: freshName(), embeddingFunction: null }), "a collection there");
    await forbidden(() => foreign.collection(collection.id).count(), "an own collection's id under another database");
    await forbidden(() => admin.createDatabase({ name: "another", tenant }), "another database");
    await forbidden(() => admin.createTenant({ name: "another" }), "another tenant");
    await forbidden(() => admin.getTenant({ name: "another" }), "another tenant's name");
    await forbidden(() => client.reset(), "a reset");
    equal((await admin.listDatabases({ tenant })).map((each) => each.name), [database], "databases listed");
  });
}

// ---------------- collections

async function checkCollections() {
  await check("create, get, get or create", async () => {
    const metadata = { text: "größer", whole: 3, part: 0.25, yes: true, absent: null }, { absent, ...stored } = metadata;
    const first = await create({ metadata });
    equal([first.tenant, first.database, first.metadata], [tenant, database, stored], "created");
    const kept = await client.getOrCreateCollection({ name: first.name, metadata: { other: 1 }, embeddingFunction: null });
    equal([kept.id, kept.metadata, kept.configuration], [first.id, stored, first.configuration], "there already, so left as it is");
    const parts = ({ id, name, metadata, configuration }) => [id, name, metadata, configuration];
    for (const found of [await named(first.name), await client.getCollectionById(first.id)]) equal(parts(found), parts(first), "found");
    const fresh = await client.getOrCreateCollection({ name: freshName(), embeddingFunction: null });
    equal([fresh.metadata, await fresh.count()], [undefined, 0], "a new one");
    await refused(() => create({ name: first.name }), ChromaUniqueError, /exists/, "the same name again");
    await refused(() => named(freshName()), ChromaNotFoundError, /not be found/, "a missing name");
    await refused(() => client.getCollectionById(crypto.randomUUID()), ChromaNotFoundError, /not be found/, "a missing id");
    await refused(() => client.getCollectionById("x"), ChromaClientError, /UUID/, "no id");
    const deletion = () => client.deleteCollection({ name: freshName() });
    await refused(deletion, ChromaNotFoundError, /not be found/, "deleting a missing one");
  });
  await check("names", async () => {
    for (const name of [freshName(".a-b_C9"), freshName().padEnd(512, "n")]) {
      equal((await create({ name })).name, name, "as given");
      equal((await named(name)).name, name, "found");
    }
    for (const name of ["ab", "x".repeat(513), "a b c", "a..b", "ünd", "10.0.0.1", "-abc", "abc."]) {
      await refused(() => create({ name }), ChromaClientError, /Expected a name/, name);
    }
  });
  await check("list, count, several at once", async () => {
    const names = [(await create()).name, (await create()).name];
    const listed = await client.listCollections({ limit: 1_000 });
    equal(await client.countCollections(), listed.length, "count");
    equal(names.filter((name) => !listed.some((each) => each.name === name)), [], "missing in the list");
    const pages = [];
    for (let offset = 0; offset < listed.length; offset += 3) pages.push(...(await client.listCollections({ limit: 3, offset })));
    equal(pages.map((each) => each.id), listed.map((each) => each.id), "by pages");
    equal((await client.getCollections(names)).map((each) => each.name), names, "by names");
  });
  await check("modify: name, metadata, configuration", async () => {
    const collection = await create({ metadata: { old: 1, both: 1 } }), [before, after] = [collection.name, freshName()];
    await collection.add({ ids: ["a"], embeddings: [[1, 2]] });
    const hnsw = { ef_search: 321, resize_factor: 1.5 };
    await collection.modify({ name: after, metadata: { both: 2 }, configuration: { hnsw } });
    const found = await named(after);
    equal([found.id, found.metadata], [collection.id, { both: 2 }], "replaced, not merged");
    equal(found.configuration.hnsw, { ...(await create()).configuration.hnsw, ...hnsw }, "configuration, merged");
    equal((await found.get()).ids, ["a"], "records");
    await refused(() => named(before), ChromaNotFoundError, /not be found/, "the old name");
    await refused(() => collection.modify({ name: "x" }), ChromaClientError, /Expected a name/, "a bad name");
    const moved = () => collection.modify({ configuration: { hnsw: { space: "ip" } } });
    await refused(moved, ChromaClientError, /space/, "another space");
  });
  await check("a name that is taken is not given twice", async () => {
    const [one, other] = [await create(), await create()];
    await refused(() => one.modify({ name: other.name }), ChromaUniqueError, /exists/, "renaming");
    equal((await named(other.name)).id, other.id, "whose it is");
  }, /found ChromaServerError: Database error.*UNIQUE constraint failed/);
  await check("lists in a collection's metadata", async () => {
    const metadata = { numbers: [1, 2], words: ["ä", ""], flags: [true, false], parts: [0.5] };
    equal((await named((await create({ metadata })).name)).metadata, metadata, "lists");
  }, /Failed to connect/);
  await check("configuration and schema", async () => {
    const hnsw = { space: "cosine", ef_construction: 50, ef_search: 60, max_neighbors: 8, resize_factor: 1.5, sync_threshold: 500 };
    const own = await create({ configuration: { hnsw: { ...hnsw, batch_size: 50, num_threads: 2 } } });
    equal((await named(own.name)).configuration, { hnsw, spann: null, embedding_function: null }, "as given");
    const { space, ...index } = hnsw, config = own.schema.serializeToJSON().keys["#embedding"].float_list.vector_index.config;
    equal([config.space, config.hnsw], [space, { ...index, batch_size: 50, num_threads: 2 }], "the same in the schema");
    const legacy = await create({ configuration: undefined, metadata: { "hnsw:space": "ip", "hnsw:M": 9 } });
    equal([legacy.configuration.hnsw.space, legacy.configuration.hnsw.max_neighbors], ["ip", 9], "by metadata");
    equal((await create({ configuration: { spann: { space: "ip" } } })).configuration.hnsw.space, "ip", "SPANN's space");
    for (const wrong of [{ space: "hamming" }, { space: "l2", ef: 1 }, { ef_search: -1 }]) {
      const creation = () => create({ configuration: { hnsw: wrong } });
      await refused(creation, ChromaClientError, /configuration.hnsw/, JSON.stringify(wrong));
    }
    const schema = new Schema().deleteIndex(new StringInvertedIndexConfig(), "secret");
    schema.deleteIndex(new FtsIndexConfig(), "#document");
    const closed = await create({ configuration: undefined, schema });
    await closed.add({ ids: ["a"], embeddings: [[1, 2]], metadatas: [{ secret: "x", n: 3 }], documents: ["text"] });
    equal((await closed.get({ where: { n: 3 } })).documents, ["text"], "a key with an index");
    const filtered = (filter, pattern) => refused(() => closed.get(filter), ChromaClientError, pattern, JSON.stringify(filter));
    await filtered({ where: { secret: "x" } }, /Cannot filter using metadata key 'secret'/);
    await filtered({ whereDocument: { $contains: "x" } }, /FTS indexing is disabled/);
    const sparse = new Schema().createIndex(new SparseVectorIndexConfig(), "sparse");
    const creation = () => create({ configuration: undefined, schema: sparse });
    await refused(creation, ChromaClientError, /not enabled in local/, "a sparse index");
  });
  await check("a deleted collection is gone for those who hold it", async () => {
    const collection = await create(), gone = (action, what) => refused(action, ChromaNotFoundError, /not be found/, what);
    const record = { ids: ["a"], embeddings: [[1, 2]] };
    await collection.add(record);
    await client.deleteCollection({ name: collection.name });
    for (const verb of ["add", "upsert", "update"]) await gone(() => collection[verb](record), verb);
    await gone(() => collection.delete({ ids: ["a"] }), "delete");
    await gone(() => collection.count(), "count");
    await gone(() => collection.get(), "get");
    await gone(() => collection.query({ queryEmbeddings: [[1, 2]] }), "query");
    await gone(() => collection.modify({ metadata: { a: 1 } }), "modify");
    equal(await (await create({ name: collection.name })).count(), 0, "records in a new one of that name");
  });
  await check("a handle by id", async () => {
    const { collection, model } = await filled(), handle = client.collection(collection.id);
    await compareCollection(handle, model, "handle");
    await compareQuery(handle, model, "l2", [random.vector(6)], 5, "handle");
    await refused(() => client.collection("x").count(), ChromaClientError, /not a valid UUID/, "no id");
  });
  await check("fork: a copy that goes its own way", async () => {
    const { collection, model } = await filled(), copy = await collection.fork({ name: freshName() });
    await collection.delete({ ids: ["r0", "r1"] });
    await compareCollection(copy, model, "copy");
    equal([await collection.forkCount(), (await named(copy.name)).id], [1, copy.id], "forks, and the copy by name");
  }, /Collection forking is unsupported for local chroma/);
  await check("indexing status", async () => {
    const status = await (await filled()).collection.getIndexingStatus();
    equal([status.num_unindexed_ops, status.op_indexing_progress], [0, 1], "everything is indexed at once");
  }, /scout_logs is not implemented/);
  await check("a collection by its resource name", async () => {
    const plain = connect({ tenant: "default_tenant", database: "default_database" });
    const { id, name } = await plain.createCollection({ name: freshName(), embeddingFunction: null });
    try {
      equal((await plain.getCollectionByCrn(`default_tenant:default_database:${name}`)).id, id, "its id");
    } finally {
      await plain.deleteCollection({ name });
    }
  }, /Failed to connect/);
}

// ---------------- all of it

async function checkErase() {
  await check("reset", async () => {
    await client.reset();
    const databases = await administer().listDatabases({ tenant: "default_tenant" });
    equal(databases.map((each) => each.name), ["default_database"], "databases");
    equal(await connect({ tenant: "default_tenant", database: "default_database" }).countCollections(), 0, "collections");
    await refused(() => administer().getTenant({ name: tenant }), ChromaNotFoundError, /not be found/, "another tenant");
  });
}

await checkSystem();
await (key ? checkKey() : checkTenancy());
await checkCollections();
await checkRecords();
await check("take everything away", tidy);
if (options.erase) await checkErase();
conclude();
