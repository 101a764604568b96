// What javascript_client.mjs checks of records: writing, reading, values that come back as they were, filters, queries, large
// batches, embedding functions.

import { setTimeout as pause } from "node:timers/promises";

import {
  ChromaClientError, ChromaNotFoundError, ChromaServerError, ChromaValueError, Knn, ReadLevel, Search, registerEmbeddingFunction,
} from "chromadb";

import { EVERYTHING, SPACES, compareCollection, compareQuery, equal, exactDistance, expect, refused } from "./javascript_model.mjs";
import { check, client, create, filled, modelOf, named, options, random, sent } from "./javascript_session.mjs";

const numbered = (count, prefix = "r") => Array.from({ length: count }, (_, number) => `${prefix}${number}`);

async function compareQueries(collection, model, space) {
  for (const nResults of [1, 10, 500]) {
    const queries = [random.vector(6), random.vector(6), Array(6).fill(0)];
    await compareQuery(collection, model, space, queries, nResults, `the nearest ${nResults}`);
  }
}

async function checkWriting() {
  for (const space of SPACES) {
    await check(`a history of writes, everything read back: ${space}`, async () => {
      const { collection, model } = await filled(space), pool = numbered(160);
      for (let step = 0; step < 60; step += 1) {
        const ids = random.sample(pool, random.int(1, 9)), verb = random.pick(["add", "upsert", "upsert", "update", "delete"]);
        if (verb === "delete") {
          equal(await collection.delete({ ids }), { deleted: ids.length }, "deleted");
          model.delete(ids);
        } else {
          const batch = random.batch(ids, 6);
          await collection[verb](batch);
          model[verb](batch);
        }
      }
      await compareCollection(collection, model, "at the end", { page: 37 });
      // Its graph loses records when they are overwritten or deleted.
      model.approximate = options.chroma;
      await compareQueries(collection, model, space);
    });
    await check(`queries beside brute force: ${space}`, async () => {
      const { collection, model } = await filled(space);
      await compareQueries(collection, model, space);
    });
  }
  await check("null members and absent columns", async () => {
    const collection = await create(), model = modelOf("l2");
    const steps = [
      ["add", {
        ids: ["a", "b", "c"], embeddings: [[1, 2], [3, 4], [5, 6]], uris: ["u", null, null],
        metadatas: [{ k: 1, gone: null }, null, { only: null }],
      }],
      ["upsert", {
        ids: ["a", "d"], embeddings: [[1, 9], [7, 8]], uris: [null, null], documents: ["", "text"],
        metadatas: [null, { k: null, l: ["x"] }],
      }],
      ["update", { ids: ["a", "b", "unknown"], metadatas: [{ k: null, m: 2 }, null, { k: 1 }] }],
      ["update", { ids: ["d"], embeddings: [[0, 1]] }],
      ["add", { ids: ["d", "e"], embeddings: [[9, 9], [2, 2]] }],
    ];
    for (const [verb, batch] of steps) {
      await collection[verb](batch);
      model[verb](batch);
      await compareCollection(collection, model, `after ${verb} of ${batch.ids}`);
    }
    const { documents, metadatas, uris } = await collection.get({ ids: ["e"], include: ["documents", "metadatas", "uris"] });
    equal([documents, metadatas, uris], [[null], [null], [null]], "a record that is only an embedding");
  });
  await check("a uri without metadata", async () => {
    const collection = await create();
    await collection.add({ ids: ["a"], embeddings: [[1, 2]], uris: ["u"] });
    equal((await collection.get({ include: ["metadatas"] })).metadatas, [null], "metadata");
  }, /metadata: found \[ \{\} \], expected \[ null \]/);
  await check("delete by ids, filters, limit", async () => {
    const { collection, model } = await filled();
    const deletes = [
      [{ ids: ["r0", "r1"] }],
      [{ where: { i: { $gt: 3 } } }],
      [{ whereDocument: { $contains: "basalt" } }],
      [{ ids: model.select().slice(10, 60), where: { b: true } }],
      [{ where: { s: { $ne: "red" } }, limit: 3 }, 3],
      [{ where: { s: "no such" } }],
    ];
    for (const [request, limit = Infinity] of deletes) {
      const { limit: _, ...filter } = request, ids = model.select(filter).slice(0, limit);
      equal(await collection.delete(request), { deleted: ids.length }, JSON.stringify(request));
      model.delete(ids);
      await compareCollection(collection, model, `after ${JSON.stringify(request)}`);
    }
    equal(await collection.delete({}), { deleted: 0 }, "nothing named, nothing deleted");
    expect(model.records.size > 10, "some records are left");
    await compareCollection(collection, model, "the rest");
  });
}

