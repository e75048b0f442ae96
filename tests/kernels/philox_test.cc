#include "kernels/cpu/philox.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mambad::kernels {
namespace {

using ::testing::ElementsAre;

// Published known-answer vectors of Philox4x32-10 (Random123, kat_vectors).
TEST(PhiloxTest, KnownAnswers) {
  EXPECT_THAT(Philox4x32({0, 0, 0, 0}, {0, 0}),
              ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  const uint32_t ones = 0xffffffff;
  EXPECT_THAT(Philox4x32({ones, ones, ones, ones}, {ones, ones}),
              ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(
      Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
      ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

TEST(PhiloxTest, WordsDifferByAllThatNamesThem) {
  std::vector<uint32_t> words;
  for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32}) {
    for (const uint32_t position : {0u, 1u, 1u << 20}) {
      for (const uint32_t sample : {0u, 1u, 1u << 20}) {
        for (const uint32_t group : {0u, 1u, 1u << 20}) {
          for (const uint32_t word : RaceWords({seed, position, sample}, group))
            words.push_back(word);
        }
      }
    }
  }
  std::sort(words.begin(), words.end());
  EXPECT_EQ(std::unique(words.begin(), words.end()), words.end());
}

TEST(PhiloxTest, ArrivalsAreExponential) {
  // -log(1 - u) at both ends of u and where the logarithm's argument is near 1.
  EXPECT_NEAR(ArrivalTime(0, 1), 0x1p-33, 1e-19);
  EXPECT_NEAR(ArrivalTime(0x7fffffff, 1), std::log(2), 1e-9);
  EXPECT_NEAR(ArrivalTime(0xffffffff, 1), 33 * std::log(2), 1e-9);
  EXPECT_DOUBLE_EQ(ArrivalTime(12345, 0.25f), 4 * ArrivalTime(12345, 1));
  for (uint64_t word = 0; word < 1ull << 32; word += 99999989) {
    EXPECT_GE(ArrivalTime(static_cast<uint32_t>(word), 1), (double(word) + 0.5) * 0x1p-32);
  }
}

}  // namespace
}  // namespace mambad::kernels
