"""Prometheus' own programs, for deploy.py: promtool, and a server that scrapes a running service."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import urlencode

from processes import START_SECONDS, Failed, Process, expect, free_ports, http_call, until

PROGRAMS = ("promtool", "prometheus")
PACKAGE = "prometheus"
FETCH_SECONDS = 300


def run(command: list, given: str | None = None, seconds: float = START_SECONDS, **options) -> str:
    """What a program says that has to end with 0."""
    done = subprocess.run(command, input=given, text=True, capture_output=True, timeout=seconds, **options)
    said = done.stdout + done.stderr
    expect(done.returncode == 0, f"{' '.join(str(word) for word in command)} ended with {done.returncode}:\n{said}")
    return said


def programs() -> dict[str, Path]:
    """Where they are: in PATH, or in a directory into which Debian's package is unpacked. Nothing is installed, and no
    daemon starts with the machine."""
    found = {name: shutil.which(name) for name in PROGRAMS}
    if not all(found.values()):
        found = {name: unpacked() / "usr/bin" / name for name in PROGRAMS}
    return {name: Path(path) for name, path in found.items()}


def unpacked() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vectorkeep" / PACKAGE
    if not all((cache / "usr/bin" / name).exists() for name in PROGRAMS):
        expect(shutil.which("apt-get") and shutil.which("dpkg-deb"), f"no command promtool, and no Debian to take it from its package {PACKAGE}")
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache.parent) as place:
            download(Path(place))
            [package] = Path(place).glob("*.deb")
            run(["dpkg-deb", "-x", package, f"{place}/tree"])
            shutil.rmtree(cache, ignore_errors=True)
            Path(place, "tree").rename(cache)
        print(f"Debian's package {PACKAGE} was unpacked to {cache} (it is not installed)", flush=True)
    return cache


def download(place: Path) -> None:
    fetch = ["apt-get", "-q", "download", PACKAGE]
    try:
        run(fetch, seconds=FETCH_SECONDS, cwd=place)
    except Failed:
        run(["apt-get", "-q", "update"], seconds=FETCH_SECONDS)
        run(fetch, seconds=FETCH_SECONDS, cwd=place)


class Prometheus(Process):
    """A server with a configuration, on a free port."""

    def __init__(self, program: Path, home: Path, configuration: Path) -> None:
        super().__init__(home / "prometheus.log")
        self.program, self.home, self.configuration, self.port = program, home, configuration, free_ports(1)[0]

    def start(self) -> None:
        self.spawn([self.program, f"--config.file={self.configuration}", f"--storage.tsdb.path={self.home}/tsdb",
                    f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"], dict(os.environ))
        until("Prometheus", START_SECONDS, lambda: self.alive() and http_call(self.port, "GET", "/-/ready")[0] == 200)

    def ask(self, path: str, **parameters):
        status, _, raw = http_call(self.port, "GET", f"/api/v1/{path}?{urlencode(parameters)}")
        answer = json.loads(raw)
        expect(status == 200 and answer["status"] == "success", f"Prometheus on {parameters}: {status} {answer.get('error')}")
        return answer["data"]

    def query(self, expression: str) -> list[dict]:
        """The series that it gives now, each with its labels."""
        data = self.ask("query", query=expression)
        expect(data["resultType"] == "vector", f"no vector: {expression}")
        return data["result"]
