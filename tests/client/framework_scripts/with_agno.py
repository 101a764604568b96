"""agno: insert, search with and without a filter, delete. It has no call that gets one document: a search that only it matches."""

import os
from dataclasses import dataclass

from agno.knowledge.document import Document
from agno.knowledge.embedder import Embedder
from articles import DELETED, EMBEDDINGS, GOT, ID_OF, METADATAS, QUESTION, TEXTS, TOPIC, report

KEY = os.environ.get("KEY")


@dataclass
class Fixed(Embedder):
    def get_embedding(self, text):
        return EMBEDDINGS[text]

    def get_embedding_and_usage(self, text):
        return EMBEDDINGS[text], None


embedder = Fixed(dimensions=3)
# >>> docs/frameworks.md
store.create()
store.insert("hash", [Document(name=ID_OF[text], content=text, meta_data=dict(metadata)) for text, metadata in zip(TEXTS, METADATAS)])
found = store.search(QUESTION, limit=3)
filtered = store.search(QUESTION, limit=3, filters={"topic": TOPIC})
[got] = store.search(QUESTION, limit=3, filters={"name": GOT})
store.delete_by_name(DELETED)
left = store.search(QUESTION, limit=3)
report([each.name for each in found], [each.name for each in filtered], got.content, got.meta_data["topic"], [each.name for each in left],
       [each.meta_data["similarity_score"] for each in found] if "similarity_score" in found[0].meta_data else None, "cosine")
