"""The dashboard and the alerts, held against the /metrics of a running daemon: every name in them is one that it exports, with the
labels that it has; and every name is told as the conventions of Prometheus want it."""

import json
import re

import yaml

from layout import ROOT

NAME = r"\bpeat_blob_[a-z0-9_]+"


def expressions():
    """Where an expression stands, and the expression."""
    board = json.loads((ROOT / "packaging/grafana/peat-blob.json").read_text())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids), "two panels have one id"
    for panel in board["panels"]:
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]
    rules = yaml.safe_load((ROOT / "packaging/prometheus/rules.yml").read_text())
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        assert rule["annotations"]["summary"] and rule["labels"]["severity"], rule
        yield rule["alert"], rule["expr"]


def exported(text):
    """The labels of each name that a daemon exports. HELP and TYPE come before, once; the name says the type and the unit."""
    kinds, helped, found = {}, set(), {}
    for line in text.splitlines():
        if said := re.fullmatch(rf"# HELP ({NAME}) (\S.*)", line):
            assert said[1] not in helped, f"{said[1]} is told of twice"
            helped.add(said[1])
        elif said := re.fullmatch(rf"# TYPE ({NAME}) (counter|gauge)", line):
            kinds[said[1]] = said[2]
            found[said[1]] = set()
        else:
            said = re.fullmatch(rf"({NAME})(?:\{{([a-z_]+)=\"((?:[^\"\\]|\\.)*)\"\}})? (\d+)", line)
            assert said and said[1] in kinds, f"no line of the text format: {line!r}"
            found[said[1]] |= {said[2]} - {None}
    assert helped == set(kinds)
    for name, kind in kinds.items():
        assert name.endswith("_total") == (kind == "counter"), f"{name} is a {kind}"
    return found


def check(text):
    """Holds what the files say against what a daemon with a watched outbox says."""
    found = exported(text)
    states = set(re.findall(r'peat_blob_distributions_by_state\{state="(.*?)"\}', text))
    used = set()
    for where, expression in expressions():
        names = re.findall(NAME, expression)
        assert names, f"{where}: {expression} asks for nothing"
        for name in names:
            assert name in found, f"{where}: no daemon exports {name}"
            used.add(name)
        # What a scrape adds: instance.
        labels = {label for name in names for label in found[name]} | {"instance"}
        asked = re.findall(r'([a-z_]+)=~?"', expression)
        asked += [label.strip() for group in re.findall(r"by \((.*?)\)", expression) for label in group.split(",")]
        assert set(asked) <= labels, f"{where}: {set(asked) - labels} is no label of {names}"
        for value in re.findall(r'state=~?"(.*?)"', expression):
            assert set(value.split("|")) <= states, f"{where}: {value} is no state"
    return len(used), len(found)
