#!/usr/bin/env python3
"""doc_blocks.py BINARY DOCUMENT.md... [--covers OPENAPI.json] [--update] [--list] [--only TEXT] [--jobs N]

Runs the examples that documents promise: every fenced block whose info string is a language and the word `test`
(```bash test; also python and javascript). Each block runs alone, as if it were the only one that a reader copies:

 * a fresh service listens on a free port; its directory holds ./data and ./backups, and it holds what the documents
   agree on: the collection `articles` with the records a, b, c, and one backup (doc_stage.py);
 * a comment `<!-- scene: NAME -->` directly above the block asks for another state (doc_scenes.py), and may look
   afterwards whether the block did what it is for;
 * the port 8000 in the block becomes that of the service, every other port 8xxx a free one;
 * bash runs it under `set -euo pipefail` in the service's directory, with `vectorkeep` and this Python on the PATH;
   javascript runs in a directory where the npm package is installed that the document names.

A bash block has to begin with the line `B=http://127.0.0.1:8000`.

A block whose info string is `json answer` or `text answer` and that follows a block that runs, in the same section and
with no other block between, is what that block printed on standard output: `json` the last values of it (as many as are shown), `text` all of it. What it shows
is compared with what was printed, as doc_answers.py says.

--covers: every method and path of the description that is not below /api/v2 has to occur in a curl command of a
block of one of the documents. --update: writes what was printed into the answers, and leaves out what the old ones
leave out. --only: runs the blocks whose name (such as `operate.md line 30`), scene or text holds TEXT.

Exit status 1 if a block fails or leaves early, if an answer is another one, if an operation does not occur, if a
document is not whole: a fence is not closed, a bash block begins with another line, an answer follows nothing that
runs, a scene is not known, no block is there.
"""

import argparse
import json
import re
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from doc_answers import Bindings, NotReadable, compared, updated
from doc_commands import missing_operations
from doc_scenes import SCENES
from doc_stage import Failed, Runner

# After backticks no backtick may follow: that would be inline code.
FENCE = re.compile(r"^(?P<indent> *)(?P<marks>`{3,}(?=[^`]*$)|~{3,})(?P<info>.*)$")
SCENE = re.compile(r"^ *<!-- scene: (?P<name>[a-z-]+) -->$")
ANSWERS = ("json", "text")
LANGUAGES = ("bash", "python", "javascript")
FIRST_LINE = "B=http://127.0.0.1:8000"
DEFAULT_SCENE = "articles"


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
    language: str
    commands: str
    scene: str = DEFAULT_SCENE
    answer: Answer | None = None


@dataclass(frozen=True)
class Document:
    path: Path
    text: str
    blocks: list[Block]

    def name_of(self, block: Block) -> str:
        return f"{self.path.name} line {block.line}"


@dataclass(frozen=True)
class Outcome:
    """What a block printed; `failed` says why it did not come to its end as it has to."""

    printed: str
    failed: str | None
    seconds: float


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


def block_of(start: int, language: str, commands: str, lines: list[str]) -> Block:
    """A block whose fence is in line `start`, checked."""
    if language not in LANGUAGES:
        raise Unusable(f"the block in line {start} is in none of: {', '.join(LANGUAGES)}")
    if language == "bash" and commands.split("\n", 1)[0] != FIRST_LINE:
        raise Unusable(f"the block in line {start} does not begin with the line {FIRST_LINE}: it has to run alone")
    above = SCENE.match(lines[start - 2]) if start > 1 else None
    scene = above["name"] if above else DEFAULT_SCENE
    if scene not in SCENES:
        raise Unusable(f"the scene in line {start - 1} is not known: {scene}; known are {', '.join(SCENES)}")
    return Block(start, language, commands, scene)


def extract(text: str) -> list[Block]:
    """The blocks to run, each with its answer."""
    blocks, ended, lines, scenes = [], None, text.splitlines(), set()
    for start, end, indent, words, content in fenced(text):
        # Where the block before ran, and no heading stands between.
        directly = ended is not None and not any(line.startswith("#") for line in lines[ended : start - 1])
        ended = None
        if words and "test" in words[1:]:
            blocks.append(block_of(start, words[0], content, lines))
            scenes.add(start - 1)
            ended = end
        elif "answer" in words[1:]:
            if words[0] not in ANSWERS:
                raise Unusable(f"the answer in line {start} is none of: {', '.join(ANSWERS)}")
            if not directly:
                raise Unusable(f"the answer in line {start} does not follow a block that runs")
            last = blocks[-1]
            answer = Answer(start, end, words[0], indent, content)
            blocks[-1] = Block(last.line, last.language, last.commands, last.scene, answer)
    for number, line in enumerate(lines, start=1):
        if SCENE.match(line) and number not in scenes:
            raise Unusable(f"the scene in line {number} is not directly above a block that runs")
    return blocks


def read(path: Path) -> Document:
    text = path.read_text(encoding="utf-8")
    try:
        return Document(path, text, extract(text))
    except Unusable as error:
        raise Unusable(f"{path.name}: {error}") from error


