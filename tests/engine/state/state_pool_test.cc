// Slots and pages by themselves: what lies where, what is zeroed and copied, who holds which page.

#include "engine/state/state_pool.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/engine/broken_backend.h"

namespace mambad::testing {
namespace {

using checkpoint::MixerKind;
using ::testing::Each;
using ::testing::ElementsAreArray;

// Counts what a pool asks for.
class CountingBackend : public BrokenBackend {
 public:
  CountingBackend() : BrokenBackend(kernels::CreateCpuBackend({.threads = 1}), Fault::kNone) {}
  void Copy(void* to, const void* from, size_t bytes) override {
    ++copies;
    BrokenBackend::Copy(to, from, bytes);
  }
  void Fill(float* device, float value, size_t count) override {
    ++fills;
    BrokenBackend::Fill(device, value, count);
  }
  int copies = 0, fills = 0;
};

constexpr int kHeads = 2, kHeadWidth = 4;
constexpr int64_t kPageFloats = kHeads * kHeadWidth * kernels::kPageTokens;

Block Attention() {
  Block block;
  block.mixer = MixerKind::kAttention;
  block.attention.query_heads = block.attention.key_value_heads = kHeads;
  block.attention.head_width = kHeadWidth;
  return block;
}
Block Mamba() {
  Block block;
  block.mixer = MixerKind::kMamba;
  block.mamba.inner_width = 48;
  block.mamba.state_size = 8;
  block.mamba.dt_rank = 3;
  return block;
}
Block Mamba2() {
  Block block;
  block.mixer = MixerKind::kMamba2;
  block.mamba2.inner_width = 32;
  block.mamba2.state_size = 8;
  block.mamba2.heads = 2;
  return block;
}

class StatePoolTest : public ::testing::Test {
 protected:
  static constexpr int kSlots = 4;

  void Open(std::vector<Block> blocks, int64_t cache_tokens = 512) {
    blocks_ = std::move(blocks);
    StatePoolShape shape;
    shape.slots = kSlots;
    shape.max_context = 256;
    shape.cache_tokens = cache_tokens;
    shape.window_rows = 3;
    pool_ = std::make_unique<StatePool>(blocks_, shape, backend_);
  }
  std::vector<std::byte> ImageOf(int slot, int64_t fed, int replay) {
    std::vector<std::byte> image(static_cast<size_t>(pool_->image_size().Bytes(fed, replay)));
    pool_->Save(slot, fed, replay, image.data());
    return image;
  }
  // Every number of a slot's recurrent memory becomes `value`.
  void FillSlot(int slot, float value) {
    for (size_t i = 0; i < blocks_.size(); ++i) {
      const kernels::RecurrentState& state = pool_->recurrent(i);
      if (state.data != nullptr) std::fill_n(state.slot(slot), state.layout.floats, value);
    }
  }
  std::vector<float> Slot(int slot) const {
    std::vector<float> numbers;
    for (size_t i = 0; i < blocks_.size(); ++i) {
      const kernels::RecurrentState& state = pool_->recurrent(i);
      if (state.data == nullptr) continue;
      numbers.insert(numbers.end(), state.slot(slot), state.slot(slot) + state.layout.floats);
    }
    return numbers;
  }

