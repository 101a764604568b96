"""crewai's store of knowledge: add, search with and without a filter. It has no call that gets or deletes a record: a search that
only it matches, and Chroma's client below it. What a crew's knowledge does goes to the same server."""

import os

from articles import DELETED, EMBEDDINGS, GOT, IDS, METADATAS, QUESTION, TEXTS, TOPIC, report
from chromadb import EmbeddingFunction
from crewai.knowledge.storage.knowledge_storage import KnowledgeStorage
from crewai.rag.config.utils import get_rag_client

KEY = os.environ.get("KEY")


class Fixed(EmbeddingFunction):
    def __init__(self):
        pass

    def __call__(self, texts):
        return [EMBEDDINGS[text] for text in texts]

    @staticmethod
    def name():
        return "fixed"

    @staticmethod
    def build_from_config(config):
        return Fixed()

    def get_config(self):
        return {}


embedding_function = Fixed()
# >>> docs/frameworks.md
store = get_rag_client()
store.create_collection(collection_name="articles")
store.add_documents(collection_name="articles", documents=[{"doc_id": id_, "content": text, "metadata": metadata}
                                                           for id_, text, metadata in zip(IDS, TEXTS, METADATAS)])
every = {"collection_name": "articles", "query": QUESTION, "limit": 3, "score_threshold": 0}
found = store.search(**every)
filtered = store.search(**every, metadata_filter={"topic": TOPIC})
[got] = [each for each in filtered if each["id"] == GOT]
store.client.get_collection("articles", embedding_function=embedding_function).delete(ids=[DELETED])
left = [each["id"] for each in store.search(**every)]
knowledge = KnowledgeStorage(collection_name="crew")
knowledge.save(TEXTS)
assert [each["content"] for each in knowledge.search([QUESTION], limit=1, score_threshold=0)] == [TEXTS[IDS.index(DELETED)]]
report([each["id"] for each in found], [each["id"] for each in filtered], got["content"], got["metadata"]["topic"], left)
