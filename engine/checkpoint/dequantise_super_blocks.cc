// Blocks of 256 numbers: the K types, IQ4_XS and the ternary types.

#include "engine/checkpoint/dequantise_blocks.h"

namespace mambad::checkpoint {
namespace {

// The 12 bytes in which Q4_K and Q5_K keep eight scales and eight minima of 6 bits.
void UnpackScales(const uint8_t* packed, int group, int* scale, int* minimum) {
  if (group < 4) {
    *scale = packed[group] & 63;
    *minimum = packed[group + 4] & 63;
  } else {
    *scale = (packed[group + 4] & 15) | (packed[group - 4] >> 6) << 4;
    *minimum = (packed[group + 4] >> 4) | (packed[group] >> 6) << 4;
  }
}

}  // namespace

// 16 groups of 16: 16 bytes with a 4-bit scale (low) and minimum a group, 64 bytes of bit pairs,
// half scale of scales, half scale of minima.
void BlockQ2_K(const uint8_t* block, float* out) {
  const uint8_t* pairs = block + 16;
  const float scale = Half(block + 80), minimum = Half(block + 82);
  for (int group = 0; group < 16; ++group) {
    const float s = scale * static_cast<float>(block[group] & 15);
    const float m = minimum * static_cast<float>(block[group] >> 4);
    // 32 bytes hold eight groups: two for each of the four pairs in a byte.
    const uint8_t* from = pairs + group / 8 * 32 + group % 2 * 16;
    const int shift = group % 8 / 2 * 2;
    for (int i = 0; i < 16; ++i) {
      out[group * 16 + i] = s * static_cast<float>(from[i] >> shift & 3) - m;
    }
  }
}

// 16 groups of 16: 32 bytes of third bits, 64 bytes of bit pairs, 12 bytes with a 6-bit scale a
// group (32 stands for 0), half scale. The third bit adds nothing where it is set, -4 where it is
// not.
void BlockQ3_K(const uint8_t* block, float* out) {
  const uint8_t* pairs = block + 32;
  const uint8_t* packed = block + 96;
  const float scale = Half(block + 108);
  for (int group = 0; group < 16; ++group) {
    const int low = group < 8 ? packed[group] & 15 : packed[group - 8] >> 4;
    const int high = packed[8 + group % 4] >> (group / 4 * 2) & 3;
    const float s = scale * static_cast<float>((low | high << 4) - 32);
    const uint8_t* from = pairs + group / 8 * 32 + group % 2 * 16;
    const uint8_t* thirds = block + group % 2 * 16;
    const int shift = group % 8 / 2 * 2, bit = group / 2;
    for (int i = 0; i < 16; ++i) {
      const int q = (from[i] >> shift & 3) + (thirds[i] >> bit & 1) * 4 - 4;
      out[group * 16 + i] = s * static_cast<float>(q);
    }
  }
}

// 8 groups of 32: half scale of scales, half scale of minima, 12 bytes with a 6-bit scale and
// minimum a group, 128 bytes of nibbles.
void BlockQ4_K(const uint8_t* block, float* out) {
  const float scale = Half(block), minimum = Half(block + 2);
  const uint8_t* nibbles = block + 16;
  for (int group = 0; group < 8; ++group) {
    int s, m;
    UnpackScales(block + 4, group, &s, &m);
    const float step = scale * static_cast<float>(s), base = minimum * static_cast<float>(m);
    const uint8_t* from = nibbles + group / 2 * 32;
    const int shift = group % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      out[group * 32 + i] = step * static_cast<float>(from[i] >> shift & 15) - base;
    }
  }
}