def run(runner: Runner, document: Document, block: Block) -> Outcome:
    """Stages the scene, runs the block, lets the scene look at what is there then."""
    began, printed, failed = time.monotonic(), "", None
    try:
        with runner.stage() as stage:
            scene = SCENES[block.scene](stage)
            next(scene)
            printed = stage.run(block.language, block.commands, document.text)
            # What follows its `yield` looks whether the block did what it is for.
            next(scene, None)
    except (Failed, OSError, AssertionError) as error:
        failed = str(error) or repr(error)
    return Outcome(printed, failed, time.monotonic() - began)


def wrong_in(block: Block, outcome: Outcome) -> list[str]:
    """What the block's answer shows and was not printed, or why it failed."""
    if outcome.failed:
        return [outcome.failed]
    if not block.answer:
        return []
    try:
        found = compared(block.answer.kind, block.answer.text, outcome.printed, Bindings())
    except NotReadable as error:
        found = [str(error)]
    return [f"answer in line {block.answer.start}: {what}" for what in found]


def rewritten(document: Document, printed: dict[int, str]) -> str:
    """The document with the answers that were printed."""
    lines = document.text.splitlines()
    for block in reversed([block for block in document.blocks if block.answer and block.line in printed]):
        answer = block.answer
        try:
            new = updated(answer.kind, answer.text, printed[block.line])
        except NotReadable as error:
            raise Unusable(f"{document.path.name} line {answer.start}: {error}") from error
        lines[answer.start : answer.end - 1] = [(answer.indent + line).rstrip() for line in new.splitlines()]
    return "\n".join(lines) + "\n"


def check_coverage(documents: list[Document], description: Path) -> None:
    commands = [block.commands for document in documents for block in document.blocks if block.language == "bash"]
    missing = missing_operations(commands, json.loads(description.read_text(encoding="utf-8")))
    if missing:
        raise Unusable(f"no curl command in a ```bash test block for: {', '.join(missing)}")


def listed(documents: list[Document]) -> str:
    return "\n".join(f"--- {document.name_of(block)}, {block.language}, scene {block.scene}\n{block.commands}"
                     for document in documents for block in document.blocks)


def chosen(documents: list[Document], only: str | None) -> list[tuple[Document, Block]]:
    return [(document, block) for document in documents for block in document.blocks
            if not only or only in document.name_of(block) or only in block.commands or only == block.scene]


def run_all(runner: Runner, work: list[tuple[Document, Block]], jobs: int, update: bool) -> tuple[bool, dict]:
    """Whether all is well, and what each block printed that came to its end, by document and line."""
    well, printed = True, {}
    with ThreadPoolExecutor(jobs) as pool:
        for (document, block), outcome in zip(work, pool.map(lambda one: run(runner, *one), work)):
            name = document.name_of(block)
            if not outcome.failed:
                printed.setdefault(document.path, {})[block.line] = outcome.printed
            wrong = [outcome.failed] if outcome.failed else [] if update else wrong_in(block, outcome)
            print(f"{'FAIL' if wrong else 'ok  '} {name} ({block.scene}, {outcome.seconds:.1f} s)", flush=True)
            for what in wrong:
                print(f"FAIL {name}: {what}", file=sys.stderr, flush=True)
            well = well and not wrong
    return well, printed


def arguments_of() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path, help="vectorkeep")
    parser.add_argument("documents", type=Path, nargs="+")
    parser.add_argument("--list", action="store_true", help="print the blocks, run nothing")
    parser.add_argument("--covers", type=Path, metavar="OPENAPI.json", help="what has to occur in the blocks")
    parser.add_argument("--update", action="store_true", help="write the answers into the documents")
    parser.add_argument("--only", metavar="TEXT", help="run only blocks whose name, scene or text holds this")
    parser.add_argument("--jobs", type=int, default=2, help="blocks at the same time")
    return parser.parse_args()


def main() -> int:
    arguments = arguments_of()
    try:
        documents = [read(path) for path in arguments.documents]
        if not any(document.blocks for document in documents):
            raise Unusable("no ```bash test block: nothing would be checked")
        if arguments.covers:
            check_coverage(documents, arguments.covers)
        if arguments.list:
            print(listed(documents))
            return 0
        work = chosen(documents, arguments.only)
        with tempfile.TemporaryDirectory(prefix="doc-blocks-") as home:
            runner = Runner(arguments.binary.resolve(), Path(home))
            well, printed = run_all(runner, work, arguments.jobs, arguments.update)
        for document in documents if arguments.update else []:
            # A document of which a block failed stays as it is.
            if document.path in printed and len(printed[document.path]) == len([one for one, _ in work if one is document]):
                document.path.write_text(rewritten(document, printed[document.path]), encoding="utf-8")
    except (Unusable, Failed, OSError, ValueError) as error:
        print(f"FAIL {error}", file=sys.stderr)
        return 1
    answers = sum(1 for _, block in work if block.answer)
    if well:
        print(f"{len(documents)} documents: {len(work)} blocks ran alone, {answers} answers {'written' if arguments.update else 'as shown'}")
    elif not arguments.update:
        print("FAIL: --update writes what was printed into the documents", file=sys.stderr)
    return int(not well)


if __name__ == "__main__":
    sys.exit(main())
