#!/usr/bin/env python3
"""Writes dequantise_cases.json: blocks of random bytes and what the Python package `gguf` makes of them.

    make_dequantise_cases.py [OUTPUT [SEED]]

Needs numpy and gguf. Every scale is a finite number: what NaN becomes is no part of the formats.
"""

import json
import os
import sys

import gguf
import numpy

# Type -> blocks, and where in a block the half-precision scales stand.
TYPES = {
    "F16": (64, [0]), "BF16": (64, []), "Q8_0": (3, [0]), "Q4_0": (3, [0]), "Q4_1": (3, [0, 2]), "Q5_0": (3, [0]),
    "Q5_1": (3, [0, 2]), "Q2_K": (3, [80, 82]), "Q3_K": (3, [108]), "Q4_K": (3, [0, 2]), "Q5_K": (3, [0, 2]),
    "Q6_K": (3, [208]), "IQ1_S": (3, [0]), "IQ1_M": (3, []), "IQ2_XXS": (3, [0]), "IQ2_XS": (3, [0]), "IQ2_S": (3, [0]),
    "IQ3_XXS": (3, [0]), "IQ3_S": (3, [0]), "IQ4_NL": (3, [0]), "IQ4_XS": (3, [0]), "TQ1_0": (3, [52]), "TQ2_0": (3, [64]),
    "MXFP4": (3, []),
}


def blocks_of(name, count, scales, draw):
    """`count` blocks of random bytes with finite scales, as rows of bytes."""
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][1]
    blocks = draw.integers(0, 256, (count, size), dtype=numpy.uint8)
    for at in scales:
        blocks[:, at + 1] &= 0xBF  # exponents below that of infinity
    if name == "BF16":
        blocks[:, 1] &= 0xBF
    if name == "MXFP4":
        blocks[:, 0] = numpy.minimum(blocks[:, 0], 250)  # of 254 and 255 not every product is finite
    if name == "IQ1_M":
        blocks[:, 55] &= 0xBF  # the upper nibble of its last word is the scale's upper one
    return blocks


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    output = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "dequantise_cases.json")
    draw = numpy.random.default_rng(int(sys.argv[2]) if len(sys.argv) > 2 else 20)
    cases = []
    for name, (count, scales) in TYPES.items():
        blocks = blocks_of(name, count, scales, draw)
        values = gguf.dequantize(blocks, gguf.GGMLQuantizationType[name]).astype(numpy.float32)
        assert numpy.isfinite(values).all(), name
        cases.append({"type": name, "bytes": blocks.tobytes().hex(), "values": values.tobytes().hex()})
    with open(output, "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
