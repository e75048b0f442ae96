// One block of each quantised type -> float32, as llama.cpp defines them. For dequantise.cc, which
// knows sizes and names.

#ifndef MAMBAD_ENGINE_CHECKPOINT_DEQUANTISE_BLOCKS_H_
#define MAMBAD_ENGINE_CHECKPOINT_DEQUANTISE_BLOCKS_H_

#include <cstdint>
#include <cstring>

namespace mambad::checkpoint {

inline float FromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline uint32_t BitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// IEEE half precision, subnormals, infinities and NaN included. Without branches, so that loops of
// it are vectorised: the exponent is moved by a product, which is exact.
inline float FromHalf(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16, moved = uint32_t{half & 0x7fffu} << 13;
  const uint32_t infinite = moved >= 0x0f800000u ? 0x7f800000u : 0u;
  return FromBits(BitsOf(FromBits(moved) * 0x1p112f) | infinite | sign);
}

// Little-endian words at any address.
inline uint16_t Word(const uint8_t* at) { return static_cast<uint16_t>(at[0] | at[1] << 8); }
inline uint32_t DoubleWord(const uint8_t* at) {
  return uint32_t{Word(at)} | uint32_t{Word(at + 2)} << 16;
}
inline float Half(const uint8_t* at) { return FromHalf(Word(at)); }

// `block` has the type's bytes, `out` its numbers. dequantise.cc:
void BlockQ4_0(const uint8_t* block, float* out);
void BlockQ4_1(const uint8_t* block, float* out);
void BlockQ5_0(const uint8_t* block, float* out);
void BlockQ5_1(const uint8_t* block, float* out);
void BlockQ8_0(const uint8_t* block, float* out);
void BlockIQ4_NL(const uint8_t* block, float* out);
void BlockMXFP4(const uint8_t* block, float* out);
// dequantise_super_blocks.cc: 256 numbers with scales of their own for groups of 16 or 32.
void BlockQ2_K(const uint8_t* block, float* out);
void BlockQ3_K(const uint8_t* block, float* out);
void BlockQ4_K(const uint8_t* block, float* out);
void BlockQ5_K(const uint8_t* block, float* out);
void BlockQ6_K(const uint8_t* block, float* out);
void BlockIQ4_XS(const uint8_t* block, float* out);
void BlockTQ1_0(const uint8_t* block, float* out);
void BlockTQ2_0(const uint8_t* block, float* out);
// dequantise_grid_blocks.cc: 256 numbers chosen from code books.
void BlockIQ1_S(const uint8_t* block, float* out);
void BlockIQ1_M(const uint8_t* block, float* out);
void BlockIQ2_XXS(const uint8_t* block, float* out);
void BlockIQ2_XS(const uint8_t* block, float* out);
void BlockIQ2_S(const uint8_t* block, float* out);
void BlockIQ3_XXS(const uint8_t* block, float* out);
void BlockIQ3_S(const uint8_t* block, float* out);

// The sixteen numbers that a nibble of IQ4_NL and IQ4_XS stands for.
inline constexpr int8_t kNonLinearNibbles[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                 1,    13,   25,  38,  53,  69,  89,  113};

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_DEQUANTISE_BLOCKS_H_
