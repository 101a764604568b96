#!/usr/bin/env python3
"""A client that is generated from the description works.

    python3 tests/client/openapi_client.py BINARY

openapi-spec-validator checks `/openapi.json` of a running service against OpenAPI 3.1; openapi-python-client makes a
client from it, with a function for every operation; some of them are called, among them those whose bodies hold
themselves (filters) and those that answer with a collection.
"""

import argparse
import importlib
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
from pathlib import Path

from openapi_spec_validator import OpenAPIV31SpecValidator

from processes import Failed, Process, equal, expect, free_ports, http_call, until

START_SECONDS, GENERATE_SECONDS = 60, 120
PACKAGE = "generated_client"
PLACE = {"tenant": "default_tenant", "database": "default_database"}
# What the generator says of a body that has two forms; it takes the first one.
EXPECTED_WARNINGS = ("Unsupported content type application/x-ndjson",)


class Service(Process):
    def __init__(self, binary: str, home: Path) -> None:
        super().__init__(home / "service.log")
        [self.port] = free_ports(1)
        settings = {"SERVER__LISTEN": f"127.0.0.1:{self.port}", "STORAGE__DATA_DIR": home / "store",
                    "REPOSITORY__URL": home / "backups", "STORAGE__DURABILITY": "interval"}
        environment = os.environ | {f"VECTORKEEP__{name}": str(value) for name, value in settings.items()}
        self.spawn([binary, "serve"], environment)
        until("the service", START_SECONDS, lambda: self.alive() and http_call(self.port, "GET", "/health/ready")[0] == 200)


def check_description(text: bytes) -> dict:
    spec = json.loads(text)
    errors = list(OpenAPIV31SpecValidator(spec).iter_errors())
    expect(not errors, f"openapi.json is not valid: {[error.message for error in errors[:5]]}")
    return spec


def generate(text: bytes, home: Path) -> None:
    """The client as a package, without a word of warning that is not expected."""
    document = home / "openapi.json"
    document.write_bytes(text)
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--path", str(document), "--meta", "none",
               "--output-path", str(home / PACKAGE)]
    # It calls a formatter that is installed beside it.
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=GENERATE_SECONDS, env=environment)
    said = done.stdout + done.stderr
    expect(done.returncode == 0, f"the generator failed: {said[:2000]}")
    warnings = [line for line in said.splitlines() if line.startswith(("WARNING", "Unable", "Unsupported", "Attempted", "Could not"))]
    unexpected = [line for line in warnings
                  if not line.startswith("WARNING parsing POST /backups/import") and line.strip() not in EXPECTED_WARNINGS]
    expect(not unexpected, f"the generator warns: {unexpected[:5]}")


def check_operations(spec: dict) -> int:
    """Every operation has its function."""
    package = importlib.import_module(f"{PACKAGE}.api")
    modules = {name.rpartition(".")[2]: name for _, name, is_package in pkgutil.walk_packages(package.__path__, f"{PACKAGE}.api.")
               if not is_package}
    wanted = {operation["operationId"] for item in spec["paths"].values() for operation in item.values()
              if isinstance(operation, dict) and "operationId" in operation}
    equal(set(modules), wanted, "operations of the generated client")
    for name in modules.values():
        expect(callable(importlib.import_module(name).sync_detailed), name)
    return len(modules)


def operation(tag: str, name: str):
    return importlib.import_module(f"{PACKAGE}.api.{tag}.{name}").sync_detailed


def model(name: str):
    return getattr(importlib.import_module(f"{PACKAGE}.models"), name)


def call(status: int, function, **arguments):
    answer = function(**arguments)
    equal(int(answer.status_code), status, f"{function.__module__}: {answer.content[:600]}")
    return answer.parsed


def use(port: int) -> None:
    """As an operator's script would."""
    client = importlib.import_module(PACKAGE).Client(base_url=f"http://127.0.0.1:{port}")
    create = model("CreateCollectionRequest")(name="articles")
    made = call(200, operation("chroma_collections", "create_collection"), client=client, body=create, **PLACE)
    equal((type(made).__name__, made.name), ("Collection", "articles"), "the collection")
    records = {"ids": ["a", "b"], "embeddings": [[0.1, 0.2], [0.3, 0.4]], "documents": ["one", "two"],
               "metadatas": [{"topic": "x"}, {"topic": "y"}]}
    place = PLACE | {"collection_id": made.id}
    write = model("WriteRecordsRequest").from_dict(records)
    call(201, operation("chroma_records", "add_records"), client=client, body=write, **place)
    equal(call(200, operation("chroma_records", "count_records"), client=client, **place), 2, "the count")
    # A filter that holds filters.
    where = {"$or": [{"$and": [{"topic": "x"}, {"topic": {"$ne": "y"}}]}, {"topic": {"$in": ["nothing"]}}]}
    body = model("GetRecordsRequest").from_dict({"where": where})
    equal(body.to_dict()["where"], where, "the filter, there and back")
    equal(call(200, operation("chroma_records", "get_records"), client=client, body=body, **place).ids, ["a"], "filtered ids")
    body = model("QueryRecordsRequest").from_dict({"query_embeddings": [[0.3, 0.4]], "n_results": 1,
                                                   "where_document": {"$contains": "two"}})
    equal(call(200, operation("chroma_records", "query_records"), client=client, body=body, **place).ids, [["b"]], "neighbours")

    job = call(201, operation("backups", "create_backup"), client=client, wait=True)
    equal((type(job).__name__, str(job.state)), ("Job", "succeeded"), "the backup")
    listed = call(200, operation("backups", "list_backups"), client=client)
    equal([backup.records for backup in listed.backups], [2], "records of the listed backups")
    plan = model("RestoreRequest").from_dict({"backup": "latest", "on_conflict": "merge", "where": {"topic": "x"}, "dry_run": True})
    plan = call(200, operation("restore", "restore_backup"), client=client, body=plan)
    equal([collection.unchanged for collection in plan.collections], [1], "the plan")
    problem = call(404, operation("jobs", "get_job"), client=client, id="nothing")
    equal((type(problem).__name__, problem.status), ("Problem", 404), "the refusal")
    equal(str(call(200, operation("health", "get_health"), client=client).status), "pass", "health")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        service = Service(arguments.binary, home)
        try:
            status, _, text = http_call(service.port, "GET", "/openapi.json")
            equal(status, 200, "/openapi.json")
            spec = check_description(text)
            generate(text, home)
            sys.path.insert(0, directory)
            count = check_operations(spec)
            use(service.port)
        finally:
            service.stop()
    print(f"openapi.json is valid, and a client with {count} operations was generated from it and used")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as error:
        print(f"FAIL: {error}", file=sys.stderr)
        sys.exit(1)
