// What a server must answer, worked out here: a model of a collection, an evaluator of filters, brute force in float64, seeded
// data. It sends no request but the reads whose answers it compares, through the collection that it is given.

import assert from "node:assert/strict";
import { inspect } from "node:util";

export const SPACES = ["l2", "cosine", "ip"];
export const EVERYTHING = ["embeddings", "documents", "metadatas", "uris"];
const WORDS = "amber basalt Cedar delta ember falcon granite harbor Ivory juniper über 東京 100%_*".split(" ");

// ---------------- expectations

export const show = (value) => {
  const text = inspect(value, { depth: 6, compact: true, breakLength: Infinity, maxArrayLength: 40, maxStringLength: 200 });
  return text.length > 400 ? `${text.slice(0, 400)}…` : text;
};

export function expect(condition, what) {
  assert.ok(condition, what);
}

/** Deep and strict: tells 0 from -0 and null from undefined; the order of an object's keys does not count. */
export function equal(found, expected, what) {
  try {
    assert.deepStrictEqual(found, expected);
  } catch {
    assert.fail(`${what}: found ${show(found)}, expected ${show(expected)}`);
  }
}

/** What `action` throws must be of this very class, with a message that `pattern` finds. */
export async function refused(action, kind, pattern, what) {
  let answer;
  try {
    answer = await action();
  } catch (error) {
    const found = `${error.constructor.name}: ${error.message}`;
    const right = error.constructor === kind && pattern.test(error.message);
    expect(right, `${what}: found ${found}, expected ${kind.name} with ${pattern}`);
    return;
  }
  assert.fail(`${what}: found an answer, ${show(answer)}, expected ${kind.name}`);
}

// ---------------- seeded data

/** The same seed gives the same numbers (mulberry32). */
export class Random {
  constructor(seed) {
    this.state = seed >>> 0;
  }

  bits() {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return (mixed ^ (mixed >>> 14)) >>> 0;
  }

  float = () => this.bits() / 2 ** 32;
  /** Both ends may come. */
  int = (low, high) => low + Math.floor(this.float() * (high - low + 1));
  chance = (probability) => this.float() < probability;
  pick = (values) => values[this.int(0, values.length - 1)];
  shuffled = (values) => values.map((value) => [this.float(), value]).sort((a, b) => a[0] - b[0]).map((pair) => pair[1]);
  sample = (values, count) => this.shuffled(values).slice(0, count);
  gauss = () => Math.sqrt(-2 * Math.log(1 - this.float())) * Math.cos(2 * Math.PI * this.float());
  vector = (dimension) => Array.from({ length: dimension }, () => Math.fround(this.gauss()));
  document = () => Array.from({ length: this.int(1, 8) }, () => this.pick(WORDS)).join(this.pick([" ", "\n", ", "]));

  /** A finite f32 of any size, also one that is not normal. */
  anyFloat32() {
    const [value] = new Float32Array(new Uint32Array([this.bits()]).buffer);
    return Number.isFinite(value) ? value : this.anyFloat32();
  }

  /** Never -0, which is 0 in JSON from JavaScript. */
  anyFloat64() {
    const [value] = new Float64Array(new Uint32Array([this.bits(), this.bits()]).buffer);
    return Number.isFinite(value) && value !== 0 ? value : this.anyFloat64();
  }

  /** Every type that a record's metadata can hold. A number without a fraction is an integer on the wire, so `f` has one always. */
  metadata() {
    const values = {
      i: this.int(-3, 6),
      f: this.pick([-1.5, 0.5, 2.5, 1e-7]),
      b: this.chance(0.5),
      s: this.pick(["red", "green", "blue", "Red", ""]),
      li: this.sample([0, 1, 2, 3, 4, 5], this.int(1, 3)),
      lf: this.sample([0.5, 1.5, -2.25], this.int(1, 2)),
      ls: this.sample(["x", "y", "ζ"], this.int(1, 2)),
      lb: this.sample([true, false], this.int(1, 2)),
      ключ: this.pick(["да", "нет"]),
    };
    const kept = this.sample(Object.keys(values), this.int(0, 7));
    return kept.length ? Object.fromEntries(kept.map((key) => [key, values[key]])) : null;
  }

