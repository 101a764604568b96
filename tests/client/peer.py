"""The synchronous and the asynchronous client behind one face: scenarios are written once."""

import contextlib
import hashlib
import uuid

import chromadb
import numpy as np
from chromadb.api.async_client import AsyncAdminClient
from chromadb.api.types import EmbeddingFunction
from chromadb.config import Settings
from chromadb.errors import NotFoundError
from chromadb.utils.embedding_functions import register_embedding_function

import reference
from reference import done

DEFAULT_TENANT, DEFAULT_DATABASE = "default_tenant", "default_database"


@register_embedding_function
class LetterCount(EmbeddingFunction):
    """A deterministic embedding that needs no model: letters hashed into buckets."""

    def __init__(self, buckets=16):
        self.buckets = buckets

    def __call__(self, input):
        vectors = np.zeros((len(input), self.buckets), dtype=np.float32)
        for row, text in enumerate(input):
            for letter in text:
                vectors[row, hashlib.sha256(letter.encode()).digest()[0] % self.buckets] += 1
        return list(vectors)

    @staticmethod
    def name():
        return "letter_count"

    @staticmethod
    def build_from_config(config):
        return LetterCount(config["buckets"])

    def get_config(self):
        return {"buckets": self.buckets}

    def default_space(self):
        return "l2"

    def supported_spaces(self):
        return ["l2", "cosine", "ip"]


class Peer:
    """One kind of client, with a database of its own for each scenario."""

    def __init__(self, kind, host, port):
        self.kind, self.host, self.port = kind, host, port
        self.admin = None
        self.database = None
        self.client = None

    def settings(self):
        implementation = {"sync": "chromadb.api.fastapi.FastAPI", "async": "chromadb.api.async_fastapi.AsyncFastAPI"}
        return Settings(
            chroma_api_impl=implementation[self.kind],
            chroma_server_host=self.host,
            chroma_server_http_port=self.port,
            anonymized_telemetry=False,
        )

    async def connect(self, tenant=DEFAULT_TENANT, database=DEFAULT_DATABASE):
        factory = chromadb.HttpClient if self.kind == "sync" else chromadb.AsyncHttpClient
        quiet = Settings(anonymized_telemetry=False)
        return await done(factory(host=self.host, port=self.port, settings=quiet, tenant=tenant, database=database))

    async def __aenter__(self):
        self.admin = chromadb.AdminClient(self.settings()) if self.kind == "sync" else AsyncAdminClient(self.settings())
        self.database = f"client_check_{uuid.uuid4().hex[:12]}"
        await done(self.admin.create_database(self.database))
        self.client = await self.connect(database=self.database)
        return self

    async def __aexit__(self, *_):
        with contextlib.suppress(NotFoundError):  # the reset scenario takes it away itself
            await self.drop_database(self.database)

    async def drop_database(self, name, tenant=DEFAULT_TENANT):
        if reference.REAL_CHROMA:
            client = await self.connect(tenant, name)
            for collection in await done(client.list_collections()):
                await self.empty(collection)
        await done(self.admin.delete_database(name, tenant))

    @staticmethod
    async def empty(collection):
        ids = (await done(collection.get(include=[])))["ids"]
        if ids:
            await done(collection.delete(ids=ids))

    async def create(self, name, space="l2", **more):
        hnsw = {"space": space}
        if reference.REAL_CHROMA:
            hnsw |= {"max_neighbors": 64, "ef_construction": 500, "ef_search": 500}
        return await done(self.client.create_collection(name, configuration={"hnsw": hnsw}, embedding_function=None, **more))
