"""Open WebUI's own access to its vector store, with the settings that it takes from the environment."""

from articles import DELETED, EMBEDDINGS, GOT, IDS, METADATAS, QUESTION, TEXTS, TOPIC, VECTORS, report
from open_webui.retrieval.vector.factory import get_vector_db_client

store = get_vector_db_client()
assert type(store).__module__ == "open_webui.retrieval.vector.dbs.chroma", type(store)
items = [{"id": id_, "text": text, "vector": vector, "metadata": metadata}
         for id_, text, vector, metadata in zip(IDS, TEXTS, VECTORS, METADATAS)]
assert not store.has_collection("articles")
store.insert("articles", items)
found = store.search("articles", [EMBEDDINGS[QUESTION]], limit=3)
filtered = store.search("articles", [EMBEDDINGS[QUESTION]], filter={"topic": TOPIC}, limit=3)
got = dict(zip(store.get("articles").ids[0], zip(store.get("articles").documents[0], store.get("articles").metadatas[0])))[GOT]
assert store.query("articles", {"topic": "nature"}).ids == [["a"]]
store.delete("articles", ids=[DELETED])
# 1 is nearest there, 0 farthest.
report(found.ids[0], filtered.ids[0], got[0], got[1]["topic"], store.get("articles").ids[0],
       [2 - 2 * score for score in found.distances[0]], "cosine")
