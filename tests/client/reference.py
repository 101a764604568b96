"""What a server must answer, worked out here: exact comparisons, a model of a collection, a reference
evaluator of filters, and brute force in float64. Knows no server and sends no request but the reads
whose answers it compares.
"""

import contextlib
import inspect
import math
import re
import struct
from dataclasses import dataclass, field

import numpy as np

SPACES = ("l2", "cosine", "ip")
EVERYTHING = ["embeddings", "documents", "metadatas", "uris"]

# Set by --real-chroma (chroma_client.py lists the flaws); every place that asks for it is one of them.
REAL_CHROMA = False


# ---------------- expectations


class Mismatch(AssertionError):
    """An answer that is not the expected one."""


def identical(actual, expected):
    """Equality that also sees 1 against 1.0 and True, 0.0 against -0.0, and nested types."""
    if type(actual) is not type(expected):
        return False
    if isinstance(expected, dict):
        return actual.keys() == expected.keys() and all(identical(actual[k], expected[k]) for k in expected)
    if isinstance(expected, list):
        return len(actual) == len(expected) and all(map(identical, actual, expected))
    if isinstance(expected, float) and not (REAL_CHROMA and expected == 0.0):
        return struct.pack("<d", actual) == struct.pack("<d", expected)
    return actual == expected


def shorten(value):
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}... ({len(text)} characters)"


def expect(condition, what):
    if not condition:
        raise Mismatch(what)


def equal(actual, expected, what):
    if not identical(actual, expected):
        raise Mismatch(f"{what}: got {shorten(actual)}, expected {shorten(expected)}")


@contextlib.contextmanager
def raises(kind, pattern, what):
    """The block must raise `kind` with a message that `pattern` finds."""
    try:
        yield
    except kind as error:
        if not re.search(pattern, str(error), re.IGNORECASE):
            raise Mismatch(f"{what}: {type(error).__name__} came without /{pattern}/: {error}") from error
    except Exception as error:
        raise Mismatch(f"{what}: expected {kind.__name__}, got {type(error).__name__}: {error}") from error
    else:
        raise Mismatch(f"{what}: expected {kind.__name__}, but it succeeded")


async def done(value):
    """The result of a client call, whichever client made it: scenarios are written once for both."""
    return await value if inspect.isawaitable(value) else value


# ---------------- the model


@dataclass
class Record:
    embedding: np.ndarray
    document: str | None = None
    metadata: dict = field(default_factory=dict)
    uri: str | None = None


class Model:
    """What a collection must hold: records by id, in the order of first insertion."""

    def __init__(self):
        self.records = {}

    @staticmethod
    def rows(ids, embeddings=None, documents=None, metadatas=None, uris=None):
        columns = [column or [None] * len(ids) for column in (embeddings, documents, metadatas, uris)]
        return zip(ids, *columns, strict=True)

    def add(self, **batch):
        for record_id, embedding, document, metadata, uri in self.rows(**batch):
            if record_id not in self.records:
                self.records[record_id] = Record(np.float32(embedding), document, dict(metadata or {}), uri)

    def update(self, **batch):
        for record_id, embedding, document, metadata, uri in self.rows(**batch):
            record = self.records.get(record_id)
            if record is None:
                continue
            if embedding is not None:
                record.embedding = np.float32(embedding)
            record.document = record.document if document is None else document
            record.uri = record.uri if uri is None else uri
            merged = record.metadata | (metadata or {})
            record.metadata = {key: value for key, value in merged.items() if value is not None}

    def upsert(self, **batch):
        for record_id, embedding, document, metadata, uri in self.rows(**batch):
            one = dict(ids=[record_id], embeddings=[embedding], documents=[document], metadatas=[metadata], uris=[uri])
            if record_id in self.records:
                self.update(**one)
            else:
                fresh = {key: value for key, value in (metadata or {}).items() if value is not None}
                self.add(**{**one, "metadatas": [fresh]})

    def delete(self, ids):
        for record_id in ids:
            self.records.pop(record_id, None)

    def select(self, ids=None, where=None, where_document=None):
        """The ids that a get with these arguments must return, in order."""
        return [
            record_id
            for record_id, record in self.records.items()
            if (ids is None or record_id in ids)
            and (where is None or matches(where, record.metadata))
            and (where_document is None or document_matches(where_document, record.document))
        ]


def same_value(stored, operand):
    numbers = (int, float)
    if isinstance(stored, bool) or isinstance(operand, bool):
        return isinstance(stored, bool) and isinstance(operand, bool) and stored == operand
    if isinstance(stored, numbers) and isinstance(operand, numbers):
        return stored == operand
    return isinstance(stored, str) and isinstance(operand, str) and stored == operand


def compares(stored, operand, order):
    is_number = isinstance(stored, (int, float)) and not isinstance(stored, bool)
    return is_number and order(stored, operand)


OPERATORS = {
    "$eq": same_value,
    "$gt": lambda stored, operand: compares(stored, operand, lambda a, b: a > b),
    "$gte": lambda stored, operand: compares(stored, operand, lambda a, b: a >= b),
    "$lt": lambda stored, operand: compares(stored, operand, lambda a, b: a < b),
    "$lte": lambda stored, operand: compares(stored, operand, lambda a, b: a <= b),
    "$in": lambda stored, operand: any(same_value(stored, one) for one in operand),
    "$contains": lambda stored, operand: (
        isinstance(stored, list) and any(type(one) is type(operand) and one == operand for one in stored)
    ),
}
# The negations also match records without the key.
NEGATIONS = {"$ne": "$eq", "$nin": "$in", "$not_contains": "$contains"}


