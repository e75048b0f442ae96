#!/usr/bin/env python3
"""The alerts, by promtool: rules and Prometheus' configuration are read, the unit tests of alerts_test.yml hold, and none of
the alerts lacks a test in which it fires or a line in deploy/README.md that says what to do.

    alerts_test.py

Ends with 77 where Prometheus is not installed.
"""

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
ALERTS = ROOT / "deploy/monitoring/alerts.yml"
UNIT_TESTS = ROOT / "tests/deploy/alerts_test.yml"


def promtool(*arguments):
    result = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=60)
    return result.returncode, result.stdout + result.stderr


def check_each(names):
    """Every alert is known to its unit tests and to who reads about it."""
    tested = set(re.findall(r"alertname: (\w+)\n\s+eval_time: \S+\n\s+exp_alerts:\n", UNIT_TESTS.read_text()))
    silent = set(re.findall(r"\{alertname: (\w+), .*exp_alerts: \[\]", UNIT_TESTS.read_text()))
    described = set(re.findall(r"^\| `(Mambad\w+)`", (ROOT / "deploy/README.md").read_text(), re.M))
    for what, found in (("fires in a unit test", tested), ("is silent in one", silent), ("is described", described)):
        assert found == names, f"{what}: not {sorted(names - found)}; no such alert: {sorted(found - names)}"


def check_that_tests_can_fail(text):
    """Rules of which none ever fires do not pass."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "alerts.yml").write_text(re.sub(r"    expr: (?:\|\n(?:      .*\n)+|.*\n)", "    expr: vector(0) > 1\n", text))
        (folder / "test.yml").write_text(UNIT_TESTS.read_text().replace("../../deploy/monitoring/", ""))
        code, said = promtool("test", "rules", folder / "test.yml")
        assert code != 0 and "got:[]" in said, f"rules that never fire passed: {said}"


def main():
    if not shutil.which("promtool"):
        print("skipped, for want of Prometheus")
        sys.exit(77)
    text = ALERTS.read_text()
    names = re.findall(r"^  - alert: (\w+)$", text, re.M)
    assert len(names) == len(set(names)) > 10
    for arguments in (("check", "rules", ALERTS), ("check", "config", ALERTS.with_name("prometheus.yml")),
                      ("test", "rules", UNIT_TESTS)):
        code, said = promtool(*arguments)
        assert code == 0, f"promtool {arguments}: {said}"
    check_that_tests_can_fail(text)
    check_each(set(names))
    print(f"{len(names)} alerts: read, tested, described")


if __name__ == "__main__":
    main()
