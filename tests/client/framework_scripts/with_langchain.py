"""langchain-chroma: add, search with and without a filter, get, delete."""

import os

from articles import DELETED, EMBEDDINGS, GOT, IDS, METADATAS, QUESTION, TEXTS, TOPIC, report
from langchain_core.embeddings import Embeddings

KEY = os.environ.get("KEY")


class Fixed(Embeddings):
    def embed_documents(self, texts):
        return [EMBEDDINGS[text] for text in texts]

    def embed_query(self, text):
        return EMBEDDINGS[text]


embeddings = Fixed()
# >>> docs/frameworks.md
store.add_texts(TEXTS, metadatas=METADATAS, ids=IDS)
found = store.similarity_search_with_score(QUESTION, k=3)
filtered = store.similarity_search(QUESTION, k=3, filter={"topic": TOPIC})
got = store.get(ids=[GOT])
store.delete(ids=[DELETED])
report([each.id for each, _ in found], [each.id for each in filtered], got["documents"][0], got["metadatas"][0]["topic"],
       store.get()["ids"], [distance for _, distance in found], "l2")
