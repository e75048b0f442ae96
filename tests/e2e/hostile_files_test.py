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
          "max_position_embeddings": 64, "tie_word_embeddings": True, "eos_token_id": 7}
LAYER = "model.layers.0."
TENSORS = {"model.embed_tokens.weight": [8, 4], "model.norm.weight": [4], LAYER + "input_layernorm.weight": [4],
           LAYER + "post_attention_layernorm.weight": [4], LAYER + "mlp.gate_proj.weight": [2, 4],
           LAYER + "mlp.up_proj.weight": [2, 4], LAYER + "mlp.down_proj.weight": [4, 2],
           LAYER + "self_attn.q_proj.weight": [4, 4], LAYER + "self_attn.k_proj.weight": [2, 4],
           LAYER + "self_attn.v_proj.weight": [2, 4], LAYER + "self_attn.o_proj.weight": [4, 4]}
TOKENIZER = {"added_tokens": [{"id": 7, "content": "</s>", "special": True, "normalized": False, "lstrip": False,
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
    changed("an id of 2^24", "tokenizer.json", TOKENIZER, model={**model, "vocab": {"a": 1 << 24}, "merges": []})
    changed("two tokens of one id", "tokenizer.json", TOKENIZER, model={**model, "vocab": {"a": 0, "b": 0}})
    changed("a pattern that does not end", "tokenizer.json", TOKENIZER,
            pre_tokenizer={"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False})
    changed("more tokens than the model", "tokenizer.json", TOKENIZER,
            model={**model, "vocab": {chr(0x4E00 + i): i for i in range(9)}, "merges": []})
    return cases


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

    def refuses(self, what, model, draft=None):
        self.count += 1
        status, errors = self.run(model, draft)
        lines = [line for line in errors.split("\n") if line]
        # Of the log's own lines, none is an answer.
        good = (status == 2 and len(lines) == 1 and lines[0].startswith("mambad: ") and len(lines[0]) <= LONGEST_LINE
                and lines[0].isprintable() and not any(word in errors for word in SANITIZED))
        if not good:
            self.failures.append(what)
            print(f"FAILED {what}: status {status}, standard error:\n{errors[:3000]}")
        elif os.environ.get("VERBOSE"):
            print(f"{what}\n    {lines[0]}")

    def serves(self, model, what="the sound model"):
        """The model is served: what is refused is refused for its fault alone."""
        self.count += 1
        command = [self.program, "--model", model, "--listen", "127.0.0.1:0", "--metrics", ""]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
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
        for name in [*TEXT_FILES, "model.safetensors", "model.safetensors.index.json", "tokenizer.model",
                     "mamba_config.json", "special_tokens_map.json"]:
            for what in replaced_by_what_is_no_file(folder, name, outside):
                if may_be(name, what):
                    continue
                fresh()
                remove(folder, name)
                if name == "tokenizer.model":
                    remove(folder, "tokenizer.json")
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
