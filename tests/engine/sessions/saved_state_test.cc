// Memory of states: what is counted, and what is given again when it came back.

#include "engine/sessions/saved_state.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "gtest/gtest.h"

namespace mambad::testing {
namespace {

constexpr int64_t kMegabyte = int64_t{1} << 20;

std::shared_ptr<SavedState> Make(const std::shared_ptr<HostMemory>& memory, int64_t bytes) {
  ImageSize size;
  size.fixed = bytes;
  return SavedState::Make(memory, {1, 0}, size, {}, nullptr);
}

TEST(SavedStateTest, ALargeStatesMemoryIsGivenToTheNext) {
  const auto memory = std::make_shared<HostMemory>(100 * kMegabyte);
  auto state = Make(memory, 20 * kMegabyte);
  const std::byte* const data = state->images().data();
  state.reset();
  EXPECT_EQ(memory->used(), 0);
  EXPECT_EQ(memory->spare_bytes(), 20 * kMegabyte);
  state = Make(memory, 19 * kMegabyte);
  EXPECT_EQ(state->images().data(), data);
  EXPECT_EQ(memory->used(), 19 * kMegabyte);
  EXPECT_EQ(memory->spare_bytes(), 0);
}

TEST(SavedStateTest, WhatIsSpareGivesWayToOtherSizes) {
  const auto memory = std::make_shared<HostMemory>(100 * kMegabyte);
  Make(memory, 20 * kMegabyte).reset();
  for (const int64_t other : {40 * kMegabyte, 10 * kMegabyte}) {
    const auto state = Make(memory, other);
    EXPECT_EQ(memory->spare_bytes(), 0) << other;
  }
}

TEST(SavedStateTest, NoMoreIsSpareThanThereIsRoomFor) {
  const auto memory = std::make_shared<HostMemory>(50 * kMegabyte);
  auto one = Make(memory, 20 * kMegabyte), other = Make(memory, 20 * kMegabyte);
  one.reset();
  EXPECT_EQ(memory->spare_bytes(), 20 * kMegabyte);
  other.reset();
  EXPECT_EQ(memory->spare_bytes(), 40 * kMegabyte);
  for (int i = 0; i < 3; ++i) {
    one = Make(memory, 16 * kMegabyte);
    other = Make(memory, 30 * kMegabyte);
    other.reset();
    one.reset();
    EXPECT_LE(memory->spare_bytes(), 50 * kMegabyte);
  }
}

TEST(SavedStateTest, SmallStatesLeaveNothing) {
  const auto memory = std::make_shared<HostMemory>(kMegabyte);
  Make(memory, 1000).reset();
  Make(memory, 0).reset();
  EXPECT_EQ(memory->spare_bytes(), 0);
}

}  // namespace
}  // namespace mambad::testing
