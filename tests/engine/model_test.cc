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

constexpr double kFloat32Tolerance = 1e-5,  // relative L2 of each row of logits
    kBFloat16Tolerance = 1e-2;              // the same where activations are rounded: of a mean row

// How far rows of logits may be from the truth.
struct Tolerance {
  double distance;
  bool of_mean;  // the rows' mean is held to it, not each row
};
constexpr Tolerance kExact = {kFloat32Tolerance, false}, kRounded = {kBFloat16Tolerance, true};

// Of bf16 weights, where the CPU leaves activations as they are.
Tolerance OfBFloat16Weights() { return OnCpu() ? kExact : kRounded; }

double Distance(const LogitRow& row, const TruthRow& truth) {
  double error = 0, size = 0;
  for (size_t i = 0; i < truth.size(); ++i) {
    error += (row[i] - truth[i]) * (row[i] - truth[i]);
    size += truth[i] * truth[i];
  }
  return std::sqrt(error / size);
}

// Rows within `tolerance`, and the greedy choice equal unless the truth's two best are closer than
// the tolerance.
void ExpectClose(const std::vector<LogitRow>& rows, const std::vector<TruthRow>& truth,
                 const Tolerance& tolerance, int vocabulary) {
  ASSERT_LE(rows.size(), truth.size());
  double sum = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    ASSERT_EQ(rows[i].size(), truth[i].size());
    const double distance = Distance(rows[i], truth[i]);
    if (!tolerance.of_mean) {
      ASSERT_LE(distance, tolerance.distance) << "position " << i << " of " << rows.size();
    }
    sum += distance;
    const auto best = std::max_element(truth[i].begin(), truth[i].begin() + vocabulary);
    const auto chosen =
        std::max_element(rows[i].begin(), rows[i].begin() + vocabulary) - rows[i].begin();
    double size = 0;
    for (const double logit : truth[i]) size += logit * logit;
    if (*best - truth[i][chosen] > 2 * tolerance.distance * std::sqrt(size)) {
      EXPECT_EQ(chosen, best - truth[i].begin()) << "position " << i;
    }
  }
  EXPECT_LE(sum, tolerance.distance * rows.size()) << "of " << rows.size() << " rows";
}

// The same bits as the first rows of `whole`.
void ExpectBeginningOf(const std::vector<LogitRow>& whole, const std::vector<LogitRow>& rows) {
  ASSERT_LE(rows.size(), whole.size());
  for (size_t i = 0; i < rows.size(); ++i) ASSERT_EQ(rows[i], whole[i]) << "position " << i;
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
// length up to 130; invariant 3: reading a part of it, from a fresh start and in chunks of every
// kind, gives the same bits.
TEST_P(EveryLayout, AgreesWithTheOracle) {
  for (const StoredAs stored : {StoredAs::kFloat32, StoredAs::kBFloat16}) {
    SCOPED_TRACE(stored == StoredAs::kFloat32 ? "float32" : "bfloat16");
    Write(stored);
    const std::vector<int32_t> tokens = FormulaTokens(130, vocabulary_);
    const auto runner = Load({});
    ASSERT_NE(runner, nullptr);
    EXPECT_EQ(runner->model().weights().type(), stored == StoredAs::kFloat32
                                                    ? kernels::ElementType::kFloat32
                                                    : kernels::ElementType::kBFloat16);
    const std::vector<LogitRow> rows = runner->Read(0, tokens, 130);
    ExpectClose(rows, Truth(tokens), stored == StoredAs::kFloat32 ? kExact : OfBFloat16Weights(),
                vocabulary_);
    for (const int chunk : {1, 17}) {
      SCOPED_TRACE(chunk);
      ExpectBeginningOf(rows, runner->Read(0, tokens, chunk));
    }
    for (int length = 1; length <= 40 && !HasFatalFailure(); ++length) {
      SCOPED_TRACE(length);
      const std::vector<int32_t> prompt(tokens.begin(), tokens.begin() + length);
      ExpectBeginningOf(rows, runner->Read(length % 4, prompt, 1 + length * 7 % 23));
    }
  }
}

TEST_P(EveryLayout, ReadsHalfPrecisionAndShards) {
  Write(StoredAs::kFloat16, 3);
  const std::vector<int32_t> tokens = FormulaTokens(30, vocabulary_);
  const auto runner = Load({.type = ComputeType::kFloat32});
  ASSERT_NE(runner, nullptr);
  ExpectClose(runner->Read(0, tokens, 30), Truth(tokens), kExact, vocabulary_);
}

// A float32 file as bf16: its matrices are rounded to nearest even, what must stay float32 stays.
TEST_P(EveryLayout, RoundsMatricesOnlyWhenAskedForBFloat16) {
  Write(StoredAs::kFloat32);
  const std::vector<int32_t> tokens = FormulaTokens(40, vocabulary_);
  const auto runner = Load({.type = ComputeType::kBFloat16});
  ASSERT_NE(runner, nullptr);
  EXPECT_EQ(runner->model().weights().type(), kernels::ElementType::kBFloat16);
  ExpectClose(runner->Read(0, tokens, 40), Truth(tokens, {.bfloat16_matrices = true}),
              OfBFloat16Weights(), vocabulary_);
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
  ExpectClose(runner->Read(0, tokens, 40), Truth(tokens), kRounded, vocabulary_);
}

INSTANTIATE_TEST_SUITE_P(Formula, EveryLayout, ::testing::ValuesIn(FormulaModelNames()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace mambad::testing
