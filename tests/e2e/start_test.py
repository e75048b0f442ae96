#!/usr/bin/env python3
"""What the daemon says before it serves: its report, its warnings, and the line with which it refuses. Needs nothing but Python.

    start_test.py --mambad FILE --models FOLDER     FOLDER: the story models
"""

import argparse
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import unittest

OPTIONS = None


def mambad(*words, configuration=None, folder=None):
    """The command line, with `configuration` as its file."""
    command = [OPTIONS.mambad, "--listen", "127.0.0.1:0", "--metrics", "", *words]
    if configuration is not None:
        path = pathlib.Path(folder) / "mambad.yaml"
        path.write_text(configuration)
        command += ["--config", str(path)]
    return command


class StartTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.target, self.draft = str(OPTIONS.models / "target"), str(OPTIONS.models / "draft")

    def tearDown(self):
        shutil.rmtree(self.folder)

    def report(self, *words, configuration=None):
        """The log of a daemon until it is ready."""
        path = pathlib.Path(self.folder) / "log"
        with open(path, "w", encoding="utf-8") as log:
            process = subprocess.Popen(mambad(*words, configuration=configuration, folder=self.folder),
                                       stdout=subprocess.PIPE, stderr=log, text=True)
        with process.stdout:
            line = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(60), 0, path.read_text())
        self.assertIn(" ready: grpc ", line, path.read_text())
        return path.read_text()

    def refusal(self, *words, configuration=None, **options):
        """The one line of a daemon that does not start."""
        result = subprocess.run(mambad(*words, configuration=configuration, folder=self.folder), capture_output=True,
                                text=True, timeout=120, **options)
        self.assertEqual(result.returncode, 2, result.stderr)
        refusals = [line for line in result.stderr.splitlines() if line.startswith("mambad: ")]
        self.assertEqual(len(refusals), 1, result.stderr)
        return refusals[0]

    def test_the_report_names_what_is_served(self):
        log = self.report("--model", self.target, "--draft", self.draft, "--threads", "1")
        for pattern in (
                rf"model: {re.escape(self.target)}: hybrid, 6 layers \(3 of them attention\) of width \d+, 4\.\d M parameters",
                rf"draft model: {re.escape(self.draft)}: mamba2, .* bfloat16, vocabulary \d+, "
                r"computed by cpu-\w+/weights-bf16/activations-(f32|bf16)/kv-f32",
                r"device: CPU, .*, 1 thread; 16 sequences together, context 1024 tokens, 256 rows a step",
                r"memory: [\d.]+ MB planned of [\d.]+ .B free: weights [\d.]+ MB, states [\d.]+ MB, keys and values",
                r"text: tokenizer, no chat template, ends at \d+",
                r"speculation: draft model and prompt lookup, up to 8 tokens a round; the self-check gave equal answers"):
            self.assertRegex(log, pattern)
        self.assertNotIn("warning", re.sub("warning .* others leave .*", "", log))

    def test_warns_of_what_looks_like_a_mistake(self):
        log = self.report("--model", self.draft, "--draft", self.target, "--threads", "64",
                          configuration="batching: {max_sequences: 2}")
        self.assertRegex(log, r"warning draft_model: .*are they swapped\?")
        self.assertRegex(log, r"warning 64 threads for \d+ cores? that this process may use")
        log = self.report("--model", self.target, configuration="batching: {kv_cache_tokens: 10}")
        self.assertRegex(log, r"warning batching.kv_cache_tokens: 10 cuts the context from 1024 to 10 tokens")

    def test_warns_of_a_model_without_a_tokenizer(self):
        silent = pathlib.Path(self.folder) / "silent"
        silent.mkdir()
        for name in ("config.json", "model.safetensors", "mamba_config.json"):
            if (OPTIONS.models / "target" / name).exists():
                os.symlink(OPTIONS.models / "target" / name, silent / name)
        self.assertRegex(self.report("--model", str(silent)), r"warning .*silent: no tokenizer: only token ids are served")
        checked = subprocess.run(mambad("--check-config", "--model", str(silent)), capture_output=True, text=True, timeout=60)
        self.assertEqual((checked.returncode, checked.stdout), (0, "configuration is good\n"), checked.stderr)
        self.assertRegex(checked.stderr, r"(?m)^mambad: warning: .*silent: no tokenizer: only token ids are served")

    def test_what_cannot_be_held_is_one_line(self):
        much = "batching: {kv_cache_tokens: 4000000000}"
        for words in ((), ("--check-config",)):
            line = self.refusal("--model", self.target, *words, configuration=much)
            self.assertRegex(line, r"too little memory: [\d.]+ TB are needed \(weights .* are free: "
                                   r"lower batching.kv_cache_tokens: 4000000000")

    def test_check_config_knows_what_the_start_knows(self):
        def line(configuration):
            return self.refusal("--check-config", "--model", self.target, configuration=configuration)
        self.assertIn("batching.max_step_rows: 256 is too few for batching.max_sequences: 1024 (at least 2048",
                      line("batching: {max_sequences: 1024, max_step_rows: 256}"))
        self.assertIn("batching.max_context: 4096 given, but the model's limit is 1024", line("batching: {max_context: 4096}"))
        self.assertIn("compute.device", line("compute: {device: cuda}"))
        self.assertIn("/no/such/model", self.refusal("--check-config", "--model", "/no/such/model"))
        self.assertIn("/no/draft", self.refusal("--check-config", "--model", self.target, "--draft", "/no/draft"))
        result = subprocess.run(mambad("--check-config", "--model", self.target, "--draft", self.draft), capture_output=True,
                                text=True, timeout=60)
        self.assertEqual((result.returncode, result.stdout), (0, "configuration is good\n"), result.stderr)

    def test_activations_are_as_configured_or_refused(self):
        exact = self.report("--model", self.target, configuration="compute: {activations: float32}")
        self.assertIn("/weights-bf16/activations-f32/", exact)
        line = self.refusal("--model", self.target,
                            configuration="compute: {weight_type: float32, activations: bfloat16}")
        self.assertIn("compute.activations: bfloat16 given, but the weights of", line)
        line = self.refusal("--model", self.target, configuration="compute: {bfloat16_activations: true}")
        self.assertIn("unknown key \"compute.bfloat16_activations\"; set compute.activations: auto, float32 or bfloat16", line)

    def test_many_sequences_start_by_themselves(self):
        log = self.report("--model", self.draft, configuration="batching: {max_sequences: 300}")
        self.assertIn("300 sequences together", log)
        self.assertIn("600 rows a step", log)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mambad", required=True)
    parser.add_argument("--models", required=True, type=pathlib.Path)
    global OPTIONS
    OPTIONS, rest = parser.parse_known_args()
    OPTIONS.models = OPTIONS.models.resolve()
    unittest.main(argv=["start_test.py", *rest])


if __name__ == "__main__":
    main()
