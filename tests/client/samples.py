"""Seeded data: the same seed gives the same records, operations and filters in every process."""

import numpy as np

SPECIAL_IDS = ["naïve-é", "日本語/東京", "😀", "a b\tc", "x" * 200, "-_./+%?#&", "\x1f", "ø\u0301", "null", "0"]
WORDS = "amber basalt Cedar delta ember falcon granite harbor Ivory juniper über 東京 100%_*".split()
INTS = [-(2**63), -(2**31), -7, -1, 0, 1, 2, 3, 5, 8, 2**31, 2**53 + 1, 2**63 - 1]
FLOATS = [-1e300, -2.5, -0.0, 0.0, 5.68e-227, 0.1, 0.5, 1.0, 2.0, 2.5, 3.14159, 1e300]


def random_vector(rng, dimension):
    return np.float32([rng.gauss(0, 1) for _ in range(dimension)])


def random_metadata(rng, may_delete=False):
    """Typed values: every type that Chroma stores, and the types of a key may change."""
    choices = {
        "int": lambda: rng.choice(INTS),
        "float": lambda: rng.choice(FLOATS),
        "bool": lambda: rng.random() < 0.5,
        "string": lambda: rng.choice(WORDS),
        "ключ": lambda: rng.choice(["да", "нет", ""]),
        "ints": lambda: rng.sample(INTS, rng.randint(1, 3)),
        "floats": lambda: rng.sample(FLOATS, rng.randint(1, 3)),
        "strings": lambda: rng.sample(WORDS, rng.randint(1, 3)),
        "bools": lambda: [rng.random() < 0.5 for _ in range(rng.randint(1, 3))],
        "mixed": lambda: rng.choice([1, 1.5, True, "one", [1, 2], ["one"]]),
    }
    metadata = {key: choices[key]() for key in rng.sample(list(choices), rng.randint(1, 6))}
    if may_delete:
        metadata |= {key: None for key in rng.sample(list(choices), rng.randint(0, 2))}
    return metadata


def random_document(rng):
    if rng.random() < 0.15:
        return None
    return rng.choice([" ", "\n", ", "]).join(rng.choice(WORDS) for _ in range(rng.randint(1, 8)))


def random_batch(rng, dimension, ids, may_delete=False):
    return dict(
        ids=ids,
        embeddings=[random_vector(rng, dimension) for _ in ids],
        documents=[random_document(rng) for _ in ids],
        metadatas=[None if rng.random() < 0.1 else random_metadata(rng, may_delete) for _ in ids],
        uris=[None if rng.random() < 0.5 else f"https://example.org/{rng.randrange(1000)}?q=ä" for _ in ids],
    )


def random_operations(rng, dimension, count):
    """A seeded history: a first load with every special id, then mixed writes on known and unknown ids."""
    pool = SPECIAL_IDS + [f"record-{n:04}" for n in range(90)]
    yield "add", random_batch(rng, dimension, pool[:70])
    for _ in range(count):
        ids = rng.sample(pool, rng.randint(1, 8))
        verb = rng.choice(["add", "upsert", "upsert", "update", "update", "delete"])
        if verb == "delete":
            yield verb, dict(ids=ids)
        elif verb == "update" and rng.random() < 0.5:
            yield verb, dict(ids=ids, metadatas=[random_metadata(rng, may_delete=True) for _ in ids])
        else:
            yield verb, random_batch(rng, dimension, ids, may_delete=verb != "add")


def filtering_data(rng, dimension=6, count=120):
    """Records for filters: ints, floats, bools, strings, lists, missing keys, documents or none."""
    batch = dict(ids=[f"f{n:03}" for n in range(count)], embeddings=[], documents=[], metadatas=[])
    for _ in range(count):
        choices = {
            "i": rng.randint(-3, 6),
            "f": rng.choice([-1.5, 0.0, 0.5, 2.0, 2.5]),
            "b": rng.random() < 0.5,
            "s": rng.choice(["red", "green", "blue", "Red"]),
            "li": rng.sample(range(6), 2),
            "ls": rng.sample(["x", "y", "z"], 2),
        }
        keep = rng.sample(list(choices), rng.randint(0, 6))
        batch["embeddings"].append(random_vector(rng, dimension))
        batch["documents"].append(random_document(rng))
        batch["metadatas"].append({key: choices[key] for key in keep} or None)
    return batch


def random_where(rng, depth=2):
    if depth and rng.random() < 0.4:
        return {rng.choice(["$and", "$or"]): [random_where(rng, depth - 1) for _ in range(rng.randint(2, 3))]}
    # Fractional operands only for the key of floats: Chroma's server truncates them when it compares stored ints.
    operands = {
        "i": lambda: rng.choice([rng.randint(-3, 6), float(rng.randint(-3, 6))]),
        "f": lambda: rng.choice([-1.5, 0.0, 0.4, 0.5, 2.0, 2.5, 2]),
        "b": lambda: rng.random() < 0.5,
        "s": lambda: rng.choice(["red", "green", "blue", "Red", "RED", ""]),
        "li": lambda: rng.randint(0, 6),
        "ls": lambda: rng.choice(["x", "y", "z", "w"]),
        "absent": lambda: rng.choice([1, "x", True]),
    }
    key = rng.choice(list(operands))
    operators = {
        "i": ["$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin"],
        "f": ["$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin"],
        "li": ["$contains", "$not_contains", "$ne"],
        "ls": ["$contains", "$not_contains", "$ne"],
    }.get(key, ["$eq", "$ne", "$in", "$nin"])
    operator, operand = rng.choice(operators), operands[key]()
    if operator in ("$in", "$nin"):
        others = [operands[key]() for _ in range(rng.randint(0, 2))]
        operand = [operand, *(one for one in others if type(one) is type(operand))]
    if operator == "$eq" and rng.random() < 0.5:
        return {key: operand}
    return {key: {operator: operand}}


DOCUMENT_FILTERS = [
    {"$contains": "cedar"},
    {"$contains": "Cedar"},
    {"$contains": "%_*"},
    {"$contains": "東京"},
    {"$contains": "über"},
    {"$not_contains": "falcon"},
    {"$regex": "^(amber|delta)"},
    {"$regex": "(?i)CEDAR"},
    {"$regex": "[0-9]+%"},
    {"$not_regex": "gran.te"},
    {"$and": [{"$contains": "ember"}, {"$not_contains": "harbor"}]},
    {"$or": [{"$contains": "juniper"}, {"$and": [{"$contains": "basalt"}, {"$contains": "delta"}]}]},
    {"$contains": "no such words anywhere"},
]
