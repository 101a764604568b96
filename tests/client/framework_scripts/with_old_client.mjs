// A JavaScript client from before Chroma 1.0: it has to fail, and this shows with what.

import { ChromaClient } from "chromadb";

const client = new ChromaClient({ path: `http://127.0.0.1:${process.argv[2]}` });
const articles = await client.getOrCreateCollection({ name: "articles", embeddingFunction: { generate: async () => [[1, 2]] } });
await articles.add({ ids: ["a"], embeddings: [[1, 2]] });