// As Q4_K, with 32 bytes of fifth bits before the nibbles.
void BlockQ5_K(const uint8_t* block, float* out) {
  const float scale = Half(block), minimum = Half(block + 2);
  const uint8_t* fifths = block + 16;
  const uint8_t* nibbles = block + 48;
  for (int group = 0; group < 8; ++group) {
    int s, m;
    UnpackScales(block + 4, group, &s, &m);
    const float step = scale * static_cast<float>(s), base = minimum * static_cast<float>(m);
    const uint8_t* from = nibbles + group / 2 * 32;
    const int shift = group % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      const int q = (from[i] >> shift & 15) | (fifths[i] >> group & 1) << 4;
      out[group * 32 + i] = step * static_cast<float>(q) - base;
    }
  }
}

// 16 groups of 16: 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed scales, half
// scale; 32 stands for 0.
void BlockQ6_K(const uint8_t* block, float* out) {
  const float scale = Half(block + 208);
  for (int half = 0; half < 2; ++half) {
    const uint8_t* high = block + 128 + half * 32;
    const int8_t* scales = reinterpret_cast<const int8_t*>(block + 192 + half * 8);
    for (int quarter = 0; quarter < 4; ++quarter) {
      const uint8_t* low = block + half * 64 + quarter % 2 * 32;
      const int low_shift = quarter / 2 * 4, high_shift = quarter * 2;
      for (int group = 0; group < 2; ++group) {
        const float step = scale * static_cast<float>(scales[quarter * 2 + group]);
        float* to = out + half * 128 + quarter * 32 + group * 16;
        for (int i = 0; i < 16; ++i) {
          const int at = group * 16 + i;
          const int q = (low[at] >> low_shift & 15) | (high[at] >> high_shift & 3) << 4;
          to[i] = step * static_cast<float>(q - 32);
        }
      }
    }
  }
}

// 8 groups of 32: half scale, two bytes with the upper 2 bits and four with the lower 4 of a scale
// a group (32 stands for 0), 128 bytes of nibbles; the low ones are a group's first half.
void BlockIQ4_XS(const uint8_t* block, float* out) {
  const float scale = Half(block);
  const int high = Word(block + 2);
  for (int group = 0; group < 8; ++group) {
    const int low = block[4 + group / 2] >> (group % 2 * 4) & 15;
    const float step = scale * static_cast<float>((low | (high >> (2 * group) & 3) << 4) - 32);
    const uint8_t* from = block + 8 + group * 16;
    float* to = out + group * 32;
    for (int i = 0; i < 16; ++i) {
      to[i] = step * static_cast<float>(kNonLinearNibbles[from[i] & 15]);
      to[i + 16] = step * static_cast<float>(kNonLinearNibbles[from[i] >> 4]);
    }
  }
}

// Numbers -1, 0, 1 times a half scale. Five to a byte as fractions of 3^5 in 256ths: multiplied by
// 3 to the place, the upper part of the product with 3 is the digit. 32 bytes, then 16, then 4
// bytes of four digits, then the scale.
void BlockTQ1_0(const uint8_t* block, float* out) {
  const float scale = Half(block + 52);
  const auto unpack = [&](const uint8_t* from, int bytes, int digits) {
    uint8_t power = 1;
    for (int digit = 0; digit < digits; ++digit, power = static_cast<uint8_t>(power * 3)) {
      for (int i = 0; i < bytes; ++i) {
        const uint8_t shifted = static_cast<uint8_t>(from[i] * power);
        *out++ = scale * static_cast<float>((shifted * 3 >> 8) - 1);
      }
    }
  };
  unpack(block, 32, 5);
  unpack(block + 32, 16, 5);
  unpack(block + 48, 4, 4);
}

// Numbers -1, 0, 1 (2) times a half scale: 64 bytes of bit pairs, 1 stands for 0, then the scale.
void BlockTQ2_0(const uint8_t* block, float* out) {
  const float scale = Half(block + 64);
  for (int part = 0; part < 8; ++part) {
    const uint8_t* from = block + part / 4 * 32;
    const int shift = part % 4 * 2;
    for (int i = 0; i < 32; ++i) {
      out[part * 32 + i] = scale * static_cast<float>((from[i] >> shift & 3) - 1);
    }
  }
}

}  // namespace mambad::checkpoint
