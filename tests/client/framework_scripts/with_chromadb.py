"""The Python client itself: add, query with and without a filter, get, delete."""

import os

from articles import DELETED, EMBEDDINGS, GOT, IDS, METADATAS, QUESTION, TEXTS, TOPIC, VECTORS, report

KEY = os.environ.get("KEY")
# >>> docs/frameworks.md
articles = client.get_or_create_collection("articles", embedding_function=None)
articles.add(ids=IDS, embeddings=VECTORS, documents=TEXTS, metadatas=METADATAS)
question = EMBEDDINGS[QUESTION]
found = articles.query(query_embeddings=[question], n_results=3)
filtered = articles.query(query_embeddings=[question], n_results=3, where={"topic": TOPIC})
got = articles.get(ids=[GOT])
articles.delete(ids=[DELETED])
left = articles.get()
report(found["ids"][0], filtered["ids"][0], got["documents"][0], got["metadatas"][0]["topic"], left["ids"], found["distances"][0], "l2")
