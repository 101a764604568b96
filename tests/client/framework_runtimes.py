"""Where frameworks.py installs packages, and how it runs a script with them: Python, Node, Rust."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent / "framework_scripts"
sys.path.insert(0, str(SCRIPTS))

import articles
from processes import START_SECONDS, Failed, expect

# The line of a script in whose place the document's lines come.
PLACE = ">>> docs/frameworks.md"
# Compiles the Rust crate's dependencies on two busy cores.
INSTALL_SECONDS = 1_200


def tool(name: str) -> str:
    found = shutil.which(name)
    expect(found is not None, f"no command {name}")
    return found


def ran(command: list, home: Path, seconds: float, more: dict | None = None) -> str:
    """What it printed; a failure that shows its end otherwise."""
    done = subprocess.run(command, cwd=home, env=os.environ | (more or {}), text=True, capture_output=True, timeout=seconds)
    if done.returncode != 0:
        raise Failed(f"{Path(command[0]).name} ended with {done.returncode}: {(done.stdout + done.stderr)[-3_000:]}")
    return done.stdout


class Uv:
    """Makes a virtual environment in seconds where pip takes minutes. It comes from where pip gets its packages."""

    VERSION = "uv==0.13.9"

    def __init__(self, home: Path) -> None:
        ran([sys.executable, "-m", "venv", home], home.parent, INSTALL_SECONDS)
        ran([home / "bin" / "python", "-m", "pip", "install", "--quiet", self.VERSION], home, INSTALL_SECONDS)
        self.command = home / "bin" / "uv"

    def environment(self, venv: Path, *packages: str) -> None:
        """A new one, of this Python."""
        ran([self.command, "venv", "--quiet", "--python", sys.executable, venv], venv.parent, START_SECONDS)
        self.add(venv, *packages)

    def add(self, venv: Path, *packages: str) -> None:
        ran([self.command, "pip", "install", "--quiet", "--python", venv / "bin" / "python", *packages], venv.parent, INSTALL_SECONDS)


class Runtime:
    """Where packages are installed, and how a script is run with them. `home` is its directory."""

    def __init__(self, home: Path, uv: Uv, packages: tuple[str, ...], script: str) -> None:
        self.home, self.uv, self.packages, self.script = home, uv, packages, script
        home.mkdir()
        shutil.copy(SCRIPTS / "articles.py", home)
        given = {name: getattr(articles, name) for name in dir(articles) if name.isupper()}
        (home / "articles.json").write_text(json.dumps(given))

    def install(self, blocks: dict[str, str]) -> None:
        """Before any run. `blocks`: the document's lines by name."""
        raise NotImplementedError

    def command(self, name: str, lines: str, port: int) -> list:
        """What runs the script with these lines. `name` is that of the block."""
        raise NotImplementedError

    def with_lines(self, lines: str) -> str:
        text = (SCRIPTS / self.script).read_text()
        [place] = [line for line in text.splitlines() if line.endswith(PLACE)]
        indent = place[: len(place) - len(place.lstrip())]
        return text.replace(place, "\n".join(f"{indent}{line}".rstrip() for line in lines.splitlines()))


class Python(Runtime):
    options: tuple[str, ...] = ()

    def install(self, _) -> None:
        self.uv.environment(self.home / "venv", *self.options, *self.packages)

    @property
    def python(self) -> Path:
        return self.home / "venv" / "bin" / "python"

    def command(self, name: str, lines: str, port: int) -> list:
        (self.home / f"{name}.py").write_text(self.with_lines(lines))
        return [self.python, f"{name}.py"]


class OldPython(Python):
    def command(self, name: str, lines: str, port: int) -> list:
        shutil.copy(SCRIPTS / self.script, self.home)
        return [self.python, self.script, str(port)]


class Command(Python):
    """The document's lines are a command, which the script starts."""

    def command(self, name: str, lines: str, port: int) -> list:
        shutil.copy(SCRIPTS / self.script, self.home)
        return [self.python, self.script, lines]


