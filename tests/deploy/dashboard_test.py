#!/usr/bin/env python3
"""Grafana's dashboard as a file: panels lie beside each other, say what they show, and ask the source that was chosen. That
each is answered is monitoring_test.py's to see.

    dashboard_test.py
"""

import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "deploy/monitoring/grafana/dashboards/mambad.json"
COLUMNS = 24


def overlapping(panels):
    """The first cell of the grid that two panels take, or that none has: (row, column) and the later one's title."""
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        if place["x"] + place["w"] > COLUMNS:
            return place["y"], place["x"], panel["title"]
        for cell in ((place["y"] + row, place["x"] + column) for row in range(place["h"]) for column in range(place["w"])):
            if cell in taken:
                return *cell, panel["title"]
            taken.add(cell)
    return None


def check(dashboard):
    panels = dashboard["panels"]
    shown = [panel for panel in panels if panel["type"] != "row"]
    assert len({panel["id"] for panel in panels}) == len(panels), "two panels of one id"
    titles = [panel["title"] for panel in panels]
    assert len(set(titles)) == len(titles), f"two panels of one title: {sorted(titles)}"
    assert overlapping(panels) is None, f"panels overlap: {overlapping(panels)}"
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert variables == {"datasource", "job", "instance"}
    for panel in shown:
        title = panel["title"]
        assert panel["description"].endswith("."), f"{title}: does not say what it shows"
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}", f"{title}: asks a source of its own"
            for part in ('job=~"$job"', 'instance=~"$instance"'):
                assert part in target["expr"], f"{title}: shows what was not chosen: {target['expr']}"
            if "rate(" in target["expr"] or "increase(" in target["expr"]:
                assert "[$__rate_interval]" in target["expr"], f"{title}: an interval of its own"
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references), title
    return len(shown)


def main():
    text = DASHBOARD.read_text()
    count = check(json.loads(text))
    # What is wrong would be found.
    for right, wrong in (('"x": 8,', '"x": 7,'), ('instance=~\\"$instance\\"', ''), ('[$__rate_interval]', '[5m]'),
                         ('"id": 3,', '"id": 2,'), ('"uid": "${datasource}"', '"uid": "mine"')):
        assert right in text, right
        try:
            check(json.loads(text.replace(right, wrong)))
        except AssertionError:
            continue
        sys.exit(f"{wrong} in the place of {right} was taken")
    print(f"{count} panels")


if __name__ == "__main__":
    main()