async function checkReading() {
  await check("get: pages, ids, include, rows, peek, count", async () => {
    const { collection, model } = await filled(), all = model.select();
    equal((await collection.get()).ids, all, "all, in the order of insertion");
    for (const [limit, offset] of [[7, 0], [7, 100], [500, 3], [5, 1_000], [0, 0]]) {
      equal((await collection.get({ limit, offset })).ids, all.slice(offset, offset + limit), `limit ${limit}, offset ${offset}`);
    }
    const where = { b: true }, chosen = model.select({ where });
    equal((await collection.get({ where, limit: 5, offset: 4 })).ids, chosen.slice(4, 9), "a page of what a filter leaves");
    equal((await collection.get({ ids: ["r9", "unknown", "r3"] })).ids, ["r3", "r9"], "by ids");
    const some = all.slice(20, 60);
    equal((await collection.get({ ids: some, where })).ids, model.select({ ids: some, where }), "by ids and a filter");
    for (const include of [[], ...EVERYTHING.map((name) => [name]), ["uris", "embeddings"]]) {
      const answer = await collection.get({ ids: ["r1", "r2"], include });
      equal(answer.include, include, "include, as it was sent");
      const lengths = EVERYTHING.map((name) => (include.includes(name) ? 2 : 0));
      equal(EVERYTHING.map((name) => answer[name].length), lengths, `lengths of columns where ${include} are included`);
    }
    const rows = (await collection.get({ ids: ["r1", "r2"] })).rows().map(({ id, document, metadata }) => [id, document, metadata]);
    const { ids, documents, metadatas } = await collection.get({ ids: ["r1", "r2"] });
    equal(rows, ids.map((id, row) => [id, documents[row], metadatas[row]]), "rows");
    equal((await collection.peek({})).ids, all.slice(0, 10), "the first ten");
    equal((await collection.peek({ limit: 3 })).ids, all.slice(0, 3), "the first three");
    for (const readLevel of [undefined, ...Object.values(ReadLevel)]) {
      equal(await collection.count({ readLevel }), all.length, `count, ${readLevel}`);
    }
  });
  await check("query: include, rows, ids, nothing found", async () => {
    const { collection, model } = await filled(), queryEmbeddings = [random.vector(6)];
    await compareQuery(collection, model, "l2", queryEmbeddings, 9, "by ids", { ids: ["r5", "r7", "r11"] });
    await compareQuery(collection, model, "l2", queryEmbeddings, 9, "nothing found", { where: { s: "no such" } });
    for (const name of [...EVERYTHING, "distances"]) {
      const answer = await collection.query({ queryEmbeddings, nResults: 3, include: [name] });
      const lengths = [...EVERYTHING, "distances"].map((each) => answer[each][0]?.length ?? 0);
      equal(lengths, [...EVERYTHING, "distances"].map((each) => (each === name ? 3 : 0)), `columns where ${name} are included`);
    }
    const answer = await collection.query({ queryEmbeddings }), [rows] = answer.rows();
    equal(answer.include, ["metadatas", "documents", "distances"], "what is included unless said otherwise");
    equal(rows.map((row) => row.id), answer.ids[0], "ids of ten rows");
    const columns = rows.map((_, row) => [answer.distances[0][row], answer.documents[0][row], answer.metadatas[0][row]]);
    equal(rows.map(({ distance, document, metadata }) => [distance, document, metadata]), columns, "rows");
    const empty = await (await create()).query({ queryEmbeddings, include: ["documents", "distances"] });
    equal([empty.ids, empty.documents, empty.distances], [[[]], [[]], [[]]], "in an empty collection");
  });
  // The client keeps the server's words of a 404 to itself.
  await check("query: an id that is not there is an error", async () => {
    const { collection, model } = await filled(), queryEmbeddings = [random.vector(6)];
    await compareQuery(collection, model, "l2", queryEmbeddings, 5, "by ids", { ids: ["r5"] });
    const query = () => collection.query({ queryEmbeddings, ids: ["r5", "unknown"] });
    await refused(query, ChromaNotFoundError, /could not be found/, "an unknown id");
  }, /Error finding id/);
}

