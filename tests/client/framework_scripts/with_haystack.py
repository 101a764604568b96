"""chroma-haystack: write, retrieve with and without a filter, get, delete."""

import os

from articles import DELETED, EMBEDDINGS, GOT, IDS, METADATAS, QUESTION, TEXTS, TOPIC, VECTORS, report
from haystack import Document
from haystack_integrations.components.retrievers.chroma import ChromaEmbeddingRetriever

KEY = os.environ.get("KEY")
# >>> docs/frameworks.md
store.write_documents([Document(id=id_, content=text, meta=metadata, embedding=vector)
                       for id_, text, metadata, vector in zip(IDS, TEXTS, METADATAS, VECTORS)])
retriever = ChromaEmbeddingRetriever(store, top_k=3)
found = retriever.run(EMBEDDINGS[QUESTION])["documents"]
topic = {"field": "meta.topic", "operator": "==", "value": TOPIC}
filtered = retriever.run(EMBEDDINGS[QUESTION], filters=topic)["documents"]
[got] = store.filter_documents({"field": "id", "operator": "==", "value": GOT})
store.delete_documents([DELETED])
report([each.id for each in found], [each.id for each in filtered], got.content, got.meta["topic"],
       [each.id for each in store.filter_documents()], [each.score for each in found], "l2")