def matches(where, metadata):
    """Reference evaluator of `where` on one record's metadata."""
    [(key, condition)] = where.items()
    if key in ("$and", "$or"):
        return (all if key == "$and" else any)(matches(part, metadata) for part in condition)
    condition = condition if isinstance(condition, dict) else {"$eq": condition}
    [(operator, operand)] = condition.items()
    if operator in NEGATIONS:
        return not OPERATORS[NEGATIONS[operator]](metadata.get(key), operand)
    return OPERATORS[operator](metadata.get(key), operand)


def document_matches(where_document, document):
    """Reference evaluator of `where_document` on one record's document."""
    [(operator, operand)] = where_document.items()
    if operator in ("$and", "$or"):
        return (all if operator == "$and" else any)(document_matches(part, document) for part in operand)
    if operator in ("$not_contains", "$not_regex"):
        return not document_matches({operator.replace("not_", ""): operand}, document)
    if document is None:
        return False
    return operand in document if operator == "$contains" else re.search(operand, document) is not None


def exact_distances(space, query, vectors):
    """Distances in float64 between one query and the rows of `vectors`, as Chroma defines them:
    squared Euclidean, 1 - cosine, 1 - inner product."""
    query = np.float32(query).astype(np.float64)
    vectors = np.asarray(vectors, dtype=np.float32).astype(np.float64)
    if space == "l2":
        return ((vectors - query) ** 2).sum(axis=1)
    dot = vectors @ query
    if space == "ip":
        return 1.0 - dot
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    return 1.0 - np.divide(dot, norms, out=np.zeros_like(dot), where=norms > 0)


def tolerance(dimension, distance):
    """The float32 rounding that Chroma's own suite grants."""
    return 1e-6 * 10 ** math.floor(math.log10(dimension)) + 1e-5 * abs(distance)


def same_bits(actual, expected, space=None):
    """Embeddings come back as doubles; they must be the float32 values that were sent, exactly."""
    actual, expected = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float32)
    if REAL_CHROMA and space == "cosine":
        return actual.shape == expected.shape and np.allclose(actual, expected, rtol=1e-5, atol=1e-6)
    return actual.shape == expected.shape and actual.astype(np.float32).tobytes() == expected.tobytes()


# ---------------- comparing a collection with the model


def plain(metadata):
    """A record's metadata from an answer, as a dict or None."""
    if metadata is None or (REAL_CHROMA and not metadata):
        return None
    return dict(metadata)


def compare_records(answer, model, ids, what, space=None):
    """One get answer (or one row of a query answer) that includes everything."""
    equal(list(answer["ids"]), ids, f"{what}: ids")
    for column in EVERYTHING:
        expect(answer[column] is not None and len(answer[column]) == len(ids), f"{what}: {column} is not as long as ids")
    for position, record_id in enumerate(ids):
        record, where = model.records[record_id], f"{what}: {record_id!r}"
        expect(same_bits(answer["embeddings"][position], record.embedding, space), f"{where}: embedding differs")
        equal(answer["documents"][position], record.document, f"{where}: document")
        equal(plain(answer["metadatas"][position]), record.metadata or None, f"{where}: metadata")
        equal(answer["uris"][position], record.uri, f"{where}: uri")


async def compare_collection(collection, model, what, space=None):
    """Every record, field by field, in insertion order."""
    equal(await done(collection.count()), len(model.records), f"{what}: count")
    answer = await done(collection.get(include=EVERYTHING))
    compare_records(answer, model, list(model.records), what, space)


async def compare_query(collection, model, space, queries, n_results, what, **restriction):
    """A query against brute force. Ranks are compared by distance, so equal distances may swap."""
    answer = await done(
        collection.query(query_embeddings=queries, n_results=n_results, include=[*EVERYTHING, "distances"], **restriction)
    )
    equal(len(answer["ids"]), len(queries), f"{what}: number of result lists")
    candidates = model.select(**restriction)
    for row, query in enumerate(queries):
        one = {column: answer[column][row] for column in ("ids", *EVERYTHING)}
        found, distances = list(answer["ids"][row]), list(answer["distances"][row])
        equal(len(found), min(n_results, len(candidates)), f"{what}: number of results")
        expect(len(set(found)) == len(found), f"{what}: an id came twice: {found}")
        expect(set(found) <= set(candidates), f"{what}: results outside the filter: {set(found) - set(candidates)}")
        expect(distances == sorted(distances), f"{what}: not sorted: {distances}")
        compare_records(one, model, found, what, space)
        if not candidates:
            continue
        exact = exact_distances(space, query, [model.records[i].embedding for i in candidates])
        by_id, nearest = dict(zip(candidates, exact, strict=True)), np.sort(exact)
        for rank, (record_id, distance) in enumerate(zip(found, distances, strict=True)):
            allowed = tolerance(len(query), nearest[rank])
            where = f"{what}: query {row} rank {rank} {record_id!r}"
            expect(abs(distance - by_id[record_id]) <= allowed, f"{where}: distance {distance}, exact {by_id[record_id]}")
            expect(
                abs(by_id[record_id] - nearest[rank]) <= allowed,
                f"{where}: not the nearest: {by_id[record_id]} > {nearest[rank]}",
            )