  CountingBackend backend_;
  std::vector<Block> blocks_;
  std::unique_ptr<StatePool> pool_;
};

TEST_F(StatePoolTest, ASlotsLayersLieSideBySide) {
  Open({Mamba(), Attention(), Mamba2(), Mamba()});
  const float* at = pool_->recurrent(0).data;
  int64_t floats = 0;
  for (size_t i : {0, 2, 3}) {
    const kernels::RecurrentState& state = pool_->recurrent(i);
    EXPECT_EQ(state.data, at + floats);
    EXPECT_EQ(state.slot_stride, pool_->recurrent(0).slot_stride);
    floats += state.layout.floats;
  }
  EXPECT_EQ(pool_->recurrent(0).slot_stride, floats);
  EXPECT_EQ(pool_->recurrent_bytes_per_slot(), floats * 4);
  EXPECT_EQ(pool_->recurrent(1).data, nullptr);
}

TEST_F(StatePoolTest, AnAcquiredSlotIsZeroedInOneFillBeforeItRuns) {
  Open({Mamba(), Attention(), Mamba2()});
  for (int slot = 0; slot < kSlots; ++slot) FillSlot(slot, 1.0f + slot);
  backend_.fills = 0;
  ASSERT_TRUE(pool_->Acquire(1, 20));
  pool_->Upload();
  pool_->Upload();
  EXPECT_EQ(backend_.fills, 1);
  EXPECT_THAT(Slot(1), Each(0.0f));
  for (int slot : {0, 2, 3}) EXPECT_THAT(Slot(slot), Each(1.0f + slot));
}

TEST_F(StatePoolTest, ForkCopiesASlotInOneCopy) {
  Open({Mamba(), Mamba2(), Mamba2()});
  for (int slot : {0, 2}) ASSERT_TRUE(pool_->Acquire(slot, 20));
  pool_->Upload();
  for (int slot = 0; slot < kSlots; ++slot) FillSlot(slot, 1.0f + slot);
  backend_.copies = 0;
  pool_->Fork(2, 0, 20);
  EXPECT_EQ(backend_.copies, 1);
  for (int slot : {0, 2}) EXPECT_THAT(Slot(slot), Each(3.0f));
  for (int slot : {1, 3}) EXPECT_THAT(Slot(slot), Each(1.0f + slot));
}

TEST_F(StatePoolTest, WhatIsCopiedOverIsNotZeroedFirst) {
  Open({Mamba(), Mamba2()});
  for (int slot = 0; slot < kSlots; ++slot) FillSlot(slot, 1.0f + slot);
  ASSERT_TRUE(pool_->Acquire(1, 20));
  pool_->Upload();
  FillSlot(1, 9.0f);
  const std::vector<std::byte> image = ImageOf(1, 20, 1);
  backend_.fills = 0;
  for (int slot : {0, 2}) ASSERT_TRUE(pool_->Acquire(slot, 20));
  pool_->Restore(0, 20, 1, image.data());
  pool_->Fork(1, 2, 20);
  pool_->Upload();
  EXPECT_EQ(backend_.fills, 0);
  EXPECT_THAT(Slot(2), Each(9.0f));
  EXPECT_THAT(ImageOf(0, 20, 1), ElementsAreArray(image));

  // A text that has just begun has no inputs before it.
  ASSERT_TRUE(pool_->Acquire(3, 20));
  pool_->Restore(3, 1, 0, image.data());
  EXPECT_EQ(backend_.fills, 1);
}

// An image is written into memory of others: nothing of theirs stays, also where a short text has
// no inputs.
TEST_F(StatePoolTest, AnImageIsWrittenWhole) {
  Open({Mamba(), Mamba2()});
  ASSERT_TRUE(pool_->Acquire(1, 20));
  pool_->Upload();
  FillSlot(1, 9.0f);
  const auto bytes = static_cast<size_t>(pool_->image_size().Bytes(1, 0));
  std::vector<std::byte> image(bytes, std::byte{0}), other(bytes, std::byte{0xff});
  pool_->Save(1, 1, 0, image.data());
  pool_->Save(1, 1, 0, other.data());
  EXPECT_THAT(other, ElementsAreArray(image));
}

// Of a slot that never ran nothing of who had it before is kept.
TEST_F(StatePoolTest, WhatIsSavedOrForkedBeforeItRunsIsZero) {
  Open({Mamba(), Mamba2()});
  for (int slot = 0; slot < kSlots; ++slot) FillSlot(slot, 1.0f);
  for (int slot : {0, 1, 2}) ASSERT_TRUE(pool_->Acquire(slot, 20));
  EXPECT_THAT(ImageOf(0, 0, 0), Each(std::byte{0}));
  pool_->Fork(1, 2, 0);
  EXPECT_THAT(Slot(2), Each(0.0f));
}

// ---- pages

class PagesOfSlots : public StatePoolTest {
 protected:
  std::vector<int32_t> Pages(int slot, int64_t count) const {
    pool_->Upload();
    const int32_t* row = pool_->page_table() + slot * pool_->pages_per_sequence();
    return std::vector<int32_t>(row, row + count);
  }
  // A page's keys and values in the attention layers become `value`, and come back.
  void FillPage(int32_t page, float value) {
    ForEachPart(page, [&](float* part) { std::fill_n(part, kPageFloats, value); });
  }
  std::vector<float> Page(int32_t page) {
    std::vector<float> numbers;
    ForEachPart(page,
                [&](float* part) { numbers.insert(numbers.end(), part, part + kPageFloats); });
    return numbers;
  }

