"""The files of deploy/ that a machine reads without the service running, for deploy.py: Kubernetes', Compose's, systemd's."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import kubernetes_validate
import yaml

from processes import equal, expect
from prometheus import run

ROOT = Path(__file__).resolve().parents[2]
# The oldest that has all that is used (ReadWriteOncePod, timeZone), and the newest that the schemas know.
KUBERNETES = ("1.29", "1.37")
# Of ten; systemd's own services are mostly at 5 and above.
EXPOSURE = 1.3
# The process's files beside its connections: OTHER_FILES in src/main.rs.
OTHER_FILES = 1_024
CONFIG = tomllib.loads((ROOT / "config.toml").read_text())
VERSION = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]


def known_settings() -> set[str]:
    """Every setting of config.toml, also those that are commented out, as an environment variable."""
    found, section = set(), None
    for line in (ROOT / "config.toml").read_text().splitlines():
        if header := re.fullmatch(r"(?:# )?\[([a-z]+)\]", line):
            section = header[1]
        elif setting := re.match(r"(?:# )?([a-z_]+) = ", line):
            found.add(f"VECTORKEEP__{section}__{setting[1]}".upper())
    return found


def check_settings(names, where: str) -> None:
    unknown = {name for name in names if name.startswith("VECTORKEEP")} - known_settings()
    expect(not unknown, f"{where} sets what config.toml does not know: {sorted(unknown)}")


def seconds_to_stop(settings: dict) -> float:
    """How long after SIGTERM requests and jobs may run and the store may take to be closed."""
    parts = [("server", "drain_delay_ms"), ("server", "shutdown_grace_ms"), ("storage", "close_timeout_ms")]
    values = [settings.get(f"VECTORKEEP__{section}__{key}".upper(), CONFIG[section][key]) for section, key in parts]
    return sum(map(int, values)) / 1000


def check_limits(where: str, stop_seconds: float, settings: dict, files: int | None = None) -> None:
    needed = seconds_to_stop(settings)
    expect(stop_seconds >= needed + 10, f"{where} gives {stop_seconds} s to stop; it takes {needed} s and some to close the store")
    if files is not None:
        needed = CONFIG["server"]["max_connections"] + OTHER_FILES
        expect(files >= needed, f"{where} allows {files} open files; up to {needed} are needed")


# ---------------- Kubernetes


def documents(path: Path) -> list[dict]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def check_kubernetes(path: Path) -> str:
    """Against the schemas of Kubernetes, with nothing that they do not know."""
    found = documents(path)
    for document in found:
        for version in KUBERNETES:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                expect(False, f"{path.name}, {document['kind']}, Kubernetes {version}: {'/'.join(map(str, error.path))}: {error.message}")
    return f"{', '.join(document['kind'] for document in found)}: Kubernetes {' and '.join(KUBERNETES)}, strict"


def check_kustomization(path: Path) -> str:
    """What it names is there; what kubectl makes of it is what the files say."""
    [content] = documents(path)
    equal((content["apiVersion"], content["kind"]), ("kustomize.config.k8s.io/v1beta1", "Kustomization"), "kind of the kustomization")
    beside = {file.name for file in path.parent.glob("*.yaml")} - {path.name, "namespace.yaml"}
    equal(set(content["resources"]), beside, "resources of the kustomization")
    whole = [document for name in content["resources"] for document in documents(path.parent / name)]
    check_cluster(whole)
    if not shutil.which("kubectl"):
        return f"{len(whole)} resources fit together (no kubectl here to build it with)"
    made = list(yaml.safe_load_all(run(["kubectl", "kustomize", path.parent])))
    key = lambda document: (document["kind"], document["metadata"]["name"])
    equal(sorted(map(key, made)), sorted(map(key, whole)), "what kubectl kustomize makes")
    return f"{len(whole)} resources fit together, kubectl kustomize builds them"


def templates(resources: list[dict]) -> dict[str, dict]:
    """The templates of pods, by the name of what makes them."""
    found = {}
    for each in resources:
        spec = each["spec"].get("jobTemplate", each).get("spec", {})
        if "template" in spec:
            found[each["metadata"]["name"]] = spec["template"]
    return found


def check_cluster(resources: list[dict]) -> None:
    """Names that point from one resource to another, and what every pod has to have."""
    pods = templates(resources)
    labels = [template["metadata"]["labels"] for template in pods.values()]
    selects = lambda selector: any(selector.items() <= each.items() for each in labels)
    for each in resources:
        name, spec = f"{each['kind']} {each['metadata']['name']}", each["spec"]
        equal(each["metadata"]["namespace"], "vectorkeep", f"namespace of {name}")
        if each["kind"] == "Service":
            expect(selects(spec["selector"]), f"{name} selects no pod")
        if each["kind"] == "NetworkPolicy":
            expect(selects(spec["podSelector"]["matchLabels"]), f"{name} selects no pod")
        if each["kind"] == "StatefulSet":
            equal(spec["replicas"], 1, f"replicas of {name}: one process per data directory")
    secrets = (ROOT / "docs/kubernetes.md").read_text()
    for name, template in pods.items():
        check_pod(name, template["spec"], secrets)


def check_pod(name: str, pod: dict, document: str) -> None:
    security = pod["securityContext"]
    equal((security["runAsNonRoot"], security["seccompProfile"]["type"]), (True, "RuntimeDefault"), f"security of {name}")
    for container in pod["containers"]:
        security = container["securityContext"]
        found = (security["allowPrivilegeEscalation"], security["readOnlyRootFilesystem"], security["capabilities"]["drop"])
        equal(found, (False, True, ["ALL"]), f"security of {name}")
        expect("memory" in container["resources"]["limits"], f"{name} has no limit of memory")
        image, _, tag = container["image"].partition(":")
        expect(image != "vectorkeep" or tag == VERSION, f"{name} runs {tag}, this is {VERSION}")
        variables = {each["name"]: each.get("value") for each in container["env"]}
        check_settings(variables.keys() - {"VECTORKEEP_URL", "VECTORKEEP_KEY"}, name)
        ports = {port["name"] for port in container.get("ports", [])}
        probes = [container[key]["httpGet"] for key in container if key.endswith("Probe")]
        expect(all(probe["port"] in ports for probe in probes), f"{name}: a probe asks a port that there is not")
        if probes:
            check_limits(name, pod["terminationGracePeriodSeconds"], variables)
    # Every Secret that has to be there is made in the document.
    for secret in re.findall(r"'(?:secretName|secretKeyRef)': (?:\{'name': )?'([^']+)'", str(pod)):
        expect(f"secret generic {secret}" in document, f"docs/kubernetes.md does not make the Secret {secret} of {name}")


# ---------------- Compose


def check_compose(path: Path) -> str:
    """Against the schema of the Compose specification."""
    run([sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", path])
    content = yaml.safe_load(path.read_text())
    [(name, service)] = content["services"].items()
    expect((path.parent / service["build"]["context"] / "Dockerfile").samefile(ROOT / "Dockerfile"), "the build context has no Dockerfile")
    dockerfile = (ROOT / "Dockerfile").read_text()
    arguments = dict(re.findall(r"^ARG (\w+)=(.*)$", dockerfile, re.MULTILINE))
    equal(service["build"]["args"].keys(), arguments.keys(), "build arguments, and those of the Dockerfile")
    found = (service["image"], service["build"]["args"]["VERSION"], arguments["VERSION"])
    equal(found, (f"vectorkeep:{VERSION}", VERSION, VERSION), "the version, as in Cargo.toml")
    mounts = [mount.split(":") for mount in service["volumes"]]
    equal({mount[0] for mount in mounts}, content["volumes"].keys(), "volumes that are mounted, and that there are")
    # A volume takes over the owner of the image's directory.
    made = re.search(r"^RUN install -d -o 10001 .*$", dockerfile, re.MULTILINE)[0].split()
    expect(all(mount[1] in made for mount in mounts), "a volume is mounted where the image has no directory of the service's")
    equal(set(service["secrets"]), content["secrets"].keys(), "secrets that are used, and that there are")
    expect(all(port.startswith("127.0.0.1:") for port in service["ports"]), "a port is open to other machines")
    check_settings(service["environment"], name)
    check_limits(name, float(service["stop_grace_period"].rstrip("s")), service["environment"], service["ulimits"]["nofile"])
    if shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        run(["docker", "compose", "--file", path, "config", "--quiet"])
        return "the Compose specification's schema, and docker compose config"
    return "the Compose specification's schema (no docker compose here to read it)"


def check_dockerfile() -> str:
    run([Path(sys.executable).with_name("hadolint"), ROOT / "Dockerfile"])
    return "hadolint"


# ---------------- systemd


def unit_settings(path: Path) -> dict[str, list[str]]:
    """Its settings, each with all its values. (No line is continued.)"""
    found = {}
    for line in path.read_text().splitlines():
        if match := re.fullmatch(r"([A-Za-z]+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


def check_unit(path: Path, binary: Path, home: Path) -> str:
    """systemd itself reads it, with a program that there is here; and counts what the service could reach."""
    unit, text = unit_settings(path), path.read_text()
    [command] = unit["ExecStart"]
    copy = home / path.name
    copy.write_text(text.replace(command.split()[0], str(binary)))
    # It says of faults on standard error, of some with exit status 0.
    said = run(["systemd-analyze", "verify", "--man=no", copy], env=os.environ | {"SYSTEMD_LOG_LEVEL": "warning"})
    expect(not said.strip(), f"systemd-analyze verify of {path.name}: {said}")
    said = run(["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE * 10:.0f}", "--no-pager", copy])
    [exposure] = re.findall(r"exposure level .*: ([0-9.]+)", said)
    settings = dict(line.split("=", 1) for line in unit["Environment"])
    check_settings(settings, path.name)
    check_limits(path.name, float(unit["TimeoutStopSec"][0].rstrip("s")), settings, int(unit["LimitNOFILE"][0]))
    return f"systemd-analyze verify says nothing; security: exposure {exposure} (at most {EXPOSURE})"


def service_settings(unit: Path, environment: Path, home: Path) -> dict[str, str]:
    """What the service gets from the unit and its environment file, with the state directory below home."""
    lines = unit_settings(unit)["Environment"]
    lines += [line for line in environment.read_text().splitlines() if line and not line.startswith("#")]
    check_settings((line.split("=", 1)[0] for line in lines), environment.name)
    # What is commented out is to be used as well.
    check_settings((line[1:].split("=", 1)[0] for line in environment.read_text().splitlines() if line.startswith("#VECTORKEEP")), environment.name)
    return {name: value.replace("%S", str(home)) for name, value in (line.split("=", 1) for line in lines)}