  /** As arguments of add and upsert. The client takes a column of documents whole or not at all; single nulls elsewhere. */
  batch(ids, dimension) {
    const batch = { ids, embeddings: ids.map(() => this.vector(dimension)) };
    if (this.chance(0.7)) batch.documents = ids.map(() => this.document());
    if (this.chance(0.8)) batch.metadatas = ids.map(() => this.metadata());
    // On Chroma's server a record with a uri and no metadata comes back with {}.
    if (this.chance(0.5)) batch.uris = ids.map((id, row) => (batch.metadatas?.[row] ? `https://example.org/${id}?q=ä` : null));
    return batch;
  }

  /** Fractional operands only for the key of floats: Chroma's server truncates them when it compares stored integers. */
  where(depth = 2) {
    if (depth && this.chance(0.4)) {
      return { [this.pick(["$and", "$or"])]: Array.from({ length: this.int(2, 3) }, () => this.where(depth - 1)) };
    }
    const operands = {
      i: () => this.int(-3, 6),
      f: () => this.pick([-1.5, 0.4, 0.5, 2.5, 2, 1e-7]),
      b: () => this.chance(0.5),
      s: () => this.pick(["red", "green", "Red", "RED", ""]),
      li: () => this.int(0, 6),
      lf: () => this.pick([0.5, 1.5, 7.5]),
      ls: () => this.pick(["x", "ζ", "w"]),
      lb: () => this.chance(0.5),
      ключ: () => this.pick(["да", "no"]),
      absent: () => this.pick([1, "x", true]),
    };
    const key = this.pick(Object.keys(operands));
    const ordered = ["$gt", "$gte", "$lt", "$lte"];
    const plain = ["$eq", "$ne", "$in", "$nin"];
    const scalar = "if".includes(key) ? [...plain, ...ordered] : plain;
    const operator = this.pick(key.startsWith("l") ? ["$contains", "$not_contains", "$ne"] : scalar);
    if (operator === "$in" || operator === "$nin") {
      const first = operands[key]();
      const alike = (other) => typeof other === typeof first && Number.isInteger(other) === Number.isInteger(first);
      return { [key]: { [operator]: [first, ...[operands[key](), operands[key]()].filter(alike)] } };
    }
    return { [key]: operator === "$eq" && this.chance(0.5) ? operands[key]() : { [operator]: operands[key]() } };
  }
}

// ---------------- filters

const isNumber = (value) => typeof value === "number";
const ordered = (order) => (stored, operand) => isNumber(stored) && order(stored, operand);
const OPERATORS = {
  $eq: (stored, operand) => !Array.isArray(stored) && stored === operand,
  $gt: ordered((a, b) => a > b),
  $gte: ordered((a, b) => a >= b),
  $lt: ordered((a, b) => a < b),
  $lte: ordered((a, b) => a <= b),
  $in: (stored, operand) => operand.includes(stored),
  $contains: (stored, operand) => Array.isArray(stored) && stored.includes(operand),
};
// The negations also match records that lack the key.
const NEGATIONS = { $ne: "$eq", $nin: "$in", $not_contains: "$contains" };

export function matches(where, metadata) {
  const [[key, condition]] = Object.entries(where);
  if (key === "$and") return condition.every((part) => matches(part, metadata));
  if (key === "$or") return condition.some((part) => matches(part, metadata));
  const [[operator, operand]] = typeof condition === "object" ? Object.entries(condition) : [["$eq", condition]];
  const stored = metadata?.[key];
  return operator in NEGATIONS ? !OPERATORS[NEGATIONS[operator]](stored, operand) : OPERATORS[operator](stored, operand);
}

