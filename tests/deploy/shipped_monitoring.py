"""What deploy/monitoring has, for a Prometheus of a test. Nothing of Python but its standard library."""

import json
import pathlib
import re

MONITORING = pathlib.Path(__file__).resolve().parents[2] / "deploy" / "monitoring"


def panel_queries():
    """(title, PromQL) of every target of the dashboard, with its variables replaced."""
    dashboard = json.loads((MONITORING / "grafana/dashboards/mambad.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"].replace("$__rate_interval", "5s")
            yield panel["title"], re.sub(r"\$(job|instance)\b", ".*", query)


def scrape_configuration(addresses):
    """The shipped configuration of Prometheus, with these daemons instead of a name, every second."""
    text = (MONITORING / "prometheus.yml").read_text()
    targets = f"  static_configs: [{{targets: {json.dumps(addresses)}}}]\n"
    text, replaced = re.subn(r"  dns_sd_configs:\n(    .*\n|  - .*\n)+", targets, text)
    assert replaced == 1
    return text.replace("15s", "1s").replace("alerts.yml", f"{MONITORING}/alerts.yml")
