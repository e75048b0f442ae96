#include "engine/checkpoint/dequantise.h"

#include <cstring>

namespace mambad::checkpoint {
namespace {

float FromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// IEEE half precision, subnormals, infinities and NaN included.
float FromHalf(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16, exponent = (half >> 10) & 31,
                 mantissa = half & 0x3ff;
  if (exponent == 31) return FromBits(sign | 0x7f800000u | mantissa << 13);
  if (exponent != 0) return FromBits(sign | (exponent + 112) << 23 | mantissa << 13);
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return sign != 0 ? -magnitude : magnitude;
}

uint16_t Word(const uint8_t* at) { return static_cast<uint16_t>(at[0] | at[1] << 8); }
float Half(const uint8_t* at) { return FromHalf(Word(at)); }

// 32 numbers: half scale, 32 signed bytes.
void BlockQ8_0(const uint8_t* block, float* out) {
  const float scale = Half(block);
  for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<int8_t>(block[2 + i]);
}

// 32 numbers: half scale, 16 bytes; low nibbles are the first half, 8 stands for 0.
void BlockQ4_0(const uint8_t* block, float* out) {
  const float scale = Half(block);
  for (int i = 0; i < 16; ++i) {
    out[i] = scale * ((block[2 + i] & 15) - 8);
    out[i + 16] = scale * ((block[2 + i] >> 4) - 8);
  }
}

// 32 numbers: half scale, half minimum, 16 bytes of nibbles.
void BlockQ4_1(const uint8_t* block, float* out) {
  const float scale = Half(block), minimum = Half(block + 2);
  for (int i = 0; i < 16; ++i) {
    out[i] = scale * (block[4 + i] & 15) + minimum;
    out[i + 16] = scale * (block[4 + i] >> 4) + minimum;
  }
}

// 256 numbers in 8 groups of 32: half scale of scales, half scale of minima, 12 bytes with a 6-bit
// scale and minimum a group, 128 bytes of nibbles.
void BlockQ4_K(const uint8_t* block, float* out) {
  const float scale = Half(block), minimum = Half(block + 2);
  const uint8_t* packed = block + 4;
  const uint8_t* nibbles = block + 16;
  for (int group = 0; group < 8; ++group) {
    int s, m;
    if (group < 4) {
      s = packed[group] & 63;
      m = packed[group + 4] & 63;
    } else {
      s = (packed[group + 4] & 15) | (packed[group - 4] >> 6) << 4;
      m = (packed[group + 4] >> 4) | (packed[group] >> 6) << 4;
    }
    const uint8_t* from = nibbles + group / 2 * 32;
    for (int i = 0; i < 32; ++i) {
      const int q = group % 2 == 0 ? from[i] & 15 : from[i] >> 4;
      out[group * 32 + i] =
          scale * static_cast<float>(s) * static_cast<float>(q) - minimum * static_cast<float>(m);
    }
  }
}

// 256 numbers: 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed scales, half scale;
// 32 stands for 0.
void BlockQ6_K(const uint8_t* block, float* out) {
  const float scale = Half(block + 208);
  for (int half = 0; half < 2; ++half) {
    const uint8_t* low = block + half * 64;
    const uint8_t* high = block + 128 + half * 32;
    const int8_t* scales = reinterpret_cast<const int8_t*>(block + 192 + half * 8);
    for (int i = 0; i < 32; ++i) {
      const int quarters[4] = {
          (low[i] & 15) | (high[i] & 3) << 4, (low[i + 32] & 15) | (high[i] >> 2 & 3) << 4,
          (low[i] >> 4) | (high[i] >> 4 & 3) << 4, (low[i + 32] >> 4) | (high[i] >> 6) << 4};
      for (int q = 0; q < 4; ++q) {
        out[half * 128 + q * 32 + i] =
            scale * scales[i / 16 + q * 2] * static_cast<float>(quarters[q] - 32);
      }
    }
  }
}

}  // namespace

StorageBlock BlockOf(StorageType type) {
  switch (type) {
    case StorageType::kFloat32:
      return {1, 4};
    case StorageType::kFloat16:
    case StorageType::kBFloat16:
      return {1, 2};
    case StorageType::kQ8_0:
      return {32, 34};
    case StorageType::kQ4_0:
      return {32, 18};
    case StorageType::kQ4_1:
      return {32, 20};
    case StorageType::kQ4_K:
      return {256, 144};
    case StorageType::kQ6_K:
      return {256, 210};
  }
  return {1, 4};
}

const char* StorageTypeName(StorageType type) {
  switch (type) {
    case StorageType::kFloat32:
      return "F32";
    case StorageType::kFloat16:
      return "F16";
    case StorageType::kBFloat16:
      return "BF16";
    case StorageType::kQ8_0:
      return "Q8_0";
    case StorageType::kQ4_0:
      return "Q4_0";
    case StorageType::kQ4_1:
      return "Q4_1";
    case StorageType::kQ4_K:
      return "Q4_K";
    case StorageType::kQ6_K:
      return "Q6_K";
  }
  return "";
}

void Dequantise(StorageType type, const std::byte* data, int64_t count, float* out) {
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(data);
  const StorageBlock block = BlockOf(type);
  if (type == StorageType::kFloat32) {
    std::memcpy(out, bytes, count * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < count; i += block.numbers, bytes += block.bytes, out += block.numbers) {
    switch (type) {
      case StorageType::kFloat16:
        *out = Half(bytes);
        break;
      case StorageType::kBFloat16:
        *out = FromBits(uint32_t{Word(bytes)} << 16);
        break;
      case StorageType::kQ8_0:
        BlockQ8_0(bytes, out);
        break;
      case StorageType::kQ4_0:
        BlockQ4_0(bytes, out);
        break;
      case StorageType::kQ4_1:
        BlockQ4_1(bytes, out);
        break;
      case StorageType::kQ4_K:
        BlockQ4_K(bytes, out);
        break;
      case StorageType::kQ6_K:
        BlockQ6_K(bytes, out);
        break;
      case StorageType::kFloat32:
        break;
    }
  }
}

uint16_t RoundToBFloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

}  // namespace mambad::checkpoint
