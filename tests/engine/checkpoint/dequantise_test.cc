// Numbers as files store them. testdata/dequantise_cases.json holds blocks of random bytes and what
// the `gguf` Python package makes of them (bytes and float32 bits in hexadecimal);
// testdata/make_dequantise_cases.py writes it.

#include "engine/checkpoint/dequantise.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace mambad::checkpoint {
namespace {

// Every type that a GGUF file may have.
std::vector<StorageType> ReadTypes() {
  std::vector<StorageType> types;
  for (uint32_t number = 0; number < 256; ++number) {
    if (const auto type = StorageTypeOfGguf(number); type.has_value()) types.push_back(*type);
  }
  return types;
}

std::optional<StorageType> TypeCalled(const std::string& name) {
  for (const StorageType type : ReadTypes()) {
    if (StorageTypeName(type) == name) return type;
  }
  return std::nullopt;
}

std::vector<std::byte> FromHex(const std::string& digits) {
  std::vector<std::byte> bytes;
  for (size_t i = 0; i + 1 < digits.size(); i += 2) {
    bytes.push_back(static_cast<std::byte>(std::stoi(digits.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

// The formats say in which order scales are multiplied, so that there is nothing to round
// otherwise: bit for bit.
void ExpectReference(const nlohmann::json& entry) {
  const std::string name = entry["type"];
  SCOPED_TRACE(name);
  const std::optional<StorageType> type = TypeCalled(name);
  ASSERT_TRUE(type.has_value());
  const std::vector<std::byte> bytes = FromHex(entry["bytes"]);
  const std::vector<std::byte> expected_bytes = FromHex(entry["values"]);
  std::vector<float> expected(expected_bytes.size() / sizeof(float));
  std::memcpy(expected.data(), expected_bytes.data(), expected_bytes.size());
  const StorageBlock block = BlockOf(*type);
  ASSERT_GT(expected.size(), 0u);
  ASSERT_EQ(bytes.size() % block.bytes, 0u);
  ASSERT_EQ(bytes.size() / block.bytes * block.numbers, expected.size());
  // One byte further on: files promise no alignment.
  std::vector<std::byte> shifted(bytes.size() + 1);
  std::copy(bytes.begin(), bytes.end(), shifted.begin() + 1);
  std::vector<float> values(expected.size());
  Dequantise(*type, shifted.data() + 1, static_cast<int64_t>(values.size()), values.data());
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(values[i], expected[i]) << i;
    EXPECT_EQ(std::signbit(values[i]), std::signbit(expected[i])) << i;
  }
}

TEST(Dequantise, IsTheReferenceOnEveryType) {
  std::ifstream file(MAMBAD_CHECKPOINT_TESTDATA "/dequantise_cases.json");
  const nlohmann::json cases = nlohmann::json::parse(file, nullptr, false);
  ASSERT_TRUE(cases.is_array());
  std::set<std::string> names;
  for (const auto& entry : cases) {
    ExpectReference(entry);
    names.insert(entry["type"].get<std::string>());
  }
  // All but F32, which is copied.
  for (const StorageType type : ReadTypes()) {
    if (type != StorageType::kFloat32) {
      EXPECT_TRUE(names.contains(StorageTypeName(type))) << StorageTypeName(type);
    }
  }
}

// Another draw of blocks, made by the package itself where it is installed.
TEST(Dequantise, IsTheReferenceOnBlocksDrawnNow) {
  const char* path = std::getenv("MAMBAD_DEQUANTISE_CASES");
  if (path == nullptr) GTEST_SKIP() << "MAMBAD_DEQUANTISE_CASES is not set";
  std::ifstream file(path);
  const nlohmann::json cases = nlohmann::json::parse(file, nullptr, false);
  ASSERT_TRUE(cases.is_array());
  ASSERT_GT(cases.size(), 0u);
  for (const auto& entry : cases) ExpectReference(entry);
}

TEST(Dequantise, TypesHaveNamesForMessages) {
  EXPECT_THAT(ReadableGgufTypes(), ::testing::StartsWith("F32, F16, BF16, Q8_0, Q4_0"));
  EXPECT_THAT(ReadableGgufTypes(), ::testing::HasSubstr("Q5_K"));
  EXPECT_EQ(GgufTypeText(15), "Q8_K");
  EXPECT_EQ(GgufTypeText(28), "F64");
  EXPECT_EQ(GgufTypeText(999), "number 999");
  EXPECT_EQ(StorageTypeOfGguf(15), std::nullopt);
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
