#!/usr/bin/env python3
"""readme_blocks.py FILE.md [--list]

Runs the commands that a document promises: every fenced block whose info string begins with `bash` and has
the word `test` after it (```bash test). The blocks run in order in one bash, so that a variable set in one is
there in the next, under `set -euo pipefail`, in the current directory, with the caller's environment,
which must hold BASE_URL, the address of the running service.

Exit status: that of the first command that fails; 1 if a block leaves early, if there is no such block, or
if a fence is not closed.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

# After backticks no backtick may follow: that would be inline code.
FENCE = re.compile(r"^(?P<indent> *)(?P<marks>`{3,}(?=[^`]*$)|~{3,})(?P<info>.*)$")


# EXIT, not ERR: it also sees an unset variable, `exit 3`, and an `exit 0` that would skip the later blocks.
ON_EXIT = """\
trap 'status=$?
if [ -n "$README_BLOCK" ]; then
    echo "FAIL $README_BLOCK: exit status $status, the blocks after it did not run" >&2
    [ "$status" != 0 ] || exit 1
fi' EXIT"""


class Unusable(Exception):
    """The document cannot be run; the message says why."""


def extract(text):
    """(line number of the fence, commands) of each block to run."""
    blocks, opened = [], None
    for number, line in enumerate(text.splitlines(), start=1):
        fence = FENCE.match(line)
        if opened is None:
            if fence:
                opened = (number, fence, [])
            continue
        start, first, lines = opened
        marks = first["marks"]
        # A block ends with the same kind of fence, at least as long, and without an info string.
        closes = fence and fence["marks"].startswith(marks) and not fence["info"].strip()
        if not closes:
            # Inside a list item the block is indented as its fence is.
            lines.append(line.removeprefix(first["indent"]))
            continue
        words = first["info"].split()
        if words[:1] == ["bash"] and "test" in words[1:]:
            blocks.append((start, "\n".join(lines)))
        opened = None
    if opened:
        raise Unusable(f"the block opened in line {opened[0]} is not closed")
    if not blocks:
        raise Unusable("no ```bash test block: nothing would be checked")
    return blocks


def script_of(name, blocks):
    """One bash script; `$README_BLOCK` names the block that runs, for the message on failure."""
    parts = ["set -euo pipefail", ON_EXIT]
    for line, commands in blocks:
        parts += [f"README_BLOCK='{name} line {line}'", 'echo "--- $README_BLOCK"', commands]
    return "\n".join([*parts, "README_BLOCK=''", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("document", type=pathlib.Path)
    parser.add_argument("--list", action="store_true", help="print the blocks, run nothing")
    arguments = parser.parse_args()
    name = arguments.document.name
    try:
        blocks = extract(arguments.document.read_text(encoding="utf-8"))
        if not arguments.list and not os.environ.get("BASE_URL"):
            raise Unusable("BASE_URL is not set: the address of the running service")
    except (Unusable, OSError) as error:
        print(f"FAIL {name}: {error}", file=sys.stderr)
        return 1
    script = script_of(name, blocks)
    if arguments.list:
        print(script, end="")
        return 0
    # A file, not standard input: a command in a block that reads its input must not eat the script.
    with tempfile.NamedTemporaryFile("w", suffix=".sh", encoding="utf-8") as file:
        file.write(script)
        file.flush()
        status = subprocess.run(["bash", file.name], stdin=subprocess.DEVNULL, check=False).returncode
    if status == 0:
        print(f"{name}: {len(blocks)} blocks ran")
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
