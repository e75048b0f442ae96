"""A real Prometheus on a port of this machine, and questions to it. Nothing of Python but its standard library."""

import json
import math
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

# A proxy for the world outside is none for this machine.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fetch(url, patience=10):
    with _opener.open(url, timeout=patience) as answer:
        return answer.read().decode()


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Prometheus:
    """Prometheus with this configuration (text), its data in `folder`; ready when the constructor returns."""

    def __init__(self, folder, configuration):
        (folder / "prometheus.yml").write_text(configuration)
        self.address = f"127.0.0.1:{free_port()}"
        self.log = open(folder / "prometheus.log", "w", encoding="utf-8")
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address={self.address}"], stdout=self.log, stderr=self.log)
        end = time.monotonic() + 30
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > end:
                self.stop()
                said = (folder / "prometheus.log").read_text(encoding="utf-8")
                raise RuntimeError(f"Prometheus does not start: {said}")
            time.sleep(0.1)

    def _is_ready(self):
        try:
            return "Ready" in fetch(f"http://{self.address}/-/ready")
        except (urllib.error.URLError, ConnectionError):
            return False

    def ask(self, path, **parameters):
        """The data of an answer of its HTTP interface; an error where it finds the question wrong."""
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            return json.loads(fetch(url))["data"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{parameters}: {error.read().decode()}") from error

    def numbers(self, query, seconds):
        """The numbers that `query` had at any second of the last `seconds`; what is not a number does not count."""
        now = time.time()
        series = self.ask("query_range", query=query, start=now - seconds, end=now, step=1)["result"]
        return [float(value) for one in series for _, value in one["values"] if math.isfinite(float(value))]

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
