#!/usr/bin/env python3
"""Starts the daemon on models that are not what they should be: each must end it with status 2 and one clear line.

    hostile_files_test.py MAMBAD

Whatever a file says or is, the daemon must not crash, hang or take memory without bound. Needs no package.
"""

import json
import os
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

SECONDS = 60  # far beyond what refusing takes, also with sanitizers on a busy machine
# No name's text may be longer in a message than this allows.
LONGEST_LINE = 2000
SANITIZED = ("AddressSanitizer", "ThreadSanitizer", "runtime error")

# ---- a sound model, as small as can be ------------------------------------------------------------------------------

CONFIG = {"model_type": "llama", "hidden_size": 4, "intermediate_size": 2, "num_attention_heads": 2,
          "num_key_value_heads": 1, "num_hidden_layers": 1, "vocab_size": 8, "rms_norm_eps": 1e-5,
          "max_position_embeddings": 64, "tie_word_embeddings": True, "eos_token_id": 4}
LAYER = "model.layers.0."
TENSORS = {"model.embed_tokens.weight": [8, 4], "model.norm.weight": [4], LAYER + "input_layernorm.weight": [4],
           LAYER + "post_attention_layernorm.weight": [4], LAYER + "mlp.gate_proj.weight": [2, 4],
           LAYER + "mlp.up_proj.weight": [2, 4], LAYER + "mlp.down_proj.weight": [4, 2],
           LAYER + "self_attn.q_proj.weight": [4, 4], LAYER + "self_attn.k_proj.weight": [2, 4],
           LAYER + "self_attn.v_proj.weight": [2, 4], LAYER + "self_attn.o_proj.weight": [4, 4]}
