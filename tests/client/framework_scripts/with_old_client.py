"""A Python client from before Chroma 1.0: it has to fail, and this shows with what."""

import sys

import chromadb

client = chromadb.HttpClient(host="127.0.0.1", port=int(sys.argv[1]))
client.get_or_create_collection("articles").add(ids=["a"], embeddings=[[1.0, 2.0]])
