// Draws against the distribution they are of.

#include "trainer/stages/token_sampling.h"

#include <ATen/ATen.h>

#include <cmath>
#include <vector>

#include "gtest/gtest.h"

namespace mambad::trainer {
namespace {

// How often each token is drawn when the uniforms go through [0, 1) evenly.
std::vector<double> Shares(const std::vector<float>& logits, float temperature, double top_p) {
  constexpr int64_t kDraws = 20000;
  const at::Tensor row = at::tensor(logits).unsqueeze(0).expand({kDraws, -1}).contiguous();
  const at::Tensor uniforms = (at::arange(kDraws).to(at::kFloat) + 0.5) / kDraws;
  const at::Tensor drawn = DrawTokens(row, at::full({kDraws}, temperature), uniforms, top_p);
  std::vector<double> shares(logits.size());
  for (int64_t i = 0; i < kDraws; ++i) shares[drawn[i].item<int64_t>()] += 1.0 / kDraws;
  return shares;
}

TEST(DrawTokens, SharesAreTheDistributions) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.5f), std::log(0.15f),
                                     std::log(0.25f)};
  const std::vector<double> expected = {0.1, 0.5, 0.15, 0.25};
  const std::vector<double> all = Shares(logits, 1, 1.0);
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(all[i], expected[i], 2e-4) << i;
  // 0.5 + 0.25 do not reach 0.8; the next one does.
  const std::vector<double> cut = Shares(logits, 1, 0.8);
  EXPECT_EQ(cut[0], 0);
  EXPECT_NEAR(cut[1], 0.5 / 0.9, 2e-4);
  EXPECT_NEAR(cut[2], 0.15 / 0.9, 2e-4);
  EXPECT_NEAR(cut[3], 0.25 / 0.9, 2e-4);
  EXPECT_NEAR(Shares(logits, 1, 0.4)[1], 1, 1e-9);
  EXPECT_NEAR(Shares(logits, 0, 1.0)[1], 1, 1e-9);
  // Temperature 1/2: squares.
  const std::vector<double> cool = Shares(logits, 0.5, 1.0);
  const double mass = 0.01 + 0.25 + 0.0225 + 0.0625;
  EXPECT_NEAR(cool[1], 0.25 / mass, 2e-4);
  EXPECT_NEAR(cool[3], 0.0625 / mass, 2e-4);
}

// A flat distribution over many tokens: top_p lies beyond the candidates that are usually enough.
TEST(DrawTokens, FlatDistributionsAreNotCutShort) {
  const at::Tensor logits = at::zeros({1000, 4096});
  const at::Tensor uniforms = (at::arange(1000).to(at::kFloat) + 0.5) / 1000;
  const at::Tensor drawn = DrawTokens(logits, at::ones({1000}), uniforms, 0.9);
  EXPECT_GT(std::get<0>(at::_unique(drawn)).size(0), 990);
}

// Each row by its own temperature and uniform.
TEST(DrawTokens, RowsAreApart) {
  const at::Tensor logits = at::tensor({0.f, 1.f, 0.f, 1.f, 0.f, 1.f}).view({3, 2});
  const at::Tensor drawn =
      DrawTokens(logits, at::tensor({1.f, 1.f, 0.f}), at::tensor({0.1f, 0.9f, 0.1f}), 1.0);
  EXPECT_EQ(drawn[0].item<int64_t>(), 0);
  EXPECT_EQ(drawn[1].item<int64_t>(), 1);
  EXPECT_EQ(drawn[2].item<int64_t>(), 1);
}

}  // namespace
}  // namespace mambad::trainer
