#!/usr/bin/env python3
"""mambactl bench as a load client, against the story model with its draft: files, traces, turns, sessions, refusals, plots.

    bench_test.py --mambad PROGRAM --mambactl PROGRAM --models deploy/models/stories
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

from server_process import ServerProcess

OPTIONS = None  # set by main: the arguments
SECONDS = 300  # that a run may take on a machine that does much else
# Room for two requests in all, and states of prompts kept for others.
CONFIG = "batching:\n  max_sequences: 1\n  max_waiting: 1\nprefix_cache:\n  host_memory_bytes: 67108864\n"


class BenchTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        config = pathlib.Path(cls.folder.name) / "mambad.yaml"
        config.write_text(CONFIG, encoding="utf-8")
        models = pathlib.Path(OPTIONS.models)
        cls.server = ServerProcess(OPTIONS.mambad, str(models / "target"), str(models / "draft"),
                                   extra=["--config", str(config)])

    @classmethod
    def tearDownClass(cls):
        if cls.server.stop() != 0:
            raise RuntimeError("the server did not end well")

    def file(self, name, lines):
        path = pathlib.Path(self.folder.name) / name
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return str(path)

    def run_client(self, *arguments):
        return subprocess.run([OPTIONS.mambactl, "--address", self.server.address, *arguments], capture_output=True,
                              encoding="utf-8", timeout=SECONDS, check=False)

    def bench(self, *arguments, code=0):
        result = self.run_client("--json", "bench", *arguments)
        self.assertEqual(result.returncode, code, result.stderr)
        return json.loads(result.stdout)

    def refused_input(self, words, *arguments):
        result = self.run_client("bench", *arguments)
        self.assertEqual((result.returncode, result.stdout), (2, ""))
        self.assertIn(words, result.stderr)

    def test_conversations_with_and_without_sessions(self):
        path = self.file("turns.jsonl", [{"turns": ["Once upon a time", " Then", " So"]}, {"turns": ["One day", " But"]}])
        report = self.bench("--prompts", path, "--requests", "4", "--concurrency", "1", "--max-tokens", "8", "--ignore-eos",
                            "--sessions", "0.5")
        self.assertEqual(report["codes"], {"OK": 10})
        self.assertEqual(report["completion_tokens"], 80)
        self.assertEqual(report["ttft_ms"]["count"], 10)
        self.assertEqual(report["ttft_further_turns_ms"]["count"], 6)
        # The states of kept conversations were at hand; the text in them is what was sent otherwise.
        self.assertGreater(report["cached_tokens"], 0)
        sessions = self.run_client("sessions", "list")
        self.assertEqual(sessions.returncode, 0)
        self.assertNotRegex(sessions.stdout, r"[0-9a-f]{16}")  # none is left behind
        two = self.bench("--prompts", path, "--requests", "2", "--concurrency", "1", "--max-tokens", "4", "--turns", "2")
        self.assertEqual(two["requests"], 4)

    def test_a_trace_with_shared_beginnings(self):
        lines = [{"timestamp": 1000 + 400 * i, "input_length": 4096, "output_length": 512, "hash_ids": [1, 2, 3, 4, 5, 6, 7, 90 + i]}
                 for i in range(4)]
        # As eight blocks of 51 tokens, answers of 51: the first 256 tokens are at hand for those that come later.
        report = self.bench("--trace", self.file("trace.jsonl", lines), "--scale", "0.1", "--retries", "100")
        self.assertEqual(report["codes"], {"OK": 4})
        self.assertEqual((report["prompt_tokens"], report["completion_tokens"]), (4 * 410, 4 * 51))
        self.assertGreaterEqual(report["cached_tokens"], 256)
        self.assertGreaterEqual(report["seconds"], 1.2)
        fast = self.bench("--trace", self.file("trace.jsonl", lines), "--scale", "0.1", "--retries", "100", "--speed", "1000")
        self.assertEqual(fast["codes"], {"OK": 4})

    def test_rates_and_times(self):
        report = self.bench("--rate", "20", "--requests", "20", "--max-tokens", "2", "--retries", "1000", "--bench-seed", "3")
        self.assertEqual(report["codes"], {"OK": 20})
        again = self.bench("--rate", "20", "--seconds", "0.5", "--max-tokens", "2", "--retries", "1000")
        self.assertEqual(list(again["codes"]), ["OK"])
        self.assertLess(again["requests"], 40)
        for_a_while = self.bench("--seconds", "0.5", "--concurrency", "1", "--max-tokens", "2")
        self.assertGreaterEqual(for_a_while["seconds"], 0.5)
        self.assertGreater(for_a_while["requests"], 2)

    def test_those_without_room_come_back_when_told(self):
        load = ["--requests", "12", "--concurrency", "6", "--max-tokens", "40", "--ignore-eos"]
        report = self.bench(*load)
        self.assertGreater(report["codes"]["RESOURCE_EXHAUSTED"], 0)
        self.assertIn("try again in", report["problems"]["RESOURCE_EXHAUSTED"])
        self.assertEqual(report["hints"], 0)  # nobody came back
        report = self.bench(*load, "--retries", "1000")
        self.assertEqual(report["codes"], {"OK": 12})
        self.assertGreater(report["refusals"], 0)
        self.assertEqual(report["hints"], report["refusals"])
        self.assertEqual(report["refused_ms"]["count"], report["refusals"])
        table = self.run_client("bench", *load, "--retries", "1000").stdout
        self.assertRegex(table, r"(?m)^refused    \d+ times for want of room; of \d+ that came back, ")

    def test_goals_and_plots(self):
        plot = pathlib.Path(self.folder.name) / "times.svg"
        report = self.bench("--requests", "2", "--concurrency", "1", "--max-tokens", "8", "--ignore-eos", "--plot", str(plot),
                            "--goal-ttft", "0.0001")
        self.assertEqual(report["goodput_per_second"], 0)
        picture = xml.etree.ElementTree.parse(plot).getroot()
        self.assertEqual(len(picture.findall("{http://www.w3.org/2000/svg}polyline")), 4)
        generous = self.bench("--requests", "2", "--concurrency", "1", "--max-tokens", "8", "--goal-ttft", "1e6", "--goal-e2e", "1e6")
        self.assertAlmostEqual(generous["goodput_per_second"], generous["requests_per_second"])

    def test_what_cannot_be_asked(self):
        lengths = self.file("lengths.jsonl", [{"input_length": 5}])
        self.refused_input("prompt 1 has no \"timestamp\"", "--trace", lengths)
        self.refused_input("--chat: needs --prompts", "--prompts", lengths, "--chat")
        self.refused_input("give only one of", "--prompts", lengths, "--trace", lengths)
        self.refused_input("one prompt is given", "--prompt", "x", "--turns", "2")
        mixed = self.file("mixed.jsonl", [{"input_length": 5}, {"prompt": "x"}])
        self.refused_input("do not go together", "--prompts", mixed, "--turns", "2")
        self.refused_input("line 1: has none of", "--prompts", self.file("other.jsonl", [{"x": 5}]))
        unwritten = self.run_client("bench", "--requests", "1", "--max-tokens", "1", "--plot", "/no/such/folder/x.svg")
        self.assertEqual(unwritten.returncode, 2)
        self.assertIn("--plot: /no/such/folder/x.svg: No such file or directory", unwritten.stderr)


def main():
    global OPTIONS
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("mambad", "mambactl", "models"):
        parser.add_argument(f"--{name}", required=True)
    OPTIONS, rest = parser.parse_known_args()
    unittest.main(argv=[sys.argv[0]] + rest)


if __name__ == "__main__":
    main()
