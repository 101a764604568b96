"""mem0: memories stored as they are (`infer=False`), searched with and without a filter, got, deleted. Its embedder is OpenAI's,
of which frameworks.py is the server; its language model is not asked."""

import os

from articles import DELETED, GOT, ID_OF, METADATAS, QUESTION, TEXTS, TOPIC, report

import mem0

KEY = os.environ.get("KEY")
# >>> docs/frameworks.md
config["embedder"] = {"provider": "openai", "config": {"api_key": "none", "openai_base_url": os.environ["OPENAI_BASE_URL"]}}
config["llm"] = {"provider": "openai", "config": {"api_key": "none", "openai_base_url": os.environ["OPENAI_BASE_URL"]}}
config["history_db_path"] = "history.db"
memory = mem0.Memory.from_config(config)
ids = {}
for text, metadata in zip(TEXTS, METADATAS):
    [added] = memory.add(text, user_id="reader", metadata=metadata, infer=False)["results"]
    ids[ID_OF[text]] = added["id"]
found = memory.search(QUESTION, filters={"user_id": "reader"}, top_k=3, threshold=0)["results"]
filtered = memory.search(QUESTION, filters={"user_id": "reader", "topic": TOPIC}, top_k=3, threshold=0)["results"]
got = memory.get(ids[GOT])
memory.delete(ids[DELETED])
left = memory.get_all(filters={"user_id": "reader"})["results"]
report([ID_OF[each["memory"]] for each in found], [ID_OF[each["memory"]] for each in filtered], got["memory"], got["metadata"]["topic"],
       [ID_OF[each["memory"]] for each in left])
