"""Where a block of a document runs: a directory with a service of its own, in the state that the documents agree on.

What is started here is stopped here, by process id (a block and what it left running: by the process group that was made
for it).
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from processes import END_SECONDS, START_SECONDS, Failed, Process, free_ports, http_call, until

BLOCK_SECONDS = 300
DATABASE = "/api/v2/tenants/default_tenant/databases/default_database"
# As the README's Python example writes them.
ARTICLES = {
    "ids": ["a", "b", "c"],
    "embeddings": [[0.1, 0.9, 0.0], [0.8, 0.1, 0.1], [0.7, 0.2, 0.1]],
    "documents": ["on gardens", "on engines", "on gears"],
    "metadatas": [{"topic": "nature"}, {"topic": "machines"}, {"topic": "machines"}],
}
# Where a port stands, never a number such as a year or a count.
PORT = re.compile(r"((?:127\.0\.0\.1|localhost):|\bport(?: |=|: ?))(8\d{3})\b")
FOREIGN = ("VECTORKEEP", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
NPM_PACKAGE = re.compile(r"npm (?:i|install) (chromadb@[\d.]+)")
SERVICE_PORT = "8000"


def clean_environment() -> dict:
    """The caller's, without what would change the service or lead requests elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(FOREIGN)}
    return kept | {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}


class Service(Process):
    """vectorkeep, always on the same port and directory, started with other settings where a scene says so."""

    def __init__(self, binary: Path, home: Path, port: int) -> None:
        super().__init__(home / "service.log")
        self.binary, self.home, self.port = binary, home, port

    def start(self, *, file_size_limit_kib: int | None = None, **settings) -> None:
        """Settings as `storage__cache_bytes=…`. `file_size_limit_kib`: no file may grow beyond that."""
        environment = clean_environment() | {"VECTORKEEP__SERVER__LISTEN": f"127.0.0.1:{self.port}"}
        environment |= {f"VECTORKEEP__{name.upper()}": str(value) for name, value in settings.items()}
        command = [self.binary, "serve"]
        if file_size_limit_kib:
            # A write beyond it is an error then, not the end of the process.
            command = ["bash", "-c", f"trap '' XFSZ; ulimit -f {file_size_limit_kib}; exec \"$0\" serve", self.binary]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, env=environment, cwd=self.home, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until("the service", START_SECONDS, lambda: self.alive() and self.status("/health/ready") == 200, pause=0.05)

    def restart(self, **settings) -> None:
        self.stop()
        self.start(**settings)

    def status(self, path: str, key: str | None = None) -> int:
        return http_call(self.port, "GET", path, None, {"Authorization": f"Bearer {key}"} if key else {})[0]

    def ask(self, method: str, path: str, body=None, *, expected: tuple[int, ...] = (200, 201)):
        """The answer's JSON."""
        content = None if body is None else json.dumps(body).encode()
        status, _, answer = http_call(self.port, method, path, content, {"Content-Type": "application/json"})
        if status not in expected:
            raise Failed(f"staging: {method} {path} is {status}: {answer[:500]!r}")
        return json.loads(answer) if answer else None

    # What scenes are made of.

    def collection(self, name: str, records: dict, **members) -> str:
        """Its routes' path. Makes the collection where it is not there, and upserts the records."""
        made = self.ask("POST", f"{DATABASE}/collections", {"name": name, "get_or_create": True, **members})
        path = f"{DATABASE}/collections/{made['id']}"
        self.ask("POST", f"{path}/upsert", records)
        return path

    def articles(self) -> str:
        return self.collection("articles", ARTICLES, configuration={"hnsw": {"space": "cosine"}})

    def back_up(self, **request) -> str:
        return self.ask("POST", "/backups?wait=true", request)["result"]["id"]

    def digest(self, name: str) -> str | None:
        listed = self.ask("GET", "/collections?limit=1000")["collections"]
        return next((one["digest"] for one in listed if one["name"] == name), None)

    def records(self, name: str) -> dict:
        found = self.ask("GET", f"{DATABASE}/collections/{name}")
        return self.ask("POST", f"{DATABASE}/collections/{found['id']}/get", {"include": ["documents", "metadatas", "embeddings"]})


