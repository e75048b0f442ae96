#include "engine/checkpoint/dequantise.h"

#include <array>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/dequantise_blocks.h"

namespace mambad::checkpoint {

// ---- blocks of 32 numbers -----------------------------------------------------------------------

// Half scale, 32 signed bytes.
void BlockQ8_0(const uint8_t* block, float* out) {
  const float scale = Half(block);
  for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<int8_t>(block[2 + i]);
}

// Half scale, 16 bytes; low nibbles are the first half, 8 stands for 0.
void BlockQ4_0(const uint8_t* block, float* out) {
  const float scale = Half(block);
  for (int i = 0; i < 16; ++i) {
    out[i] = scale * ((block[2 + i] & 15) - 8);
    out[i + 16] = scale * ((block[2 + i] >> 4) - 8);
  }
}

// Half scale, half minimum, 16 bytes of nibbles.
void BlockQ4_1(const uint8_t* block, float* out) {
  const float scale = Half(block), minimum = Half(block + 2);
  for (int i = 0; i < 16; ++i) {
    out[i] = scale * (block[4 + i] & 15) + minimum;
    out[i + 16] = scale * (block[4 + i] >> 4) + minimum;
  }
}

namespace {

// Nibbles with a fifth bit each; a byte's bits lie apart by eights, so that no lane is shifted by a
// count of its own.
void FiveBits(const uint8_t* fifths, const uint8_t* nibbles, int* numbers) {
  static constexpr uint8_t kBits[8] = {1, 2, 4, 8, 16, 32, 64, 128};
  for (int i = 0; i < 16; ++i) {
    const uint8_t low = fifths[i / 8] & kBits[i % 8], high = fifths[2 + i / 8] & kBits[i % 8];
    numbers[i] = (nibbles[i] & 15) + (low != 0 ? 16 : 0);
    numbers[i + 16] = (nibbles[i] >> 4) + (high != 0 ? 16 : 0);
  }
}

}  // namespace

// Half scale, 32 fifth bits, 16 bytes of nibbles; 16 stands for 0.
void BlockQ5_0(const uint8_t* block, float* out) {
  const float scale = Half(block);
  int numbers[32];
  FiveBits(block + 2, block + 6, numbers);
  for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(numbers[i] - 16);
}

// Half scale, half minimum, 32 fifth bits, 16 bytes of nibbles.
void BlockQ5_1(const uint8_t* block, float* out) {
  const float scale = Half(block), minimum = Half(block + 2);
  int numbers[32];
  FiveBits(block + 4, block + 8, numbers);
  for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(numbers[i]) + minimum;
}

// Half scale, 16 bytes of nibbles that stand for numbers further apart the larger they are.
void BlockIQ4_NL(const uint8_t* block, float* out) {
  const float scale = Half(block);
  for (int i = 0; i < 16; ++i) {
    out[i] = scale * static_cast<float>(kNonLinearNibbles[block[2 + i] & 15]);
    out[i + 16] = scale * static_cast<float>(kNonLinearNibbles[block[2 + i] >> 4]);
  }
}

// An exponent, 16 bytes of nibbles: numbers of sign, 2 bits of exponent and 1 of mantissa. The
// numbers stand here doubled, the scale halved.
void BlockMXFP4(const uint8_t* block, float* out) {
  static constexpr int8_t kNumbers[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  const uint32_t exponent = block[0];
  const float scale =
      FromBits(exponent < 2 ? uint32_t{0x00200000} << exponent : (exponent - 1) << 23);
  for (int i = 0; i < 16; ++i) {
    out[i] = scale * static_cast<float>(kNumbers[block[1 + i] & 15]);
    out[i + 16] = scale * static_cast<float>(kNumbers[block[1 + i] >> 4]);
  }
}

// ---- every type --------------------------------------------------------------------------------

namespace {

void CopyFloats(const uint8_t* from, int64_t count, float* out) {
  std::memcpy(out, from, count * sizeof(float));
}
void WidenHalves(const uint8_t* from, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = Half(from + 2 * i);
}
void WidenBFloat16(const uint8_t* from, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = FromBits(uint32_t{Word(from + 2 * i)} << 16);
}

template <void (*kBlock)(const uint8_t*, float*), int kNumbers, int kBytes>
void Blocks(const uint8_t* from, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i += kNumbers, from += kBytes) kBlock(from, out + i);
}

struct Format {
  StorageType type;
  const char* name;
  uint32_t gguf_number;
  StorageBlock block;
  void (*convert)(const uint8_t* from, int64_t count, float* out);
};

template <void (*kBlock)(const uint8_t*, float*), int kNumbers, int kBytes>
constexpr Format Quantised(StorageType type, const char* name, uint32_t gguf_number) {
  return {type, name, gguf_number, {kNumbers, kBytes}, Blocks<kBlock, kNumbers, kBytes>};
}

// In the order of StorageType.
constexpr Format kFormats[] = {
    {StorageType::kFloat32, "F32", 0, {1, 4}, CopyFloats},
    {StorageType::kFloat16, "F16", 1, {1, 2}, WidenHalves},
    {StorageType::kBFloat16, "BF16", 30, {1, 2}, WidenBFloat16},
    Quantised<BlockQ8_0, 32, 34>(StorageType::kQ8_0, "Q8_0", 8),
    Quantised<BlockQ4_0, 32, 18>(StorageType::kQ4_0, "Q4_0", 2),
    Quantised<BlockQ4_1, 32, 20>(StorageType::kQ4_1, "Q4_1", 3),
    Quantised<BlockQ5_0, 32, 22>(StorageType::kQ5_0, "Q5_0", 6),
    Quantised<BlockQ5_1, 32, 24>(StorageType::kQ5_1, "Q5_1", 7),
    Quantised<BlockQ2_K, 256, 84>(StorageType::kQ2_K, "Q2_K", 10),
    Quantised<BlockQ3_K, 256, 110>(StorageType::kQ3_K, "Q3_K", 11),
    Quantised<BlockQ4_K, 256, 144>(StorageType::kQ4_K, "Q4_K", 12),
    Quantised<BlockQ5_K, 256, 176>(StorageType::kQ5_K, "Q5_K", 13),
    Quantised<BlockQ6_K, 256, 210>(StorageType::kQ6_K, "Q6_K", 14),
    Quantised<BlockIQ1_S, 256, 50>(StorageType::kIQ1_S, "IQ1_S", 19),
    Quantised<BlockIQ1_M, 256, 56>(StorageType::kIQ1_M, "IQ1_M", 29),
    Quantised<BlockIQ2_XXS, 256, 66>(StorageType::kIQ2_XXS, "IQ2_XXS", 16),
    Quantised<BlockIQ2_XS, 256, 74>(StorageType::kIQ2_XS, "IQ2_XS", 17),
    Quantised<BlockIQ2_S, 256, 82>(StorageType::kIQ2_S, "IQ2_S", 22),
    Quantised<BlockIQ3_XXS, 256, 98>(StorageType::kIQ3_XXS, "IQ3_XXS", 18),
    Quantised<BlockIQ3_S, 256, 110>(StorageType::kIQ3_S, "IQ3_S", 21),
    Quantised<BlockIQ4_NL, 32, 18>(StorageType::kIQ4_NL, "IQ4_NL", 20),
    Quantised<BlockIQ4_XS, 256, 136>(StorageType::kIQ4_XS, "IQ4_XS", 23),
    Quantised<BlockTQ1_0, 256, 54>(StorageType::kTQ1_0, "TQ1_0", 34),
    Quantised<BlockTQ2_0, 256, 66>(StorageType::kTQ2_0, "TQ2_0", 35),
    Quantised<BlockMXFP4, 32, 17>(StorageType::kMXFP4, "MXFP4", 39),
};

constexpr bool InOrder() {
  for (size_t i = 0; i < std::size(kFormats); ++i) {
    if (static_cast<size_t>(kFormats[i].type) != i) return false;
  }
  return true;
}
static_assert(InOrder() && std::size(kFormats) == static_cast<size_t>(StorageType::kMXFP4) + 1);

const Format& FormatOf(StorageType type) { return kFormats[static_cast<size_t>(type)]; }

// Types of the format that are read by nothing here, for messages.
constexpr struct {
  uint32_t number;
  const char* name;
} kOtherGgufTypes[] = {{4, "Q4_2"},        {5, "Q4_3"},        {9, "Q8_1"},        {15, "Q8_K"},
                       {24, "I8"},         {25, "I16"},        {26, "I32"},        {27, "I64"},
                       {28, "F64"},        {31, "Q4_0_4_4"},   {32, "Q4_0_4_8"},   {33, "Q4_0_8_8"},
                       {36, "IQ4_NL_4_4"}, {37, "IQ4_NL_4_8"}, {38, "IQ4_NL_8_8"}, {40, "NVFP4"},
                       {41, "Q1_0"}};

}  // namespace

StorageBlock BlockOf(StorageType type) { return FormatOf(type).block; }

const char* StorageTypeName(StorageType type) { return FormatOf(type).name; }

std::optional<StorageType> StorageTypeOfGguf(uint32_t number) {
  for (const Format& format : kFormats) {
    if (format.gguf_number == number) return format.type;
  }
  return std::nullopt;
}

std::string GgufTypeText(uint32_t number) {
  for (const auto& [other, name] : kOtherGgufTypes) {
    if (other == number) return name;
  }
  return absl::StrCat("number ", number);
}

std::string ReadableGgufTypes() {
  std::string names;
  for (const Format& format : kFormats) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", format.name);
  }
  return names;
}

void Dequantise(StorageType type, const std::byte* data, int64_t count, float* out) {
  FormatOf(type).convert(reinterpret_cast<const uint8_t*>(data), count, out);
}

uint16_t RoundToBFloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

}  // namespace mambad::checkpoint
