// Whole models against the double precision oracle: every family and layout, every stored type,
// every compute type. Tolerances are those of the design's page on models; on the CPU activations
// are float32, so that bf16 weights, exact in both, meet the float32 tolerance too.

#include "engine/model/model.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/model_runner.h"
#include "tests/engine/tested_device.h"
#include "tests/support/formula_models.h"
#include "tests/support/model_directory.h"
#include "tests/support/oracle.h"

namespace mambad::testing {
namespace {

using oracle::Oracle;
using oracle::OracleOptions;
using TruthRow = std::vector<double>;

constexpr double kFloat32Tolerance = 1e-5,
                 kBFloat16Tolerance = 1e-2;  // relative L2 of a row of logits

// Of bf16 weights with activations as they are, of which a row has no more than four times the
// average's error where they are rounded.
double BFloat16WeightsTolerance() { return OnCpu() ? kFloat32Tolerance : 4 * kBFloat16Tolerance; }

double Distance(const LogitRow& row, const TruthRow& truth) {
  double error = 0, size = 0;
  for (size_t i = 0; i < truth.size(); ++i) {
    error += (row[i] - truth[i]) * (row[i] - truth[i]);
    size += truth[i] * truth[i];
  }
  return std::sqrt(error / size);
}

// Every row within `tolerance`, and the greedy choice equal unless the truth's two best are closer
// than the tolerance.
void ExpectClose(const std::vector<LogitRow>& rows, const std::vector<TruthRow>& truth,
                 double tolerance, int vocabulary) {
  ASSERT_LE(rows.size(), truth.size());
  double worst = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    ASSERT_EQ(rows[i].size(), truth[i].size());
    const double distance = Distance(rows[i], truth[i]);
    ASSERT_LE(distance, tolerance) << "position " << i << " of " << rows.size();
    worst = std::max(worst, distance);
    const auto best = std::max_element(truth[i].begin(), truth[i].begin() + vocabulary);
    const auto chosen =
        std::max_element(rows[i].begin(), rows[i].begin() + vocabulary) - rows[i].begin();
    double size = 0;
    for (const double logit : truth[i]) size += logit * logit;
    if (*best - truth[i][chosen] > 2 * tolerance * std::sqrt(size)) {
      EXPECT_EQ(chosen, best - truth[i].begin()) << "position " << i;
    }
  }
  ::testing::Test::RecordProperty("worst_distance", std::to_string(worst));
}

class EveryLayout : public ::testing::TestWithParam<std::string> {
 protected:
  void Write(StoredAs stored, int shards = 1) {
    const FormulaModel model = MakeFormulaModel(GetParam());
    vocabulary_ = model.vocabulary;
    model.directory.Write(folder_.path(), stored, shards);
  }
  std::vector<TruthRow> Truth(const std::vector<int32_t>& tokens,
                              const OracleOptions& options = {}) {
    const auto truth = Oracle::Open(folder_.path(), options);
    EXPECT_TRUE(truth.ok()) << truth.status();
    return (*truth)->Logits(tokens);
  }
  std::unique_ptr<ModelRunner> Load(const RunnerOptions& options) {
    auto runner = ModelRunner::Open(folder_.path(), options);
    EXPECT_TRUE(runner.ok()) << runner.status();
    return runner.ok() ? *std::move(runner) : nullptr;
  }

  TemporaryDirectory folder_;
  int vocabulary_ = 0;
};

// The logits of a row depend on the tokens up to it only, so that one sequence of 130 tests every
// length up to 130; reading from a fresh start in chunks of every kind tests that chunking makes no
// difference beyond the tolerance.
TEST_P(EveryLayout, AgreesWithTheOracle) {
  for (const StoredAs stored : {StoredAs::kFloat32, StoredAs::kBFloat16}) {
    SCOPED_TRACE(stored == StoredAs::kFloat32 ? "float32" : "bfloat16");
    Write(stored);
    const std::vector<int32_t> tokens = FormulaTokens(130, vocabulary_);
    const std::vector<TruthRow> truth = Truth(tokens);
    const double tolerance =
        stored == StoredAs::kFloat32 ? kFloat32Tolerance : BFloat16WeightsTolerance();
    const auto runner = Load({});
    ASSERT_NE(runner, nullptr);
    EXPECT_EQ(runner->model().weights().type(), stored == StoredAs::kFloat32
                                                    ? kernels::ElementType::kFloat32
                                                    : kernels::ElementType::kBFloat16);
    for (const int chunk : {130, 1, 17}) {
      SCOPED_TRACE(chunk);
      ExpectClose(runner->Read(0, tokens, chunk), truth, tolerance, vocabulary_);
      if (HasFatalFailure()) return;
    }
    for (int length = 1; length <= 40; ++length) {
      SCOPED_TRACE(length);
      const std::vector<int32_t> prompt(tokens.begin(), tokens.begin() + length);
      ExpectClose(runner->Read(length % 4, prompt, 1 + length * 7 % 23), truth, tolerance,
                  vocabulary_);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(EveryLayout, ReadsHalfPrecisionAndShards) {
  Write(StoredAs::kFloat16, 3);
  const std::vector<int32_t> tokens = FormulaTokens(30, vocabulary_);
  const auto runner = Load({.type = ComputeType::kFloat32});
  ASSERT_NE(runner, nullptr);
  ExpectClose(runner->Read(0, tokens, 30), Truth(tokens), kFloat32Tolerance, vocabulary_);
}

// A float32 file as bf16: its matrices are rounded to nearest even, what must stay float32 stays.
TEST_P(EveryLayout, RoundsMatricesOnlyWhenAskedForBFloat16) {
  Write(StoredAs::kFloat32);
  const std::vector<int32_t> tokens = FormulaTokens(40, vocabulary_);
  const auto runner = Load({.type = ComputeType::kBFloat16});
  ASSERT_NE(runner, nullptr);
  EXPECT_EQ(runner->model().weights().type(), kernels::ElementType::kBFloat16);
  ExpectClose(runner->Read(0, tokens, 40), Truth(tokens, {.bfloat16_matrices = true}),
              BFloat16WeightsTolerance(), vocabulary_);
}

// With activations rounded too (on machines that have bf16 products; elsewhere the option does
// nothing) logits stay within the tolerance of bf16.
TEST_P(EveryLayout, BFloat16ActivationsStayWithinTheirTolerance) {
  Write(StoredAs::kBFloat16);
  const std::vector<int32_t> tokens = FormulaTokens(40, vocabulary_);
  const auto runner =
      Load({.backend = {.threads = 1, .activations = kernels::ElementType::kBFloat16}});
  ASSERT_NE(runner, nullptr);
  SCOPED_TRACE(runner->device());
  const std::vector<LogitRow> rows = runner->Read(0, tokens, 40);
  const std::vector<TruthRow> truth = Truth(tokens);
  double error = 0;
  for (size_t i = 0; i < rows.size(); ++i) error += Distance(rows[i], truth[i]) / rows.size();
  EXPECT_LE(error, kBFloat16Tolerance);
}

INSTANTIATE_TEST_SUITE_P(Formula, EveryLayout, ::testing::ValuesIn(FormulaModelNames()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace mambad::testing
