#!/usr/bin/env python3
"""Dashboard and alerts on a real Prometheus that scrapes a real daemon under load: every panel's query is answered with
numbers, every rule is evaluated, every metric that they name is one that the daemon tells, and promtool finds nothing to say
about any of those.

    monitoring_test.py --mambad PROGRAM --mambactl PROGRAM --models FOLDER

Ends with 77 where Prometheus is not installed.
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))
import certificates  # noqa: E402  (beside the end-to-end tests)
import prometheus_process  # noqa: E402
import server_process  # noqa: E402
from shipped_monitoring import MONITORING, panel_queries, scrape_configuration  # noqa: E402

LOAD_SECONDS = 10
# Sessions with room for few of their states, so that these come and go; all that has metrics of its own is on.
CONFIGURATION = """
batching: {max_sequences: 2}
sessions: {directory: FOLDER/sessions, host_memory_bytes: 1000000}
prefix_cache: {host_memory_bytes: 16777216}
tls: {certificate: FOLDER/server.crt, private_key: FOLDER/server.key}
auth: {token_file: FOLDER/tokens}
"""


class Callers:
    """mambactl, as one who has a token or has not."""

    def __init__(self, mambactl, folder):
        self.mambactl, self.folder, self.address = mambactl, folder, None
        self.token = subprocess.run(
            [mambactl, "token", "create", "--file", folder / "tokens", "--principal", "a", "--scopes",
             "generate,sessions,admin"], check=True, capture_output=True, text=True).stdout.strip()

    def call(self, *arguments, token=None):
        """The exit code, what was answered."""
        command, *rest = arguments
        result = subprocess.run(
            [self.mambactl, command, "--address", self.address, "--ca", self.folder / "authority.pem", "--timeout", "60", *rest],
            capture_output=True, text=True, timeout=120, env={"MAMBAD_TOKEN": token or self.token})
        return result.returncode, result.stdout + result.stderr

    def work(self, *arguments):
        code, said = self.call(*arguments)
        assert code == 0, f"{arguments}: {said}"
        return said


def keep_and_go_on(callers, end):
    """Sessions more than there are slots, gone on with in turn: their states are parked and restored."""
    names = []
    for _ in range(6):
        said = callers.work("generate", "--prompt", "Once upon a time", "--max-tokens", "8", "--keep-session")
        names.append(re.search(r"session (\w+)", said).group(1))
    while True:
        for name in names:
            callers.work("generate", "--prompt", " and", "--max-tokens", "4", "--session", name, "--keep-session")
        if time.monotonic() > end:
            return


def refused(callers, end):
    """Calls of strangers, calls that are wrong, calls that are repeated."""
    wrong = callers.token[:-1] + ("a" if callers.token[-1] != "a" else "b")
    while time.monotonic() < end:
        assert callers.call("generate", "--prompt", "x", token=wrong)[0] != 0
        assert callers.call("generate", "--token-ids", "999999")[0] != 0
        callers.call("generate", "--prompt", "Once", "--max-tokens", "4", "--seed", "1", "--request-id", "one")
        time.sleep(0.2)


def load(callers):
    """All of it for LOAD_SECONDS."""
    end = time.monotonic() + LOAD_SECONDS
    failures = []

    def run(work, *arguments):
        try:
            work(*arguments)
        except Exception as error:  # told by the main thread
            failures.append(error)

    threads = [threading.Thread(target=run, args=arguments) for arguments in (
        (callers.work, "bench", "--seconds", str(LOAD_SECONDS), "--requests", "100000", "--concurrency", "3",
         "--prompt", "Once upon a time there was a little girl who", "--max-tokens", "32"),
        (keep_and_go_on, callers, end), (refused, callers, end))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def check_names(metrics):
    """What alerts and dashboard name exists."""
    told = set(re.findall(r"^(\w+)(?:\{| )", metrics, re.M))
    for path in (MONITORING / "alerts.yml", MONITORING / "grafana/dashboards/mambad.json"):
        named = set(re.findall(r"\b((?:mambad|process)_\w+)", path.read_text()))
        assert named and not named - told, f"{path.name} names what the daemon does not tell: {sorted(named - told)}"


def check_answers(prometheus, seconds):
    """Every panel had numbers in the last `seconds`; how many queries and rules there are."""
    queries = list(panel_queries())
    assert len(queries) > 50, "the dashboard has lost its panels"
    empty = [f"{title}: {query}" for title, query in queries if not prometheus.numbers(query, seconds)]
    assert not empty, "no numbers:\n" + "\n".join(empty)
    assert not prometheus.numbers("mambad_no_such_metric", seconds)

    rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    unwell = [f"{rule['name']}: {rule.get('lastError')}" for rule in rules if rule["health"] != "ok"]
    assert rules and not unwell, unwell
    return len(queries), len(rules)


def main():
    parser = argparse.ArgumentParser()
    for name in ("--mambad", "--mambactl", "--models"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()
    if not shutil.which("prometheus") or not shutil.which("promtool"):
        print("skipped, for want of Prometheus")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        certificates.Authority(folder, "authority").issue("server")
        callers = Callers(options.mambactl, folder)
        (folder / "mambad.yaml").write_text(CONFIGURATION.replace("FOLDER", name))
        daemon = server_process.ServerProcess(options.mambad, f"{options.models}/target", f"{options.models}/draft",
                                              extra=["--config", folder / "mambad.yaml"])
        callers.address = daemon.address
        prometheus = None
        try:
            prometheus = prometheus_process.Prometheus(folder, scrape_configuration([daemon.metrics_address]))
            begun = time.monotonic()
            load(callers)
            metrics = prometheus_process.fetch(f"http://{daemon.metrics_address}/metrics")
            said = subprocess.run(["promtool", "check", "metrics"], input=metrics, capture_output=True, text=True)
            assert said.returncode == 0 and not said.stdout + said.stderr, f"promtool: {said.stdout}{said.stderr}"
            check_names(metrics)
            panels, rules = check_answers(prometheus, time.monotonic() - begun + 1)
        finally:
            if prometheus is not None:
                prometheus.stop()
            assert daemon.stop() == 0, daemon.errors
    print(f"{panels} queries of panels answered, {rules} alerts evaluated")


if __name__ == "__main__":
    main()
