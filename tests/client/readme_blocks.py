#!/usr/bin/env python3
"""readme_blocks.py FILE.md [--covers OPENAPI.json] [--update] [--list]

Runs the commands that a document promises: every fenced block whose info string begins with `bash` and has
the word `test` after it (```bash test). The blocks run in order in one bash, so that a variable set in one is
there in the next, under `set -euo pipefail`, in the current directory, with the caller's environment,
which must hold BASE_URL, the address of the running service.

A block whose info string is `json answer` or `text answer` and that directly follows a block that runs is what that
block printed on standard output: `json` the last values of it (as many as are shown), `text` all of it. What it shows
is compared with what is printed, as readme_answers.py says, after all blocks ran.

--covers: every method and path of the description that is not below /api/v2 has to occur in a curl command of a
block that runs, before anything does. --update: writes what was printed into the answers, and leaves out what the
old ones leave out.

Exit status: that of the first command that fails; 1 if a block leaves early, if there is no such block, if a fence is
not closed, if an answer follows nothing that runs, if an answer is another one, or if an operation does not occur.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass

from readme_answers import Bindings, NotReadable, compared, updated
from readme_commands import missing_operations

# After backticks no backtick may follow: that would be inline code.
FENCE = re.compile(r"^(?P<indent> *)(?P<marks>`{3,}(?=[^`]*$)|~{3,})(?P<info>.*)$")
ANSWERS = ("json", "text")


# EXIT, not ERR: it also sees an unset variable, `exit 3`, and an `exit 0` that would skip the later blocks.
# What the block printed until then says why. Services that it left running end with it.
ON_EXIT = """\
exec {README_STDOUT}>&1
trap 'status=$?
exec >&$README_STDOUT
jobs -p | xargs -r kill 2>/dev/null || true
if [ -n "$README_BLOCK" ]; then
    cat "$README_PRINTED"
    echo "FAIL $README_BLOCK: exit status $status, the blocks after it did not run" >&2
    [ "$status" != 0 ] || exit 1
fi' EXIT"""


class Unusable(Exception):
    """The document cannot be run; the message says why."""


@dataclass(frozen=True)
class Answer:
    """What the document says that a block prints. `start` and `end` are the lines of its fences."""

    start: int
    end: int
    kind: str
    indent: str
    text: str


@dataclass(frozen=True)
class Block:
    """Commands to run; `line` is that of the fence."""

    line: int
    commands: str
    answer: Answer | None = None


def fenced(text: str):
    """(line of the opening fence, line of the closing one, indentation, words of the info string, content) of each."""
    opened = None
    for number, line in enumerate(text.splitlines(), start=1):
        fence = FENCE.match(line)
        if opened is None:
            if fence:
                opened = (number, fence, [])
            continue
        start, first, lines = opened
        # A block ends with the same kind of fence, at least as long, and without an info string.
        if fence and fence["marks"].startswith(first["marks"]) and not fence["info"].strip():
            yield start, number, first["indent"], first["info"].split(), "\n".join(lines)
            opened = None
            continue
        # Inside a list item the block is indented as its fence is.
        lines.append(line.removeprefix(first["indent"]))
    if opened:
        raise Unusable(f"the block opened in line {opened[0]} is not closed")


def extract(text: str) -> list[Block]:
    """The blocks to run, each with its answer."""
    blocks, ended, lines = [], None, text.splitlines()
    for start, end, indent, words, content in fenced(text):
        # Where the block before ran, and nothing stands between.
        directly = ended is not None and not any(line.strip() for line in lines[ended : start - 1])
        ended = None
        if words[:1] == ["bash"] and "test" in words[1:]:
            blocks.append(Block(start, content))
            ended = end
        elif "answer" in words[1:]:
            if words[0] not in ANSWERS:
                raise Unusable(f"the answer in line {start} is none of: {', '.join(ANSWERS)}")
            if not directly:
                raise Unusable(f"the answer in line {start} does not directly follow a ```bash test block")
            blocks[-1] = Block(blocks[-1].line, blocks[-1].commands, Answer(start, end, words[0], indent, content))
    if not blocks:
        raise Unusable("no ```bash test block: nothing would be checked")
    return blocks


