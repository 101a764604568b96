"""Answers in a document, held against what was printed.

Everything has to be equal but what is different at each run by its nature:

 * in strings: identifiers of backups, UUIDs, digests (64 hexadecimal digits), request ids (32), addresses of services
   on 127.0.0.1, directories of `mktemp -d`, times, dates and weeks, `N bytes`, `N ms`;
 * numbers of members named `*_ms`, `*_bytes` (0 is 0 only), `*_per_second`, `sequence`, and the `observed_value`
   beside an `observed_unit` of bytes, ms or s;
 * the last digits of numbers with a fraction: processors differ in them.

An identifier (backup, UUID, digest, request, address, directory) that is shown twice has to be the same one twice,
and two that are shown (but of backups, which are named by the second) have to be two.

What is left out is marked: `"…": "…"` as the last member of an object, `"…"` as an element of an array, a line `…` in
text, each for any number of members, elements, lines.
"""

import json
import math
import re
from collections.abc import Callable

GAP = "…"
# Lines of JSON are broken where they become longer.
WIDTH = 120
KINDS = {
    "backup": r"\bbackup_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(?:-\d+)?\b",
    "UUID": r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b",
    "digest": r"\b[0-9a-f]{64}\b",
    "request": r"\b[0-9a-f]{32}\b",
    "address": r"\b127\.0\.0\.1:\d+\b",
    "directory": r"(?:/[\w.-]+)*/tmp\.\w{10}\b",
    "time": r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)?",
    "date": r"\b\d{4}-\d\d-\d\d\b",
    "week": r"\b\d{4}-W\d\d\b",
    # In a table with its padding.
    "size": r" *\b\d+(?= bytes\b)",
    "duration": r" *\b\d+(?= ms\b)",
}
IDENTIFIERS = ("backup", "UUID", "digest", "request", "address", "directory")
VOLATILE = re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in KINDS.items()))
VOLATILE_MEMBER = re.compile(r".*_(ms|bytes|per_second)|sequence")
SPACE = re.compile(r"\s*")
VOLATILE_UNITS = ("bytes", "ms", "s")
ROUNDING = 1e-6


class NotReadable(Exception):
    """What is shown or printed is not of its kind."""


class Bindings:
    """Which identifier that was shown stands for which that was printed, and the other way round."""

    def __init__(self) -> None:
        self.printed, self.shown = {}, {}

    def copy(self) -> "Bindings":
        other = Bindings()
        other.adopt(self)
        return other

    def adopt(self, other: "Bindings") -> None:
        self.printed, self.shown = dict(other.printed), dict(other.shown)

    def bind(self, kind: str, shown: str, printed: str) -> str | None:
        """What is wrong with it."""
        known = self.printed.setdefault((kind, shown), printed)
        if known != printed:
            return f"the {kind} shown as {shown} was {known} before and is {printed} here"
        # Named by the second: backups of two services may have one name.
        if kind == "backup":
            return None
        known = self.shown.setdefault((kind, printed), shown)
        if known != shown:
            return f"the {kind} shown as {shown} here was shown as {known} before: both are {printed}"
        return None


def pieces(text: str) -> list[tuple[str | None, str]]:
    """The text in parts: (kind, part) of what is volatile, (None, part) of what is not."""
    parts, end = [], 0
    for found in VOLATILE.finditer(text):
        parts += [(None, text[end : found.start()]), (found.lastgroup, found[0])]
        end = found.end()
    return [*parts, (None, text[end:])]


def string_differences(shown: str, printed: str, bindings: Bindings) -> list[str]:
    ours, theirs = pieces(shown), pieces(printed)
    form = [[kind or part for kind, part in side] for side in (ours, theirs)]
    if form[0] != form[1]:
        return [f"shown {shown!r}, printed {printed!r}"]
    bound = [bindings.bind(kind, part, theirs[at][1]) for at, (kind, part) in enumerate(ours) if kind in IDENTIFIERS]
    return [what for what in bound if what]