class Stage:
    """A directory, a service in it that a scene starts, and the block that runs beside it."""

    def __init__(self, runner: "Runner", home: Path) -> None:
        self.runner, self.home = runner, home
        self.ports = {SERVICE_PORT: free_ports(1)[0]}
        self.service = Service(runner.binary, home, self.ports[SERVICE_PORT])
        self.others: list[Process] = []

    def close(self) -> None:
        for process in [self.service, *self.others]:
            process.stop()

    def with_ports(self, text: str) -> str:
        """The text with 8000 as the service's port and a free one for each other."""
        wanted = {found[2] for found in PORT.finditer(text)} - set(self.ports)
        self.ports |= {port: free_ports(1)[0] for port in sorted(wanted)}
        return PORT.sub(lambda found: f"{found[1]}{self.ports[found[2]]}", text)

    def with_documents_ports(self, text: str) -> str:
        """The other way round: what was printed shows the document's ports."""
        for shown, port in self.ports.items():
            text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{shown}")
        return text

    def run(self, language: str, commands: str, document: str) -> str:
        """What the block printed on standard output. Raises Failed where it does not come to its end, or with a status
        other than 0."""
        scratch = Path(tempfile.mkdtemp(dir=self.runner.home))
        done, commands = scratch / "done", self.with_ports(commands)
        environment = clean_environment() | {
            "PATH": f"{self.runner.bin}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "VECTORKEEP__SERVER__LISTEN": f"127.0.0.1:{self.service.port}",
            "TMPDIR": str(scratch),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        # A file, not standard input: a command in a block that reads its input must not eat the script.
        script, where = scratch / "block", self.home
        if language == "bash":
            # An `exit 0` would hide the rest of the block: only one that came to its last line did all.
            commands, command = f"{commands}\n: > '{done}'\n", ["bash", "-euo", "pipefail", script]
        elif language == "python":
            commands, command = f"{commands}\nopen({str(done)!r}, 'w').close()\n", ["python3", script]
        else:
            where = self.runner.javascript(document)
            script = where / f"{scratch.name}.mjs"
            commands, command = f"{commands}\n(await import('node:fs')).writeFileSync({json.dumps(str(done))}, '');\n", ["node", script]
        script.write_text(commands, encoding="utf-8")
        status = self.execute(command, environment, where, scratch)
        printed = self.with_documents_ports((scratch / "stdout").read_text(encoding="utf-8", errors="replace"))
        if status == 0 and done.exists():
            return printed
        said = (scratch / "stderr").read_text(encoding="utf-8", errors="replace")
        why = f"exit status {status}" if status else "it ended before its last line"
        raise Failed(f"{why}\n--- printed\n{printed}--- said\n{said}--- the service's last lines\n{self.log_tail()}")

    def execute(self, command: list, environment: dict, where: Path, scratch: Path) -> int:
        """The exit status. What the command left running ends with it."""
        with (scratch / "stdout").open("w") as stdout, (scratch / "stderr").open("w") as stderr:
            process = subprocess.Popen(command, env=environment, cwd=where, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
                                       start_new_session=True)
            try:
                return process.wait(BLOCK_SECONDS)
            except subprocess.TimeoutExpired as error:
                raise Failed(f"it did not end within {BLOCK_SECONDS} s") from error
            finally:
                end_group(process)

    def log_tail(self) -> str:
        return self.service.tail() if self.service.log.exists() else ""


def end_group(process: subprocess.Popen) -> None:
    """Ends what is left of the process group that was made for it."""
    for how, seconds in ((signal.SIGTERM, END_SECONDS), (signal.SIGKILL, END_SECONDS)):
        deadline = time.monotonic() + seconds
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
            while time.monotonic() < deadline:
                process.poll()
                os.killpg(process.pid, 0)
                time.sleep(0.02)
            continue
        break
    process.wait(END_SECONDS)


class Runner:
    """What all blocks share: the program under its name, the JavaScript package, a place for directories."""

    def __init__(self, binary: Path, home: Path) -> None:
        if not binary.is_file():
            raise Failed(f"no program {binary}")
        self.binary, self.home, self.bin = binary, home, home / "bin"
        self.bin.mkdir()
        (self.bin / "vectorkeep").symlink_to(binary)
        self.installing, self.installed = threading.Lock(), None

    @contextlib.contextmanager
    def stage(self) -> Iterator[Stage]:
        stage = Stage(self, Path(tempfile.mkdtemp(dir=self.home, prefix="stage-")))
        try:
            yield stage
        finally:
            stage.close()

    def javascript(self, document: str) -> Path:
        """A directory with the package installed that the document says to install."""
        with self.installing:
            if self.installed is None:
                package = NPM_PACKAGE.search(document)
                if not package:
                    raise Failed("the document does not say which package to install: npm install chromadb@…")
                where = self.home / "javascript"
                where.mkdir()
                # What --omit=optional leaves out is Chroma's own server.
                command = ["npm", "install", "--prefix", where, "--omit=optional", "--prefer-offline", "--no-audit", "--loglevel=error", package[1]]
                done = subprocess.run(command, cwd=where, stdin=subprocess.DEVNULL, text=True, capture_output=True, timeout=BLOCK_SECONDS, check=False)
                if done.returncode:
                    raise Failed(f"npm install: {done.stderr[-2000:]}")
                self.installed = where
        return self.installed
