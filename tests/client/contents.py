"""What environments.py writes, as the servers must give it back; and what Chroma's own server makes of it.

The real server keeps vectors of a cosine collection normalised and multiplies them out again, which changes the last
bit of most; it keeps -0.0 in metadata as 0.0 and never gives back metadata keys that start with `chroma:`.
"""

import json
import random
from pathlib import Path
from typing import NamedTuple

import numpy as np

from processes import Failed, expect
from samples import SPECIAL_IDS, random_batch
from wordnet import read_records

SMALL_DIMENSION = 64
# Components that a float32 only holds as a subnormal or with its sign.
RARE_COMPONENTS = np.float32([-0.0, 1e-40, 1e-45])
RARE_INTS = [-(2**63), 2**53 + 1, 2**63 - 1]


class Record(NamedTuple):
    """A record, all of it comparable."""

    vector: bytes
    document: str | None
    uri: str | None
    metadata: str

    @property
    def values(self) -> dict:
        return json.loads(self.metadata) or {}


def as_text(value) -> str:
    """JSON in which 1, 1.0 and true, and 0.0 and -0.0, are different; none and {} are not."""
    return json.dumps(value or None, sort_keys=True, ensure_ascii=False)


def articles(data: Path, count: int) -> dict[str, Record]:
    """The first WordNet records, with what they lack: rare ids, numbers and components, lists, uris, absent parts."""
    ids, documents, metadatas, embeddings = read_records(data)
    content = {}
    for number, (identity, document, metadata) in enumerate(zip(ids[:count], documents, metadatas)):
        vector = embeddings[number].copy()
        metadata = metadata | {"ratio": metadata["length"] / 7, "half": float(number)}
        if number % 250 == 3:
            vector[:3] = RARE_COMPONENTS
        if number % 400 == 0:
            identity = f"{SPECIAL_IDS[number // 400 % len(SPECIAL_IDS)]} {number}"
        if number % 3 == 0:
            metadata["each"] = metadata["words"].split(", ")
        if number % 50 == 7:
            metadata |= {"größe/東京": RARE_INTS[number % 3], "tiny": 5.68e-227, "ints": [number, -1]}
        content[identity] = Record(
            vector.tobytes(),
            None if number % 90 == 13 else document,
            f"https://example.org/{number}?q=ä" if number % 5 == 0 else None,
            as_text(None if number % 100 == 11 else metadata),
        )
    return content


def samples(seed: str, ids: list[str]) -> dict[str, Record]:
    """Records with metadata of every type, by the seed."""
    batch = random_batch(random.Random(seed), SMALL_DIMENSION, ids)
    columns = (batch[name] for name in ("embeddings", "documents", "uris", "metadatas"))
    return {identity: Record(vector.astype("<f4").tobytes(), document, uri, as_text(unsigned(metadata)))
            for identity, vector, document, uri, metadata in zip(ids, *columns)}


def unsigned(value):
    """Without a zero that has a sign."""
    if isinstance(value, dict):
        return {key: unsigned(each) for key, each in value.items()}
    if isinstance(value, list):
        return [unsigned(each) for each in value]
    return 0.0 if isinstance(value, float) and value == 0.0 else value


def exact_under_cosine(seed: str, content: dict[str, Record]) -> dict[str, Record]:
    """The same records with vectors whose length is a power of two: normalising changes no bit of them."""
    chance = random.Random(seed)
    changed = {}
    for identity, record in content.items():
        vector = np.zeros(SMALL_DIMENSION, "<f4")
        scale = 2.0 ** chance.randint(-6, 6)
        vector[chance.sample(range(SMALL_DIMENSION), 16)] = [chance.choice([-scale, scale]) for _ in range(16)]
        changed[identity] = record._replace(vector=vector.tobytes())
    kept = as_chroma_keeps(changed, cosine=True)
    expect(kept == changed, "vectors that survive being normalised")
    return changed


def normalised_and_back(vectors: np.ndarray) -> np.ndarray:
    """Float32 throughout, the squares added up in order: what Chroma does, bit for bit."""
    total = np.zeros(len(vectors), np.float32)
    for column in vectors.T:
        total += column * column
    lengths = np.sqrt(total)
    return vectors * (np.float32(1) / (lengths + np.float32(1e-30)))[:, None] * lengths[:, None]


def as_chroma_keeps(content: dict[str, Record], cosine: bool) -> dict[str, Record]:
    """What Chroma's own server gives back of what was written to it."""
    vectors = np.stack([np.frombuffer(record.vector, "<f4") for record in content.values()])
    if cosine:
        vectors = normalised_and_back(vectors)
    kept = {}
    for (identity, record), vector in zip(content.items(), vectors):
        values = {key: unsigned(value) for key, value in record.values.items() if not key.startswith("chroma:")}
        kept[identity] = record._replace(vector=vector.astype("<f4").tobytes(), metadata=as_text(values))
    return kept


def same_content(found: dict[str, Record], wanted: dict[str, Record], what: str, ordered: bool = True) -> None:
    """Every record, every member, and the order."""
    missing = [identity for identity in wanted if identity not in found]
    extra = [identity for identity in found if identity not in wanted]
    counts = f"{len(found)} records, expected {len(wanted)}"
    expect(not missing and not extra, f"{what}: {counts}; missing {missing[:5]}, never written {extra[:5]}")
    changed = {identity: [name for name, one, other in zip(Record._fields, found[identity], record) if one != other]
               for identity, record in wanted.items() if found[identity] != record}
    if changed:
        identity, members = next(iter(changed.items()))
        one, other = ([getattr(record, name) for name in members] for record in (found[identity], wanted[identity]))
        raise Failed(f"{what}: {len(changed)} of {len(wanted)} records differ; {identity!r} in {members}: "
                     f"{str(one)[:400]}, expected {str(other)[:400]}")
    if ordered:
        places = zip(found, wanted)
        moved = next((pair for pair in places if pair[0] != pair[1]), None)
        expect(moved is None, f"{what}: the order: {moved and moved[0]!r} where {moved and moved[1]!r} was written")
