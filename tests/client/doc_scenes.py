"""The situations that blocks of the documents begin in, by the name in the comment above a block.

Each is a generator: what comes before its `yield` makes the situation, what comes after looks whether the block led out
of it. All work in the stage's directory, where ./data is the store and ./backups the repository.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from doc_stage import DATABASE, Service, Stage, clean_environment
from processes import START_SECONDS, Failed, Process, equal, expect, http_call, until

Scene = Callable[[Stage], Iterator[None]]
STARS = 8_000
OLD_ARTICLES = 300


def empty(stage: Stage) -> Iterator[None]:
    """A service that was never written to. Afterwards it holds what all other blocks begin with."""
    stage.service.start()
    yield
    found = stage.service.digest("articles")
    stage.service.articles()
    equal(found, stage.service.digest("articles"), "the digest of articles")


def with_articles(stage: Stage) -> Service:
    """The running service, with what the documents agree on."""
    stage.service.start()
    stage.service.articles()
    stage.service.back_up()
    return stage.service


def articles(stage: Stage) -> Iterator[None]:
    """What the documents agree on."""
    with_articles(stage)
    yield


def changed(stage: Stage) -> Iterator[None]:
    """Since the backup b was deleted, a changed, and d added."""
    path = with_articles(stage).articles()
    stage.service.ask("POST", f"{path}/delete", {"ids": ["b"]})
    stage.service.ask("POST", f"{path}/upsert", {"ids": ["a", "d"], "embeddings": [[0.1, 0.8, 0.1], [0.3, 0.3, 0.3]], "documents": ["on parks", "on bridges"]})
    yield


def dead_disk(stage: Stage) -> Iterator[None]:
    """The store is gone; the service was started on an empty directory, with the repository of before."""
    service = with_articles(stage)
    before = service.digest("articles")
    service.stop()
    shutil.rmtree(stage.home / "data")
    service.start()
    yield
    equal(service.digest("articles"), before, "the digest after the restore")


def lost_records(stage: Stage) -> Iterator[None]:
    """A record was deleted; the newest backup does not have it any more. Another was changed since."""
    service = with_articles(stage)
    path = service.articles()
    service.ask("POST", f"{path}/delete", {"ids": ["b"]})
    service.back_up()
    service.ask("POST", f"{path}/upsert", {"ids": ["c"], "embeddings": [[0.0, 0.2, 0.9]], "documents": ["on clocks"]})
    yield
    found = service.records("articles")
    equal(sorted(zip(found["ids"], found["documents"])), [("a", "on gardens"), ("b", "on engines"), ("c", "on clocks")], "the records")


def dropped_collection(stage: Stage) -> Iterator[None]:
    service = with_articles(stage)
    before = service.digest("articles")
    service.ask("DELETE", f"{DATABASE}/collections/articles")
    yield
    equal(service.digest("articles"), before, "the digest after the restore")


def overwritten_collection(stage: Stage) -> Iterator[None]:
    """A record has a wrong embedding since the backup."""
    service = with_articles(stage)
    before = service.digest("articles")
    service.ask("POST", f"{service.articles()}/upsert", {"ids": ["b"], "embeddings": [[0.0, 0.0, 0.0]], "documents": ["?"]})
    yield
    equal(service.digest("articles"), before, "the digest after the restore")


def pack_of(stage: Stage, backup: str, collection: str) -> Path:
    """A pack that holds records of the collection in the backup, and of no other."""
    manifest = json.loads((stage.home / f"backups/backups/{backup}.json").read_text())["manifest"]
    needed = json.dumps(next(one for one in manifest["collections"] if one["name"] == collection)["layers"])
    return next(path for path in sorted(stage.home.glob("backups/packs/*/*.arrow")) if path.stem in needed)


def damaged_pack(stage: Stage) -> Iterator[None]:
    """One bit of a pack of the newest backup is another: the records of articles. Those of books are in another pack."""
    service = stage.service
    service.start()
    service.articles()
    service.collection("books", {"ids": ["emma", "dracula"], "embeddings": [[1, 0, 0], [0, 0.5, 1]]})
    pack = pack_of(stage, service.back_up(), "articles")
    content = bytearray(pack.read_bytes())
    content[len(content) // 2] ^= 1
    pack.write_bytes(content)
    yield
    newest = service.ask("GET", "/backups?limit=1")["backups"][0]
    equal((newest["kind"], newest["verification"]["ok"]), ("full", True), "the newest backup")


def older_store(stage: Stage) -> None:
    """./data is an older copy than the word in it says; the service is stopped."""
    service = with_articles(stage)
    service.stop()
    older = stage.home / "older"
    shutil.copytree(stage.home / "data", older)
    service.start()
    service.collection("articles", {"ids": ["d"], "embeddings": [[0.3, 0.3, 0.3]], "documents": ["on bridges"]})
    service.back_up()
    service.stop()
    shutil.copy(stage.home / "data/vectorkeep.json", older)
    shutil.rmtree(stage.home / "data")
    older.rename(stage.home / "data")


def store_behind(stage: Stage) -> Iterator[None]:
    """The service does not start: acknowledged writes are missing."""
    older_store(stage)
    try:
        stage.service.start()
    except Failed as error:
        expect("acknowledged writes are missing" in str(error), f"the message of the start: {error}")
    else:
        raise Failed("a store that lost writes was opened")
    yield
    expect((stage.home / "data.evidence/vectorkeep.json").is_file(), "there is no copy of the data directory")


def store_accepted(stage: Stage) -> Iterator[None]:
    """The same, started once with the loss accepted. Afterwards it starts without that word."""
    older_store(stage)
    stage.service.start(storage__accept_data_loss="true")
    yield
    stage.service.restart()
    equal(len(stage.service.records("articles")["ids"]), 4, "the records")


def damaged_record(stage: Stage) -> Iterator[None]:
    """A service with many records and little memory for the store, of which one was spoiled on the disk while it runs, after
    a backup and a further record."""
    service = stage.service
    service.start(storage__cache_bytes=1_048_576)
    service.articles()
    numbers = range(STARS)
    path = service.collection("stars", {
        "ids": [f"star-{n}" for n in numbers],
        "embeddings": [[n % 7, n % 11, n % 13] * 21 for n in numbers],
        "documents": [f"star number {n}." for n in numbers],
    })
    service.back_up()
    service.ask("POST", f"{path}/upsert", {"ids": ["star-new"], "embeddings": [[1] * 63], "documents": ["written after the backup"]})
    service.collection("comets", {"ids": ["halley"], "embeddings": [[1, 2]]}, configuration={"hnsw": {"space": "ip"}}, metadata={"made": "after the backup"})
    with (stage.home / "data/store/db").open("r+b") as file:
        for found in re.finditer(rb"star number 77\.", file.read()):
            file.seek(found.start())
            file.write(b"S")
    yield


def full_disk(stage: Stage) -> Iterator[None]:
    """The disk has less room than storage.min_free_bytes, for a file that is not vectorkeep's lies on it: ./core."""
    service, ballast = with_articles(stage), stage.home / "core"
    size = min(2 << 30, shutil.disk_usage(stage.home).free // 4)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    floor = shutil.disk_usage(stage.home).free + size // 2
    service.restart(storage__min_free_bytes=floor, health__disk_warn_bytes=floor, health__monitor_interval_ms=200)
    until("a service that refuses writes", START_SECONDS, lambda: http_call(
        service.port, "POST", "/backups?wait=true", b"{}", {"Content-Type": "application/json"})[0] == 507)
    yield
    ballast.unlink(missing_ok=True)


def fill(stage: Stage) -> int:
    """Writes until the disk takes no more; how many writes were acknowledged."""
    service = stage.service
    path = service.collection("reels", {"ids": ["first"], "embeddings": [[0, 1]]})
    for number in range(1_000):
        body = {"ids": [f"reel-{number}"], "embeddings": [[number, 1]], "documents": [os.urandom(40_000).hex()]}
        status = http_call(service.port, "POST", f"{path}/add", json.dumps(body).encode(), {"Content-Type": "application/json"})[0]
        if status != 201:
            equal(status, 503, "the write that failed")
            return number
    raise Failed("the disk took everything")


def storage_fault(stage: Stage) -> Iterator[None]:
    """A write failed on the disk (no file may grow beyond 4 MiB): the service takes no more."""
    stage.service.start(file_size_limit_kib=4096, storage__min_free_bytes=0)
    stage.service.articles()
    stage.service.back_up()
    fill(stage)
    yield


def after_storage_fault(stage: Stage) -> Iterator[None]:
    """The same, restarted with room on the disk. What was acknowledged is there."""
    service = stage.service
    service.start(file_size_limit_kib=4096, storage__min_free_bytes=0)
    service.articles()
    acknowledged = fill(stage) + 1
    service.stop()
    service.start()
    yield
    found = len(service.records("reels")["ids"])
    expect(acknowledged <= found <= acknowledged + 1, f"{found} records, {acknowledged} were acknowledged")


def new_key(stage: Stage, name: str, role: str) -> tuple[str, str]:
    """Secret and table of a key."""
    made = subprocess.run([stage.runner.binary, "key", name, "--role", role], env=clean_environment(), text=True, capture_output=True,
                          timeout=START_SECONDS, check=True)
    return made.stderr.strip(), made.stdout


def lost_key(stage: Stage) -> Iterator[None]:
    """A service with the keys of ./keys.toml, one of which, oncall's, nobody has any more. The new one is in ./oncall.key."""
    lost, table = new_key(stage, "oncall", "operator")
    other, tables = new_key(stage, "shop", "writer")
    (stage.home / "keys.toml").write_text(table + tables)
    service = stage.service
    service.start(access__keys_file=stage.home / "keys.toml", access__reload_interval_ms=200)
    equal((service.status("/backups", lost), service.status("/collections", other)), (200, 200), "the keys of before")
    yield
    new = (stage.home / "oncall.key").read_text().strip()
    equal([service.status(path, key) for path, key in (("/backups", lost), ("/backups", new), ("/collections", other))], [401, 200, 200],
          "the lost key, the new one, the other one")


def old_chroma(stage: Stage) -> Iterator[None]:
    """A Chroma server with 300 articles, which an empty vectorkeep knows as the environment `old`."""
    old = Process(stage.home / "old.log")
    stage.others.append(old)
    # The port that the document shows for it.
    port = int(stage.with_ports("127.0.0.1:8124").rpartition(":")[2])
    old.spawn(["chroma", "run", "--path", str(stage.home / "old"), "--host", "127.0.0.1", "--port", str(port)], clean_environment())
    until("Chroma's server", START_SECONDS, lambda: old.alive() and http_call(port, "GET", "/api/v2/heartbeat")[0] == 200)
    numbers = range(OLD_ARTICLES)
    records = {
        "ids": [f"a{number}" for number in numbers],
        "embeddings": [[number / 7, 1 / (1 + number), 0.5] for number in numbers],
        "documents": [f"article {number}" for number in numbers],
        "metadatas": [{"page": number, "price": number / 8} for number in numbers],
    }
    headers = {"Content-Type": "application/json"}
    made = http_call(port, "POST", f"{DATABASE}/collections", json.dumps({"name": "articles", "metadata": {"owner": "shop"}}).encode(), headers)
    equal(made[0], 200, "the old collection")
    path = f"{DATABASE}/collections/{json.loads(made[2])['id']}/add"
    equal(http_call(port, "POST", path, json.dumps(records).encode(), headers)[0], 201, "its records")
    (stage.home / "vectorkeep.toml").write_text(f'[environments.old]\nkind = "chroma"\nurl = "http://127.0.0.1:{port}"\n')
    stage.service.start(environments__old__kind="chroma", environments__old__url=f"http://127.0.0.1:{port}")
    yield


def moved(stage: Stage) -> Iterator[None]:
    """The same, after the migration."""
    scene = old_chroma(stage)
    next(scene)
    request = {"source": {"environment": "old", "collection": "articles"}, "target": {"collection": "articles"}}
    stage.service.ask("POST", "/migrate?wait=true", request)
    yield


SCENES: dict[str, Scene] = {scene.__name__.replace("_", "-"): scene for scene in (
    articles, empty, changed, dead_disk, lost_records, dropped_collection, overwritten_collection, damaged_pack, store_behind, store_accepted,
    damaged_record, full_disk, storage_fault, after_storage_fault, lost_key, old_chroma, moved)}