// ---------------- values

async function checkValues() {
  await check("metadata of every type", async () => {
    const collection = await create(), long = "ä".repeat(10_000);
    const whole = [0, -1, 2 ** 31, 2 ** 53 - 1, -(2 ** 53) + 1, 2 ** 60];
    const parts = [0.1, -2.5, 1 / 3, 0.1 + 0.2, 1e300, -1e-300, 5e-324, Number.MAX_VALUE];
    const metadatas = [
      ...[...whole, 2 ** 64, ...parts, true, false, "", "日本\n\t\0\"\\", long].map((value) => ({ value })),
      { whole, parts, words: ["", "ö", long], flags: [true, false, true], "a.b c/ü$#": 1, __proto_: "x", constructor: "y" },
    ];
    const ids = numbered(metadatas.length);
    await collection.add({ ids, embeddings: ids.map((_, row) => [row, 1]), metadatas });
    const found = (await collection.get()).metadatas;
    for (const [row, metadata] of metadatas.entries()) equal(found[row], metadata, `metadata ${row}`);
    await collection.update({ ids: ["r0"], metadatas: [{ value: ["now", "a list"], more: 1 }] });
    equal((await collection.get({ ids: ["r0"] })).metadatas, [{ value: ["now", "a list"], more: 1 }], "another type, and one more");
  });
  await check("a thousand floats of any size in metadata", async () => {
    const collection = await create(), ids = numbered(1_000), metadatas = ids.map(() => ({ value: random.anyFloat64() }));
    await collection.add({ ids, embeddings: ids.map(() => [1, 1]), metadatas });
    const wrong = (await collection.get()).metadatas.filter(({ value }, row) => value !== metadatas[row].value);
    equal(wrong.length, 0, "floats that came back as others");
  }, /floats that came back as others: found \d+, expected 0/);
  await check("ids, documents and uris in any script", async () => {
    const odd = [
      "naïve-é", "日本語/東京", "😀", "a b\tc", "x".repeat(2_000), "-_./+%?#&", "\x1f", "\0", "ø\u0301", "null", "0", '"\\', "\u2028",
      "..", "\u{10ffff}", "\ufeff", " ",
    ];
    const collection = await create(), model = modelOf("l2");
    const embeddings = odd.map((_, row) => [row, 1]), metadatas = odd.map((text) => ({ [`k${text}`]: text }));
    const batch = { ids: odd, embeddings, documents: odd, uris: odd, metadatas };
    await collection.add(batch);
    model.add(batch);
    await compareCollection(collection, model, "as they were");
    for (const id of odd) {
      equal((await collection.get({ ids: [id] })).ids, [id], "got by its id");
      equal((await collection.get({ where: { [`k${id}`]: id } })).ids, [id], "and by its metadata");
      const filter = { whereDocument: { $contains: id } };
      // NUL ends the text for Chroma's server.
      if (id !== "\0") equal((await collection.get(filter)).ids, model.select(filter), "and by its document");
    }
    await collection.delete({ ids: odd.slice(1) });
    equal((await collection.get()).ids, odd.slice(0, 1), "what is left");
  });
  await check("NUL in a document filter", async () => {
    const collection = await create();
    await collection.add({ ids: ["with", "without"], embeddings: [[1], [2]], documents: ["a\0b", "ab"] });
    equal((await collection.get({ whereDocument: { $contains: "\0" } })).ids, ["with"], "found");
  }, /found: found \[ 'with', 'without' \], expected \[ 'with' \]/);
  await check("embeddings of any size, bit for bit, from arrays and typed arrays; sent as base64", async () => {
    const collection = await create(), model = modelOf("l2"), ids = numbered(200);
    const embeddings = ids.map(() => Array.from({ length: 16 }, () => random.anyFloat32()));
    embeddings[0] = [2 ** -149, -(2 ** -126), 3.4028234663852886e38, 0, -0, ...numbered(11).map((_, row) => 0.1 * row)];
    const kinds = [(values) => values, Float32Array.from.bind(Float32Array), Float64Array.from.bind(Float64Array)];
    const batch = { ids, embeddings: embeddings.map((values, row) => kinds[row % 3](values)) };
    const [request] = (await sent(() => collection.add(batch))).filter(({ path }) => path.endsWith("/add"));
    const decoded = (text) => [...new Float32Array(new Uint8Array(Buffer.from(text, "base64")).buffer)];
    equal(JSON.parse(request.body).embeddings.map(decoded), embeddings.map((values) => values.map(Math.fround)), "sent");
    model.add(batch);
    await compareCollection(collection, model, "stored");
  });
  await check("embeddings under cosine, bit for bit", async () => {
    const collection = await create({ space: "cosine" }), ids = numbered(200), embeddings = ids.map(() => random.vector(16));
    await collection.add({ ids, embeddings });
    const found = (await collection.get({ include: ["embeddings"] })).embeddings;
    const differs = (values, row) => values.some((value, index) => Math.fround(value) !== embeddings[row][index]);
    equal(found.filter(differs).length, 0, "that differ");
  }, /that differ: found \d+, expected 0/);
}

