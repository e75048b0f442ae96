// Whole models on a CUDA device against the same models on the CPU: logits, gradients, decoding.
// Skipped where there is no such device.

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/formula_models.h"
#include "tests/support/model_directory.h"
#include "tests/trainer/modules/batches.h"
#include "trainer/modules/decode_state.h"
#include "trainer/modules/language_model.h"

namespace mambad::trainer::testing {
namespace {

using at::Tensor;
using checkpoint::Parameter;
using mambad::testing::FormulaTokens;
using mambad::testing::TemporaryDirectory;

struct Pass {
  Tensor logits;                  // fp64 on the CPU
  std::vector<Tensor> gradients;  // of every parameter, likewise
};

class CudaModel : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device";
    const auto model = mambad::testing::MakeFormulaModel(GetParam());
    // Weights that bf16 holds: what differs is the arithmetic.
    model.directory.Write(folder_.path(), mambad::testing::StoredAs::kBFloat16);
    vocabulary_ = model.vocabulary;
  }

  std::vector<Documents> Rows() const {
    const auto part = [&](int begin, int count) {
      const std::vector<int32_t> all = FormulaTokens(200, vocabulary_);
      return std::vector<int32_t>(all.begin() + begin, all.begin() + begin + count);
    };
    return {{part(0, 67), part(20, 1), part(5, 43)}, {part(40, 111)}};
  }

  Pass Run(at::Device device, at::ScalarType type, bool recompute) const {
    const auto model = LanguageModel::Load(folder_.path(), device, type);
    model->SetTrained([](const Parameter&) { return true; });
    model->SetRecompute(recompute);
    const Tensor hidden = model->Hidden(PackedRows(Rows(), device)).flatten(0, 1);
    const Tensor logits = at::mm(hidden, model->Head().t());
    const Tensor slopes = (at::arange(logits.numel(), at::kFloat) * 0.7).sin().view(logits.sizes());
    (logits.to(at::kFloat) * slopes.to(device)).sum().backward();
    Pass pass = {logits.detach().to(at::kCPU, at::kDouble), {}};
    for (const ModelParameter& parameter : model->parameters()) {
      pass.gradients.push_back(parameter.value.grad().to(at::kCPU, at::kDouble));
    }
    return pass;
  }

  // Relative, over all parameters together.
  static double GradientDistance(const Pass& found, const Pass& truth) {
    double error = 0, size = 0;
    for (size_t i = 0; i < truth.gradients.size(); ++i) {
      error += (found.gradients[i] - truth.gradients[i]).square().sum().item<double>();
      size += truth.gradients[i].square().sum().item<double>();
    }
    return std::sqrt(error / size);
  }
  static double Distance(const Tensor& found, const Tensor& truth) {
    return ((found - truth).norm() / truth.norm()).item<double>();
  }

  TemporaryDirectory folder_;
  int vocabulary_ = 0;
};

TEST_P(CudaModel, AgreesWithTheCpu) {
  const Pass truth = Run(at::kCPU, at::kDouble, false);
  struct Case {
    at::ScalarType type;
    double logits, gradients;
  };
  for (const Case& expected : {Case{at::kFloat, 1e-5, 1e-4}, Case{at::kBFloat16, 3e-2, 6e-2}}) {
    for (const bool recompute : {false, true}) {
      SCOPED_TRACE(std::string(c10::toString(expected.type)) + (recompute ? ", recomputed" : ""));
      const Pass found = Run(at::Device(at::kCUDA, 0), expected.type, recompute);
      EXPECT_LE(Distance(found.logits, truth.logits), expected.logits);
      EXPECT_LE(GradientDistance(found, truth), expected.gradients);
    }
  }
}

TEST_P(CudaModel, DecodesAsItReads) {
  at::NoGradGuard no_grad;
  const at::Device device(at::kCUDA, 0);
  const auto model = LanguageModel::Load(folder_.path(), device, at::kFloat);
  const std::vector<int32_t> tokens = FormulaTokens(30, vocabulary_);
  const Tensor truth =
      at::mm(model->Hidden(PackedRows({{tokens}}, device))[0], model->Head().t()).to(at::kDouble);
  DecodeState state(model.get(), 2, 30);
  std::vector<Tensor> rows;
  for (const int32_t token : tokens) {
    rows.push_back(state.Step({token, state.length(0) % 2 == 0 ? -1 : token})[0].to(at::kDouble));
  }
  EXPECT_LE(Distance(at::stack(rows), truth), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Formula, CudaModel,
                         ::testing::ValuesIn(mambad::testing::FormulaModelNames()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace mambad::trainer::testing
