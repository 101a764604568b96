#!/usr/bin/env python3
"""javascript.py BINARY [--chroma]

Installs the pinned JavaScript client, unmodified, into a temporary directory and runs javascript_client.mjs with it:

 * against the service without keys, which is reset at the end
 * against the service with keys, as a writer that is limited to default_tenant and default_database
 * with --chroma: first against Chroma's own server, so that the checks are known to describe Chroma. The command `chroma` is
   looked for beside this Python and in PATH

Needs Node 20 or newer with npm. The package's optional part is left out: it is Chroma's own server (51 MB). What npm has in its
cache is not fetched again. Exits 1 at the first check that fails.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from callers import Service
from peers import Chroma
from processes import START_SECONDS, Failed, Process, equal, expect, http_call, until

HERE = Path(__file__).resolve().parent
PACKAGE, VERSION = "chromadb", "3.5.0"
NODE = 20
# Chroma's own server takes two minutes on two busy cores.
INSTALL_SECONDS, RUN_SECONDS = 180, 600


def command(name: str, path: str | None = None) -> str:
    found = shutil.which(name, path=path)
    expect(found is not None, f"no command {name}")
    return found


def install(home: Path) -> None:
    """The package, with the scripts beside it: Node resolves a module's imports from where the module is."""
    version = subprocess.run([command("node"), "--version"], text=True, capture_output=True, check=True, timeout=START_SECONDS).stdout
    expect(int(version.lstrip("v").partition(".")[0]) >= NODE, f"Node {NODE} or newer is needed, this is {version.strip()}")
    # Otherwise npm looks for a package.json further up, and installs there.
    (home / "package.json").write_text("{}")
    quiet = ["--omit=optional", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run([command("npm"), "install", *quiet, f"{PACKAGE}@{VERSION}"], cwd=home, check=True, timeout=INSTALL_SECONDS)
    installed = home / "node_modules" / PACKAGE
    equal(json.loads((installed / "package.json").read_text())["version"], VERSION, f"version of {PACKAGE}")
    size = sum(each.stat().st_size for each in (home / "node_modules").rglob("*") if each.is_file())
    print(f"{PACKAGE} {VERSION}, {size / 1e6:.1f} MB with what it needs; node {version.strip()}", flush=True)
    for script in HERE.glob("javascript_*.mjs"):
        shutil.copy(script, home)


def check(home: Path, server: Process, title: str, *options: str, key: str | None = None) -> None:
    """Against a server that is started here, and stopped whatever happens."""
    environment = {name: value for name, value in os.environ.items() if name != "KEY" and not name.upper().endswith("_PROXY")}
    try:
        server.start()
        print(f"== {title}", flush=True)
        ran = subprocess.run([command("node"), "javascript_client.mjs", f"http://127.0.0.1:{server.port}", *options], cwd=home,
                             env=environment | ({"KEY": key} if key else {}), timeout=RUN_SECONDS)
        expect(ran.returncode == 0, f"{title}: exit status {ran.returncode}. The server's last lines: {server.tail()}")
        server.alive()
    finally:
        server.stop()


def limited_key(binary: Path, home: Path) -> str:
    """A writer's key, put into the file of keys."""
    limits = ["--tenant", "default_tenant", "--database", "default_database"]
    made = subprocess.run([binary, "key", "javascript", "--role", "writer", *limits], text=True, capture_output=True, check=True,
                          timeout=START_SECONDS)
    (home / "keys.toml").write_text(made.stdout)
    return made.stderr.strip()


def run(binary: Path, home: Path, with_chroma: bool) -> None:
    install(home)
    for name in ("open", "keys", "chroma"):
        (home / name).mkdir()
    if with_chroma:
        beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        check(home, Chroma(command("chroma", beside), home / "chroma"), "Chroma's own server", "--chroma")
    check(home, Service(binary, home / "open", SERVER__ALLOW_RESET="true"), "the service", "--erase")
    key = limited_key(binary, home / "keys")
    settings = {"ACCESS__KEYS_FILE": home / "keys" / "keys.toml", "SERVER__ALLOW_RESET": "true"}
    check(home, Service(binary, home / "keys", **settings), "the service with keys, as a limited writer", key=key)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--chroma", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vectorkeep-javascript-") as home:
        try:
            run(arguments.binary.resolve(), Path(home), arguments.chroma)
        except (Failed, OSError, subprocess.SubprocessError) as error:
            print(f"FAIL: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
