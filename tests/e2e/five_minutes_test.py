#!/usr/bin/env python3
"""trainer/examples/five_minutes as it stands: from text to a served hybrid, and its README says what it is.

    five_minutes_test.py --trainer PROGRAM [--mambad PROGRAM --mambactl PROGRAM]

Without the last two nothing is served. Needs no package.
"""

import argparse
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "trainer/examples/five_minutes"
OPTIONS = None  # set by main


class FiveMinutes(unittest.TestCase):
    def test_readme_shows_the_files_that_run(self):
        """The commands in their order, and every settings file word for word."""
        readme = (ROOT / "trainer/README.md").read_text(encoding="utf-8")
        section = readme.split("## Five minutes, no GPU")[1].split("\n## ")[0]
        script = (EXAMPLE / "run.sh").read_text(encoding="utf-8")
        commands = re.findall(r'^"\$trainer" (\w+) --config (\w+)\.yaml$', script, re.MULTILINE)
        shown = dict(re.findall(r"```yaml\n# (\w+)\.yaml\n(.*?)```", section, re.DOTALL))
        self.assertEqual(sorted(shown), sorted(name for _, name in commands))
        self.assertEqual(re.findall(r"^    build/bin/trainer (\w+) --config (\w+)\.yaml$", section, re.MULTILINE), commands)
        for name, text in shown.items():
            self.assertEqual(text, (EXAMPLE / f"{name}.yaml").read_text(encoding="utf-8"), name)

    def test_run(self):
        with tempfile.TemporaryDirectory() as temporary:
            folder = pathlib.Path(temporary) / "work"
            result = subprocess.run([str(EXAMPLE / "run.sh"), str(folder)], capture_output=True, text=True, timeout=1500,
                                    env={**os.environ, "TRAINER": OPTIONS.trainer})
            self.assertEqual(result.returncode, 0, result.stderr[-3000:])
            numbers = json.loads((folder / "numbers/evaluation.json").read_text(encoding="utf-8"))
            # The chance of a token drawn blindly is 1 in 1,024.
            self.assertLess(numbers["valid_perplexity"], 400)
            self.assertLess(numbers["valid_perplexity_ratio"], 1.5)
            self.assertGreater(numbers["accepted_share_temperature_0"], 0.05)
            served = re.search(r"serve it: (mambad --model \S+ --draft \S+)", result.stdout)
            self.assertTrue(served, result.stdout)
            if OPTIONS.mambad:
                self.serve(served[1].split()[1:], folder)

    def serve(self, options, folder):
        with (folder / "mambad.log").open("w", encoding="utf-8") as log:
            process = subprocess.Popen([OPTIONS.mambad, *options, "--listen", "127.0.0.1:0", "--metrics", "", "--threads", "1"],
                                       stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            line = process.stdout.readline()
            self.assertIn(" ready: grpc ", line)
            address = re.search(r"grpc ([\d.:]+)", line)[1]
            answer = subprocess.run([OPTIONS.mambactl, "--address", address, "generate", "--prompt", "The ", "--max-tokens",
                                     "24"], check=True, capture_output=True, text=True, timeout=120)
            self.assertGreater(len(answer.stdout), 10)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
            process.stdout.close()


def main():
    global OPTIONS
    parser = argparse.ArgumentParser()
    for name in ("trainer", "mambad", "mambactl"):
        parser.add_argument(f"--{name}", required=name == "trainer")
    OPTIONS, rest = parser.parse_known_args()
    unittest.main(argv=["five_minutes_test"] + rest, verbosity=2)


if __name__ == "__main__":
    main()