def script_of(name: str, blocks: list[Block], printed: str) -> str:
    """One bash script; `$README_BLOCK` names the block that runs, for the message on failure. What a block prints
    goes to a file of its own in the directory `printed`, and on to standard output at its end."""
    parts = ["set -euo pipefail", ON_EXIT]
    for block in blocks:
        parts += [f"README_BLOCK='{name} line {block.line}'", 'echo "--- $README_BLOCK"',
                  f"README_PRINTED='{printed}/{block.line}'", 'exec >>"$README_PRINTED"', block.commands,
                  'exec >&$README_STDOUT', 'cat "$README_PRINTED"']
    return "\n".join([*parts, "README_BLOCK=''", ""])


def run(name: str, blocks: list[Block]) -> tuple[int, dict[int, str]]:
    """The exit status, and what was printed by the blocks that have an answer and came to their end."""
    with tempfile.TemporaryDirectory() as directory:
        # A file, not standard input: a command in a block that reads its input must not eat the script.
        script = pathlib.Path(directory, "blocks.sh")
        script.write_text(script_of(name, blocks, directory), encoding="utf-8")
        status = subprocess.run(["bash", script], stdin=subprocess.DEVNULL, check=False).returncode
        files = [(block, pathlib.Path(directory, str(block.line))) for block in blocks]
        began = [(block, file) for block, file in files if file.exists()]
        # The last one that began is the one that failed.
        ended = began if status == 0 else began[:-1]
        printed = {block.line: file.read_text(encoding="utf-8", errors="replace") for block, file in ended if block.answer}
    return (status if status >= 0 else 128 - status), printed


def wrong_answers(name: str, blocks: list[Block], printed: dict[int, str]) -> list[str]:
    """What the document shows and was not printed. An identifier shown twice has to be the same one twice."""
    wrong, bindings = [], Bindings()
    for block in blocks:
        if block.line not in printed:
            continue
        answer = block.answer
        try:
            found = compared(answer.kind, answer.text, printed[block.line], bindings)
        except NotReadable as error:
            found = [str(error)]
        wrong += [f"FAIL {name} line {answer.start}: {what}" for what in found]
    return wrong


def rewritten(text: str, blocks: list[Block], printed: dict[int, str]) -> str:
    """The document with the answers that were printed."""
    lines = text.splitlines()
    for block in reversed([block for block in blocks if block.line in printed]):
        answer = block.answer
        try:
            new = updated(answer.kind, answer.text, printed[block.line])
        except NotReadable as error:
            raise Unusable(f"line {answer.start}: {error}") from error
        indented = [(answer.indent + line).rstrip() for line in new.splitlines()]
        lines[answer.start : answer.end - 1] = indented
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("document", type=pathlib.Path)
    parser.add_argument("--list", action="store_true", help="print the blocks, run nothing")
    parser.add_argument("--covers", type=pathlib.Path, metavar="OPENAPI.json", help="what has to occur in the blocks")
    parser.add_argument("--update", action="store_true", help="write the answers into the document")
    arguments = parser.parse_args()
    name = arguments.document.name
    try:
        text = arguments.document.read_text(encoding="utf-8")
        blocks = extract(text)
        if arguments.covers:
            description = json.loads(arguments.covers.read_text(encoding="utf-8"))
            missing = missing_operations([block.commands for block in blocks], description)
            if missing:
                raise Unusable(f"no curl command in a ```bash test block for: {', '.join(missing)}")
        if arguments.list:
            print(script_of(name, blocks, "PRINTED"), end="")
            return 0
        if not os.environ.get("BASE_URL"):
            raise Unusable("BASE_URL is not set: the address of the running service")
        status, printed = run(name, blocks)
        if arguments.update and status == 0:
            arguments.document.write_text(rewritten(text, blocks, printed), encoding="utf-8")
    except (Unusable, OSError, ValueError) as error:
        print(f"FAIL {name}: {error}", file=sys.stderr)
        return 1
    wrong = [] if arguments.update else wrong_answers(name, blocks, printed)
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        print(f"FAIL {name}: {len(wrong)} differences; --update writes what was printed into the document", file=sys.stderr)
    elif status == 0:
        print(f"{name}: {len(blocks)} blocks ran, {len(printed)} answers {'written' if arguments.update else 'as shown'}")
    return status or int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