def number_differences(shown, printed, volatile: str | None) -> list[str]:
    if volatile == "size":
        same = (shown == 0) == (printed == 0)
    elif volatile:
        same = True
    elif isinstance(shown, float) or isinstance(printed, float):
        same = math.isclose(shown, printed, rel_tol=ROUNDING, abs_tol=ROUNDING)
    else:
        same = shown == printed
    return [] if same else [f"shown {shown}, printed {printed}"]


def is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def volatile_number(name: str, members: dict) -> str | None:
    """The kind of a member whose number is volatile."""
    if name == "observed_value" and members.get("observed_unit") in VOLATILE_UNITS:
        return "duration"
    if not VOLATILE_MEMBER.fullmatch(name):
        return None
    return "size" if name.endswith("_bytes") else "duration"


def aligned(shown: list, printed: list, bindings: Bindings, differ: Callable) -> list[tuple[int, int]] | list[str]:
    """(place in `shown`, place in `printed`) of each that is no gap; or what is wrong. What follows a gap is looked for
    from the front, what follows the last one stands at the end."""
    places, at, gap = [], 0, False
    last = max((place for place, item in enumerate(shown) if item == GAP), default=-1)
    for place, item in enumerate(shown):
        if item == GAP:
            gap = True
            if place == last:
                at = max(at, len(printed) - (len(shown) - place - 1))
            continue
        found = []
        for candidate in range(at, len(printed) if gap and place < last else min(at + 1, len(printed))):
            trial = bindings.copy()
            found = differ(item, printed[candidate], trial)
            if not found:
                bindings.adopt(trial)
                places.append((place, candidate))
                at, gap = candidate + 1, False
                break
        else:
            return found if found and not gap else [f"not printed in its place: {render(item)}"]
    if at < len(printed) and not gap:
        return [f"printed, not shown: {render(printed[at])}"]
    return places


def is_wrong(places: list) -> bool:
    """Whether that of `aligned` is what is wrong."""
    return any(isinstance(place, str) for place in places)


def key_of(name: str, members: dict, bindings: Bindings) -> str | None:
    """The printed member that a shown name stands for: a name may be an identifier."""
    if name in members:
        return name
    return next((other for other in members if not string_differences(name, other, bindings.copy())), None)


def object_differences(shown: dict, printed: dict, bindings: Bindings, where: str) -> list[str]:
    found, seen = [], set()
    for name, value in shown.items():
        if name == GAP:
            continue
        other = key_of(name, printed, bindings)
        if other is None:
            found.append(f"{where}.{name}: shown, not printed")
            continue
        seen.add(other)
        found += [f"{where}.{name}: {what}" for what in string_differences(name, other, bindings)]
        kind = volatile_number(name, shown)
        found += differences(value, printed[other], bindings, f"{where}.{name}", kind)
    left = [] if GAP in shown else [name for name in printed if name not in seen]
    return found + [f'{where}.{name}: printed, not shown ("…": "…" as the last member leaves members out)' for name in left]


def array_differences(shown: list, printed: list, bindings: Bindings, where: str) -> list[str]:
    if GAP in shown:
        places = aligned(shown, printed, bindings, lambda *sides: differences(*sides, f"{where}[]"))
        return places if is_wrong(places) else []
    if len(shown) != len(printed):
        return [f"{where}: shown {len(shown)} elements, printed {len(printed)}: {render(printed)}"]
    found = [differences(ours, theirs, bindings, f"{where}[{at}]") for at, (ours, theirs) in enumerate(zip(shown, printed))]
    return [what for one in found for what in one]


def differences(shown, printed, bindings: Bindings, where: str = "$", volatile: str | None = None) -> list[str]:
    """What a value that is shown and one that is printed differ in; empty if they agree."""
    if isinstance(shown, dict) and isinstance(printed, dict):
        return object_differences(shown, printed, bindings, where)
    if isinstance(shown, list) and isinstance(printed, list):
        return array_differences(shown, printed, bindings, where)
    if isinstance(shown, str) and isinstance(printed, str):
        found = string_differences(shown, printed, bindings)
    elif is_number(shown) and is_number(printed):
        found = number_differences(shown, printed, volatile)
    else:
        same = type(shown) is type(printed) and shown == printed
        found = [] if same else [f"shown {render(shown)}, printed {render(printed)}"]
    return [f"{where}: {what}" for what in found]


