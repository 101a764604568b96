"""The service that object_store.py looks at, and collections that know what they must hold."""

import base64
import json
import os
import random
import secrets
import struct
import subprocess
from pathlib import Path

from processes import CALL_SECONDS, START_SECONDS, Process, equal, expect, free_ports, http_call, until

DATABASE = "/api/v2/tenants/default_tenant/databases/default_database"
BUCKET = "vectorkeep"
DIMENSION = 96
BATCH = 500
REQUEST_TIMEOUT_MS, RETRY_TIMEOUT_MS, MAX_RETRIES = 2_000, 3_000, 2
KEY_ID, SECRET, WRONG_SECRET = (f"{kind}{secrets.token_hex(16)}" for kind in ("AKIA", "right", "wrong"))
# The part of each that nothing else can contain.
HIDDEN = {"access key id": KEY_ID[4:], "secret": SECRET[5:], "wrong secret": WRONG_SECRET[5:]}
searched = {"answers": 0, "lines": 0}


def hides(text: str, where: str) -> None:
    for name, hidden in HIDDEN.items():
        place = text.find(hidden)
        expect(place < 0, f"{where} contains the {name}: …{text[max(0, place - 200):place]!r}")


def credentials(port: int, secret: str = SECRET) -> dict:
    return {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": secret, "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT": f"http://127.0.0.1:{port}", "AWS_ALLOW_HTTP": "true"}


class Service(Process):
    """The service under test; whatever it says is searched for secrets."""

    def __init__(self, binary: Path, home: Path, name: str, aws: dict, **settings) -> None:
        super().__init__(home / f"{name}.log")
        self.binary, self.port, self.url = binary, free_ports(1)[0], f"s3://{BUCKET}/some/{name}"
        foreign = ("VECTORKEEP", "AWS_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
        self.environment = {key: value for key, value in os.environ.items() if not key.upper().startswith(foreign)} | aws
        settings = {
            "SERVER__LISTEN": f"127.0.0.1:{self.port}", "STORAGE__DATA_DIR": home / name, "REPOSITORY__URL": self.url,
            "REPOSITORY__MAX_RETRIES": MAX_RETRIES, "REPOSITORY__RETRY_TIMEOUT_MS": RETRY_TIMEOUT_MS,
            "REPOSITORY__REQUEST_TIMEOUT_MS": REQUEST_TIMEOUT_MS, "REPOSITORY__GRACE_MS": 0,
            # Small packs: a backup has many. A lock whose removal failed with the server stands for this long.
            "REPOSITORY__PACK_BYTES": 65_536, "REPOSITORY__LOCK_STALE_MS": 4_000} | settings
        self.environment |= {f"VECTORKEEP__{key}": str(value) for key, value in settings.items()}

    def start(self) -> None:
        self.spawn([self.binary, "serve"], self.environment)
        until("the service", START_SECONDS, lambda: self.alive() and http_call(self.port, "GET", "/health/ready")[0] == 200)

    def send(self, method: str, path: str, body=None, media_type: str = "application/json"):
        """Status and body, as JSON where it is."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        status, headers, raw = http_call(self.port, method, path, data, {"Content-Type": media_type} if data else {})
        text = raw.decode()
        hides(f"{headers}{text}", f"the answer to {method} {path}")
        searched["answers"] += 1
        is_json = headers.get_content_subtype().rpartition("+")[2] == "json"
        return status, json.loads(text) if is_json else text

    def call(self, method: str, path: str, body=None, wanted: int = 200):
        status, answer = self.send(method, path, body)
        equal(status, wanted, f"status of {method} {path} ({str(answer)[:600]})")
        return answer

    def job(self, path: str, body=None, wanted: int = 200) -> dict:
        job = self.call("POST", f"{path}?wait=true", body or {}, wanted)
        equal((job["state"], job["problem"]), ("succeeded", None), f"the job of {path}")
        return job["result"]

    def backup(self, **body) -> dict:
        return self.job("/backups", body, 201)

    def backups(self) -> list[str]:
        page = self.call("GET", "/backups?limit=1000")
        equal(page["damaged"], {}, "damaged backups")
        return [backup["id"] for backup in page["backups"]]

    def verify(self, backup: str) -> int:
        found = self.job(f"/backups/{backup}/verify", {"level": "records"})
        equal((found["ok"], found["problems"]), (True, []), f"verification of {backup}")
        return found["checked_records"]

    def command(self, *arguments: str) -> str:
        command = [self.binary, "backups", *arguments, "--repository", self.url]
        run = subprocess.run(command, env=self.environment, text=True, capture_output=True, timeout=CALL_SECONDS)
        hides(run.stdout + run.stderr, f"the output of backups {arguments[0]}")
        expect(run.returncode == 0, f"backups {' '.join(arguments)}: {run.returncode}, {run.stdout}{run.stderr}")
        return run.stdout

    def finish(self) -> None:
        """Searches what it remembers and logged."""
        self.call("GET", "/jobs?limit=1000")
        self.send("GET", "/health/storage")
        self.stop()
        log = self.log.read_text(errors="replace")
        hides(log, f"the log {self.log.name}")
        searched["lines"] += log.count("\n")


class Collection:
    """A collection, and what must be in it."""

    def __init__(self, service: Service, name: str) -> None:
        self.service, self.name, self.random, self.content = service, name, random.Random(name), {}
        made = service.call("POST", f"{DATABASE}/collections", {"name": name})
        self.path = f"{DATABASE}/collections/{made['id']}"

    def upsert(self, numbers: range) -> None:
        for start in range(0, len(numbers), BATCH):
            part = {f"{self.name}-{number:06}": self.record() for number in numbers[start:start + BATCH]}
            vectors, documents, metadatas = zip(*part.values())
            embeddings = [base64.b64encode(vector).decode() for vector in vectors]
            body = {"ids": list(part), "embeddings": embeddings, "documents": documents, "metadatas": metadatas}
            self.service.call("POST", f"{self.path}/upsert", body)
            self.content |= part

    def record(self) -> tuple[bytes, str, dict]:
        vector = struct.pack(f"<{DIMENSION}f", *(self.random.gauss(0, 1) for _ in range(DIMENSION)))
        turn = self.random.randrange(1_000_000)
        return vector, f"written as {turn}: öäü", {"turn": turn, "half": turn / 2}

    def delete(self, numbers: range) -> None:
        ids = [f"{self.name}-{number:06}" for number in numbers]
        self.service.call("POST", f"{self.path}/delete", {"ids": ids})
        for record in ids:
            del self.content[record]


def stored(service: Service, name: str) -> dict:
    """What a collection really holds."""
    path, found = f"{DATABASE}/collections/{service.call('GET', f'{DATABASE}/collections/{name}')['id']}", {}
    members = ["embeddings", "documents", "metadatas"]
    for offset in range(0, service.call("GET", f"{path}/count"), BATCH):
        page = service.call("POST", f"{path}/get", {"limit": BATCH, "offset": offset, "include": members})
        vectors = [struct.pack(f"<{DIMENSION}f", *vector) for vector in page["embeddings"]]
        found |= dict(zip(page["ids"], zip(vectors, page["documents"], page["metadatas"])))
    return found
