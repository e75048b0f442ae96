// The definition of a model's fingerprint, kept by a value that was computed apart (Python's
// hashlib).

#include "engine/checkpoint/model_fingerprint.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mambad::checkpoint {
namespace {

std::vector<std::byte> Pattern(size_t size) {
  std::vector<std::byte> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * i / 7);
  return bytes;
}

TEST(ModelFingerprint, IsTheDefinition) {
  const std::vector<std::byte> a = Pattern(24), b = Pattern((size_t{8} << 20) + 5);
  const std::vector<FingerprintedTensor> tensors = {
      {"b.weight", "Q8_0", {3, 1, int64_t{1} << 40}, b},
      {"a.weight", "F32", {2, 3}, a},
      {"c", "BF16", {}, {}}};
  EXPECT_EQ(ModelFingerprint("{\"a\":1}", tensors),
            "89ccf1c6046733067ef2d4b53491f1024afbb4289cf0d6dd6913aa102148e380");
}

TEST(ModelFingerprint, EveryByteCounts) {
  std::vector<std::byte> data = Pattern(size_t{20} << 20);
  const auto fingerprint = [&] { return ModelFingerprint("", {{"w", "F32", {5 << 20}, data}}); };
  const std::string first = fingerprint();
  EXPECT_EQ(fingerprint(), first);
  for (const size_t at : {size_t{0}, size_t{5000}, data.size() / 2, data.size() - 1}) {
    data[at] ^= std::byte{1};
    EXPECT_NE(fingerprint(), first) << at;
    data[at] ^= std::byte{1};
  }
  EXPECT_NE(ModelFingerprint(" ", {{"w", "F32", {5 << 20}, data}}), first);
  EXPECT_NE(ModelFingerprint("", {{"v", "F32", {5 << 20}, data}}), first);
  EXPECT_NE(ModelFingerprint("", {{"w", "F16", {5 << 20}, data}}), first);
  EXPECT_NE(ModelFingerprint("", {{"w", "F32", {5, 1 << 20}, data}}), first);
}

}  // namespace
}  // namespace mambad::checkpoint
