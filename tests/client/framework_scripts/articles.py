"""What every framework stores in frameworks.py, and the fixed embeddings of it: no model is loaded anywhere."""

import json

# Text, topic, embedding.
ARTICLES = {
    "a": ("on gardens", "nature", [0.1, 0.9, 0.0]),
    "b": ("on engines", "machines", [0.8, 0.1, 0.1]),
    "c": ("on gears", "machines", [0.7, 0.2, 0.1]),
}
QUESTION, TOPIC, GOT, DELETED = "what drives a car?", "machines", "c", "b"
IDS, TEXTS = list(ARTICLES), [text for text, _, _ in ARTICLES.values()]
METADATAS, VECTORS = [{"topic": topic} for _, topic, _ in ARTICLES.values()], [vector for _, _, vector in ARTICLES.values()]
EMBEDDINGS = dict(zip(TEXTS, VECTORS)) | {QUESTION: [0.8, 0.1, 0.1]}
ID_OF = dict(zip(TEXTS, IDS))


def report(found, filtered, text, topic, left, distances=None, space=None) -> None:
    """The last line of a script. `found`: ids of all, the nearest first; `filtered`: those with TOPIC; `text` and `topic` of GOT;
    `left`: ids after DELETED is gone; `distances` of `found`, where the framework passes them on as they are."""
    print(json.dumps({"found": found, "filtered": filtered, "text": text, "topic": topic, "left": sorted(left),
                      "distances": distances, "space": space}))