class Environment(Python):
    """The document's lines set what the script reads."""

    # Without most of what it needs, torch among it. What its store imports is pinned here as it pins it.
    options = ("--no-deps",)
    needs = ("chromadb==1.5.9", "typer==0.29.2", "uvicorn==0.54.0", "markdown==3.10.2", "beautifulsoup4==4.14.3", "cryptography==48.0.1",
             "redis==8.0.1", "requests==2.34.2", "authlib==1.7.2", "pydantic==2.13.4", "sqlalchemy[asyncio]==2.0.50", "aiosqlite==0.22.1",
             "fastapi==0.136.3", "python-socketio==5.16.2", "aiohttp==3.14.5", "python-mimeparse==2.0.0", "orjson==3.11.9",
             "itsdangerous==2.2.0", "alembic==1.18.4", "pillow==13.0.0")

    def install(self, blocks: dict[str, str]) -> None:
        super().install(blocks)
        self.uv.add(self.home / "venv", *self.needs)

    def command(self, name: str, lines: str, port: int) -> list:
        shutil.copy(SCRIPTS / self.script, self.home)
        # As `open-webui serve` sets them.
        own = f"export FROM_INIT_PY=true WEBUI_SECRET_KEY=none DATA_DIR={shlex.quote(str(self.home / name))}"
        return ["bash", "-euc", f"{lines}\n{own}\nexec {shlex.join([str(self.python), self.script])}"]


class Node(Runtime):
    def install(self, _) -> None:
        # Otherwise npm looks for a package.json further up, and installs there.
        (self.home / "package.json").write_text("{}")
        quiet = ["--omit=optional", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        ran([tool("npm"), "install", *quiet, *self.packages], self.home, INSTALL_SECONDS)

    def command(self, name: str, lines: str, port: int) -> list:
        (self.home / f"{name}.mjs").write_text(self.with_lines(lines))
        return [tool("node"), f"{name}.mjs"]


class OldNode(Node):
    def command(self, name: str, lines: str, port: int) -> list:
        shutil.copy(SCRIPTS / self.script, self.home)
        return [tool("node"), self.script, str(port)]


class Rust(Runtime):
    """The crate and what it needs are compiled at the installation, with the document's own port."""

    MANIFEST = """[package]
name = "framework"
version = "0.0.0"
edition = "2021"

[dependencies]
serde_json = "1"
tokio = { version = "1", features = ["macros", "rt-multi-thread"] }
"""
    # The crate is compiled with `protoc`; this one is a Python package.
    PROTOC = "grpcio-tools==1.85.1"

    def install(self, blocks: dict[str, str]) -> None:
        self.uv.environment(self.home / "venv", self.PROTOC)
        protoc = self.home / "protoc"
        protoc.write_text(f'#!/bin/sh\nexec {shlex.quote(str(self.home))}/venv/bin/python -m grpc_tools.protoc "$@"\n')
        protoc.chmod(0o755)
        pinned = "".join(f'{name} = "={version}"\n' for name, version in (each.split("==") for each in self.packages))
        (self.home / "Cargo.toml").write_text(self.MANIFEST + pinned)
        self.compile(blocks)

    def compile(self, blocks: dict[str, str]) -> None:
        (self.home / "src" / "bin").mkdir(parents=True, exist_ok=True)
        for name, lines in blocks.items():
            (self.home / "src" / "bin" / f"{name}.rs").write_text(self.with_lines(lines))
        environment = {"PROTOC": str(self.home / "protoc"), "CARGO_TARGET_DIR": str(self.home / "target")}
        ran([tool("cargo"), "build", "--quiet"], self.home, INSTALL_SECONDS, environment)

    def command(self, name: str, lines: str, port: int) -> list:
        # For the port of this run.
        self.compile({name: lines})
        return [self.home / "target" / "debug" / name]
