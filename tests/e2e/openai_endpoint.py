"""OpenAI's HTTP interface over replicas of mambad, as deploy/openai.sh starts it, and OpenAI's own client before it.

Needs smg and openai.
"""

import pathlib
import re
import signal
import subprocess
import sys

import openai

from server_process import closed_port

ROOT = pathlib.Path(__file__).resolve().parents[2]
SMG = pathlib.Path(sys.executable).parent / "smg"


class Endpoint:
    """deploy/openai.sh before daemons of the test, or with replicas of its own."""

    def __init__(self, *options, router=()):
        self.listen = closed_port()
        self.process = subprocess.Popen(
            [ROOT / "deploy/openai.sh", "--smg", SMG, "--listen", self.listen, *options, "--", "--prometheus-port",
             closed_port().rsplit(":", 1)[1], *router],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        self.lines = []
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith("Ends with"):
                break
        else:
            raise RuntimeError("".join(self.lines))
        self.model = re.search(r"^ready: .*, model (\S+)$", "".join(self.lines), re.M).group(1)
        self.client = openai.OpenAI(base_url=f"http://{self.listen}/v1", api_key="none", max_retries=0, timeout=60)

    def replicas(self):
        return [int(process) for process in re.findall(r"^replica .*\(process (\d+)\)$", "".join(self.lines), re.M)]

    def complete(self, prompt="<s>Once upon a time", **settings):
        """The router reads prompts as they are, without begin-of-text."""
        return self.client.completions.create(model=self.model, prompt=prompt, **{"temperature": 0, **settings})

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)
        self.process.stdout.close()
        return self.process.returncode
