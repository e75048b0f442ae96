#!/usr/bin/env python3
"""Writes GGUF files with random bf16 weights in the sizes of well-known models, for speed measurements.

    make_gguf.py FOLDER [NAME...]     NAME: mamba-130m, mamba2-130m, llama-135m (default: these three), mamba2-370m, mamba-2.8b,
                                      mamba2-2.7b

Speed does not depend on the numbers as long as they stay finite, so the weights are drawn as trained ones are initialised.
The files have no tokenizer: they are driven with token ids. They open in mambad and in llama.cpp alike. What exists is
left alone. Needs the packages numpy and gguf of Python's package index.
"""

import os
import sys

import gguf
import numpy


class Writer:
    """A GGUF file in the making; matrices in bf16, vectors and convolutions in float32, as converters write them."""

    def __init__(self, path, architecture, layers, width, vocabulary, context):
        self.file = gguf.GGUFWriter(path, architecture)
        self.random = numpy.random.default_rng(1)
        self.line = self.random.standard_normal(1 << 20, dtype=numpy.float32)
        self.layers, self.width = layers, width
        self.file.add_name(os.path.basename(path))
        self.file.add_context_length(context)
        self.file.add_embedding_length(width)
        self.file.add_block_count(layers)
        self.file.add_layer_norm_rms_eps(1e-5)
        self.file.add_vocab_size(vocabulary)
        self.file.add_tokenizer_model("no_vocab")
        self.matrix("token_embd.weight", vocabulary, width)
        self.vector("output_norm.weight", numpy.ones(width))

    def matrix(self, name, rows, columns):
        """A random [rows, columns] in bf16, rounded by cutting: any bf16 number is as good as another. Billions of numbers take
        minutes to draw, so that a row is a stretch of one long line of them, each from a place of its own."""
        scale = numpy.float32(0.5 / numpy.sqrt(columns))
        line = ((self.line * scale).view(numpy.uint32) >> 16).astype(numpy.uint16)
        stretches = numpy.lib.stride_tricks.sliding_window_view(line, columns)
        upper = stretches[self.random.integers(0, len(stretches), rows)]
        self.file.add_tensor(name, upper.view(numpy.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)

    def vector(self, name, numbers):
        self.file.add_tensor(name, numpy.ascontiguousarray(numbers, dtype=numpy.float32))

    def uniform(self, low, high, *shape):
        return self.random.uniform(low, high, shape)

    def dt_bias(self, count):
        """The inverse of softplus over steps spread evenly in logarithm from 0.001 to 0.1."""
        step = numpy.exp(self.uniform(numpy.log(0.001), numpy.log(0.1), count))
        return step + numpy.log(-numpy.expm1(-step))

    def close(self):
        self.file.write_header_to_file()
        self.file.write_kv_data_to_file()
        self.file.write_tensors_to_file()
        self.file.close()


def recurrent_facts(writer, inner, state, rank):
    writer.file.add_feed_forward_length(0)
    writer.file.add_head_count(0)
    writer.file.add_ssm_conv_kernel(4)
    writer.file.add_ssm_inner_size(inner)
    writer.file.add_ssm_state_size(state)
    writer.file.add_ssm_time_step_rank(rank)


def write_mamba(path, width, layers):
    inner, state, rank = 2 * width, 16, width // 16
    writer = Writer(path, "mamba", layers, width, vocabulary=50280, context=1 << 20)
    recurrent_facts(writer, inner, state, rank)
    for i in range(writer.layers):
        block = f"blk.{i}"
        writer.vector(f"{block}.attn_norm.weight", numpy.ones(width))
        writer.matrix(f"{block}.ssm_in.weight", 2 * inner, width)
        writer.vector(f"{block}.ssm_conv1d.weight", writer.uniform(-0.5, 0.5, inner, 4))
        writer.vector(f"{block}.ssm_conv1d.bias", writer.uniform(-0.5, 0.5, inner))
        writer.matrix(f"{block}.ssm_x.weight", rank + 2 * state, inner)
        writer.matrix(f"{block}.ssm_dt.weight", inner, rank)
        writer.vector(f"{block}.ssm_dt.bias", writer.dt_bias(inner))
        writer.vector(f"{block}.ssm_a", -numpy.tile(numpy.arange(1, state + 1), (inner, 1)))  # A itself, not its logarithm
        writer.vector(f"{block}.ssm_d", numpy.ones(inner))
        writer.matrix(f"{block}.ssm_out.weight", width, inner)
    writer.close()


def write_mamba2(path, width, layers):
    inner, state, heads, groups = 2 * width, 128, width // 32, 1
    channels = inner + 2 * groups * state
    writer = Writer(path, "mamba2", layers, width, vocabulary=50288, context=1 << 20)
    recurrent_facts(writer, inner, state, rank=heads)  # the heads stand where Mamba has its rank
    writer.file.add_ssm_group_count(groups)
    for i in range(writer.layers):
        block = f"blk.{i}"
        writer.vector(f"{block}.attn_norm.weight", numpy.ones(width))
        writer.matrix(f"{block}.ssm_in.weight", inner + channels + heads, width)
        writer.vector(f"{block}.ssm_conv1d.weight", writer.uniform(-0.5, 0.5, channels, 4))
        writer.vector(f"{block}.ssm_conv1d.bias", writer.uniform(-0.5, 0.5, channels))
        writer.vector(f"{block}.ssm_dt.bias", writer.dt_bias(heads))
        writer.vector(f"{block}.ssm_a", -writer.uniform(1, 16, heads, 1))
        writer.vector(f"{block}.ssm_d", numpy.ones((heads, 1)))
        writer.vector(f"{block}.ssm_norm.weight", numpy.ones((groups, inner // groups)))
        writer.matrix(f"{block}.ssm_out.weight", width, inner)
    writer.close()


def write_llama(path):
    width, heads, key_value_heads, mlp = 576, 9, 3, 1536
    head = width // heads
    writer = Writer(path, "llama", layers=30, width=width, vocabulary=49152, context=8192)
    writer.file.add_feed_forward_length(mlp)
    writer.file.add_head_count(heads)
    writer.file.add_head_count_kv(key_value_heads)
    writer.file.add_rope_dimension_count(head)
    writer.file.add_rope_freq_base(100000.0)
    for i in range(writer.layers):
        block = f"blk.{i}"
        writer.vector(f"{block}.attn_norm.weight", numpy.ones(width))
        writer.matrix(f"{block}.attn_q.weight", heads * head, width)
        writer.matrix(f"{block}.attn_k.weight", key_value_heads * head, width)
        writer.matrix(f"{block}.attn_v.weight", key_value_heads * head, width)
        writer.matrix(f"{block}.attn_output.weight", width, heads * head)
        writer.vector(f"{block}.ffn_norm.weight", numpy.ones(width))
        writer.matrix(f"{block}.ffn_gate.weight", mlp, width)
        writer.matrix(f"{block}.ffn_up.weight", mlp, width)
        writer.matrix(f"{block}.ffn_down.weight", width, mlp)
    writer.close()


MODELS = {
    "mamba-130m": lambda path: write_mamba(path, width=768, layers=24),
    "mamba2-130m": lambda path: write_mamba2(path, width=768, layers=24),
    "llama-135m": write_llama,
    "mamba2-370m": lambda path: write_mamba2(path, width=1024, layers=48),
    "mamba-2.8b": lambda path: write_mamba(path, width=2560, layers=64),
    "mamba2-2.7b": lambda path: write_mamba2(path, width=2560, layers=64),
}
SMALL = ["mamba-130m", "mamba2-130m", "llama-135m"]


def main(arguments):
    if not arguments or not set(arguments[1:]) <= set(MODELS):
        sys.exit(__doc__)
    folder = arguments[0]
    os.makedirs(folder, exist_ok=True)
    for name in arguments[1:] or SMALL:
        path = os.path.join(folder, name + "-bf16.gguf")
        if not os.path.exists(path):
            MODELS[name](path + ".partial")
            os.rename(path + ".partial", path)
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
