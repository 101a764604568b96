"""chroma-mcp as an assistant starts it, spoken to over its standard input: add, query with and without a filter, get, delete. Its
embeddings are OpenAI's, of which frameworks.py is the server; Chroma's client makes collections of those in cosine space."""

import asyncio
import json
import os
import sys

from articles import DELETED, GOT, IDS, METADATAS, QUESTION, TEXTS, TOPIC, report
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

COMMAND = sys.argv[1]


async def main() -> None:
    server = StdioServerParameters(command="bash", args=["-c", COMMAND], env=dict(os.environ))
    async with stdio_client(server) as streams, ClientSession(*streams) as session:
        await session.initialize()

        async def call(tool: str, **arguments):
            answer = await session.call_tool(f"chroma_{tool}", {"collection_name": "articles"} | arguments)
            text = "".join(part.text for part in answer.content)
            assert not answer.isError, text
            return text

        await call("create_collection", embedding_function_name="openai")
        await call("add_documents", documents=TEXTS, ids=IDS, metadatas=METADATAS)
        query = {"query_texts": [QUESTION], "n_results": 3}
        found = json.loads(await call("query_documents", **query))
        filtered = json.loads(await call("query_documents", **query, where={"topic": TOPIC}))
        got = json.loads(await call("get_documents", ids=[GOT]))
        await call("delete_documents", ids=[DELETED])
        left = json.loads(await call("get_documents"))
        report(found["ids"][0], filtered["ids"][0], got["documents"][0], got["metadatas"][0]["topic"], left["ids"],
               found["distances"][0], "cosine")


asyncio.run(main())