 private:
  template <typename Visit>
  void ForEachPart(int32_t page, const Visit& visit) {
    for (size_t i = 0; i < blocks_.size(); ++i) {
      const kernels::KeyValueState& state = pool_->key_values(i);
      if (state.keys == nullptr) continue;
      visit(reinterpret_cast<float*>(state.keys) + page * kPageFloats);
      visit(reinterpret_cast<float*>(state.values) + page * kPageFloats);
    }
  }
};

TEST_F(PagesOfSlots, AForkSharesFullPagesAndCopiesTheOneBegun) {
  for (const bool announced : {true, false}) {
    for (const int64_t positions : {0, 1, 15, 16, 17, 31, 32, 33, 48, 79, 80}) {
      SCOPED_TRACE(positions);
      Open({Attention(), Mamba(), Attention()});
      const int64_t total = pool_->pages_total();
      ASSERT_TRUE(pool_->Acquire(2, 80));
      ASSERT_TRUE(pool_->Acquire(1, 70, announced ? positions : 0));
      const int64_t shared = std::min<int64_t>(positions / kernels::kPageTokens, 5);
      EXPECT_EQ(pool_->cache_size().PagesShared(positions), shared);
      EXPECT_EQ(pool_->pages_free(), total - 10 + (announced ? shared : 0));
      for (const int32_t page : Pages(2, 5)) FillPage(page, 100.0f + page);
      const std::vector<int32_t> own = Pages(1, 5);
      for (int64_t i = announced ? shared : 0; i < 5; ++i) FillPage(own[i], -1);

      backend_.copies = 0;
      pool_->Fork(2, 1, positions);
      const bool begun = positions % kernels::kPageTokens > 0;
      EXPECT_EQ(backend_.copies, 1 + (begun ? 4 : 0));
      EXPECT_EQ(pool_->pages_free(), total - 10 + shared);
      const std::vector<int32_t> from = Pages(2, 5), to = Pages(1, 5);
      for (int64_t i = 0; i < 5; ++i) {
        EXPECT_EQ(to[i] == from[i], i < shared) << i;
        EXPECT_TRUE(i < shared || to[i] == own[i]) << i;
        const bool copied = i == shared && begun;
        EXPECT_THAT(Page(to[i]), Each(i < shared || copied ? 100.0f + from[i] : -1)) << i;
        EXPECT_THAT(Page(from[i]), Each(100.0f + from[i])) << i;
      }
    }
  }
}

// Samples end in every order; a page is free when its last holder has gone, and not before.
TEST_F(PagesOfSlots, APageIsFreeWhenItsLastHolderHasGone) {
  std::vector<int> order = {0, 1, 2};
  do {
    Open({Attention()});
    const int64_t total = pool_->pages_total();
    ASSERT_TRUE(pool_->Acquire(0, 80));
    for (const int slot : {1, 2}) ASSERT_TRUE(pool_->Acquire(slot, 100, 50));
    for (const int slot : {1, 2}) pool_->Fork(0, slot, 50);
    std::vector<int64_t> held = {5, 7, 7};  // of them 3 together
    int64_t used = 3 + 2 + 4 + 4;
    EXPECT_EQ(pool_->pages_free(), total - used);
    for (size_t i = 0; i < 3; ++i) {
      pool_->Release(order[i]);
      used -= held[order[i]] - (i < 2 ? 3 : 0);
      EXPECT_EQ(pool_->pages_free(), total - used);
      if (i == 2) break;
      // What is handed out now is nobody's.
      ASSERT_TRUE(pool_->Acquire(3, 256));
      std::vector<int32_t> taken = Pages(3, 16);
      for (size_t rest = i + 1; rest < 3; ++rest) {
        for (const int32_t page : Pages(order[rest], held[order[rest]]))
          EXPECT_EQ(std::count(taken.begin(), taken.end(), page), 0);
      }
      pool_->Release(3);
    }
    EXPECT_EQ(pool_->pages_free(), total);
    // All of them, each once.
    for (const int slot : {0, 1}) ASSERT_TRUE(pool_->Acquire(slot, 256));
    std::vector<int32_t> all = Pages(0, 16);
    for (const int32_t page : Pages(1, 16)) all.push_back(page);
    std::sort(all.begin(), all.end());
    for (int32_t page = 0; page < total; ++page) EXPECT_EQ(all[page], page);
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST_F(PagesOfSlots, ASlotThatWasNeverForkedReturnsWhatItTook) {
  Open({Attention(), Mamba()});
  const int64_t total = pool_->pages_total();
  ASSERT_TRUE(pool_->Acquire(0, 200, 100));
  EXPECT_EQ(pool_->pages_free(), total - 7);
  EXPECT_TRUE(pool_->Reaches(0, 208));
  EXPECT_FALSE(pool_->Reaches(0, 209));
  ASSERT_TRUE(pool_->Extend(0, 209));
  EXPECT_EQ(pool_->pages_free(), total - 8);
  pool_->Release(0);
  EXPECT_EQ(pool_->pages_free(), total);
}

TEST_F(PagesOfSlots, WhatIsTooMuchChangesNothing) {
  Open({Attention()}, 160);
  ASSERT_TRUE(pool_->Acquire(0, 100));
  EXPECT_FALSE(pool_->Acquire(1, 100, 40));
  EXPECT_EQ(pool_->pages_free(), 3);
  EXPECT_FALSE(pool_->Reaches(1, 1));
  ASSERT_TRUE(pool_->Acquire(1, 80, 40));
  EXPECT_EQ(pool_->pages_free(), 0);
  EXPECT_FALSE(pool_->Extend(1, 81));
  pool_->Release(1);
  EXPECT_EQ(pool_->pages_free(), 3);
}

}  // namespace
}  // namespace mambad::testing
