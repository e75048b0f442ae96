// Slots by number: who fits, what is taken of both pools, that all of it comes back.

#include "engine/state/slot_table.h"

#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"

namespace mambad::testing {
namespace {

std::vector<Block> AttentionLayers() {
  Block block;
  block.mixer = checkpoint::MixerKind::kAttention;
  block.attention.query_heads = block.attention.key_value_heads = 2;
  block.attention.head_width = 4;
  return {block};
}

// Ten pages for the target, six for the draft, three slots.
class SlotTableTest : public ::testing::Test {
 protected:
  static StatePoolShape Shape(int pages) {
    StatePoolShape shape;
    shape.slots = 3;
    shape.max_context = 10 * kernels::kPageTokens;
    shape.cache_tokens = int64_t{pages} * kernels::kPageTokens;
    return shape;
  }
  static SlotTable::Need Pages(int count, int forked = 0) {
    return {count * kernels::kPageTokens, forked * kernels::kPageTokens};
  }

  const std::unique_ptr<kernels::Backend> backend_ = kernels::CreateCpuBackend({.threads = 1});
  StatePool target_{AttentionLayers(), Shape(10), *backend_};
  StatePool draft_{AttentionLayers(), Shape(6), *backend_};
  SlotTable slots_{3, &target_, &draft_};
};

TEST_F(SlotTableTest, AllThatFitsAtOnceIsTakenAndComesBack) {
  EXPECT_EQ(slots_.total(), 3);
  EXPECT_TRUE(slots_.Fits({Pages(2), Pages(2), Pages(2)}));
  EXPECT_FALSE(slots_.Fits({Pages(1), Pages(1), Pages(1), Pages(1)})) << "there are three slots";
  EXPECT_FALSE(slots_.Fits({Pages(4), Pages(3)})) << "the draft has six pages";
  std::vector<int> taken;
  for (int i = 0; i < 3; ++i) taken.push_back(slots_.Take(Pages(2)));
  EXPECT_EQ(taken, std::vector<int>({0, 1, 2}));
  EXPECT_EQ(slots_.free(), 0);
  EXPECT_EQ(target_.pages_free(), 4);
  EXPECT_EQ(draft_.pages_free(), 0);
  for (int slot : taken) slots_.Release(slot);
  EXPECT_EQ(slots_.free(), 3);
  EXPECT_EQ(target_.pages_free(), 10);
  EXPECT_EQ(draft_.pages_free(), 6);
}

TEST_F(SlotTableTest, GrowsByWhatIsWishedOrAtLeastNeeded) {
  const int slot = slots_.Take(Pages(1));
  EXPECT_TRUE(slots_.Extend(slot, Pages(1).positions, Pages(4).positions));
  EXPECT_EQ(target_.pages_free(), 9) << "what it needed it had";
  EXPECT_TRUE(slots_.Extend(slot, Pages(2).positions, Pages(4).positions));
  EXPECT_EQ(target_.pages_free(), 6);
  EXPECT_TRUE(slots_.Extend(slot, Pages(5).positions, Pages(8).positions));
  EXPECT_EQ(target_.pages_free(), 2);
  EXPECT_EQ(draft_.pages_free(), 1) << "three more than it has were wished for";
  EXPECT_FALSE(slots_.Extend(slot, Pages(7).positions, Pages(7).positions));
}

// The draft model reads each sample's prompt for itself.
TEST_F(SlotTableTest, AForkTakesTheTargetsSharedPagesOnce) {
  EXPECT_TRUE(slots_.Fits({Pages(3), Pages(3, 2)}));
  const int first = slots_.Take(Pages(3)), second = slots_.Take(Pages(3, 2));
  EXPECT_EQ(target_.pages_free(), 6);
  EXPECT_EQ(draft_.pages_free(), 0);
  slots_.Fork(first, second, Pages(2).positions);
  EXPECT_EQ(target_.pages_free(), 6);
  slots_.Release(first);
  EXPECT_EQ(target_.pages_free(), 7) << "two are held by the other still";
  slots_.Release(second);
  EXPECT_EQ(target_.pages_free(), 10);
}

}  // namespace
}  // namespace mambad::testing
