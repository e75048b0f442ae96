// What weights are computed with where nobody says, and what float16 loses by it.

#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/casts.h"
#include "engine/checkpoint/dequantise.h"
#include "engine/engine_core.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/instruction_set.h"
#include "tests/engine/model_runner.h"
#include "tests/support/checkpoint_writer.h"
#include "tests/support/formula_models.h"
#include "tests/support/model_directory.h"
#include "tests/support/oracle.h"

namespace mambad::testing {
namespace {

using oracle::Oracle;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr double kFloat32Tolerance = 1e-5;  // relative L2 of logits

class WeightType : public ::testing::TestWithParam<std::string> {
 protected:
  std::vector<std::string> WarningsOf(EngineOptions options) {
    options.model = folder_.path();
    const auto core = EngineCore::Open(options, nullptr, kernels::CreateCpuBackend({.threads = 1}));
    EXPECT_TRUE(core.ok()) << core.status();
    if (!core.ok()) return {};
    // The plan and the weights agree about the type; small matrices are padded.
    const double nominal = static_cast<double>((*core)->facts().model.weight_bytes);
    EXPECT_GE((*core)->facts().memory.weights, nominal);
    EXPECT_LT((*core)->facts().memory.weights, 1.5 * nominal);
    type_ = (*core)->facts().model.weight_type;
    return (*core)->facts().warnings;
  }
  std::string type_;  // of the model that was opened last
  TemporaryDirectory folder_;
};

// As bfloat16 these models are off by 0.6 to 1.5 %.
TEST_P(WeightType, Float16IsComputedWithAsItIs) {
  const FormulaModel model = MakeFormulaModel(GetParam());
  model.directory.Write(folder_.path(), StoredAs::kFloat16);
  const std::vector<int32_t> tokens = FormulaTokens(40, model.vocabulary);
  const auto oracle = Oracle::Open(folder_.path());
  ASSERT_TRUE(oracle.ok()) << oracle.status();
  const std::vector<std::vector<double>> truth = (*oracle)->Logits(tokens);
  const auto runner = ModelRunner::Open(folder_.path(), {});
  ASSERT_TRUE(runner.ok()) << runner.status();
  EXPECT_EQ((*runner)->model().weights().type(), kernels::ElementType::kFloat32);
  const std::vector<LogitRow> rows = (*runner)->Read(0, tokens, 40);
  double error = 0, size = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    for (size_t j = 0; j < rows[i].size(); ++j) {
      error += (rows[i][j] - truth[i][j]) * (rows[i][j] - truth[i][j]);
      size += truth[i][j] * truth[i][j];
    }
  }
  EXPECT_LE(std::sqrt(error / size), kFloat32Tolerance);
}

INSTANTIATE_TEST_SUITE_P(Formula, WeightType, ::testing::ValuesIn(FormulaModelNames()),
                         [](const auto& info) { return info.param; });

using Float16Warning = WeightType;

TEST_F(Float16Warning, TellsWhatItCostsAndTheWayOut) {
  const auto warning =
      Contains(HasSubstr(folder_.path() + ": float16 weights are computed with in"));
  MakeFormulaModel("llama_tied").directory.Write(folder_.path(), StoredAs::kFloat16);
  EXPECT_THAT(WarningsOf({}), warning);
  EXPECT_EQ(type_, "float32");
  EXPECT_THAT(WarningsOf({}), Contains(HasSubstr("compute.weight_type: bfloat16 takes half")));
  // Who names a type knows.
  EXPECT_THAT(WarningsOf({.weight_type = ComputeType::kFloat32}), Not(warning));
  EXPECT_THAT(WarningsOf({.weight_type = ComputeType::kBFloat16}), Not(warning));
  EXPECT_EQ(type_, "bfloat16");
  for (const StoredAs stored : {StoredAs::kFloat32, StoredAs::kBFloat16}) {
    MakeFormulaModel("llama_tied").directory.Write(folder_.path(), stored);
    EXPECT_THAT(WarningsOf({}), Not(warning));
  }
}

// As most files that were bfloat16 before somebody wrote them as float16.
TEST_F(Float16Warning, IsNotGivenWhereBFloat16LosesNothing) {
  const support::RandomModelOptions options;
  ModelDirectory directory;
  directory.AddFile("config.json", support::WriteConfigTexts(options).config);
  for (support::NamedTensor& tensor : support::DrawTensors(options)) {
    for (float& value : tensor.values) {
      value = absl::bit_cast<float>(uint32_t{checkpoint::RoundToBFloat16(value)} << 16);
    }
    directory.AddTensor(tensor.name, tensor.shape, std::move(tensor.values));
  }
  directory.Write(folder_.path(), StoredAs::kFloat16);
  EXPECT_THAT(WarningsOf({}), Not(Contains(HasSubstr("float16"))));
  EXPECT_EQ(type_, "bfloat16");
}

class Activations : public ::testing::Test {
 protected:
  void TearDown() override { kernels::LimitInstructionSet(kernels::kHighestInstructionSet); }

  absl::StatusOr<std::string> NumericsOf(StoredAs stored, ComputeType activations,
                                         ComputeType weight_type = ComputeType::kAuto) {
    MakeFormulaModel("hybrid_mamba2").directory.Write(folder_.path(), stored);
    EngineOptions options;
    options.model = folder_.path();
    options.activations = activations;
    options.weight_type = weight_type;
    const auto core = EngineCore::Open(options, nullptr);
    if (!core.ok()) return core.status();
    return (*core)->facts().model.numerics;
  }

  TemporaryDirectory folder_;
};

TEST_F(Activations, AreRoundedWhereTheMachineMultipliesPairsAndTheWeightsAreBFloat16) {
  const auto exact = HasSubstr("/activations-f32/"), rounded = HasSubstr("/activations-bf16/");
  for (const auto set : kernels::AvailableInstructionSets()) {
    kernels::LimitInstructionSet(set);
    const auto chosen = NumericsOf(StoredAs::kBFloat16, ComputeType::kAuto);
    ASSERT_TRUE(chosen.ok()) << chosen.status();
    const bool rounds = set >= kernels::InstructionSet::kAvx512Bfloat16;
    EXPECT_EQ(chosen->find("/activations-bf16/") != std::string::npos, rounds);
    EXPECT_THAT(*NumericsOf(StoredAs::kBFloat16, ComputeType::kFloat32), exact);
    EXPECT_THAT(*NumericsOf(StoredAs::kFloat32, ComputeType::kAuto), exact);
    if (rounds) {
      EXPECT_THAT(*NumericsOf(StoredAs::kBFloat16, ComputeType::kBFloat16), rounded);
      EXPECT_THAT(*NumericsOf(StoredAs::kFloat32, ComputeType::kAuto, ComputeType::kBFloat16),
                  rounded);
    }
  }
}

TEST_F(Activations, ThatCannotBeRoundedAreRefusedWhereTheyWereAskedFor) {
  kernels::LimitInstructionSet(kernels::AvailableInstructionSets().front());
  absl::Status status = NumericsOf(StoredAs::kBFloat16, ComputeType::kBFloat16).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("compute.activations: bfloat16 given, but this device (CPU, "),
                    HasSubstr("does not multiply pairs of bfloat16 numbers: set auto or float32")));
  kernels::LimitInstructionSet(kernels::kHighestInstructionSet);
  status = NumericsOf(StoredAs::kFloat32, ComputeType::kBFloat16).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("compute.activations: bfloat16 given, but the weights of "),
                    HasSubstr("are computed with in float32"),
                    HasSubstr("or compute.weight_type: bfloat16")));
}

}  // namespace
}  // namespace mambad::testing
