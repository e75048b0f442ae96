// What a backend says of itself, and its memory.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/kernels/backend/device_array.h"
#include "tests/kernels/backend/reference.h"
#include "tests/kernels/backend/tested_backend.h"

namespace mambad::kernels {
namespace {

using ::testing::AnyOf;
using ::testing::Each;
using ::testing::EndsWith;
using ::testing::Eq;
using ::testing::Gt;
using ::testing::HasSubstr;
using ::testing::Not;

class MemoryTest : public OnBackend<> {};

TEST_P(MemoryTest, AllocatesZeroesAtCacheLines) {
  for (const int64_t floats : {1, 3, 1000, 3 << 18}) {
    const DeviceArray<float> array(backend(), floats);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(array.data()) % 64, 0u);
    EXPECT_THAT(array.Read(), Each(0.0f));
  }
}

TEST_P(MemoryTest, AllocationsAreApartAndMayBeGivenBackInAnyOrder) {
  for (int round = 0; round < 3; ++round) {
    DeviceArray<float> first(backend(), {1, 2, 3}), second(backend(), {4, 5, 6});
    {
      const DeviceArray<float> moved = std::move(first);
      EXPECT_EQ(moved.Read(), Row({1, 2, 3}));
    }
    const DeviceArray<float> third(backend(), {7, 8, 9});
    EXPECT_EQ(second.Read(), Row({4, 5, 6}));
    EXPECT_EQ(third.Read(), Row({7, 8, 9}));
  }
}

TEST_P(MemoryTest, TooMuchIsRefused) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "the sanitizer ends the process instead";
#endif
  EXPECT_THROW(backend().Allocate(size_t{1} << 60), std::bad_alloc);
  EXPECT_EQ(DeviceArray<float>(backend(), {1, 2}).Read(), Row({1, 2}));  // and no more happened
}

// One call after the other, with no wait in between but for the host's own memory.
TEST_P(MemoryTest, CallsAreDoneInTheirOrder) {
  const DeviceArray<float> array(backend(), 1000);
  float* const at = array.data();
  const Row ones(1000, 1), twos(500, 2);
  Row early(1000), late(1000);
  backend().Write(at, ones.data(), 1000 * sizeof(float));
  backend().Fill(at + 10, 7, 3);
  backend().Copy(at + 500, at, 20 * sizeof(float));
  backend().Read(early.data(), at, 1000 * sizeof(float));
  backend().Write(at, twos.data(), 500 * sizeof(float));
  backend().Copy(at + 990, at + 505, 10 * sizeof(float));
  backend().Fill(at + 500, -1, 10);
  backend().Read(late.data(), at, 1000 * sizeof(float));
  backend().Synchronize();
  Row expected = ones;
  for (const int i : {10, 11, 12, 510, 511, 512}) expected[i] = 7;
  EXPECT_EQ(early, expected);
  std::copy(twos.begin(), twos.end(), expected.begin());
  for (int i = 990; i < 1000; ++i) expected[i] = i >= 995 && i < 998 ? 7 : 1;
  for (int i = 500; i < 510; ++i) expected[i] = -1;
  EXPECT_EQ(late, expected);
}

// The host's own, which numbers pass through on their way.
TEST_P(MemoryTest, HostMemoryIsTheHosts) {
  const Buffer buffer = backend().AllocateHost(1000 * sizeof(float));
  float* const numbers = buffer.as<float>();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(numbers) % 64, 0u);
  EXPECT_THAT(std::vector<float>(numbers, numbers + 1000), Each(0.0f));
  std::iota(numbers, numbers + 500, 1.0f);
  const DeviceArray<float> array(backend(), 500);
  backend().Write(array.data(), numbers, 500 * sizeof(float));
  backend().Read(numbers + 500, array.data(), 500 * sizeof(float));
  backend().Synchronize();
  EXPECT_TRUE(std::equal(numbers, numbers + 500, numbers + 500));
}

TEST_P(MemoryTest, FillsWithWhatAFloatCanBe) {
  const DeviceArray<float> array(backend(), Row(7, 5));
  backend().Fill(array.data() + 1, kNaN, 2);
  backend().Fill(array.data() + 3, -kInfinity, 1);
  backend().Fill(array.data() + 4, -0.0f, 1);
  backend().Fill(array.data() + 6, 9, 0);
  const Row read = array.Read();
  EXPECT_EQ(read[0], 5);
  EXPECT_TRUE(std::isnan(read[1]) && std::isnan(read[2]));
  EXPECT_EQ(read[3], -kInfinity);
  EXPECT_TRUE(read[4] == 0 && std::signbit(read[4]));
  EXPECT_EQ(read[5], 5);
  EXPECT_EQ(read[6], 5);
}

