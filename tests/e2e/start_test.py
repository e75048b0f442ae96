#!/usr/bin/env python3
"""What the daemon says before it serves: its report, its warnings, and the line with which it refuses. Needs nothing but Python.

    start_test.py --mambad FILE --models FOLDER     FOLDER: the story models
"""

import argparse
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import struct
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


def write_llama_of(folder, least_bytes):
    """A Llama whose bf16 weights take `least_bytes` or more: all holes, so that the disk is not asked for them."""
    width, mlp, heads, key_value_heads, vocabulary = 8192, 28672, 64, 8, 32000
    narrow = width // heads * key_value_heads
    norm, matrices = [width], {"self_attn.q_proj": [width, width], "self_attn.k_proj": [narrow, width],
                               "self_attn.v_proj": [narrow, width], "self_attn.o_proj": [width, width],
                               "mlp.gate_proj": [mlp, width], "mlp.up_proj": [mlp, width], "mlp.down_proj": [width, mlp]}
    layer_bytes = 2 * sum(shape[0] * shape[1] for shape in matrices.values())
    layers = int(least_bytes // layer_bytes) + 1
    shapes = {"model.embed_tokens.weight": [vocabulary, width], "lm_head.weight": [vocabulary, width], "model.norm.weight": norm}
    for layer in range(layers):
        for name, shape in [*matrices.items(), ("input_layernorm", norm), ("post_attention_layernorm", norm)]:
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": width, "intermediate_size": mlp,
        "num_attention_heads": heads, "num_key_value_heads": key_value_heads, "num_hidden_layers": layers,
        "vocab_size": vocabulary, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": False}))


class StartTest(unittest.TestCase):
    MODEST_BYTES = 300 << 20  # that a refusal may take, as long as it looks

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
        """The one line of a daemon that does not start. Its memory stays modest meanwhile."""
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(mambad(*words, configuration=configuration, folder=self.folder),
                                       stdout=subprocess.DEVNULL, stderr=errors, text=True, **options)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            errors.seek(0)
            text = errors.read()
        self.assertEqual(process.returncode, 2, text)
        refusals = [line for line in text.splitlines() if line.startswith("mambad: ")]
        self.assertEqual(len(refusals), 1, text)
        self.assertLess(usage.ru_maxrss * 1024, self.MODEST_BYTES)
        return refusals[0]

    def refusals(self, *words, configuration=None):
        """The same of a check and of a start, which say one thing."""
        lines = [self.refusal(*words, *more, configuration=configuration) for more in (("--check-config",), ())]
        # What is free changes.
        told, again = (re.sub(r"[\d.]+ .B are free", "free", line) for line in lines)
        self.assertEqual(told, again)
        return lines[0]

    def test_the_report_names_what_is_served(self):
        log = self.report("--model", self.target, "--draft", self.draft, "--threads", "1", "--device", "cpu")
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

    def test_warns_of_a_model_whose_numbers_are_not_finite(self):
        broken = pathlib.Path(self.folder) / "broken"
        shutil.copytree(OPTIONS.models / "target", broken)
        weights = bytearray((broken / "model.safetensors").read_bytes())
        header = int.from_bytes(weights[:8], "little")
        norm = json.loads(weights[8:8 + header])["model.norm.weight"]
        begin, end = (8 + header + offset for offset in norm["data_offsets"])
        weights[begin:end] = b"\xff" * (end - begin)  # not a number, of whatever type
        (broken / "model.safetensors").write_bytes(weights)
        log = self.report("--model", str(broken))
        self.assertRegex(log, r"warning the self-check failed, so speculation is switched off: .*not finite")
        self.assertRegex(log, r"info speculation: switched off")

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

    def test_absurd_sizes_are_one_line(self):
        for settings, words in (
                ("max_sequences: 1000000", r"batching\.max_sequences: 1000000 given, allowed 0 to 4096"),
                ("max_context: 1000000000", r"batching\.max_context: 1000000000 given, allowed 0 to 16777216"),
                ("max_context: 2000000", r"batching\.max_context: 2000000 given, but the model's limit is 1024"),
                ("kv_cache_tokens: 1000000000000000", r"batching\.kv_cache_tokens: 1000000000000000 given, allowed 0 to \d+"),
                ("kv_cache_tokens: 4000000000", r"too little memory: [\d.]+ TB are needed \(weights .*\), [\d.]+ .B are free: "
                                                r"lower batching\.kv_cache_tokens: 4000000000"),
                ("max_step_rows: 1000000", r"batching\.max_step_rows: 1000000 given, allowed 0 to 65536"),
                ("max_waiting: 100000000", r"batching\.max_waiting: 100000000 given, allowed 0 to 1048576")):
            with self.subTest(settings=settings):
                line = self.refusals("--model", self.target, configuration=f"batching: {{{settings}}}")
                self.assertRegex(line, f"^mambad: (.*mambad.yaml:1: )?{words}")

    def test_a_model_larger_than_the_machine_is_one_line(self):
        folder = pathlib.Path(self.folder) / "large"
        folder.mkdir()
        write_llama_of(folder, 2 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        needed = r"too little memory: [\d.]+ [GT]B are needed \(weights [\d.]+ [GT]B, .*\), [\d.]+ .B are free: "
        self.assertRegex(self.refusals("--model", str(folder)), needed + "serve a smaller model")
        self.assertRegex(self.refusals("--model", str(folder), configuration="compute: {weight_type: float32}"),
                         needed + "set compute.weight_type: bfloat16, or serve a smaller model")

    def test_memory_that_is_not_given_is_one_line(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_AS, (3 << 29, 3 << 29))
        configuration = "batching: {kv_cache_tokens: 1000000}"  # 3 GB in the story model
        line = self.refusal("--model", self.target, configuration=configuration, preexec_fn=limit)
        self.assertRegex(line, r"too little memory: 3\.\d+ GB are needed \(.*(, but the device gives less| are free): "
                               r"lower batching.kv_cache_tokens: 1000000")

    def test_check_config_knows_what_the_start_knows(self):
        def line(configuration):
            return self.refusal("--check-config", "--model", self.target, configuration=configuration)
        self.assertIn("batching.max_step_rows: 256 is too few for batching.max_sequences: 1024 (at least 2048",
                      line("batching: {max_sequences: 1024, max_step_rows: 256}"))
        self.assertIn("batching.max_context: 4096 given, but the model's limit is 1024", line("batching: {max_context: 4096}"))
        self.assertIn("compute.device: expected ", line("compute: {device: tpu}"))
        self.assertIn("compute.device: cuda:77 given, but ", line("compute: {device: 'cuda:77'}"))
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