def values_of(text: str, whose: str) -> list:
    """JSON values one after the other, as several commands print them."""
    decoder, values = json.JSONDecoder(), []
    at = SPACE.match(text).end()
    while at < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        except ValueError as error:
            raise NotReadable(f"what is {whose} is not JSON ({error}): {text[at : at + 200]!r}") from error
        values.append(value)
        at = SPACE.match(text, at).end()
    return values


def json_sides(shown: str, printed: str) -> tuple[list, list]:
    ours, theirs = values_of(shown, "shown"), values_of(printed, "printed")
    if not theirs:
        raise NotReadable("nothing was printed")
    # In a new answer nothing stands yet.
    return ours, theirs[-max(1, len(ours)) :]


def compared(kind: str, shown: str, printed: str, bindings: Bindings) -> list[str]:
    """What an answer and what was printed differ in.

    Raises NotReadable where one of them is not JSON, or nothing was printed.
    """
    if kind == "json":
        return array_differences(*json_sides(shown, printed), bindings, "answer")
    places = aligned(shown.splitlines(), lines_of(printed), bindings, string_differences)
    return places if is_wrong(places) else []


def lines_of(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def updated(kind: str, shown: str, printed: str) -> str:
    """The answer as it has to stand: what was printed, without what the old answer leaves out. Where that does not fit
    any more, all of it.

    Raises NotReadable where one of them is not JSON, or nothing was printed.
    """
    if kind == "json":
        ours, theirs = json_sides(shown, printed)
        return "\n".join(render(without(ours[at] if at < len(ours) else None, value)) for at, value in enumerate(theirs))
    ours, theirs = shown.splitlines(), lines_of(printed)
    places = aligned(ours, theirs, Bindings(), string_differences)
    if is_wrong(places):
        return "\n".join(theirs)
    real = dict(places)
    return "\n".join(theirs[real[at]] if at in real else GAP for at in range(len(ours)))


def without(old, value):
    """The value without what the old one leaves out."""
    if isinstance(old, dict) and isinstance(value, dict):
        if GAP not in old:
            return {name: without(old.get(name), member) for name, member in value.items()}
        kept = {key_of(name, value, Bindings()): name for name in old if name != GAP}
        shown = {name: without(old[kept[name]], member) for name, member in value.items() if name in kept}
        return shown | {GAP: GAP}
    if not isinstance(old, list) or not isinstance(value, list):
        return value
    if GAP not in old:
        # Further elements leave out what the last one does.
        return [without(old[min(at, len(old) - 1)] if old else None, element) for at, element in enumerate(value)]
    places = aligned(old, value, Bindings(), differences)
    if not is_wrong(places):
        real = dict(places)
        return [without(element, value[real[at]]) if at in real else GAP for at, element in enumerate(old)]
    front = old[: old.index(GAP)]
    return [*(without(element, value[at]) for at, element in enumerate(front[: len(value)])), GAP]


def render(value, indent: int = 0) -> str:
    """JSON on one line where it fits, else a line for each member or element."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + indent <= WIDTH or not isinstance(value, (dict, list)) or not value:
        return flat
    pad = " " * (indent + 2)
    if isinstance(value, list):
        inner = [pad + render(element, indent + 2) for element in value]
    else:
        named = [(json.dumps(name, ensure_ascii=False) + ": ", member) for name, member in value.items()]
        # What comes behind the name has less room; a broken value goes on below the name.
        inner = [pad + name + render_behind(member, indent + 2, len(name)) for name, member in named]
    first, last = "[]" if isinstance(value, list) else "{}"
    return first + "\n" + ",\n".join(inner) + "\n" + " " * indent + last


def render_behind(member, indent: int, taken: int) -> str:
    flat = json.dumps(member, ensure_ascii=False)
    return flat if len(flat) + indent + taken <= WIDTH else render(member, indent)
