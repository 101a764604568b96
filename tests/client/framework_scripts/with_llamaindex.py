"""llama-index-vector-stores-chroma: an index over the store; add, retrieve with and without a filter, get, delete."""

import math
import os

from articles import DELETED, EMBEDDINGS, GOT, IDS, METADATAS, QUESTION, TEXTS, TOPIC, report
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import ExactMatchFilter, MetadataFilters

KEY = os.environ.get("KEY")


class Fixed(BaseEmbedding):
    def _get_text_embedding(self, text):
        return EMBEDDINGS[text]

    _get_query_embedding = _get_text_embedding

    async def _aget_query_embedding(self, query):
        return EMBEDDINGS[query]


# >>> docs/frameworks.md
# Without its metadata in the text that is embedded.
nodes = [TextNode(id_=id_, text=text, metadata=metadata, excluded_embed_metadata_keys=["topic"])
         for id_, text, metadata in zip(IDS, TEXTS, METADATAS)]
index = VectorStoreIndex(nodes, storage_context=StorageContext.from_defaults(vector_store=store), embed_model=Fixed())
found = index.as_retriever(similarity_top_k=3).retrieve(QUESTION)
filters = MetadataFilters(filters=[ExactMatchFilter(key="topic", value=TOPIC)])
filtered = index.as_retriever(similarity_top_k=3, filters=filters).retrieve(QUESTION)
[got] = store.get_nodes([GOT])
store.delete_nodes([DELETED])
report([each.node.node_id for each in found], [each.node.node_id for each in filtered], got.get_content(), got.metadata["topic"],
       [each.node_id for each in store.get_nodes(None)], [-math.log(each.score) for each in found], "l2")
