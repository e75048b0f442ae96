// Numbers as files store them. testdata/dequantise_cases.json holds blocks of random bytes and what
// the `gguf` Python package makes of them (bytes and float32 bits in hexadecimal).

#include "engine/checkpoint/dequantise.h"

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace mambad::checkpoint {
namespace {

std::vector<std::byte> FromHex(const std::string& digits) {
  std::vector<std::byte> bytes;
  for (size_t i = 0; i + 1 < digits.size(); i += 2) {
    bytes.push_back(static_cast<std::byte>(std::stoi(digits.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

TEST(Dequantise, AgreesWithTheReferenceOnEveryType) {
  std::ifstream file(MAMBAD_CHECKPOINT_TESTDATA "/dequantise_cases.json");
  const nlohmann::json cases = nlohmann::json::parse(file, nullptr, false);
  ASSERT_TRUE(cases.is_array());
  const std::map<std::string, StorageType> types = {
      {"F16", StorageType::kFloat16}, {"BF16", StorageType::kBFloat16},
      {"Q8_0", StorageType::kQ8_0},   {"Q4_0", StorageType::kQ4_0},
      {"Q4_1", StorageType::kQ4_1},   {"Q4_K", StorageType::kQ4_K},
      {"Q6_K", StorageType::kQ6_K}};
  ASSERT_EQ(cases.size(), types.size());
  for (const auto& entry : cases) {
    const std::string name = entry["type"];
    SCOPED_TRACE(name);
    const StorageType type = types.at(name);
    EXPECT_EQ(StorageTypeName(type), name);
    const std::vector<std::byte> bytes = FromHex(entry["bytes"]);
    const std::vector<std::byte> expected_bytes = FromHex(entry["values"]);
    std::vector<float> expected(expected_bytes.size() / sizeof(float));
    std::memcpy(expected.data(), expected_bytes.data(), expected_bytes.size());
    const StorageBlock block = BlockOf(type);
    ASSERT_EQ(bytes.size() / block.bytes * block.numbers, expected.size());
    // One byte further on: files promise no alignment.
    std::vector<std::byte> shifted(bytes.size() + 1);
    std::copy(bytes.begin(), bytes.end(), shifted.begin() + 1);
    std::vector<float> values(expected.size());
    Dequantise(type, shifted.data() + 1, static_cast<int64_t>(values.size()), values.data());
    for (size_t i = 0; i < values.size(); ++i) {
      // The reference multiplies and adds in float32 too, in an order of its own.
      const float bound = 2e-7f * std::fabs(expected[i]) + 1e-7f;
      if (std::isinf(expected[i])) {
        EXPECT_EQ(values[i], expected[i]) << i;
      } else {
        EXPECT_NEAR(values[i], expected[i], bound) << i;
      }
      EXPECT_EQ(std::signbit(values[i]), std::signbit(expected[i])) << i;
    }
  }
}

TEST(Dequantise, Float32IsCopied) {
  const float numbers[] = {1.5f, -0.0f, std::numeric_limits<float>::denorm_min(), INFINITY};
  float out[4];
  Dequantise(StorageType::kFloat32, reinterpret_cast<const std::byte*>(numbers), 4, out);
  EXPECT_EQ(std::memcmp(numbers, out, sizeof(out)), 0);
}

TEST(Dequantise, HalfNotANumberStaysOne) {
  const uint16_t half = 0x7e01;
  float out = 0;
  Dequantise(StorageType::kFloat16, reinterpret_cast<const std::byte*>(&half), 1, &out);
  EXPECT_TRUE(std::isnan(out));
}

uint16_t Rounded(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return RoundToBFloat16(value);
}

TEST(RoundToBFloat16, ToNearestEven) {
  EXPECT_EQ(Rounded(0x3f800000), 0x3f80);  // 1
  EXPECT_EQ(Rounded(0x3f808000), 0x3f80);  // half way, even below
  EXPECT_EQ(Rounded(0x3f818000), 0x3f82);  // half way, even above
  EXPECT_EQ(Rounded(0x3f808001), 0x3f81);
  EXPECT_EQ(Rounded(0x3f807fff), 0x3f80);
  EXPECT_EQ(Rounded(0xbf818000), 0xbf82);
  EXPECT_EQ(Rounded(0x7f7fffff), 0x7f80);  // the largest number becomes infinity
  EXPECT_EQ(Rounded(0x7f800000), 0x7f80);
  EXPECT_EQ(Rounded(0x00000001), 0x0000);
  EXPECT_TRUE((Rounded(0x7f800001) & 0x7f80) == 0x7f80 && (Rounded(0x7f800001) & 0x7f) != 0);
  EXPECT_TRUE((Rounded(0xffffffff) & 0x7f80) == 0x7f80 && (Rounded(0xffffffff) & 0x7f) != 0);
}

}  // namespace
}  // namespace mambad::checkpoint
