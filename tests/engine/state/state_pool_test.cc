// Slots and pages by themselves: what lies where, what is zeroed and copied, who holds which page.

#include "engine/state/state_pool.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/broken_backend.h"

namespace mambad::testing {
namespace {

using checkpoint::MixerKind;
using ::testing::Each;

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

TEST_F(StatePoolTest, AcquireZeroesOneSlotInOneFill) {
  Open({Mamba(), Attention(), Mamba2()});
  for (int slot = 0; slot < kSlots; ++slot) FillSlot(slot, 1.0f + slot);
  backend_.fills = 0;
  ASSERT_TRUE(pool_->Acquire(1, 20));
  EXPECT_EQ(backend_.fills, 1);
  EXPECT_THAT(Slot(1), Each(0.0f));
  for (int slot : {0, 2, 3}) EXPECT_THAT(Slot(slot), Each(1.0f + slot));
}

TEST_F(StatePoolTest, ForkCopiesASlotInOneCopy) {
  Open({Mamba(), Mamba2(), Mamba2()});
  for (int slot : {0, 2}) ASSERT_TRUE(pool_->Acquire(slot, 20));
  for (int slot = 0; slot < kSlots; ++slot) FillSlot(slot, 1.0f + slot);
  backend_.copies = 0;
  pool_->Fork(2, 0, 20);
  EXPECT_EQ(backend_.copies, 1);
  for (int slot : {0, 2}) EXPECT_THAT(Slot(slot), Each(3.0f));
  for (int slot : {1, 3}) EXPECT_THAT(Slot(slot), Each(1.0f + slot));
}

}  // namespace
}  // namespace mambad::testing
