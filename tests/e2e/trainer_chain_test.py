#!/usr/bin/env python3
"""The trainer's commands one after the other, from a Transformer to a hybrid that mambad serves with its draft.

    trainer_chain_test.py --trainer PROGRAM [--mambad PROGRAM --mambactl PROGRAM]

Without the last two nothing is served. Needs no package. The teacher is stories260K where the optional test data are
(MAMBAD_SHARED_DATA), and else a Llama that the chain trains itself on sentences made here: also done where the data are, with
fewer steps.
"""

import argparse
import array
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import tempfile
import time
import unittest

from trainer_process import Trainer, tensors

ROOT = pathlib.Path(__file__).resolve().parents[2]
OPTIONS = None  # set by main
SHARED = pathlib.Path(os.environ.get("MAMBAD_SHARED_DATA", ROOT / "../shared/data"))
STORIES = SHARED / "weights/stories260K"
STORY_TEXT = SHARED / "text/tinystories_valid.txt"


def made_text(count, seed):
    """Documents of a language so simple that a tiny model learns much of it."""
    draw = random.Random(seed)
    names, animals, verbs = ["Tom", "Lily", "Ben", "Mia"], ["cat", "dog", "bird", "fish"], ["saw", "liked", "fed", "met"]
    documents = []
    for _ in range(count):
        name, animal = draw.choice(names), draw.choice(animals)
        sentences = [f"{name} had a {animal}."]
        for _ in range(draw.randrange(2, 6)):
            sentences.append(f"{name} {draw.choice(verbs)} the {animal}.")
        documents.append(" ".join(sentences))
    return documents


def json_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def write_qwen3(folder, vocabulary):
    """A random model of Qwen3's shape: heads wider than width / heads, a norm of each, a window in some layers."""
    width, heads, key_heads, head_width, layers, hidden = 48, 4, 2, 16, 4, 96
    config = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": width, "head_dim": head_width,
              "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": key_heads,
              "intermediate_size": hidden, "vocab_size": vocabulary, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
              "rope_theta": 10000.0, "hidden_act": "silu", "attention_bias": False, "tie_word_embeddings": True,
              "use_sliding_window": True, "sliding_window": 32, "max_window_layers": 2, "eos_token_id": 2}
    shapes = {"model.embed_tokens.weight": (vocabulary, width), "model.norm.weight": (width,)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        shapes |= {prefix + name + ".weight": shape for name, shape in {
            "input_layernorm": (width,), "post_attention_layernorm": (width,),
            "self_attn.q_proj": (heads * head_width, width), "self_attn.k_proj": (key_heads * head_width, width),
            "self_attn.v_proj": (key_heads * head_width, width), "self_attn.o_proj": (width, heads * head_width),
            "self_attn.q_norm": (head_width,), "self_attn.k_norm": (head_width,),
            "mlp.gate_proj": (hidden, width), "mlp.up_proj": (hidden, width), "mlp.down_proj": (width, hidden)}.items()}
    draw, header, data = random.Random(3), {}, bytearray()
    for name, shape in shapes.items():
        if len(shape) == 1:
            values = [draw.gauss(1, 0.2) for _ in range(shape[0])]
        else:
            values = [draw.gauss(0, shape[1] ** -0.5) for _ in range(shape[0] * shape[1])]
        begin = len(data)
        data += array.array("f", values).tobytes()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)


class Server:
    """mambad on model directories as the trainer wrote them; prompts are token ids."""

    def __init__(self, folder, model, draft):
        command = [OPTIONS.mambad, "--model", str(folder / model), "--listen", "127.0.0.1:0", "--metrics", "",
                   "--draft", str(folder / draft), "--threads", "1"]
        self.log = folder / "mambad.log"
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        line = self.process.stdout.readline()
        if " ready: grpc " not in line:
            self.stop()
            raise AssertionError(f"not ready: {line!r} {self.log.read_text(encoding='utf-8')}")
        words = line.replace(",", "").split()
        self.address = words[words.index("grpc") + 1]

    def generate(self, prompt, speculation):
        """Token ids of the answer."""
        command = [OPTIONS.mambactl, "--address", self.address, "--json", "generate", "--token-ids", prompt, "--temperature", "0",
                   "--max-tokens", "48", "--ignore-eos", "--speculation", speculation]
        if speculation != "off":
            command += ["--draft-length", "4"]
        lines = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout.splitlines()
        return [token for line in lines for token in json.loads(line).get("token_ids", [])]

    def drafted(self):
        """Tokens drafted for each request so far."""
        return [int(number) for number in re.findall(r" drafted=(\d+)", self.log.read_text(encoding="utf-8"))]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)
        self.process.stdout.close()


class ChainTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.trainer = Trainer(OPTIONS.trainer, cls.temporary.name)
        folder = cls.trainer.folder
        documents = made_text(600, 1)
        cls.made = folder / "made.txt"
        cls.made.write_text("\n<|endoftext|>\n".join(documents) + "\n", encoding="utf-8")
        cls.has_stories = STORIES.is_dir() and STORY_TEXT.is_file()
        if cls.has_stories:
            text = STORY_TEXT.read_text(encoding="utf-8").split("<|endoftext|>")
            cls.text, cls.valid = folder / "stories.txt", folder / "stories_valid.txt"
            cls.text.write_text("<|endoftext|>".join(text[:400]), encoding="utf-8")
            cls.valid.write_text("<|endoftext|>".join(text[400:460]), encoding="utf-8")
        else:
            print("skipped: stories260K, for want of " + str(STORIES))
            cls.text, cls.valid = cls.made, folder / "made_valid.txt"
            cls.valid.write_text("\n<|endoftext|>\n".join(made_text(60, 2)) + "\n", encoding="utf-8")

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def data(self, **more):
        return {"train": str(self.text), "valid": str(self.valid), "row_tokens": 128, **more}

    def loop(self, steps, **more):
        return {"steps": steps, "warmup_steps": min(3, steps), "micro_batch": 4, "log_every": 10, "evaluate_rows": 16, "stored": "fp32",
                **more}

    def make_teacher(self):
        if self.has_stories:
            self.trainer.run("convert", {"input": str(STORIES / "stories260K.bin"), "output": "teacher",
                                         "tokenizer": str(STORIES / "tok512.bin")})
            return
        os.symlink("pretrain/model", self.trainer.folder / "teacher")

    def last(self, run, name):
        return [line[name] for line in self.trainer.metrics(run) if name in line][-1]

    def test_chain(self):
        run, folder = self.trainer.run, self.trainer.folder
        # A tokenizer and a model from nothing but text.
        run("tokenizer", {"output": "words", "train": str(self.made), "vocabulary": 320})
        run("pretrain", {"output": "pretrain", "tokenizer": "words",
                         "model": {"family": "llama", "width": 64, "layers": 4, "query_heads": 4, "key_value_heads": 2},
                         "data": {"train": str(self.made), "row_tokens": 128},
                         "optimizer": {"learning_rate": 5e-3}, "loop": self.loop(15 if self.has_stories else 200)})
        self.assertLess(self.last("pretrain", "loss"), 0.8 * self.trainer.metrics("pretrain")[0]["loss"])
        self.make_teacher()

        # Half of attention gives way, then half of what is left.
        run("initialize", {"teacher": "teacher", "output": "start", "attention_percent": 50})
        run("align", {"output": "align", "teacher": "teacher", "student": "start", "data": self.data(),
                      "loop": self.loop(60, evaluate_every=30)})
        losses = [line["loss"] for line in self.trainer.metrics("align") if "loss" in line]
        self.assertLess(losses[-1], 0.5 * losses[0])
        self.measure_layers()
        run("distill", {"output": "distill", "teacher": "teacher", "student": "align/model", "data": self.data(),
                        "phases": [{"attention_percent": 50, "steps": 40}, {"attention_percent": 25, "steps": 60}],
                        "loop": self.loop(1, evaluate_every=20, warmup_steps=3)})
        half = [line["valid_divergence"] for line in self.trainer.metrics("distill/phase-1") if "valid_divergence" in line]
        quarter = [line["valid_divergence"] for line in self.trainer.metrics("distill/phase-2") if "valid_divergence" in line]
        before = [line["valid_divergence"] for line in self.trainer.metrics("align") if "valid_divergence" in line]
        self.assertLess(half[-1], before[-1])
        self.assertLess(quarter[-1], quarter[0])
        self.assertTrue((folder / "distill/phase-1/model/config.json").is_file())

        self.train_everything()
        pair_file = self.learn_answers()
        self.make_drafts()
        self.evaluate_all(pair_file)
        run("plan", {"model": "preference/model", "teacher": "teacher", "output": "plan.md"})
        self.assertIn("| GPU-hours", (folder / "plan.md").read_text(encoding="utf-8"))
        if OPTIONS.mambad:
            self.served("preference/model", "draft/model")

    def test_a_qwen3_teacher(self):
        run, folder = self.trainer.run, self.trainer.folder
        run("tokenizer", {"output": "qwen3", "train": str(self.made), "vocabulary": 320})
        write_qwen3(folder / "qwen3", 320)
        data = {"train": str(self.made), "row_tokens": 128}
        run("initialize", {"teacher": "qwen3", "output": "qwen3-start", "attention_percent": 50})
        run("align", {"output": "qwen3-align", "teacher": "qwen3", "student": "qwen3-start", "data": data,
                      "loop": self.loop(40)})
        losses = [line["loss"] for line in self.trainer.metrics("qwen3-align") if "loss" in line]
        self.assertLess(losses[-1], losses[0])
        run("distill", {"output": "qwen3-distill", "teacher": "qwen3", "student": "qwen3-align/model", "data": data,
                        "loop": self.loop(40)})
        losses = [line["loss"] for line in self.trainer.metrics("qwen3-distill") if "loss" in line]
        self.assertLess(losses[-1], losses[0])
        config = json.loads((folder / "qwen3-distill/model/config.json").read_text(encoding="utf-8"))
        self.assertEqual((config["model_type"], config["sliding_window"]), ("qwen3", 32))
        names = set(self.trainer.weights("qwen3-distill/model"))
        self.assertTrue(any(name.endswith("self_attn.q_norm.weight") for name in names))
        self.assertTrue(any(".mamba." in name for name in names))
        if not OPTIONS.mambad:
            return
        server = Server(folder, "qwen3-distill/model", "qwen3-align/model")
        try:
            for prompt in ("1", "1,70,71,72,73,74,75,76"):
                plain = server.generate(prompt, "off")
                self.assertEqual(len(plain), 48, plain)
                for speculation in ("draft-model", "prompt-lookup"):
                    self.assertEqual(server.generate(prompt, speculation), plain, speculation)
        finally:
            server.stop()

    def train_everything(self):
        """The teacher writes text; on that and the given one the whole student learns, after its mixers alone."""
        run, folder = self.trainer.run, self.trainer.folder
        # Texts of the small Llama end soon, those of stories260K after some 250 tokens.
        run("generate", {"output": "generate", "model": "teacher", "records": 48, "sequences": 48,
                         "maximum_tokens": 400 if self.has_stories else 120})
        lines = (folder / "generate/generated.jsonl").read_text(encoding="utf-8").splitlines()
        written = {json.loads(line)["text"] for line in lines}
        self.assertGreater(len(written), 8)
        run("distill", {"output": "everything", "teacher": "teacher", "student": "distill/model", "trained": "all",
                        "rest_learning_rate": 1e-3, "data": self.data(train=[str(self.text), "generate/generated.jsonl"]),
                        "loop": self.loop(80, evaluate_every=40)}, name="everything")
        self.assertLess(self.last("everything", "valid_divergence"), self.last("distill/phase-2", "valid_divergence"))
        teacher, mixers, everything = map(self.trainer.weights, ("teacher", "distill/model", "everything/model"))
        shared = set(teacher) & set(everything)
        self.assertGreater(len(shared), 20)
        for name in shared:
            self.assertEqual(mixers[name], teacher[name], name)
            self.assertNotEqual(everything[name], teacher[name], name)

    def learn_answers(self):
        """Answers, then preferences; the file of pairs."""
        run, folder = self.trainer.run, self.trainer.folder
        answers = [{"prompt": document[:30], "completion": document[30:]} for document in made_text(200, 3)]
        run("finetune", {"output": "finetune", "student": "everything/model",
                         "data": {"train": json_lines(folder / "answers.jsonl", answers), "row_tokens": 128},
                         "loop": self.loop(40)})
        losses = [line["loss"] for line in self.trainer.metrics("finetune") if "loss" in line]
        self.assertLess(losses[-1], losses[0])
        pairs = [{"prompt": text[:20], "chosen": text[20:60], "rejected": text[60:20:-1]} for text in made_text(96, 4)]
        pair_file = json_lines(folder / "pairs.jsonl", pairs)
        run("preference", {"output": "preference", "student": "finetune/model", "epochs": 2,
                           "data": {"train": pair_file, "valid": pair_file, "row_tokens": 128},
                           "optimizer": {"learning_rate": 1e-4}, "loop": self.loop(1, evaluate_rows=96)})
        self.assertGreater(self.last("preference", "valid_preference_margin"), 0.02)
        return pair_file

    def make_drafts(self):
        """For the end of the chain, what is served: one made anew, and one that is its first layers."""
        run, folder = self.trainer.run, self.trainer.folder
        run("draft", {"output": "draft", "target": "preference/model",
                      "model": {"family": "mamba2", "width": 32, "layers": 1, "heads": 2, "state_size": 16},
                      "proposed_tokens": 150, "acceptance_steps": 20, "data": self.data(), "loop": self.loop(60)})
        proposed = json.loads((folder / "draft/model/proposed_tokens.json").read_text(encoding="utf-8"))
        self.assertIn(len(proposed), range(150, 153))
        self.assertLess(self.last("draft/divergence", "divergence"),
                        0.9 * self.trainer.metrics("draft/divergence")[0]["divergence"])
        # A step at rate 0 leaves it as it was copied.
        run("draft", {"output": "copied", "target": "preference/model", "copied_layers": 2, "acceptance_steps": 0,
                      "optimizer": {"learning_rate": 0}, "data": self.data(), "loop": self.loop(1)}, name="copied")
        target, copied = self.trainer.weights("preference/model"), self.trainer.weights("copied/model")
        layers = {int(name.split(".")[2]) for name in copied if name.startswith("model.layers.")}
        self.assertEqual(layers, {0, 1})
        for name, values in target.items():
            if not name.startswith("model.layers.") or int(name.split(".")[2]) < 2:
                self.assertEqual(copied.pop(name), values, name)
        self.assertEqual(copied, {})

    def evaluate_all(self, pair_file):
        """The numbers of the stages' own last evaluations, on the same rows."""
        run, folder = self.trainer.run, self.trainer.folder
        data = {"valid": str(self.valid), "row_tokens": 128}
        run("evaluate", {"output": "evaluate_student", "model": "everything/model", "teacher": "teacher", "data": data,
                         "rows": 16})
        found = json.loads((folder / "evaluate_student/evaluation.json").read_text(encoding="utf-8"))
        divergence = self.last("everything", "valid_divergence")
        self.assertAlmostEqual(found["valid_divergence"], divergence, delta=1e-3 * divergence)
        output, _ = run("evaluate", {"output": "evaluate", "model": "preference/model", "teacher": "teacher",
                                     "draft": "draft/model", "data": data, "rows": 96, "draft_prompts": 4,
                                     "preference": pair_file, "reference": "finetune/model"})
        self.assertIn("| valid_perplexity_ratio", output)
        found = json.loads((folder / "evaluate/evaluation.json").read_text(encoding="utf-8"))
        margin = self.last("preference", "valid_preference_margin")
        self.assertAlmostEqual(found["valid_preference_margin"], margin, delta=1e-3 * margin)
        self.assertGreater(found["acceptance_at_1_temperature_1"], 0.05)
        self.assertLess(found["valid_perplexity_ratio"], 20)
        self.assertIn("perplexity_ratio", (folder / "distill/report.md").read_text(encoding="utf-8"))

    def measure_layers(self):
        """Attention comes back layer by layer, the one that is missed most first; the mixers stay as aligned."""
        run, folder = self.trainer.run, self.trainer.folder
        settings = {"teacher": "teacher", "data": {"valid": str(self.valid), "row_tokens": 128}, "rows": 8, "micro_batch": 8}
        run("layers", {"output": "layers", "student": "align/model", **settings})
        rows = [line.split("|")[1:-1] for line in (folder / "layers/report.md").read_text(encoding="utf-8").splitlines()
                if line.startswith("|")][2:]
        kept, given_back, divergences, left = zip(*[[cell.strip() for cell in row] for row in rows])
        left = [set(map(int, layers.split(", "))) for layers in left]
        self.assertEqual([len(layers) for layers in left], list(range(len(left[0]), 0, -1)))
        for step in range(1, len(left)):
            self.assertEqual(left[step - 1] - left[step], {int(given_back[step])})
        numbers = [float(number) for number in divergences]
        self.assertLess(numbers[-1], numbers[0])
        # What was measured is the model that initialize makes of the same choice.
        run("initialize", {"teacher": "teacher", "output": "chosen", "replaced": sorted(left[1]),
                           "start": {"trained_mixers": "align/model"}})
        output, _ = run("evaluate", {"output": "chosen_evaluated", "model": "chosen", "teacher": "teacher",
                                     "data": settings["data"], "rows": 8, "micro_batch": 8})
        found = json.loads((folder / "chosen_evaluated/evaluation.json").read_text(encoding="utf-8"))
        self.assertAlmostEqual(found["valid_divergence"], numbers[1], delta=1e-3 * numbers[1])

    def served(self, model, draft):
        """With the draft or without, the same tokens."""
        server = Server(self.trainer.folder, model, draft)
        try:
            for prompt in ("1", "1,70,71,72,73,74,75,76"):
                plain = server.generate(prompt, "off")
                self.assertEqual(len(plain), 48, plain)
                for speculation in ("draft-model", "prompt-lookup"):
                    self.assertEqual(server.generate(prompt, speculation), plain, speculation)
            drafted = server.drafted()
            self.assertEqual((drafted[0], drafted[3]), (0, 0))
            self.assertGreater(min(drafted[1], drafted[4]), 48)
        finally:
            server.stop()

    def test_killed_and_resumed(self):
        """SIGKILL at random moments: the model that comes out is the one of a run left alone, byte for byte."""
        settings = {"output": "whole", "tokenizer": "small_words",
                    "model": {"family": "mamba2", "width": 32, "layers": 2, "heads": 4, "state_size": 16},
                    "data": {"train": str(self.made), "row_tokens": 64},
                    "loop": {"steps": 400, "warmup_steps": 5, "micro_batch": 2, "save_every": 4, "log_every": 3,
                             "stored": "fp32"}}
        self.trainer.run("tokenizer", {"output": "small_words", "train": str(self.made), "vocabulary": 300})
        begun = time.monotonic()
        self.trainer.run("pretrain", settings)
        seconds = time.monotonic() - begun
        path = self.trainer.config("killed", {**settings, "output": "killed"})
        draw, kills = random.Random(5), 0
        metrics = self.trainer.folder / "killed/metrics.jsonl"

        def logged():
            return metrics.read_text(encoding="utf-8").count("\n") if metrics.exists() else 0

        # Twice by what is done, since the machine may be faster than it was; then by time, so that any moment may come.
        for _ in range(2):
            goal = logged() + draw.randint(3, 40)
            process = self.trainer.start("pretrain", path)
            while process.poll() is None and logged() < goal:
                time.sleep(0.005)
            self.assertIsNone(process.poll(), "it ended early")
            process.kill()
            process.communicate()
            kills += 1
        for _ in range(60):
            process = self.trainer.start("pretrain", path)
            try:
                # Longer from time to time: the machine may have become slower since it was measured.
                _, errors = process.communicate(timeout=draw.uniform(0.2, 0.6) * seconds * (1 + kills / 10))
                self.assertEqual(process.returncode, 0, errors)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                kills += 1
        folder = self.trainer.folder
        self.assertEqual((folder / "killed/model/model.safetensors").read_bytes(),
                         (folder / "whole/model/model.safetensors").read_bytes())
        self.assertEqual(self.trainer.curve("killed"), self.trainer.curve("whole"))

    def test_stopped_by_signals(self):
        """SIGINT and SIGTERM: a state of that very step, its own exit code, a line that says how to go on; and the model that
        comes out is the one of a run left alone."""
        settings = {"output": "left_alone", "tokenizer": "signal_words",
                    "model": {"family": "mamba2", "width": 32, "layers": 2, "heads": 4, "state_size": 16},
                    "data": {"train": str(self.made), "row_tokens": 64},
                    "loop": {"steps": 300, "micro_batch": 2, "log_every": 7, "stored": "fp32"}}
        self.trainer.run("tokenizer", {"output": "signal_words", "train": str(self.made), "vocabulary": 300})
        self.trainer.run("pretrain", settings)
        path, folder = self.trainer.config("signalled", {**settings, "output": "signalled"}), self.trainer.folder
        for lines, sent in ((3, signal.SIGINT), (12, signal.SIGTERM), (25, signal.SIGTERM)):
            process, metrics = self.trainer.start("pretrain", path), folder / "signalled/metrics.jsonl"
            while process.poll() is None and (not metrics.is_file() or metrics.read_bytes().count(b"\n") < lines):
                time.sleep(0.005)
            process.send_signal(sent)
            _, errors = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 128 + sent, errors)
            told = re.search(r"pretrain: stopped by (\w+) at step (\d+); its state is saved in signalled/states: the same "
                             r"command goes on from there", errors)
            self.assertTrue(told, errors)
            self.assertEqual(told[1], sent.name)
            self.assertTrue((folder / f"signalled/states/step-{int(told[2]):09}").is_dir())
            self.assertFalse((folder / "signalled/model").exists())
            self.assertFalse((folder / "signalled/run.lock").exists())
        self.trainer.run("pretrain", {**settings, "output": "signalled"}, name="signalled")
        self.assertEqual((folder / "signalled/model/model.safetensors").read_bytes(),
                         (folder / "left_alone/model/model.safetensors").read_bytes())
        self.assertEqual(self.trainer.curve("signalled"), self.trainer.curve("left_alone"))
        # A folder with a model is nobody else's, but what the same settings made may be made again.
        self.assertIn('a run of other settings was begun here: expected "seed: 1", found "seed: 2"; give another output, or '
                      "overwrite: true", self.trainer.refused("pretrain", {**settings, "seed": 2}))
        self.assertIn("holds a run of `trainer pretrain`",
                      self.trainer.refused("evaluate", {"output": "left_alone", "model": "left_alone/model",
                                                        "data": {"valid": str(self.made), "row_tokens": 64}}))
        _, errors = self.trainer.run("pretrain", {**settings, "seed": 2, "overwrite": True, "loop": {"steps": 2}}, name="anew")
        self.assertIn("overwrite: removed what was there", errors)
        # Two at once in one folder: the second is told of the first.
        process = self.trainer.start("pretrain", self.trainer.config("held", {
            **settings, "output": "held", "loop": {**settings["loop"], "steps": 1_000_000}}))
        while process.poll() is None and not (folder / "held/metrics.jsonl").is_file():
            time.sleep(0.005)
        self.assertIn(f"another trainer works there (process {process.pid} on ",
                      self.trainer.refused("pretrain", {**settings, "output": "held"}))
        process.kill()
        process.communicate()

    def test_words_on_the_command_line(self):
        def said(*words):
            result = subprocess.run([OPTIONS.trainer, *words], capture_output=True, text=True, timeout=60,
                                    env=self.trainer.environment)
            self.assertEqual(result.returncode, 2, result)
            return result.stderr
        self.assertIn('"pretrian": no such command; expected one of tokenizer, ', said("pretrian"))
        self.assertIn('did you mean "pretrain"?', said("pretrian"))
        self.assertNotIn("did you mean", said("something"))
        self.assertIn('"--confg": no such option; expected --config FILE, --overwrite or --help; did you mean "--config"?',
                      said("pretrain", "--confg", "x"))
        self.assertIn('"x.yaml": not expected here; settings are given by --config FILE', said("pretrain", "x.yaml"))
        for words, sentence in (([], "a command is missing"), (["pretrain"], "--config is"), (["--ver"], '"--ver": no such')):
            self.assertIn("trainer: error: " + sentence, said(*words))
        help_text = subprocess.run([OPTIONS.trainer, "--help"], check=True, capture_output=True, text=True).stdout
        self.assertIn("130 stopped by SIGINT", help_text)

    def test_phases_killed_and_resumed(self):
        """The same of a distillation in two phases, killed early and late in each of them."""
        data = {"data": {"train": str(self.made), "row_tokens": 64}}
        loop = {"steps": 40, "warmup_steps": 3, "micro_batch": 2, "save_every": 4, "log_every": 2, "stored": "fp32"}
        self.trainer.run("tokenizer", {"output": "phase_words", "train": str(self.made), "vocabulary": 300})
        self.trainer.run("pretrain", {"output": "phase_teacher", "tokenizer": "phase_words", **data, "loop": loop,
                                      "model": {"family": "llama", "width": 32, "layers": 4, "query_heads": 2}})
        settings = {"teacher": "phase_teacher/model", "trained": "all", **data, "loop": loop,
                    "phases": [{"attention_percent": 50, "steps": 40}, {"attention_percent": 25, "steps": 40}]}
        self.trainer.run("distill", {**settings, "output": "phases_whole"}, name="phases_whole")
        path = self.trainer.config("phases_killed", {**settings, "output": "phases_killed"})
        folder, draw = self.trainer.folder, random.Random(6)
        for phase, result in (("phase-1", "phase-1/model"), ("phase-2", "model")):
            metrics = folder / "phases_killed" / phase / "metrics.jsonl"
            for lines in (draw.randrange(2, 8), draw.randrange(10, 18)):
                process = self.trainer.start("distill", path)
                while process.poll() is None and (not metrics.is_file() or metrics.read_bytes().count(b"\n") < lines):
                    time.sleep(0.005)
                process.kill()
                _, errors = process.communicate()
                self.assertEqual(process.returncode, -signal.SIGKILL, errors)
                self.assertFalse((folder / "phases_killed" / result).is_dir(), f"{phase} was over before it was killed")
        self.trainer.run("distill", {**settings, "output": "phases_killed"}, name="phases_killed")
        for phase in ("phase-1", "phase-2"):
            self.assertEqual(self.trainer.curve(f"phases_killed/{phase}"), self.trainer.curve(f"phases_whole/{phase}"))
        for model in ("phase-1/model", "model"):
            self.assertEqual((folder / "phases_killed" / model / "model.safetensors").read_bytes(),
                             (folder / "phases_whole" / model / "model.safetensors").read_bytes())

    def test_two_processes(self):
        """Two processes with Gloo give the loss curve of one with twice the accumulation."""
        settings = {"tokenizer": "pair_words", "model": {"family": "mamba", "width": 32, "layers": 2},
                    "data": {"train": str(self.made), "row_tokens": 64},
                    "loop": {"steps": 20, "warmup_steps": 5, "micro_batch": 2, "log_every": 1, "stored": "fp32"}}
        self.trainer.run("tokenizer", {"output": "pair_words", "train": str(self.made), "vocabulary": 300})
        self.trainer.run("pretrain", {**settings, "output": "one", "loop": {**settings["loop"], "accumulation": 2}})
        for process in self.trainer.start_two("pretrain", self.trainer.config("two", {**settings, "output": "two"})):
            _, errors = process.communicate(timeout=300)
            self.assertEqual(process.returncode, 0, errors)
        one, two = self.trainer.metrics("one"), self.trainer.metrics("two")
        self.assertEqual(len(one), len(two))
        for single, double in zip(one, two):
            self.assertAlmostEqual(single["loss"], double["loss"], delta=2e-5)
            self.assertEqual(single["tokens"], double["tokens"])

    def test_two_processes_write(self):
        """A signal to one stops both, with all saved; what they write in the end is what one process writes alone."""
        folder = self.trainer.folder
        self.trainer.run("tokenizer", {"output": "writer_words", "train": str(self.made), "vocabulary": 300})
        self.trainer.run("pretrain", {"output": "writer", "tokenizer": "writer_words", "loop": {"steps": 20, "micro_batch": 2},
                                      "model": {"family": "mamba", "width": 32, "layers": 2},
                                      "data": {"train": str(self.made), "row_tokens": 64}})
        settings = {"model": "writer/model", "sequences": 4, "shard_records": 40, "maximum_tokens": 64}
        for records in (600, 2400, 9600):
            output = f"written_{records}"
            path = self.trainer.config(output, {**settings, "records": records, "output": output})
            if all(self.stops_both(path, folder / output, signalled) for signalled in (1, 0)):
                break
        else:
            self.fail(f"{records} records were written before a signal arrived")
        for process in self.trainer.start_two("generate", path):
            _, errors = process.communicate(timeout=300)
            self.assertEqual(process.returncode, 0, errors)
        self.trainer.run("generate", {**settings, "records": records, "output": "written_alone"})
        self.assertEqual((folder / output / "generated.jsonl").read_bytes(),
                         (folder / "written_alone/generated.jsonl").read_bytes())

    def stops_both(self, path, output, signalled):
        """Two processes write, one is signalled once they have a new shard. False where all was written by then."""
        processes, shards = self.trainer.start_two("generate", path), output / "shards"
        before = len(list(shards.glob("?????.json")))
        while all(process.poll() is None for process in processes) and len(list(shards.glob("?????.json"))) == before:
            time.sleep(0.005)
        processes[signalled].send_signal(signal.SIGTERM)
        ended = [(process.communicate(timeout=120)[1], process.returncode) for process in processes]
        if (output / "generated.jsonl").exists():
            return False
        for errors, code in ended:
            self.assertEqual(code, 143, errors)
        return True

    def test_faults_are_named(self):
        folder, refused = self.trainer.folder, self.trainer.refused
        self.trainer.run("tokenizer", {"output": "fault_words", "train": str(self.made), "vocabulary": 300})
        self.trainer.run("tokenizer", {"output": "other_words", "train": str(self.made), "vocabulary": 310})
        small = {"data": {"train": str(self.made), "row_tokens": 64}, "loop": {"steps": 2, "micro_batch": 1}}
        for name in ("fault", "other"):
            self.trainer.run("pretrain", {"output": name, "tokenizer": f"{name}_words",
                                          "model": {"family": "llama", "width": 32, "layers": 4, "query_heads": 2}, **small})
        malformed = folder / "malformed.jsonl"
        malformed.write_text('{"text": "good"}\n{"text": 7}\n', encoding="utf-8")
        student = {"student": "fault/model", "output": "refused_run"}
        self.assertIn(f'{malformed}:2: "text": expected a text, found number',
                      refused("finetune", {**student, "data": {"train": str(malformed)}}))
        self.assertIn("have different vocabularies: 300 tokens in fault/model, 310 in other/model",
                      refused("distill", {**student, "teacher": "other/model", "trained": "all", **small}))
        self.assertIn("have different vocabularies",
                      refused("evaluate", {"output": "refused_run", "model": "fault/model", "draft": "other/model",
                                           "data": {"valid": str(self.made)}}))
        start = {"teacher": "fault/model", "output": "refused_start"}
        self.assertIn("attention_percent: expected 100, 75, 50, 25, 12.5 or 0", refused("initialize", {**start,
                                                                                      "attention_percent": 40}))
        self.assertIn("replaced: expected layers from 0 to 3, found 4", refused("initialize", {**start, "replaced": [4]}))
        self.assertIn("no such key", refused("initialize", {**start, "ratio": 50}))
        self.assertIn("student: no layer of it is recurrent",
                      refused("align", {**student, "teacher": "fault/model", **small}))
        huge = {**small, "data": {"train": str(self.made), "row_tokens": 1 << 20}, "loop": {"micro_batch": 1 << 12}}
        self.assertIn("too little memory on cpu: about ", refused("finetune", {**student, **huge}))
        self.assertIn("/proc/nowhere: cannot be made", refused("finetune", {**student, "output": "/proc/nowhere", **small}))
        self.assertIn('"tokenise": no such command; expected one of tokenizer, convert, ', refused("tokenise", {}))
        # A run of other settings is not gone on with.
        self.assertIn('a run of other settings was begun here: expected "weight_decay: 0.1", found',
                      refused("pretrain", {"output": "fault", "tokenizer": "fault_words",
                                           "model": {"family": "llama", "width": 32, "layers": 4, "query_heads": 2}, **small,
                                           "optimizer": {"weight_decay": 0.5}}))
        # A tensor that is missing.
        weights = folder / "fault/model/model.safetensors"
        weights.write_bytes(weights.read_bytes().replace(b"model.layers.1.self_attn.q_proj", b"model.layers.1.self_attn.Q_proj"))
        message = refused("finetune", {**student, **small})
        self.assertIn("student: ", message)
        self.assertIn("model.layers.1.self_attn.", message)

    def test_recipes_in_the_box_are_read(self):
        """Every line of them is a setting that there is: what fails, in an empty folder, is what should be there and is not."""
        recipes = sorted(ROOT.glob("deploy/models/*/recipe/*.yaml"))
        self.assertGreater(len(recipes), 20)
        for recipe in recipes:
            with self.subTest(recipe=str(recipe.relative_to(ROOT))), tempfile.TemporaryDirectory() as empty:
                command = recipe.stem.split("_")[0]
                result = subprocess.run([OPTIONS.trainer, command, "--config", str(recipe)], cwd=empty, capture_output=True,
                                        text=True, timeout=60)
                self.assertEqual(result.returncode, 2)
                self.assertRegex(result.stderr, "cannot be opened|No such file|does not exist|found neither")


def main():
    global OPTIONS
    parser = argparse.ArgumentParser()
    for name in ("trainer", "mambad", "mambactl"):
        parser.add_argument(f"--{name}", required=name == "trainer")
    OPTIONS, rest = parser.parse_known_args()
    unittest.main(argv=["trainer_chain_test"] + rest, verbosity=2)


if __name__ == "__main__":
    main()
