"""schemathesis over the service's own description: no 5xx, no status, content type, header or body that it does not name,
and in the operations family no wrong request taken.

    python3 tests/client/schema.py BINARY [--examples N] [--seed N] [--only NAME]

Starts the service on a free port with directories of its own and fills it with data that generated requests can meet
(schema_hooks.py puts the ids in). Every operation of the description is asked; what destroys the data comes last.
Ends non-zero when schemathesis finds something, and prints its report with a curl command for each finding.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from processes import Failed, Process, equal, expect, free_ports, http_call, until

HERE = Path(__file__).resolve().parent
NAMESPACE = "/api/v2/tenants/default_tenant/databases/default_database"
START_SECONDS, RUN_SECONDS, REQUEST_SECONDS = 60, 400, 60
DIMENSION, RECORDS = 3, 20

# Operations that are left out, and why. None: also the stream of a job's events ends, with the job.
LEFT_OUT: dict[str, str] = {}
# Operations that may be refused always, and why.
REFUSED = {"cancel_job": "the jobs that requests meet are over"}
# They take away what the others need; schema_hooks.py makes what is deleted first.
DESTRUCTIVE = ("prune_backups", "delete_backup", "delete_collection", "delete_database", "reset_server")

CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
          "response_headers_conformance", "unsupported_method")
# Chroma's family takes some odd requests by contract: that one is for the other.
STRICT = ("negative_data_rejection",)


class Service(Process):
    """The service, asked from here only to prepare and to look at the end."""

    def __init__(self, binary: str, home: Path) -> None:
        super().__init__(home / "service.log")
        self.home, [self.port] = home, free_ports(1)
        settings = {"SERVER__LISTEN": f"127.0.0.1:{self.port}", "SERVER__ALLOW_RESET": "true", "STORAGE__DATA_DIR": home / "store",
                    "REPOSITORY__URL": home / "backups", "JOBS__KEPT": "100000", "STORAGE__DURABILITY": "interval"}
        environment = os.environ | {f"VECTORKEEP__{name}": str(value) for name, value in settings.items()}
        self.spawn([binary, "serve"], environment)
        until("the service", START_SECONDS, lambda: self.alive() and http_call(self.port, "GET", "/health/ready")[0] == 200)

    def call(self, method: str, path: str, body=None, statuses: tuple = (200, 201)):
        text = None if body is None else json.dumps(body).encode()
        status, _, answer = http_call(self.port, method, path, text, {"content-type": "application/json"})
        expect(status in statuses, f"{method} {path}: {status} {answer[:600]!r}")
        return json.loads(answer) if answer else None

    def collection(self, name: str, database: str = NAMESPACE) -> str:
        identity = self.call("POST", f"{database}/collections", {"name": name})["id"]
        texts = [f"text {each}" for each in range(RECORDS)]
        vectors = [[each / 7, 1 - each / 3, 0.25] for each in range(RECORDS)]
        self.call("POST", f"{database}/collections/{identity}/add", {
            "ids": [f"r{each}" for each in range(RECORDS)], "embeddings": vectors, "documents": texts,
            "metadatas": [{"topic": "xyz"[each % 3], "number": each} for each in range(RECORDS)]})
        return identity

    def prepare(self) -> dict:
        """The same ground for each run: what there is of each kind that a path can name."""
        self.call("POST", "/api/v2/reset")
        articles = self.collection("articles")
        job = self.call("POST", "/backups?wait=true", {"labels": {"reason": "schema"}})
        return {"tenant": ["default_tenant"], "database": ["default_database"], "collection_id": [articles],
                "collection_name": ["articles"], "backup": [job["result"]["id"]], "job": [job["id"]],
                "crn": ["default_tenant:default_database:articles"], "dimension": DIMENSION,
                "address": f"http://127.0.0.1:{self.port}"}


def operations_of(description: dict) -> dict[str, str]:
    """Operation ids by what schemathesis calls the operations."""
    methods = ("get", "put", "post", "patch", "delete")
    return {f"{method.upper()} {path}": item[method]["operationId"]
            for path, item in description["paths"].items() for method in methods if method in item}


def run(service: Service, name: str, chosen: list[str], checks: tuple, facts: dict, arguments) -> tuple[bool, dict]:
    """One run of schemathesis; whether it found nothing, and the requests by operation and status."""
    facts_file, counts_file = service.home / f"{name}_facts.json", service.home / f"{name}_counts.json"
    facts_file.write_text(json.dumps(facts))
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{service.port}/openapi.json",
               f"--seed={arguments.seed}", f"--max-examples={arguments.examples}", "--phases=examples,coverage,fuzzing",
               f"--checks={','.join(checks)}", f"--request-timeout={REQUEST_SECONDS}", "--workers=1", "--no-color",
               "--generation-database=none", "--output-sanitize=false", "--warnings=off", "--continue-on-failure",
               "--suppress-health-check=all"]
    command += [f"--include-operation-id={each}" for each in chosen]
    environment = os.environ | {"PYTHONPATH": str(HERE), "SCHEMATHESIS_HOOKS": "schema_hooks", "SCHEMA_FACTS": str(facts_file),
                                "SCHEMA_COUNTS": str(counts_file)}
    began = time.monotonic()
    done = subprocess.run(command, env=environment, cwd=service.home, timeout=RUN_SECONDS, text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    counts = json.loads(counts_file.read_text()) if counts_file.exists() else {}
    total = sum(sum(statuses.values()) for statuses in counts.values())
    print(f"-- {name}: {len(chosen)} operations, {total} requests, {time.monotonic() - began:.0f} s, exit status {done.returncode}",
          flush=True)
    if done.returncode != 0:
        print(done.stdout[-30_000:], flush=True)
    return done.returncode == 0, counts


def report(operations: dict[str, str], counts: dict) -> None:
    """Requests by operation; none may be without, and none without an answer that is no refusal."""
    print("requests by operation and status:")
    for label in operations:
        statuses = counts.get(label, {})
        shown = ", ".join(f"{status}: {number}" for status, number in sorted(statuses.items()))
        print(f"{sum(statuses.values()):6}  {label}  ({shown})")
    missing = [label for label, identity in operations.items() if identity not in LEFT_OUT and not counts.get(label)]
    expect(not missing, f"never asked: {missing}")
    refused = [label for label, identity in operations.items() if identity not in {*LEFT_OUT, *REFUSED}
               and not any(status.startswith("2") for status in counts[label])]
    expect(not refused, f"always refused: {refused}")


def check_health(service: Service) -> None:
    service.alive()
    equal(service.call("GET", "/health", statuses=(200,))["status"] in ("pass", "warn"), True, "health")
    deep = service.call("GET", "/health/collections", statuses=(200,))
    equal(deep["status"], "pass", f"health of the collections: {deep}")
    expect("panicked" not in service.log.read_text(errors="replace"), f"a panic is in the log: {service.tail()}")


def check(service: Service, arguments) -> None:
    operations = operations_of(service.call("GET", "/openapi.json"))
    identities = set(operations.values())
    for each in (*LEFT_OUT, *REFUSED, *DESTRUCTIVE):
        expect(each in identities, f"{each} is no operation any more")
    asked = [identity for identity in operations.values() if identity not in LEFT_OUT and identity not in DESTRUCTIVE]
    of_chroma = {identity for label, identity in operations.items() if " /api/" in label}
    runs = {"chroma": [each for each in asked if each in of_chroma], "operations": [each for each in asked if each not in of_chroma],
            "destructive": list(DESTRUCTIVE)}
    sound, counts = True, {}
    for name, chosen in runs.items():
        if arguments.only not in (None, name):
            continue
        facts = service.prepare()
        checks = CHECKS + (STRICT if name == "operations" else ())
        passed, found = run(service, name, chosen, checks, facts, arguments)
        sound, counts = sound and passed, counts | found
        check_health(service)
    chosen = {label: identity for label, identity in operations.items()
              if arguments.only is None or identity in runs[arguments.only]}
    report(chosen, counts)
    expect(sound, "the description and the service do not agree")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--examples", type=int, default=10, help="generated requests per operation and phase")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=("chroma", "operations", "destructive"))
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as home:
        service = Service(str(Path(arguments.binary).resolve()), Path(home))
        try:
            check(service, arguments)
        finally:
            service.stop()
    print(f"the description holds: {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"FAIL: {failure}")
