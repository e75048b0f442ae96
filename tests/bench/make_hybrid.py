#!/usr/bin/env python3
"""Writes hybrids of the size of Llama-3-8B with random bf16 weights, half of their layers attention, for speed measurements.

    make_hybrid.py FOLDER [NAME...]     NAME: hybrid-8b (mixers of Mamba), hybrid2-8b (of Mamba-2); default: both

Each is a directory as MambaInLlama checkpoints are, without a tokenizer: they are driven with token ids. Speed does not depend on
the numbers as long as they stay finite. What exists is left alone. Needs the package numpy of Python's package index.
"""

import json
import os
import sys

import numpy

LAYERS, WIDTH, MLP, VOCABULARY = 32, 4096, 14336, 128256
HEADS, KEY_VALUE_HEADS, HEAD = 32, 8, 128
INNER, SOURCE, TAPS = 4096, 1024, 4
RANK = WIDTH // 16
ATTENTION = list(range(1, LAYERS, 2))

random = numpy.random.default_rng(1)
line = random.standard_normal(1 << 20, dtype=numpy.float32)


def matrix(rows, columns):
    """Random bf16, cut from float32. A row is a stretch of one long line of numbers: billions of them take minutes to draw."""
    numbers = ((line * numpy.float32(0.5 / numpy.sqrt(columns))).view(numpy.uint32) >> 16).astype(numpy.uint16)
    stretches = numpy.lib.stride_tricks.sliding_window_view(numbers, columns)
    return "BF16", lambda: stretches[random.integers(0, len(stretches), rows)], (rows, columns)


def vector(numbers):
    numbers = numpy.ascontiguousarray(numbers, dtype=numpy.float32)
    return "F32", lambda: numbers, numbers.shape


def dt_bias(count):
    """The inverse of softplus over steps spread evenly in logarithm from 0.001 to 0.1."""
    step = numpy.exp(random.uniform(numpy.log(0.001), numpy.log(0.1), count))
    return vector(step + numpy.log(-numpy.expm1(-step)))


def attention():
    queries, keys = HEADS * HEAD, KEY_VALUE_HEADS * HEAD
    return {"self_attn.q_proj.weight": matrix(queries, WIDTH), "self_attn.k_proj.weight": matrix(keys, WIDTH),
            "self_attn.v_proj.weight": matrix(keys, WIDTH), "self_attn.o_proj.weight": matrix(WIDTH, queries)}


def mamba():
    state = 16
    return {"mamba.in_proj.weight": matrix(2 * INNER + 2 * SOURCE + RANK, WIDTH),
            "mamba.conv1d.weight": vector(random.uniform(-0.5, 0.5, (SOURCE, 1, TAPS))),
            "mamba.conv1d.bias": vector(random.uniform(-0.5, 0.5, SOURCE)),
            "mamba.dt_proj.weight": matrix(INNER, RANK), "mamba.dt_proj.bias": dt_bias(INNER),
            "mamba.A_log": vector(numpy.log(numpy.tile(numpy.arange(1, state + 1), (INNER, 1)))),
            "mamba.D": vector(numpy.ones(INNER)), "mamba.out_proj.weight": matrix(WIDTH, INNER)}


def mamba2():
    heads = INNER // 128
    return {"mamba.in_proj.weight": matrix(2 * INNER + 2 * SOURCE + heads, WIDTH),
            "mamba.conv1d.weight": vector(random.uniform(-0.5, 0.5, (INNER + 2 * SOURCE, 1, TAPS))),
            "mamba.conv1d.bias": vector(random.uniform(-0.5, 0.5, INNER + 2 * SOURCE)),
            "mamba.dt_bias": dt_bias(heads), "mamba.A_log": vector(numpy.log(random.uniform(1, 16, heads))),
            "mamba.D": vector(numpy.ones(heads)), "mamba.norm.weight": vector(numpy.ones(INNER)),
            "mamba.out_proj.weight": matrix(WIDTH, INNER)}


def tensors(mixer):
    found = {"model.embed_tokens.weight": matrix(VOCABULARY, WIDTH), "model.norm.weight": vector(numpy.ones(WIDTH)),
             "lm_head.weight": matrix(VOCABULARY, WIDTH)}
    for layer in range(LAYERS):
        parts = attention() if layer in ATTENTION else mixer()
        parts.update({"input_layernorm.weight": vector(numpy.ones(WIDTH)),
                      "post_attention_layernorm.weight": vector(numpy.ones(WIDTH)),
                      "mlp.gate_proj.weight": matrix(MLP, WIDTH), "mlp.up_proj.weight": matrix(MLP, WIDTH),
                      "mlp.down_proj.weight": matrix(WIDTH, MLP)})
        found.update({f"model.layers.{layer}.{name}": part for name, part in parts.items()})
    return found


def write_safetensors(path, parts):
    header, end = {}, 0
    for name, (kind, _, shape) in parts.items():
        begin, end = end, end + (2 if kind == "BF16" else 4) * int(numpy.prod(shape))
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, numbers, _ in parts.values():
            numbers().tofile(file)


def write_json(path, values):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(values, file, indent=1)


def write_model(folder, mixer, ssm):
    os.makedirs(folder)
    write_json(os.path.join(folder, "config.json"), {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": WIDTH,
        "intermediate_size": MLP, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS, "head_dim": HEAD, "rms_norm_eps": 1e-5, "max_position_embeddings": 8192,
        "rope_theta": 500000.0, "tie_word_embeddings": False, "vocab_size": VOCABULARY, "bos_token_id": 128000,
        "eos_token_id": 128001, "torch_dtype": "bfloat16"})
    write_json(os.path.join(folder, "mamba_config.json"), {
        "d_model": WIDTH, "ssm_cfg": ssm, "rms_norm_eps": 1e-5, "d_inner": INNER, "d_xb": SOURCE, "intermediate_size": MLP,
        "hidden_act": "silu", "n_layer": LAYERS, "attn_layers": ATTENTION})
    write_safetensors(os.path.join(folder, "model.safetensors"), tensors(mixer))


MODELS = {
    "hybrid-8b": (mamba, {"expand": 1, "d_state": 16, "d_conv": TAPS, "repeat_kv_before_conv": False}),
    "hybrid2-8b": (mamba2, {"expand": 1, "ngroups": INNER // 128, "d_state": 128, "d_conv": TAPS,
                            "repeat_kv_before_conv": False}),
}


def main(arguments):
    if not arguments or not set(arguments[1:]) <= set(MODELS):
        sys.exit(__doc__)
    for name in arguments[1:] or MODELS:
        folder = os.path.join(arguments[0], name)
        if not os.path.exists(folder):
            write_model(folder + ".partial", *MODELS[name])
            os.rename(folder + ".partial", folder)
        print(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
