// Rows of the tables: who has which, and what stands in them.

#include "engine/sampler.h"

#include <memory>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"

namespace mambad::testing {
namespace {

constexpr int kSlots = 4, kRows = 2, kVocabulary = 10, kPadded = 16;

class SamplerTest : public ::testing::Test {
 protected:
  void Configure(int slot, const SamplingParams& params) {
    SlotSampling sampling{params};
    sampling.prompt = prompt_;
    sampler_.Configure(slot, sampling);
    sampler_.Upload();
  }
  const kernels::SamplingState& State(int slot) const { return sampler_.tables().states[slot]; }

  const std::unique_ptr<kernels::Backend> backend_ = kernels::CreateCpuBackend({.threads = 1});
  const std::vector<TokenId> prompt_ = {1, 2};
  Sampler sampler_{kSlots, kRows, kVocabulary, kPadded, *backend_};
};

SamplingParams Penalised() {
  SamplingParams params;
  params.frequency_penalty = 1;
  return params;
}
SamplingParams Biased(TokenId id) {
  SamplingParams params;
  params.logit_bias = {{id, 5.0f}};
  return params;
}

TEST_F(SamplerTest, SlotsThatNeedNoRowsHaveNone) {
  for (int slot = 0; slot < kSlots; ++slot) {
    EXPECT_TRUE(sampler_.HasRoom({}, kSlots));
    Configure(slot, {});
    EXPECT_EQ(State(slot).counts_row, -1);
    EXPECT_EQ(State(slot).bias_row, -1);
  }
}

TEST_F(SamplerTest, RowsAreTakenAndGivenBack) {
  for (const SamplingParams& params : {Penalised(), Biased(3)}) {
    EXPECT_TRUE(sampler_.HasRoom(params, kRows));
    EXPECT_FALSE(sampler_.HasRoom(params, kRows + 1));
    std::set<int> rows;
    for (int slot : {3, 1}) {
      Configure(slot, params);
      rows.insert(std::max(State(slot).counts_row, State(slot).bias_row));
    }
    EXPECT_EQ(rows, (std::set<int>{0, 1}));
    EXPECT_FALSE(sampler_.HasRoom(params, 1));
    sampler_.Release(3);
    EXPECT_TRUE(sampler_.HasRoom(params, 1));
    EXPECT_FALSE(sampler_.HasRoom(params, 2));
    sampler_.Release(3);  // has none any longer
    EXPECT_FALSE(sampler_.HasRoom(params, 2));
    sampler_.Release(1);
    EXPECT_TRUE(sampler_.HasRoom(params, 2));
  }
}

TEST_F(SamplerTest, ARowHoldsNothingOfWhoHadItBefore) {
  Configure(0, Biased(3));
  const int row = State(0).bias_row;
  sampler_.Release(0);
  Configure(2, Biased(4));
  ASSERT_EQ(State(2).bias_row, row);
  const float* bias = sampler_.tables().bias + row * kPadded;
  for (int id = 0; id < kVocabulary; ++id) EXPECT_EQ(bias[id], id == 4 ? 5.0f : 0.0f) << id;
}

}  // namespace
}  // namespace mambad::testing