TOKENIZER = {"added_tokens": [{"id": 4, "content": "</s>", "special": True, "normalized": False, "lstrip": False,
                               "rstrip": False, "single_word": False}],
             "normalizer": None, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
             "post_processor": None, "decoder": {"type": "ByteLevel"},
             "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "c": 3}, "merges": ["a b"]}}
TOKENIZER_CONFIG = {"eos_token": "</s>", "chat_template": "{{ messages[0]['content'] }}"}
TEXT_FILES = {"config.json": CONFIG, "tokenizer.json": TOKENIZER, "tokenizer_config.json": TOKENIZER_CONFIG,
              "generation_config.json": {"temperature": 0.5}}


def numbers(shape):
    count = 1
    for size in shape:
        count *= size
    return count


def safetensors(tensors, header_bytes=None):
    """A file of float32 tensors with these shapes; header_bytes: what its first number says instead of the truth."""
    header, data, at = {}, b"", 0
    draw = random.Random(1)
    for name, shape in tensors.items():
        size = 4 * numbers(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        data += struct.pack(f"<{size // 4}f", *(draw.uniform(-1, 1) for _ in range(size // 4)))
        at += size
    return with_header(json.dumps(header), data, header_bytes)


def with_header(header, data=b"", header_bytes=None):
    text = header.encode()
    return struct.pack("<Q", len(text) if header_bytes is None else header_bytes) + text + data


def write_sound(folder):
    for name, content in TEXT_FILES.items():
        write(folder, name, json.dumps(content))
    write(folder, "model.safetensors", safetensors(TENSORS))


def write(folder, name, content):
    remove(folder, name)
    with open(os.path.join(folder, name), "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())


def remove(folder, name):
    path = os.path.join(folder, name)
    if os.path.lexists(path):
        os.unlink(path)


def write_index(folder, files, tensors=None):
    """model.safetensors.index.json: tensor -> file, by default all in the first."""
    remove(folder, "model.safetensors")
    where = {name: files[0] for name in TENSORS}
    where.update(tensors or {})
    write(folder, "model.safetensors.index.json", json.dumps({"weight_map": where}))


# ---- GGUF -----------------------------------------------------------------------------------------------------------


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(values=b"", value_count=0, tensors=b"", tensor_count=0, data=b"\0" * 64):
    head = b"GGUF" + struct.pack("<IQQ", 3, tensor_count, value_count) + values + tensors
    return head + b"\0" * (-len(head) % 32) + data


def gguf_number(key, value, kind=4, layout="<I"):
    return text(key) + struct.pack("<I", kind) + struct.pack(layout, value)


def gguf_tensor(name, sizes, offset=0, kind=0):
    return text(name) + struct.pack("<I", len(sizes)) + struct.pack(f"<{len(sizes)}QIQ", *sizes, kind, offset)


def gguf_cases():
    array = struct.pack("<I", 9)
    nested = text("k") + array
    for _ in range(100000):
        nested += struct.pack("<IQ", 9, 1)
    return {
        "2^60 tensors": gguf(tensor_count=1 << 60),
        "2^60 values": gguf(value_count=1 << 60),
        "a key of 2^63 bytes": gguf(struct.pack("<Q", 1 << 63), 1),
        "a text of 2^63 bytes": gguf(text("k") + struct.pack("<IQ", 8, 1 << 63), 1),
        "an array of 2^60 texts": gguf(text("k") + array + struct.pack("<IQ", 8, 1 << 60), 1),
        "an array of 2^62 numbers": gguf(text("k") + array + struct.pack("<IQ", 4, 1 << 62), 1),
        "arrays in arrays": gguf(nested, 1),
        "alignment 0": gguf(gguf_number("general.alignment", 0), 1),
        "alignment 3": gguf(gguf_number("general.alignment", 3), 1),
        "alignment 2^40": gguf(gguf_number("general.alignment", 1 << 40, 10, "<Q"), 1),
        "alignment as text": gguf(text("general.alignment") + struct.pack("<I", 8) + text("32"), 1),
        "no dimension": gguf(tensors=gguf_tensor("a", []), tensor_count=1),
        "2^32 dimensions": gguf(tensors=text("a") + struct.pack("<I", 0xFFFFFFFF), tensor_count=1),
        "a product that overflows": gguf(tensors=gguf_tensor("a", [1 << 32, 1 << 32, 1]), tensor_count=1),
        "a size of zero": gguf(tensors=gguf_tensor("token_embd.weight", [0, 8]), tensor_count=1),
        "overlapping tensors": gguf(tensors=gguf_tensor("a", [16]) + gguf_tensor("b", [16], 32), tensor_count=2),
        "a tensor beyond the end": gguf(tensors=gguf_tensor("a", [17]), tensor_count=1),
        "an offset of 2^64 - 32": gguf(tensors=gguf_tensor("a", [16], (1 << 64) - 32), tensor_count=1),
        "nothing but a head": gguf(data=b""),
        "another format": b"GGML" + b"\0" * 100,
        "the old version": b"GGUF" + struct.pack("<I", 1) + b"\0" * 100,
    }


# ---- directories ----------------------------------------------------------------------------------------------------


def deep(depth):
    return '{"a":' * depth + "1" + "}" * depth


def replaced_by_what_is_no_file(folder, name, outside):
    """Each way in which something that is no file can stand where one is expected, as (what, make)."""
    path = os.path.join(folder, name)

    def a_socket():
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.close()

    return {
        "a directory": lambda: os.mkdir(path),
        "a pipe": lambda: os.mkfifo(path),
        "a socket": a_socket,
        "a link to /dev/zero": lambda: os.symlink("/dev/zero", path),
        "a link to itself": lambda: os.symlink(name, path),
        "a link to a directory": lambda: os.symlink(outside, path),
        "empty": lambda: write(folder, name, b""),
        "noise": lambda: write(folder, name, random.Random(name).randbytes(4096)),
        "10^6 deep": lambda: write(folder, name, deep(10**6)),
        "10^6 deep, open": lambda: write(folder, name, "[" * 10**6),
    }


def one_of(tensors, name, **changes):
    """A safetensors header of `tensors` in which the entry `name` is changed."""
    header, at = {}, 0
    for each, shape in tensors.items():
        size = 4 * numbers(shape)
        header[each] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    header[name].update(changes)
    return with_header(json.dumps(header), b"\0" * at)


def directory_cases():
    """What makes a sound directory a bad one: what -> change(folder, outside)."""
    norm = "model.norm.weight"
    embedding = "model.embed_tokens.weight"
    cases = {}

    def case(what):
        return lambda change: cases.__setitem__(what, change)

    def weights(what, content):
        cases["weights: " + what] = lambda folder, _: write(folder, "model.safetensors", content)

    def changed(what, name, base, **changes):
        cases[f"{name}: {what}"] = lambda folder, _: write(folder, name, json.dumps({**base, **changes}))

    weights("a header of 100 MB", with_header('{"a": "' + "x" * 100_000_000 + '"}'))
    weights("a header said to have 2^63 bytes", safetensors(TENSORS, 1 << 63))
    weights("a header 10^6 deep", with_header(deep(10**6)))
    weights("offsets that overlap", one_of(TENSORS, norm, data_offsets=[0, 16]))
    weights("offsets backwards", one_of(TENSORS, norm, data_offsets=[16, 0]))
    weights("offsets beyond the end", one_of(TENSORS, norm, data_offsets=[0, 1 << 62]))
    weights("a product that overflows", one_of(TENSORS, norm, shape=[1 << 32, 1 << 32], data_offsets=[0, 0]))
    weights("a size of zero", safetensors({**TENSORS, embedding: [0, 4]}))
    weights("a shape of no sizes", safetensors({**TENSORS, norm: []}))
    weights("a size of -1", one_of(TENSORS, norm, shape=[-1]))
    weights("a name of a megabyte", safetensors({**TENSORS, "n" * 1_000_000: [1]}))
    weights("no tensors", safetensors({}))

    @case("index: a file outside, by ..")
    def _(folder, _):
        write_index(folder, ["../outside/a.safetensors"])

    @case("index: a file outside, by its whole path")
    def _(folder, outside):
        write_index(folder, [os.path.join(outside, "a.safetensors")])

    @case("index: the index itself")
    def _(folder, _):
        write_index(folder, ["model.safetensors.index.json"])

    @case("index: a shard that is a link to the index")
    def _(folder, _):
        write_index(folder, ["a.safetensors"])
        os.symlink("model.safetensors.index.json", os.path.join(folder, "a.safetensors"))

    @case("index: shards that are links to each other")
    def _(folder, _):
        write_index(folder, ["a.safetensors"])
        os.symlink("a.safetensors", os.path.join(folder, "b.safetensors"))
        os.symlink("b.safetensors", os.path.join(folder, "a.safetensors"))

    @case("index: one file under two names")
    def _(folder, _):
        write_index(folder, ["a.safetensors"], {norm: "b.safetensors"})
        write(folder, "a.safetensors", safetensors(TENSORS))
        os.link(os.path.join(folder, "a.safetensors"), os.path.join(folder, "b.safetensors"))

    @case("index: 100,000 files")
    def _(folder, _):
        write_index(folder, ["a.safetensors"], {f"t{i}": f"{i}.safetensors" for i in range(100_000)})

    for value in (0, -1, 1 << 31, 1 << 63, 1e308, "4", [], {}, None, True):
        for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"):
            changed(f"{key} {value!r}", "config.json", CONFIG, **{key: value})
    changed("no such family", "config.json", CONFIG, model_type="\n\x1b[2J" * 1000)

    model = TOKENIZER["model"]
    changed("a merge of an unknown token", "tokenizer.json", TOKENIZER, model={**model, "merges": ["a z"]})
    changed("a merge into an unknown token", "tokenizer.json", TOKENIZER, model={**model, "merges": ["b a"]})
    changed("a merge of one", "tokenizer.json", TOKENIZER, model={**model, "merges": ["a"]})
    changed("an id of 2^31", "tokenizer.json", TOKENIZER, model={**model, "vocab": {"a": 1 << 31}})
    changed("an id of -1", "tokenizer.json", TOKENIZER, model={**model, "vocab": {"a": -1}})
    changed("two tokens of one id", "tokenizer.json", TOKENIZER, model={**model, "vocab": {"a": 0, "b": 0}})
    changed("a pattern that does not end", "tokenizer.json", TOKENIZER,
            pre_tokenizer={"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False})
    return cases


LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
WEB_PAGE = "<!DOCTYPE html><html><body>Not found</body></html>"


def mistaken_paths(top):
    """What people name in place of a model: what -> (path, a word of the way out); makes the files in `top`."""
    os.mkdir(top)

    def folder(name, files):
        os.mkdir(os.path.join(top, name))
        for each, content in files.items():
            os.makedirs(os.path.dirname(os.path.join(top, name, each)), exist_ok=True)
            write(os.path.join(top, name), each, content)
        return os.path.join(top, name)

    def file(name, content):
        write(top, name, content)
        return os.path.join(top, name)

    sound, config = safetensors(TENSORS), json.dumps(CONFIG)
    parts = gguf(text("general.architecture") + struct.pack("<I", 8) + text("mambad-parts"), 1)
    split = gguf(gguf_number("split.count", 2, 2, "<H") + gguf_number("split.no", 0, 2, "<H"), 2)
    hybrid = {**TENSORS, LAYER + "mamba.in_proj.weight": [4, 4]}
    quantised = json.dumps({**CONFIG, "quantization_config": {"quant_method": "awq", "bits": 4}})
    shard = json.dumps({"weight_map": {name: "model-00001-of-00002.safetensors" for name in TENSORS}})
    return {
        "a repository": ("an-owner/A-Model-135M", "hf download an-owner/A-Model-135M"),
        "an address": ("https://a.host/an-owner/a-model", "download"),
        "an empty folder": (folder("empty", {}), "empty directory"),
        "a folder of parts": (folder("parts", {"a.gguf": parts, "b.gguf": parts}), "mambad-models assemble"),
        "a file of parts": (file("part", parts), "mambad-models assemble"),
        "adapters": (folder("lora", {"adapter_config.json": "{}", "adapter_model.safetensors": sound}), "LoRA"),
        "the folder above": (folder("above", {"run/config.json": config}), "above/run"),
        "a cache's folder": (folder("cache", {"refs/main": "01", "snapshots/01/config.json": config}), "snapshots/01"),
        "a tokenizer alone": (folder("words", {"tokenizer.json": "{}"}), "no model"),
        "weights alone": (folder("weights", {"model.safetensors": sound}), "no config.json"),
        "a configuration alone": (folder("config", {"config.json": config}), "without weights"),
        "PyTorch weights": (folder("torch", {"config.json": config, "pytorch_model.bin": "x"}), "trainer convert"),
        "a PyTorch file": (file("pytorch_model.bin", b"PK\3\4" + bytes(100)), "trainer convert"),
        "a Git LFS pointer": (file("pointer.gguf", LFS_POINTER), "git lfs pull"),
        "a web page": (file("page.gguf", WEB_PAGE), "web page"),
        "a gzip file": (file("model.gguf.gz", b"\x1f\x8b\x08" + bytes(100)), "unpack"),
        "a pointer for weights": (folder("lfs", {"config.json": config, "model.safetensors": LFS_POINTER}), "git lfs"),
        "a page for settings": (folder("page", {"config.json": WEB_PAGE, "model.safetensors": sound}), "web page"),
        "cut-off weights": (folder("cut", {"config.json": config, "model.safetensors": sound[:-8]}), "truncated"),
        "a cut-off GGUF file": (file("cut.gguf", gguf(tensors=gguf_tensor("a", [16]), tensor_count=1)[:-8]),
                                "truncated"),
        "a split model's first part": (file("m-00001-of-00002.gguf", split), "m-00002-of-00002.gguf"),
        "a shard that is not there": (folder("shards", {"config.json": config, "model.safetensors.index.json": shard}),
                                      "model-00001-of-00002.safetensors: missing"),
        "a hybrid in part": (folder("hybrid", {"config.json": config, "model.safetensors": safetensors(hybrid)}),
                             "mamba_config.json: missing"),
        "weights quantised by others": (folder("awq", {"config.json": quantised, "model.safetensors": sound}), "awq"),
    }


def odd_but_sound(folder):
    """What is there of a sound model besides its usual files: what -> (change, path to serve)."""
    generation = {"top_k": -1, "top_p": 0.0, "temperature": None, "do_sample": False, "eos_token_id": [7], "other": [1]}
    whole = os.path.join(folder, "model.safetensors")

    def rename_weights():
        os.rename(whole, os.path.join(folder, "model.fp16.safetensors"))

    return {
        "an index that stayed behind": (lambda: write(folder, "model.safetensors.index.json",
                                                      '{"weight_map": {"a": "gone.safetensors"}}'), folder),
        "settings that mean nothing here": (lambda: write(folder, "generation_config.json", json.dumps(generation)),
                                            folder),
        "weights of a variant": (rename_weights, folder),
        "its configuration named": (lambda: None, os.path.join(folder, "config.json")),
        "its weights named": (lambda: None, whole),
        "a token beyond the model": (lambda: write(folder, "tokenizer.json", json.dumps(
            {**TOKENIZER, "model": {**TOKENIZER["model"], "vocab": {"a": 1 << 24}, "merges": []}})), folder),
    }


# Templates that cannot be used. Plain text needs none, so the model is served, with a warning.
HOSTILE_TEMPLATES = ("{% if a %}", "{{ " + "(" * 10**5 + "1" + ")" * 10**5 + " }}", "{% nosuch %}{% endnosuch %}", "x" * 2**20,
                     {"tool_use": "x"}, [{"name": "rag", "template": "x"}], [], {}, [1], 5, True)


PROPOSED = "proposed_tokens.json"  # of a draft


def proposed_token_lists():
    return {
        "no ids": "[]",
        "not ascending": "[1, 3, 2]",
        "an id twice": "[1, 1]",
        "an id beyond the vocabulary": "[7, 8]",
        "an id of 2^63": f"[{1 << 63}]",
        "an id of 10^6 digits": "[" + "9" * 10**6 + "]",
        "an id of -1": "[-1]",
        "an id with a fraction": "[1.0]",
        "a text of 10 MB": '["' + "x" * 10**7 + '"]',
        "an object": '{"\\n\\u001b[2J": [1]}',
        "10^6 ids": json.dumps(list(range(10**6))),
        "cut off": "[1, 2",
        "two lists": "[1] [2]",
    }


# ---- running --------------------------------------------------------------------------------------------------------


class Judge:
    def __init__(self, program):
        self.program = program
        self.failures = []
        self.count = 0

    def run(self, model, draft):
        """(status, standard error) of the daemon on a model; None: it had to be stopped, or it served."""
        command = [self.program, "--model", model, "--listen", "127.0.0.1:0", "--metrics", ""]
        if draft:
            command += ["--draft", draft]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                _, errors = process.communicate(timeout=0.5)
                return process.returncode, errors.decode(errors="replace")
            except subprocess.TimeoutExpired as waiting:
                serves = b" ready: " in (waiting.stdout or b"")
                if serves or time.monotonic() > deadline:
                    process.kill()
                    process.communicate()
                    return None, "it serves" if serves else f"still running after {SECONDS} s"

    def refuses(self, what, model, draft=None, word=""):
        self.count += 1
        status, errors = self.run(model, draft)
        lines = [line for line in errors.split("\n") if line]
        # Of the log's own lines, none is an answer.
        good = (status == 2 and len(lines) == 1 and lines[0].startswith("mambad: ") and len(lines[0]) <= LONGEST_LINE
                and lines[0].isprintable() and word in errors and not any(report in errors for report in SANITIZED))
        if not good:
            self.failures.append(what)
            print(f"FAILED {what}: status {status}, standard error:\n{errors[:3000]}")
        elif os.environ.get("VERBOSE"):
            print(f"{what}\n    {lines[0]}")

    def serves(self, model, what="the sound model"):
        """The model is served: what is refused is refused for its fault alone."""
        self.count += 1
        command = [self.program, "--model", model, "--listen", "127.0.0.1:0", "--metrics", ""]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL, text=True)
        line = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        status = process.wait(timeout=SECONDS)
        if " ready: " not in line or status != 0:
            self.failures.append(what)
            print(f"FAILED {what}: status {status}, said {line!r}")


def main():
    judge = Judge(os.path.abspath(sys.argv[1]))
    top = tempfile.mkdtemp(prefix="mambad_hostile_")
    folder, outside = os.path.join(top, "model"), os.path.join(top, "outside")
    started = time.monotonic()

    def fresh():
        for each in (folder, outside):
            shutil.rmtree(each, ignore_errors=True)
            os.mkdir(each)
        write_sound(folder)
        write(outside, "a.safetensors", safetensors(TENSORS))

    try:
        fresh()
        judge.serves(folder)
        for what in odd_but_sound(folder):
            fresh()
            change, path = odd_but_sound(folder)[what]
            change()
            judge.serves(path, what)
        for what, (path, word) in mistaken_paths(os.path.join(top, "mistaken")).items():
            judge.refuses(what, path, word=word)
        for name in [*TEXT_FILES, "model.safetensors", "model.safetensors.index.json", "tokenizer.model",
                     "mamba_config.json", "special_tokens_map.json"]:
            for what in replaced_by_what_is_no_file(folder, name, outside):
                if may_be(name, what):
                    continue
                fresh()
                remove(folder, name)
                if name == "tokenizer.model":
                    remove(folder, "tokenizer.json")
                if name == "model.safetensors.index.json":
                    remove(folder, "model.safetensors")  # which would be served
                replaced_by_what_is_no_file(folder, name, outside)[what]()
                judge.refuses(f"{name}: {what}", folder)
        for template in HOSTILE_TEMPLATES:
            fresh()
            write(folder, "tokenizer_config.json", json.dumps({**TOKENIZER_CONFIG, "chat_template": template}))
            judge.serves(folder, f"a chat template: {str(template)[:40]!a}")
        for what in replaced_by_what_is_no_file(folder, "chat_template.jinja", outside):
            fresh()
            replaced_by_what_is_no_file(folder, "chat_template.jinja", outside)[what]()
            judge.serves(folder, f"chat_template.jinja: {what}")
        for what, change in directory_cases().items():
            fresh()
            change(folder, outside)
            judge.refuses(what, folder)
        # What is read of a draft only: it is sound otherwise, and so is the model that it drafts for.
        lists = {name: lambda text=text: write(folder, PROPOSED, text) for name, text in proposed_token_lists().items()}
        for what, change in {**lists, **replaced_by_what_is_no_file(folder, PROPOSED, outside)}.items():
            if may_be(PROPOSED, what):
                continue
            fresh()
            write_sound(outside)
            change()
            judge.refuses(f"{PROPOSED}: {what}", outside, draft=folder)
        path = os.path.join(top, "model.gguf")
        for what, content in gguf_cases().items():
            write(top, "model.gguf", content)
            judge.refuses("GGUF: " + what, path)
        for what, make in replaced_by_what_is_no_file(top, "model.gguf", outside).items():
            remove(top, "model.gguf")
            if what == "a directory" or what == "a link to a directory":
                continue  # a model directory may be called so
            make()
            judge.refuses("GGUF: " + what, path)
        judge.refuses("no such path", os.path.join(top, "none"))
        judge.refuses("a file that is no model", sys.argv[0])
        judge.refuses("/dev/zero", "/dev/zero")
    finally:
        shutil.rmtree(top, ignore_errors=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    print(f"{judge.count} hostile models, {len(judge.failures)} not refused as they should be; "
          f"{time.monotonic() - started:.0f} s, at most {peak} MiB")
    return 1 if judge.failures else 0


def may_be(name, what):
    """What is fine: members that mean nothing may be nested, and files that need not be there may be links to nothing."""
    if name in ("tokenizer_config.json", "special_tokens_map.json") and what == "10^6 deep":
        return True
    return what == "a link to itself" and name not in ("config.json", "model.safetensors")


if __name__ == "__main__":
    sys.exit(main())