// Any thread asks.
TEST_P(MemoryTest, SaysHowMuchThereIs) {
  DeviceMemory here = backend().Memory(), there;
  std::thread([&] { there = backend().Memory(); }).join();
  for (const DeviceMemory& memory : {here, there}) {
    EXPECT_THAT(memory.free, AnyOf(Eq(-1), Gt(0)));
    if (memory.total >= 0) {
      EXPECT_LE(memory.free, memory.total);
    }
  }
  EXPECT_EQ(here.total, there.total);
  EXPECT_EQ(here.dedicated, there.dedicated);
}

TEST_P(MemoryTest, SaysWhatPacksOfAnySizeTake) {
  const MatrixSource zeros = {
      [](int64_t begin, int64_t end, float* out) { std::fill(out, out + (end - begin) * 37, 0); },
      [](int64_t begin, int64_t end, uint16_t* out) {
        std::fill(out, out + (end - begin) * 37, 0);
      }};
  for (const ElementType type : {ElementType::kFloat32, ElementType::kBFloat16}) {
    for (const int64_t rows : {1, 16, 33, 1000}) {
      const WeightMatrix matrix = backend().Pack(rows, 37, type, zeros);
      const auto bytes = static_cast<int64_t>(matrix.packed.bytes());
      EXPECT_EQ(backend().PackedBytes(rows, 37, type), backend().AllocatedBytes(bytes)) << rows;
      EXPECT_GE(bytes, rows * 37 * static_cast<int64_t>(ElementBytes(type)));
    }
  }
}

// All that is taken is said before: seen where a device is nobody else's.
TEST_P(MemoryTest, SaysWhatWorkspacesAndAllocationsTake) {
  WorkspaceShape shape;
  shape.max_rows = 1000;
  shape.max_logit_rows = 100;
  shape.max_sequences = 20;
  shape.width = 1000;
  shape.vocabulary = 5000;
  shape.max_projection = 3000;
  shape.max_inner = 2000;
  shape.max_selection = 300;
  shape.max_context = 4096;
  const int64_t planned = backend().WorkspaceBytes(shape);
  EXPECT_EQ(planned, backend().WorkspaceBytes(shape)) << "nothing is taken";
  EXPECT_GE(planned, 4 * (1000 * (1000 + 3000 + 2 * 2000 + 300) + 100 * (5000 + 1000)));
  constexpr int64_t kPieces = 40, kPiece = 3'000'000;
  EXPECT_GE(backend().AllocatedBytes(kPiece), kPiece);
  if (!backend().Memory().dedicated) return;
  const auto took = [&, free = backend().Memory().free] { return free - backend().Memory().free; };
  const std::unique_ptr<Workspace> workspace = backend().CreateWorkspace(shape);
  constexpr int64_t kShared = 4 << 20;  // of pieces that share a block, which may be there already
  EXPECT_LE(took(), planned + kShared);
  EXPECT_GE(took(), planned - kShared);
  std::vector<Buffer> pieces;
  for (int i = 0; i < kPieces; ++i) pieces.push_back(backend().Allocate(kPiece));
  EXPECT_LE(took(), planned + kPieces * backend().AllocatedBytes(kPiece) + kShared);
}

TEST_P(MemoryTest, SaysWhatItIs) {
  EXPECT_FALSE(backend().Description().empty());
  EXPECT_THAT(backend().Description(), Not(HasSubstr("\n")));
  for (const std::string& line : backend().Warnings()) EXPECT_THAT(line, Not(HasSubstr("\n")));
  const ElementType usual = backend().UsualKeyValues();
  const std::string wide = backend().Numerics(ElementType::kFloat32, usual),
                    narrow = backend().Numerics(ElementType::kBFloat16, usual);
  EXPECT_THAT(wide, EndsWith(usual == ElementType::kFloat32 ? "/kv-f32" : "/kv-bf16"));
  EXPECT_NE(backend().Numerics(ElementType::kFloat32, ElementType::kFloat32),
            backend().Numerics(ElementType::kFloat32, ElementType::kBFloat16));
  EXPECT_THAT(wide, HasSubstr("/weights-f32/"));
  EXPECT_THAT(narrow, HasSubstr("/weights-bf16/"));
  EXPECT_EQ(backend().Activations(ElementType::kFloat32), ElementType::kFloat32);
  const bool rounds = backend().Activations(ElementType::kBFloat16) == ElementType::kBFloat16;
  EXPECT_THAT(narrow, HasSubstr(rounds ? "/activations-bf16" : "/activations-f32"));
}

// Threads change no bit, and so are no part of the rules.
TEST_P(MemoryTest, NumericsAreTheSameForAnyNumberOfThreads) {
  for (const ElementType type : {ElementType::kFloat32, ElementType::kBFloat16}) {
    EXPECT_EQ(tested().WithThreads(1).Numerics(type, ElementType::kFloat32),
              tested().WithThreads(3).Numerics(type, ElementType::kFloat32));
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, MemoryTest, ::testing::ValuesIn(TestedVariants()),
                         NameOfVariant);

}  // namespace
}  // namespace mambad::kernels