/** Patterns are of the kind that JavaScript and Rust read alike; `(?i)` in front is the one exception. */
export function documentMatches(filter, document) {
  const [[operator, operand]] = Object.entries(filter);
  if (operator === "$and") return operand.every((part) => documentMatches(part, document));
  if (operator === "$or") return operand.some((part) => documentMatches(part, document));
  if (operator.startsWith("$not_")) return !documentMatches({ [operator.replace("not_", "")]: operand }, document);
  if (document === null) return false;
  if (operator === "$contains") return document.includes(operand);
  const ignoresCase = operand.startsWith("(?i)");
  return new RegExp(ignoresCase ? operand.slice(4) : operand, ignoresCase ? "iu" : "u").test(document);
}

// ---------------- the model

/** What a collection must hold: records by id, in the order of first insertion. */
export class Model {
  records = new Map();

  /** `rounded`: the server keeps embeddings only nearly; `approximate`: it need not find all that is nearest. */
  constructor({ rounded = false, approximate = false } = {}) {
    Object.assign(this, { rounded, approximate });
  }

  static *rows({ ids, ...columns }) {
    for (const [row, id] of ids.entries()) {
      const member = (name) => columns[name]?.[row] ?? null;
      // The client leaves out members of metadata that are null; so they delete nothing.
      const metadata = Object.fromEntries(Object.entries(member("metadatas") ?? {}).filter(([, value]) => value !== null));
      yield { id, embedding: member("embeddings"), document: member("documents"), metadata, uri: member("uris") };
    }
  }

  add(batch) {
    for (const { id, ...record } of Model.rows(batch)) {
      if (!this.records.has(id)) this.records.set(id, { ...record, embedding: Array.from(record.embedding, Math.fround) });
    }
  }

  update(batch) {
    for (const { id, embedding, document, metadata, uri } of Model.rows(batch)) {
      const record = this.records.get(id);
      if (!record) continue;
      record.embedding = embedding ? Array.from(embedding, Math.fround) : record.embedding;
      record.document = document ?? record.document;
      record.uri = uri ?? record.uri;
      record.metadata = { ...record.metadata, ...metadata };
    }
  }

  upsert(batch) {
    const known = new Set(this.records.keys());
    this.update(batch);
    const rows = batch.ids.map((id, row) => [id, row]).filter(([id]) => !known.has(id));
    this.add(Object.fromEntries(Object.entries(batch).map(([name, column]) => [name, rows.map(([, row]) => column[row])])));
  }

  delete(ids) {
    for (const id of ids) this.records.delete(id);
  }

  /** The ids that a get with these arguments must give, in order. */
  select({ ids, where, whereDocument } = {}) {
    const chosen = ([id, { metadata, document }]) =>
      (!ids || ids.includes(id)) &&
      (!where || matches(where, metadata)) &&
      (!whereDocument || documentMatches(whereDocument, document));
    return [...this.records].filter(chosen).map(([id]) => id);
  }
}

// ---------------- a collection beside its model

/** On the wire they are the shortest texts that read back as the same f32. */
function compareEmbedding(found, expected, rounded, what) {
  if (!rounded) return equal(found.map(Math.fround), expected, what);
  const near = (value, index) => Math.abs(value - expected[index]) <= 1e-6 + 1e-5 * Math.abs(expected[index]);
  expect(found.length === expected.length && found.every(near), `${what}: found ${show(found)}, expected nearly ${show(expected)}`);
}

/** The columns of one get, or of one query's row, that includes everything. */
function compareRecords(answer, model, ids, what) {
  equal(answer.ids, ids, `${what}: ids`);
  for (const column of EVERYTHING) equal(answer[column].length, ids.length, `${what}: length of ${column}`);
  for (const [row, id] of ids.entries()) {
    const record = model.records.get(id);
    compareEmbedding(answer.embeddings[row], record.embedding, model.rounded, `${what}: embedding of ${show(id)}`);
    equal(answer.documents[row], record.document, `${what}: document of ${show(id)}`);
    const metadata = Object.keys(record.metadata).length ? record.metadata : null;
    equal(answer.metadatas[row], metadata, `${what}: metadata of ${show(id)}`);
    equal(answer.uris[row], record.uri, `${what}: uri of ${show(id)}`);
  }
}

