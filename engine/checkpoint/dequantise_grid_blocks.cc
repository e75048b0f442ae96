// Blocks of 256 numbers whose magnitudes are chosen by eights or fours from a code book: IQ1, IQ2
// and IQ3.

#include <array>

#include "engine/checkpoint/dequantise_blocks.h"
#include "engine/checkpoint/quantisation_grids.h"

namespace mambad::checkpoint {
namespace {

// A code book with its magnitudes put in.
template <int kEntries, int kNumbers>
struct Grid {
  int8_t numbers[kEntries][kNumbers];

  Grid(const uint16_t* words, int bits, const int8_t* magnitudes) {
    for (int entry = 0; entry < kEntries; ++entry) {
      for (int i = 0; i < kNumbers; ++i) {
        numbers[entry][i] = magnitudes[words[entry] >> (bits * i) & ((1 << bits) - 1)];
      }
    }
  }
};

constexpr int8_t kMagnitudes1[4] = {-1, 0, 1, 0};
constexpr int8_t kMagnitudes2[4] = {8, 25, 43, 0};
constexpr int8_t kMagnitudes3Small[8] = {4, 12, 20, 28, 36, 44, 52, 62};
constexpr int8_t kMagnitudes3[8] = {1, 3, 5, 7, 9, 11, 13, 15};

// Eight signs in seven bits: the number of minus signs is even.
int EvenSigns(uint32_t seven) {
  seven &= 127;
  return static_cast<int>(seven | (__builtin_parity(seven) != 0 ? 128u : 0u));
}

// `kCount` numbers times `step`, negative where a bit of `signs` is set.
template <int kCount>
void Signed(const int8_t* numbers, int signs, float step, float* out) {
  static constexpr int kBits[8] = {1, 2, 4, 8, 16, 32, 64, 128};
  for (int i = 0; i < kCount; ++i) {
    const uint32_t sign = (signs & kBits[i]) != 0 ? 0x80000000u : 0u;
    out[i] = FromBits(BitsOf(step * static_cast<float>(numbers[i])) ^ sign);
  }
}

// Eight numbers of -1, 0, 1, moved by an eighth.
void Shifted(const int8_t* numbers, float shift, float step, float* out) {
  for (int i = 0; i < 8; ++i) out[i] = step * (static_cast<float>(numbers[i]) + shift);
}

const Grid<2048, 8>& Grid1() {
  static const Grid<2048, 8> grid(kGridIQ1, 2, kMagnitudes1);
  return grid;
}

}  // namespace

// Half scale, then for each 32 numbers four bytes of entries and a word: four signs of 7 bits,
// scale of 4 bits.
void BlockIQ2_XXS(const uint8_t* block, float* out) {
  static const Grid<256, 8> grid(kGridIQ2_XXS, 2, kMagnitudes2);
  const float scale = Half(block);
  for (int group = 0; group < 8; ++group) {
    const uint8_t* from = block + 2 + group * 8;
    const uint32_t word = DoubleWord(from + 4);
    const float step = scale * (0.5f + static_cast<float>(word >> 28)) * 0.25f;
    for (int i = 0; i < 4; ++i) {
      Signed<8>(grid.numbers[from[i]], EvenSigns(word >> (7 * i)), step, out + group * 32 + i * 8);
    }
  }
}

// Half scale, 32 words (entry of 9 bits, signs of 7), 8 bytes with a 4-bit scale for each 16
// numbers.
void BlockIQ2_XS(const uint8_t* block, float* out) {
  static const Grid<512, 8> grid(kGridIQ2_XS, 2, kMagnitudes2);
  const float scale = Half(block);
  for (int i = 0; i < 32; ++i) {
    const uint32_t word = Word(block + 2 + 2 * i);
    const int s = block[66 + i / 4] >> (i / 2 % 2 * 4) & 15;
    const float step = scale * (0.5f + static_cast<float>(s)) * 0.25f;
    Signed<8>(grid.numbers[word & 511], EvenSigns(word >> 9), step, out + i * 8);
  }
}

// Half scale, 32 bytes of entries, 32 of signs, 8 with the entries' upper bit pairs, 8 with a 4-bit
// scale for each 16 numbers.
void BlockIQ2_S(const uint8_t* block, float* out) {
  static const Grid<1024, 8> grid(kGridIQ2_S, 2, kMagnitudes2);
  const float scale = Half(block);
  for (int i = 0; i < 32; ++i) {
    const int entry = block[2 + i] | (block[66 + i / 4] >> (i % 4 * 2) & 3) << 8;
    const int s = block[74 + i / 4] >> (i / 2 % 2 * 4) & 15;
    const float step = scale * (0.5f + static_cast<float>(s)) * 0.25f;
    Signed<8>(grid.numbers[entry], block[34 + i], step, out + i * 8);
  }
}

// Half scale, 64 bytes of entries, then for each 32 numbers a word: four signs of 7 bits, scale of
// 4 bits.
void BlockIQ3_XXS(const uint8_t* block, float* out) {
  static const Grid<256, 4> grid(kGridIQ3_XXS, 3, kMagnitudes3Small);
  const float scale = Half(block);
  for (int group = 0; group < 8; ++group) {
    const uint8_t* from = block + 2 + group * 8;
    const uint32_t word = DoubleWord(block + 66 + group * 4);
    const float step = scale * (0.5f + static_cast<float>(word >> 28)) * 0.5f;
    for (int i = 0; i < 8; ++i) {
      const int signs = EvenSigns(word >> (i / 2 * 7)) >> (i % 2 * 4);
      Signed<4>(grid.numbers[from[i]], signs, step, out + group * 32 + i * 4);
    }
  }
}

// Half scale, 64 bytes of entries, 8 with the entries' ninth bits, 32 of signs, 4 with a 4-bit
// scale for each 32 numbers.
void BlockIQ3_S(const uint8_t* block, float* out) {
  static const Grid<512, 4> grid(kGridIQ3_S, 3, kMagnitudes3);
  const float scale = Half(block);
  for (int i = 0; i < 64; ++i) {
    const int entry = block[2 + i] | (block[66 + i / 8] >> (i % 8) & 1) << 8;
    const int s = block[106 + i / 16] >> (i / 8 % 2 * 4) & 15;
    const float step = scale * static_cast<float>(1 + 2 * s);
    Signed<4>(grid.numbers[entry], block[74 + i / 2] >> (i % 2 * 4), step, out + i * 4);
  }
}

// Half scale, 32 bytes of entries, then for each 32 numbers a word: the entries' upper 3 bits,
// scale of 3 bits, sign of the shift.
void BlockIQ1_S(const uint8_t* block, float* out) {
  const Grid<2048, 8>& grid = Grid1();
  const float scale = Half(block);
  for (int i = 0; i < 32; ++i) {
    const int word = Word(block + 34 + i / 4 * 2);
    const int entry = block[2 + i] | (word >> (i % 4 * 3) & 7) << 8;
    const float step = scale * static_cast<float>(2 * (word >> 12 & 7) + 1);
    Shifted(grid.numbers[entry], (word & 0x8000) != 0 ? -0.125f : 0.125f, step, out + i * 8);
  }
}

// 32 bytes of entries, 16 with a nibble for each (upper 3 bits, sign of the shift), 4 words: four
// 3-bit scales, one for each 16 numbers, and a quarter of the half scale.
void BlockIQ1_M(const uint8_t* block, float* out) {
  const Grid<2048, 8>& grid = Grid1();
  std::array<int, 4> words;
  uint32_t half = 0;
  for (int i = 0; i < 4; ++i) {
    words[i] = Word(block + 48 + 2 * i);
    half |= static_cast<uint32_t>(words[i] >> 12) << (4 * i);
  }
  const float scale = FromHalf(static_cast<uint16_t>(half));
  for (int i = 0; i < 32; ++i) {
    const int nibble = block[32 + i / 2] >> (i % 2 * 4) & 15;
    const int entry = block[i] | (nibble & 7) << 8;
    const float step = scale * static_cast<float>(2 * (words[i / 8] >> (i / 2 % 4 * 3) & 7) + 1);
    Shifted(grid.numbers[entry], (nibble & 8) != 0 ? -0.125f : 0.125f, step, out + i * 8);
  }
}

}  // namespace mambad::checkpoint