// ---------------- filters

async function checkFilters() {
  const operands = {
    i: [2, -3, 100], f: [2.5, 0.4, 2], b: [true, false], s: ["red", "Red", ""], ключ: ["да"], absent: [1, "x"],
    li: [3], lf: [0.5], ls: ["ζ"], lb: [true],
  };
  await check("where: every operator on every type", async () => {
    const { collection, model } = await filled("l2", 4, 240), seen = { some: 0, none: 0 };
    for (const [key, values] of Object.entries(operands)) {
      for (const value of values) {
        const conditions = [value, ...["$eq", "$ne", "$contains", "$not_contains"].map((operator) => ({ [operator]: value }))];
        const alike = values.filter((other) => Number.isInteger(other) === Number.isInteger(value));
        conditions.push({ $in: [value] }, { $nin: [value] }, { $in: alike });
        if (typeof value === "number") conditions.push({ $gt: value }, { $gte: value }, { $lt: value }, { $lte: value });
        for (const condition of conditions) {
          const where = { [key]: condition }, expected = model.select({ where });
          equal((await collection.get({ where, include: [] })).ids, expected, JSON.stringify(where));
          seen[expected.length ? "some" : "none"] += 1;
        }
      }
    }
    expect(seen.some > 80 && seen.none > 20, `filters that leave some and none: found ${JSON.stringify(seen)}`);
  });
  await check("where: 200 nested filters, in get, query and delete", async () => {
    const { collection, model } = await filled("l2", 4, 240);
    for (let number = 0; number < 200; number += 1) {
      const where = random.where(3), what = JSON.stringify(where);
      equal((await collection.get({ where, include: [] })).ids, model.select({ where }), what);
      if (number % 5 === 0) await compareQuery(collection, model, "l2", [random.vector(4)], 7, what, { where });
    }
    for (let number = 0; number < 10; number += 1) {
      const where = random.where(3), ids = model.select({ where }).slice(0, 4);
      equal(await collection.delete({ where, limit: 4 }), { deleted: ids.length }, `deleted by ${JSON.stringify(where)}`);
      model.delete(ids);
    }
    await compareCollection(collection, model, "what the deletes left");
  });
  await check("where: stored integers against operands with a fraction", async () => {
    const { collection, model } = await filled();
    for (const operator of ["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]) {
      const where = { i: { [operator]: 2.5 } };
      equal((await collection.get({ where, include: [] })).ids, model.select({ where }), JSON.stringify(where));
    }
  }, /^\{"i":\{"\$eq":2.5\}\}: found \[ 'r/);
  await check("whereDocument: every operator, alone, nested and beside where", async () => {
    const { collection, model } = await filled("l2", 4, 240);
    const filters = [
      { $contains: "cedar" }, { $contains: "Cedar" }, { $contains: "%_*" }, { $contains: "東京" }, { $contains: "r\nü" },
      { $contains: "no such words" }, { $not_contains: "falcon" }, { $regex: "^(amber|delta)" }, { $regex: "(?i)CEDAR" },
      { $regex: "[0-9]+%" }, { $regex: "gran.te\\s" },
      { $not_regex: "h[aeiou]rbor" }, { $and: [{ $contains: "ember" }, { $not_contains: "harbor" }] },
      { $or: [{ $contains: "juniper" }, { $and: [{ $contains: "basalt" }, { $regex: "delta$" }] }, { $not_regex: "a" }] },
    ];
    for (const whereDocument of filters) {
      for (const where of [undefined, { b: true }, { s: { $nin: ["red", "Red"] } }]) {
        const filter = { whereDocument, ...(where && { where }) };
        equal((await collection.get({ ...filter, include: [] })).ids, model.select(filter), JSON.stringify(filter));
      }
      await compareQuery(collection, model, "l2", [random.vector(4)], 6, JSON.stringify(whereDocument), { whereDocument });
    }
    const where = { $and: [{ "#document": { $contains: "ember" } }, { i: { $gte: 0 } }] };
    const expected = model.select({ where: { i: { $gte: 0 } }, whereDocument: { $contains: "ember" } });
    equal((await collection.get({ where, include: [] })).ids, expected, "documents, as a part of where");
  });
}

// ---------------- refusals, batches, embedding functions

async function checkRefusals() {
  await check("refusals come as the classes that the client has for them", async () => {
    const { collection, model } = await filled(), embedding = random.vector(6);
    const bad = (action, pattern, what) => refused(action, ChromaClientError, pattern, what);
    const add = (more) => () => collection.add({ ids: ["new"], embeddings: [embedding], ...more });
    await bad(add({ embeddings: [[1, 2]] }), /dimension of 6, got 2/, "another dimension");
    await bad(add({ ids: ["new", "other"], embeddings: [embedding, [1, 2]] }), /Inconsistent dimensions/, "two dimensions");
    await bad(add({ embeddings: [[...embedding.slice(1), NaN]] }), /Non-finite/, "NaN");
    await bad(add({ embeddings: [[...embedding.slice(1), 1e39]] }), /Non-finite/, "past f32");
    await bad(add({ ids: [""] }), /Empty ID/, "an empty id");
    await bad(add({ ids: ["\ud800"] }), /JSON/, "half a character");
    for (const name of ["", "#k", "$k"]) await bad(add({ metadatas: [{ [name]: 1 }] }), /Invalid metadata/, `a key ${name}`);
    const query = (more) => () => collection.query({ queryEmbeddings: [embedding], ...more });
    await bad(query({ queryEmbeddings: [[1, 2, 3]] }), /dimension of 6, got 3/, "a query of another dimension");
    await bad(query({ nResults: 1.5 }), /n_results/, "a part of a result");
    // The client sends it as an object; in writes it takes one.
    await bad(query({ queryEmbeddings: [Float32Array.from(embedding)] }), /expected a sequence/, "a typed array");
    await bad(() => collection.get({ limit: -1 }), /limit/, "a negative limit");
    await bad(() => collection.get({ whereDocument: { $regex: "(" } }), /regex/i, "a bad pattern");
    await bad(() => collection.get({ whereDocument: { $matches: "x" } }), /where document/, "what only the client knows");
    await bad(() => collection.get({ where: { i: { $in: [1, 2.5] } } }), /where clause/, "two types in a list");
    await bad(() => collection.get({ where: { $k: 1 } }), /where clause/, "an unknown operator");
    const sparse = { metadatas: [{ sparse: { indices: [1], values: [0.5] } }] };
    await refused(add(sparse), ChromaServerError, /Sparse vector is not supported/, "a sparse vector");
    const search = () => collection.search(new Search().rank(Knn({ query: embedding })).limit(3));
    await refused(search, ChromaServerError, /Search operation is not implemented/, "search, which is for more than one node");
    const twice = add({ ids: ["new", "new"], embeddings: [embedding, embedding] });
    await refused(twice, ChromaValueError, /unique/, "an id twice, by the client");
    await compareCollection(collection, model, "none of it was written");
  });
  await check("a query past f32", async () => {
    const { collection } = await filled();
    const query = () => collection.query({ queryEmbeddings: [[1e39, 1, 1, 1, 1, 1]] });
    await refused(query, ChromaClientError, /query_embeddings/, "a query");
  }, /a query: found an answer/);
}

async function checkSizes() {
  await check("5,000 records in one batch, read back and queried; one more than the largest batch", async () => {
    const collection = await create(), model = modelOf("l2"), ids = numbered(5_000, "größer-");
    const batch = {
      ids, embeddings: ids.map(() => random.vector(24)), documents: ids.map(() => random.document()),
      metadatas: ids.map((_, row) => ({ row, ...random.metadata() })),
    };
    await collection.add(batch);
    model.add(batch);
    await compareCollection(collection, model, "all", { page: 1_500 });
    await compareQuery(collection, model, "l2", Array.from({ length: 20 }, () => random.vector(24)), 10, "twenty queries");
    await compareQuery(collection, model, "l2", [random.vector(24)], 10, "a narrow filter", { where: { row: { $lt: 40 } } });
    const most = await client.getMaxBatchSize(), many = numbered(most + 1);
    const addition = () => collection.add({ ids: many, embeddings: many.map(() => [1]) });
    await refused(addition, ChromaValueError, /exceeds max batch size/, "too many");
    const again = { ids: ids.slice(0, 1_500), embeddings: ids.slice(0, 1_500).map(() => random.vector(24)) };
    await collection.upsert(again);
    model.upsert(again);
    await collection.delete({ ids: ids.slice(1_000, 3_000) });
    model.delete(ids.slice(1_000, 3_000));
    await compareCollection(collection, model, "what is left", { page: 5_000 });
  });
  await check("embeddings of 1,536 numbers", async () => {
    const collection = await create({ space: "ip" }), model = modelOf("ip"), batch = random.batch(numbered(300), 1_536);
    await collection.upsert(batch);
    model.upsert(batch);
    await compareCollection(collection, model, "all");
    await compareQuery(collection, model, "ip", [random.vector(1_536)], 5, "one query");
  });
  await check("forty writers and readers at once", async () => {
    const collection = await create(), model = modelOf("l2");
    await Promise.all(Array.from({ length: 40 }, async (_, writer) => {
      const batch = random.batch(numbered(25, `w${writer}-`), 8);
      await collection.upsert(batch);
      model.upsert(batch);
      const found = await collection.query({ queryEmbeddings: [batch.embeddings[7]], nResults: 1 });
      equal([found.ids, found.distances], [[[batch.ids[7]]], [[0]]], "what was acknowledged is found");
    }));
    await compareCollection(collection, model, "all of it", { sorted: true });
  });
}

/** Counts letters: an embedding that needs no model. */
class Letters {
  name = "javascript_letters";

  constructor(buckets) {
    this.buckets = buckets;
  }

  async generate(texts) {
    await pause(1);
    return texts.map((text) => {
      const counts = Array(this.buckets).fill(0);
      for (const letter of text) counts[letter.codePointAt(0) % this.buckets] += 1;
      return counts;
    });
  }

  getConfig = () => ({ buckets: this.buckets, "kept ö": [1, null, { deep: "x" }] });
  defaultSpace = () => "cosine";
  supportedSpaces = () => ["cosine", "l2"];
  static buildFromConfig = ({ buckets }) => new Letters(buckets);
}

async function checkEmbeddingFunction() {
  await check("an embedding function, found again by its configuration", async () => {
    registerEmbeddingFunction("javascript_letters", Letters);
    const embeddingFunction = new Letters(13), documents = ["garden", "engine", "gears", "größe"], ids = numbered(4);
    const collection = await create({ configuration: undefined, embeddingFunction });
    await collection.add({ ids, documents });
    const found = await named(collection.name);
    const stored = { type: "known", name: "javascript_letters", config: embeddingFunction.getConfig() };
    equal(found.configuration.embedding_function, stored, "stored");
    equal(found.configuration.hnsw.space, "cosine", "its space");
    const embeddings = await embeddingFunction.generate(documents), [query] = await embeddingFunction.generate(["gear"]);
    const exact = embeddings.map((embedding) => exactDistance("cosine", query, embedding));
    const order = exact.map((_, row) => row).sort((a, b) => exact[a] - exact[b]);
    const answer = await found.query({ queryTexts: ["gear"], nResults: 4 });
    equal(answer.documents, [order.map((row) => documents[row])], "nearest first");
    const far = answer.distances[0].filter((distance, rank) => Math.abs(distance - exact[order[rank]]) > 1e-5);
    equal(far, [], "distances that are not brute force's");
    const none = await create();
    const addition = () => none.add({ ids: ["a"], documents: ["text"] });
    await refused(addition, ChromaValueError, /No embedding function/, "documents where there is none");
  });
}

export async function checkRecords() {
  await checkWriting();
  await checkReading();
  await checkValues();
  await checkFilters();
  await checkRefusals();
  await checkSizes();
  await checkEmbeddingFunction();
}
