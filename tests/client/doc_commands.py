"""Which operations the curl commands of a document ask for. Reads as much of the shell's grammar as curl commands in
documents need: quotes, `$(…)`, lines that go on."""

import re
import shlex
from collections.abc import Iterator

# What begins a command's name, not a part of another word.
CURL = re.compile(r"(?<![\w./-])curl(?=\s)")
# The service: where the document says it is, or one that a block starts itself.
SERVICE = re.compile(r"(?:\$B|\$\{B\}|https?://127\.0\.0\.1:[^/]+)(/[^?#]*)")
DATA = ("-d", "--data", "--data-binary", "--data-raw", "--json", "-F", "--form")
METHODS = ("get", "post", "put", "patch", "delete")


def end_of_command(text: str, start: int) -> int:
    """Where the simple command that begins at `start` ends: at an operator of the shell or at a line's end, outside
    quotes and substitutions."""
    open_marks, at = [], start
    while at < len(text):
        mark = text[at]
        inner = open_marks[-1] if open_marks else ""
        if mark == "\\" and inner != "'":
            at += 1
        elif inner == "'":
            if mark == "'":
                open_marks.pop()
        elif mark == '"':
            open_marks.pop() if inner == '"' else open_marks.append('"')
        elif text.startswith("$(", at):
            open_marks.append(")")
            at += 1
        elif mark == "'" and inner != '"':
            open_marks.append("'")
        elif mark == ")" and inner == ")":
            open_marks.pop()
        elif not inner and mark in "|;&)\n":
            return at
        at += 1
    return at


def curl_calls(commands: str) -> Iterator[tuple[str, str]]:
    """(method, path) of each curl command that asks the service."""
    lines = [line for line in commands.replace("\\\n", " ").splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines)
    for found in CURL.finditer(text):
        words = shlex.split(text[found.end() : end_of_command(text, found.end())])
        method = "POST" if any(word in DATA for word in words) else "GET"
        for option, value in zip(words, words[1:]):
            if option in ("-X", "--request"):
                method = value
        for word in words:
            if asked := SERVICE.match(word):
                yield method, asked[1]


def operation_of(method: str, path: str, operations: list[tuple[str, str]]) -> tuple[str, str] | None:
    """The operation that answers a request: as in the service, a path without parameters goes before one with."""
    segments = path.split("/")
    for known in sorted(operations, key=lambda operation: operation[1].count("{")):
        template = known[1].split("/")
        same = len(template) == len(segments) and all(
            part.startswith("{") and found or part == found for part, found in zip(template, segments))
        if known[0] == method and same:
            return known
    return None


def missing_operations(blocks: list[str], description: dict) -> list[str]:
    """The operations outside /api/v2 that no curl command asks for."""
    operations = [(method.upper(), path) for path, item in description["paths"].items() if not path.startswith("/api/v2")
                  for method in METHODS if method in item]
    if not operations:
        return ["any operation: the description has none"]
    asked = {operation_of(method, path, operations) for commands in blocks for method, path in curl_calls(commands)}
    return [f"{method} {path}" for method, path in operations if (method, path) not in asked]
