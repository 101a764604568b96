// One run of javascript_client.mjs: its options, its clients, the collections it makes, and how a check passes, fails, or differs.

import { parseArgs } from "node:util";

import { AdminClient, ChromaClient } from "chromadb";

import { Model, Random, expect } from "./javascript_model.mjs";

const CHECK_SECONDS = 300;
const parsed = parseArgs({ allowPositionals: true, options: { chroma: { type: "boolean" }, erase: { type: "boolean" } } });
expect(parsed.positionals.length === 1, "usage: node javascript_client.mjs URL [--chroma] [--erase]");

export const options = parsed.values;
const address = new URL(parsed.positionals[0]);
const ssl = address.protocol === "https:";
const server = { host: address.hostname, port: Number(address.port || (ssl ? 443 : 80)), ssl };
export const key = process.env.KEY;
const headers = key ? { "x-chroma-token": key } : undefined;
const run = `js-${process.pid}-${Date.now().toString(36)}`;
// A tenant's name may hold anything, so the client has to encode it in paths.
export const tenant = key ? "default_tenant" : `${run} ö/%?#..`;
export const database = key ? "default_database" : run;

export const connect = (more = {}) => new ChromaClient({ ...server, headers, tenant, database, ...more });
export const administer = (more = {}) => new AdminClient({ ...server, headers, ...more });
export const client = connect();
export const random = new Random(20_260_101);

// ---------------- what it makes

let names = 0;
export const freshName = (more = "") => `${run}-${(names += 1)}${more}`;

/** A graph so dense that Chroma's approximate search finds what is nearest. */
const dense = (space) => ({ hnsw: { space, max_neighbors: 64, ef_construction: 500, ef_search: 500 } });

export function create({ space = "l2", ...more } = {}) {
  return client.createCollection({ name: freshName(), configuration: dense(space), embeddingFunction: null, ...more });
}

export const named = (name) => client.getCollection({ name });

/** Chroma's own server normalises embeddings under cosine, which turns their last bits. */
export const modelOf = (space) => new Model({ rounded: options.chroma && space === "cosine" });

/** A collection and its model, with records of every kind in it. */
export async function filled(space = "l2", dimension = 6, count = 120) {
  const collection = await create({ space }), model = modelOf(space);
  const ids = Array.from({ length: count }, (_, number) => `r${number}`);
  for (let start = 0; start < count; start += 30) {
    const batch = random.batch(ids.slice(start, start + 30), dimension);
    await collection.add(batch);
    model.add(batch);
  }
  return { collection, model };
}

/** Takes away what was made. Records first: Chroma's own server leaves list metadata behind, where it turns up in later records. */
export async function tidy() {
  for (const collection of await client.listCollections({ limit: 10_000 })) {
    if (!collection.name.startsWith(run)) continue;
    const { ids } = await collection.get({ include: [] });
    if (ids.length) await collection.delete({ ids });
    await client.deleteCollection({ name: collection.name });
  }
  if (!key) await administer().deleteDatabase({ name: database, tenant });
}

// ---------------- checks

const counts = { passed: 0, differing: 0 };

/** `differs` finds the message with which the check must fail on Chroma's own server, where that does something else. */
export async function check(name, body, differs) {
  let timer, failure;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no end within ${CHECK_SECONDS} s`)), CHECK_SECONDS * 1_000);
  });
  try {
    await Promise.race([body(), late]);
  } catch (error) {
    failure = error;
  }
  clearTimeout(timer);
  const must = options.chroma && differs;
  if (must && failure && differs.test(failure.message)) {
    counts.differing += 1;
    console.log(`differs  ${name}: ${differs.source}`);
  } else if (must || failure) {
    const calls = failure?.stack.split("\n").filter((line) => line.startsWith("    at ")) ?? [];
    console.log([`FAIL     ${name}: ${failure?.message ?? `found no difference, expected ${differs}`}`, ...calls].join("\n"));
    process.exit(1);
  } else {
    counts.passed += 1;
    console.log(`ok       ${name}`);
  }
}

export function conclude() {
  console.log(`${counts.passed} checks passed${options.chroma ? `, ${counts.differing} differ on Chroma as known` : ""}`);
}

/** The requests that the client sends meanwhile. */
export async function sent(action) {
  const { fetch } = globalThis, requests = [];
  globalThis.fetch = async (request, init) => {
    requests.push({ path: new URL(request.url).pathname, headers: request.headers, body: await request.clone().text() });
    return fetch(request, init);
  };
  try {
    await action();
  } finally {
    globalThis.fetch = fetch;
  }
  return requests;
}
