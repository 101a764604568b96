// The JavaScript client, 2.x and 3.x: add, query with and without a filter, get, delete.

import { readFileSync } from "node:fs";

const { IDS, TEXTS, METADATAS, VECTORS, EMBEDDINGS, QUESTION, TOPIC, GOT, DELETED } = JSON.parse(readFileSync("articles.json"));
const KEY = process.env.KEY;
// Required from 2.x; in 3.x `null` says the same.
const embeddingFunction = { generate: async (texts) => texts.map((text) => EMBEDDINGS[text]) };
// >>> docs/frameworks.md
const articles = await client.getOrCreateCollection({ name: "articles", embeddingFunction });
await articles.add({ ids: IDS, embeddings: VECTORS, documents: TEXTS, metadatas: METADATAS });
const question = { queryEmbeddings: [EMBEDDINGS[QUESTION]], nResults: 3 };
const found = await articles.query(question);
const filtered = await articles.query({ ...question, where: { topic: TOPIC } });
const got = await articles.get({ ids: [GOT] });
await articles.delete({ ids: [DELETED] });
const left = await articles.get();
console.log(JSON.stringify({
  found: found.ids[0], filtered: filtered.ids[0], text: got.documents[0], topic: got.metadatas[0].topic, left: left.ids.toSorted(),
  distances: found.distances[0], space: "l2",
}));