/** Every record, member by member, in the order of insertion; `sorted` where writers raced for it. */
export async function compareCollection(collection, model, what, { page = 2_000, sorted = false } = {}) {
  equal(await collection.count(), model.records.size, `${what}: count`);
  const found = { ids: [], embeddings: [], documents: [], metadatas: [], uris: [] };
  for (let offset = 0; offset < model.records.size; offset += page) {
    const answer = await collection.get({ limit: page, offset, include: EVERYTHING });
    for (const [name, column] of Object.entries(found)) column.push(...answer[name]);
  }
  if (sorted) {
    const order = found.ids.map((id, row) => [id, row]).sort((a, b) => (a[0] < b[0] ? -1 : 1));
    for (const name of Object.keys(found)) found[name] = order.map(([, row]) => found[name][row]);
  }
  const ids = model.select();
  compareRecords(found, model, sorted ? ids.sort() : ids, what);
}

/** In float64, as Chroma defines them: squared Euclidean, 1 - cosine, 1 - inner product. */
export function exactDistance(space, one, other) {
  let squares = 0, product = 0, ones = 0, others = 0;
  for (let index = 0; index < one.length; index += 1) {
    squares += (one[index] - other[index]) ** 2;
    product += one[index] * other[index];
    ones += one[index] ** 2;
    others += other[index] ** 2;
  }
  if (space === "l2") return squares;
  if (space === "ip") return 1 - product;
  return ones * others === 0 ? 1 : 1 - product / Math.sqrt(ones * others);
}

/** The rounding of f32 that Chroma's own tests grant. */
const tolerance = (dimension, distance) => 1e-6 * 10 ** Math.floor(Math.log10(dimension)) + 1e-5 * Math.abs(distance);

/** A query against brute force. Ranks are compared by distance, so that equal distances may swap. */
export async function compareQuery(collection, model, space, queries, nResults, what, restriction = {}) {
  const include = [...EVERYTHING, "distances"];
  const answer = await collection.query({ queryEmbeddings: queries, nResults, include, ...restriction });
  equal(answer.include, include, `${what}: include`);
  equal(answer.ids.length, queries.length, `${what}: rows`);
  const candidates = new Set(model.select(restriction));
  for (const [row, query] of queries.entries()) {
    const where = `${what}, query ${row}`;
    const found = answer.ids[row], distances = answer.distances[row];
    const wanted = Math.min(nResults, candidates.size);
    if (!model.approximate) equal(found.length, wanted, `${where}: number of results`);
    expect(found.length > 0.9 * wanted || !wanted, `${where}: number of results: found ${found.length}, expected ${wanted}`);
    equal(new Set(found).size, found.length, `${where}: different ids`);
    equal(found.filter((id) => !candidates.has(id)), [], `${where}: results that the filter leaves out`);
    equal(distances, distances.toSorted((a, b) => a - b), `${where}: nearest first`);
    const columns = Object.fromEntries(EVERYTHING.map((name) => [name, answer[name][row]]));
    if (found.length) compareRecords({ ids: found, ...columns }, model, found, where);
    const narrow = query.map(Math.fround);
    const exact = new Map([...candidates].map((id) => [id, exactDistance(space, narrow, model.records.get(id).embedding)]));
    const nearest = [...exact.values()].sort((a, b) => a - b);
    for (const [rank, id] of found.entries()) {
      const allowed = tolerance(query.length, nearest[rank]);
      const close = (value, expected, of) => {
        const what = `${where}, rank ${rank}, ${show(id)}: ${of}`;
        expect(Math.abs(value - expected) <= allowed, `${what}: found ${value}, expected ${expected} ± ${allowed}`);
      };
      close(distances[rank], exact.get(id), "distance");
      if (!model.approximate) close(exact.get(id), nearest[rank], "as near as brute force's");
    }
  }
}
