"""What schema.py puts between schemathesis and the service: ids that exist, columns that fit each other, and a count of
what was asked. Loaded by schemathesis (SCHEMATHESIS_HOOKS); what exists comes in a file."""

import atexit
import collections
import json
import os
import urllib.request
import uuid
import zlib
from pathlib import Path

import schemathesis

FACTS = json.loads(Path(os.environ["SCHEMA_FACTS"]).read_text())
# Requests by operation and status.
COUNTS = collections.defaultdict(collections.Counter)
# Operations that name a collection where others have its id.
BY_NAME = {"get_collection", "delete_collection"}
KEY = "Idempotency-Key"
COLUMNS = ("embeddings", "documents", "metadatas", "uris")


@atexit.register
def write_counts() -> None:
    Path(os.environ["SCHEMA_COUNTS"]).write_text(json.dumps(COUNTS))


def chance(case, salt: str) -> int:
    """The same for the same request, so that what fails can be found again."""
    return zlib.crc32(repr((salt, case.path_parameters, case.query, case.body)).encode(errors="replace"))


def known(operation_id: str, path: str, name: str) -> list:
    """What exists of the kind that a parameter in the path names."""
    if name == "id":
        name = "job" if path.startswith("/jobs/") else "backup"
    if name == "name" or (name == "collection_id" and operation_id in BY_NAME):
        name = "collection_name"
    return FACTS.get(name, [])


@schemathesis.hook
def before_call(_context, case, _kwargs) -> None:
    definition = case.operation.definition.raw
    operation_id = definition["operationId"]
    for name in list(case.path_parameters or {}):
        among = known(operation_id, case.path, name)
        number = chance(case, name)
        # Half of them; every one of a path at once, mostly.
        if among and (number % 2 or chance(case, "all") % 4):
            case.path_parameters[name] = among[number % len(among)]
    if operation_id in MAKING and chance(case, "make") % 4:
        case.path_parameters.update(MAKING[operation_id]())
    if operation_id == "import_backup" and case.meta is not None and case.meta.generation.mode.is_negative:
        # A document is judged by the job: only who waits is told.
        case.query = dict(case.query or {}) | {"wait": "true"}
    if KEY in (case.headers or {}) and chance(case, KEY) % 4:
        # The same key with another request is refused.
        case.headers[KEY] = f"key-{chance(case, KEY)}"
    if isinstance(case.body, dict) and chance(case, "body") % 4:
        fit = FITTING.get(operation_id)
        if fit is not None:
            case.body = fit(dict(case.body), case)


def vector(given, dimension: int) -> list:
    """As long as the collection's, with the numbers that were generated."""
    numbers = [x for x in given if type(x) in (int, float)] if isinstance(given, list) else []
    return (numbers + [0.5, -1.0, 2.0])[:dimension]


def fit_records(body: dict, _case) -> dict:
    """Columns as long as the ids; JSON Schema cannot say that."""
    ids = body.get("ids")
    if not isinstance(ids, list):
        return body
    ids = ids or ["a"]
    body["ids"] = ids
    for column in COLUMNS:
        values = body.get(column)
        if isinstance(values, list):
            body[column] = (values + [None] * len(ids))[:len(ids)]
    embeddings = body.get("embeddings")
    if isinstance(embeddings, list) and not any(isinstance(each, str) for each in embeddings):
        body["embeddings"] = [vector(each, FACTS["dimension"]) for each in embeddings]
    return body


def fit_query(body: dict, _case) -> dict:
    if isinstance(body.get("query_embeddings"), list):
        body["query_embeddings"] = [vector(each, FACTS["dimension"]) for each in body["query_embeddings"]]
    return body


def fit_backup(body: dict, case) -> dict:
    if "backup" in body and isinstance(body["backup"], str):
        body["backup"] = (FACTS["backup"] + ["latest"])[chance(case, "backup") % (len(FACTS["backup"]) + 1)]
    return body


def fit_restore(body: dict, case) -> dict:
    """Of one collection: everything that is renamed would double what the next one finds."""
    body = fit_winner(fit_backup(body, case))
    if not body.get("collections"):
        body["collections"] = [{"name": FACTS["collection_name"][0]}]
    elif isinstance(body["collections"], list):
        body["collections"] = [named(each, "name") for each in body["collections"][:1]]
    return body


def fit_winner(body: dict) -> dict:
    """Said only where two can win."""
    if body.get("on_conflict") != "merge":
        body.pop("merge_winner", None)
    return body


def named(reference, member: str):
    if isinstance(reference, dict) and isinstance(reference.get(member), str):
        rest = {key: value for key, value in reference.items() if key not in ("tenant", "database", "environment")}
        return rest | {member: FACTS["collection_name"][0]}
    return reference


def fit_migrate(body: dict, _case) -> dict:
    if isinstance(body.get("source"), dict):
        body["source"] = named(body["source"], "collection")
    if isinstance(body.get("target"), dict):
        body["target"] = {key: value for key, value in body["target"].items() if key != "environment"}
    return fit_winner(body)


def fit_selection(body: dict, _case) -> dict:
    if isinstance(body.get("collections"), list):
        body["collections"] = [named(each, "name") for each in body["collections"][:1]]
    return body


# ---------------- what is there to be taken away


def post(path: str, body: dict):
    address, headers = FACTS["address"], {"content-type": "application/json"}
    request = urllib.request.Request(address + path, json.dumps(body).encode(), headers, method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def make_database() -> dict:
    name = f"spare-{uuid.uuid4()}"
    post("/api/v2/tenants/default_tenant/databases", {"name": name})
    return {"tenant": "default_tenant", "database": name}


def make_collection() -> dict:
    name, place = f"spare-{uuid.uuid4()}", make_database()
    post("/api/v2/tenants/{tenant}/databases/{database}/collections".format(**place), {"name": name})
    return place | {"collection_id": name}


def make_backup() -> dict:
    return {"id": post("/backups?wait=true", {})["result"]["id"]}


MAKING = {"delete_database": make_database, "delete_collection": make_collection, "delete_backup": make_backup}

FITTING = {
    "add_records": fit_records,
    "upsert_records": fit_records,
    "update_records": fit_records,
    "query_records": fit_query,
    "create_drill": fit_backup,
    "restore_backup": fit_restore,
    "migrate_collection": fit_migrate,
    "create_backup": fit_selection,
}


@schemathesis.hook
def after_call(_context, case, response) -> None:
    # A method that the operation does not have is a request to the path, not to the operation.
    if response.request.method == case.operation.method.upper():
        COUNTS[case.operation.label][str(response.status_code)] += 1
