"""A Grafana dashboard, for deploy.py: its structure, and what its queries ask for."""

import json
import re
from pathlib import Path

from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard as Schema

from processes import equal, expect

COLUMNS = 24
# Keys that are not Grafana's own but its Prometheus plugin's: the schema does not know them.
OF_THE_PLUGIN = re.compile(r"/annotations/list/\d+/(titleFormat|step|useValueForTime)|/templating/list/\d+/definition")
# Metrics that Prometheus makes.
OWN_METRICS = {"up", "ALERTS"}
KEYWORDS = {"and", "or", "unless", "by", "on", "without", "ignoring", "group_left", "group_right", "bool", "offset"}
# What Grafana puts in the place of its variables.
VARIABLES = {"$__rate_interval": "10s", "$job": "vectorkeep", "$instance": ".*"}


class Dashboard:
    def __init__(self, path: Path) -> None:
        self.path, self.content = path, json.loads(path.read_text())
        panels = self.content["panels"]
        self.panels = panels + [inner for panel in panels for inner in panel.get("panels", [])]

    def check_schema(self) -> None:
        """Read by Grafana's own model and written again: what is lost or changed is nothing that Grafana knows."""
        plugins.register_default_plugins()
        again = json.loads(JSONEncoder().encode(Schema.from_json(self.content)))
        lost = [place for place in differences(self.content, again) if not OF_THE_PLUGIN.fullmatch(place)]
        expect(not lost, f"{self.path.name} has what Grafana does not know: {lost}")

    def check_panels(self) -> None:
        equal(len({panel["id"] for panel in self.panels}), len(self.panels), "different panel ids")
        taken = {}
        for panel in self.panels:
            title, place = panel.get("title"), panel["gridPos"]
            expect(title and panel["type"], f"a panel has no title or type: {panel}")
            expect(place["x"] + place["w"] <= COLUMNS and place["w"] > 0 and place["h"] > 0, f"{title} lies outside: {place}")
            for cell in ((x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])):
                expect(cell not in taken, f"{title} lies on {taken.get(cell)}")
                taken[cell] = title
            if panel["type"] == "row":
                continue
            names = [target["refId"] for target in panel["targets"]]
            expect(names and len(set(names)) == len(names), f"{title}: its targets are {names}")
            expect(panel.get("description"), f"{title} says nothing of what it shows")
            expect(panel["fieldConfig"]["defaults"].get("unit"), f"{title} has no unit")
            for part in (panel, *panel["targets"]):
                equal(part["datasource"], {"type": "prometheus", "uid": "${datasource}"}, f"datasource of {title}")
        kinds = {each["name"]: each["type"] for each in self.content["templating"]["list"]}
        equal(kinds.get("datasource"), "datasource", "a variable for the data source")

    def queries(self) -> list[tuple[str, str, str]]:
        """Title, expression and legend of each query, with values in the place of variables."""
        found = [(panel["title"], target["expr"], target["legendFormat"]) for panel in self.panels for target in panel.get("targets", [])]
        found += [(each["name"], each["expr"], each["titleFormat"]) for each in self.content["annotations"]["list"] if "expr" in each]
        return [(title, filled(expression), legend) for title, expression, legend in found]

    def variables(self) -> list[str]:
        """The selectors and labels that its variables ask for, as label_values(SELECTOR, LABEL)."""
        return [filled(each["query"]["query"]) for each in self.content["templating"]["list"] if each["type"] == "query"]


def differences(one, other, place: str = ""):
    """Where what is in one is not in the other."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key, value in one.items():
            yield from differences(value, other[key], f"{place}/{key}") if key in other else [f"{place}/{key}"]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other)):
            yield from differences(*pair, f"{place}/{number}")
    elif one != other:
        yield place


def filled(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    expect("$" not in expression, f"a variable that there is not: {expression}")
    return expression


def metrics_of(expression: str) -> set[str]:
    """Names that an expression selects."""
    rest = re.sub(r'"[^"]*"', "", expression)
    rest = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", " ", rest)
    names = {found[1] for found in re.finditer(r"\b([a-zA-Z_:][a-zA-Z0-9_:]*)\b(?!\s*\()", rest)}
    return names - KEYWORDS
