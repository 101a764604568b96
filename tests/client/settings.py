#!/usr/bin/env python3
"""settings.py docs/settings.md config.toml [--update]

The table of settings in a document, between the lines `<!-- settings -->` and `<!-- end of settings -->`, has to say
what the configuration says: every setting, its value, and the words that stand above it. `--update` writes it.

Exit status 1 when it differs.
"""

import argparse
import difflib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

BEGIN, END = "<!-- settings -->", "<!-- end of settings -->"
# `# [environments.staging]` describes a section that is there only where somebody writes it.
SECTION = re.compile(r"^(?P<unset># )?\[(?P<name>[a-z_.]+)\]$")
SETTING = re.compile(r"^(?P<unset># )?(?P<key>[a-z_]+) = (?P<value>\"[^\"]*\"|\[[^\]]*\]|[^#\s]+)$")


@dataclass
class Setting:
    name: str
    value: str
    words: str


def settings(text: str) -> list[Setting]:
    """Settings in the file's order; several below one comment share its words."""
    found, section, words, shared = [], "", [], ""
    for line in text.splitlines():
        if head := SECTION.match(line):
            section = head["name"].replace(".staging", ".NAME")
            words, shared = [], ""
        elif (setting := SETTING.match(line)) and section:
            if words:
                shared, words = " ".join(words), []
            value = "unset" if setting["unset"] else f"`{setting['value']}`"
            found.append(Setting(f"{section}.{setting['key']}", value, shared))
        elif line.startswith("#"):
            # Indented lines are examples of a file's content.
            if not line.startswith("#  ") and line != "#":
                words.append(line.removeprefix("# "))
        elif not line:
            words = []
        else:
            raise SystemExit(f"FAIL: a line that is not understood: {line}")
    return found


def table(found: list[Setting]) -> str:
    rows, before = ["| setting | default | |", "|---|---|---|"], None
    for setting in found:
        words = "″" if setting.words == before else setting.words
        before = setting.words
        rows.append(f"| `{setting.name}` | {setting.value} | {words.replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("document", type=Path)
    parser.add_argument("config", type=Path)
    parser.add_argument("--update", action="store_true", help="write the table into the document")
    arguments = parser.parse_args()
    found = settings(arguments.config.read_text(encoding="utf-8"))
    document = arguments.document.read_text(encoding="utf-8")
    before, begin, rest = document.partition(BEGIN + "\n")
    there, end, after = rest.partition(END)
    if not begin or not end:
        print(f"FAIL: {arguments.document} has no {BEGIN} … {END}", file=sys.stderr)
        return 1
    # A blank line on both sides, so that it is a table in every renderer.
    wanted = f"\n{table(found)}\n"
    if arguments.update:
        arguments.document.write_text(before + begin + wanted + end + after, encoding="utf-8")
    elif there != wanted:
        sys.stderr.writelines(difflib.unified_diff(there.splitlines(True), wanted.splitlines(True), "document", "configuration", n=0))
        print(f"FAIL: the settings in {arguments.document} are not those of {arguments.config}; run with --update", file=sys.stderr)
        return 1
    print(f"{arguments.document.name}: {len(found)} settings")
    return 0


if __name__ == "__main__":
    sys.exit(main())
