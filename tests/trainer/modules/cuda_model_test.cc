// Whole models on a CUDA device against the same models on the CPU: logits, gradients, decoding.
// What compares is skipped where there is no such device.

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/formula_models.h"
#include "tests/support/model_directory.h"
#include "tests/trainer/modules/batches.h"
#include "trainer/modules/decode_state.h"
#include "trainer/modules/language_model.h"
#include "trainer/modules/random_values.h"

namespace mambad::trainer::testing {
namespace {

using at::Tensor;
using checkpoint::Parameter;
using mambad::testing::FormulaTokens;
using mambad::testing::TemporaryDirectory;

struct Pass {
  Tensor logits;                  // fp64 on the CPU
  std::vector<Tensor> gradients;  // of every parameter, likewise
  std::vector<std::string> names;
};

// Relative distances: of kLogits, of all gradients together, of each parameter's gradient.
using Errors = std::map<std::string, double>;
constexpr char kLogits[] = "logits", kGradients[] = "all gradients";

bool IsWhole(const std::string& name) { return name == kLogits || name == kGradients; }

double Distance(const Tensor& found, const Tensor& truth) {
  return ((found - truth).norm() / truth.norm()).item<double>();
}

Errors ErrorsOf(const Pass& found, const Pass& truth) {
  Errors errors = {{kLogits, Distance(found.logits, truth.logits)}};
  double error = 0, size = 0;
  for (size_t i = 0; i < truth.gradients.size(); ++i) {
    errors[truth.names[i]] = Distance(found.gradients[i], truth.gradients[i]);
    error += (found.gradients[i] - truth.gradients[i]).square().sum().item<double>();
    size += truth.gradients[i].square().sum().item<double>();
  }
  errors[kGradients] = std::sqrt(error / size);
  return errors;
}

// Of each number.
Errors Median(const std::vector<Errors>& all) {
  Errors medians;
  for (const auto& [name, first] : all[0]) {
    std::vector<double> values;
    for (const Errors& errors : all) values.push_back(errors.at(name));
    std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
    medians[name] = values[values.size() / 2];
  }
  return medians;
}

class FormulaModelPasses : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const auto model = mambad::testing::MakeFormulaModel(GetParam());
    // Weights that bf16 holds: what differs is the arithmetic.
    model.directory.Write(folder_.path(), mambad::testing::StoredAs::kBFloat16);
    vocabulary_ = model.vocabulary;
  }

  std::unique_ptr<LanguageModel> Load(at::Device device, at::ScalarType type) const {
    return LanguageModel::Load(folder_.path(), device, type);
  }

  // Two rows of other tokens for each `batch`.
  std::vector<Documents> Rows(uint64_t batch) const {
    const std::vector<int32_t> all = FormulaTokens(200, vocabulary_, batch);
    const auto part = [&](int begin, int count) {
      return std::vector<int32_t>(all.begin() + begin, all.begin() + begin + count);
    };
    return {{part(0, 67), part(20, 1), part(5, 43)}, {part(40, 111)}};
  }

  // Forward and backward.
  Pass Run(uint64_t batch, LanguageModel* model) const {
    model->SetTrained([](const Parameter&) { return true; });
    const Tensor hidden = model->Hidden(PackedRows(Rows(batch), model->device())).flatten(0, 1);
    const Tensor logits = at::mm(hidden, model->Head().t());
    const Tensor slopes = (at::arange(logits.numel(), at::kFloat) * 0.7).sin().view(logits.sizes());
    (logits.to(at::kFloat) * slopes.to(model->device())).sum().backward();
    Pass pass = {logits.detach().to(at::kCPU, at::kDouble), {}, {}};
    for (const ModelParameter& parameter : model->parameters()) {
      pass.names.push_back(parameter.description.name);
      pass.gradients.push_back(parameter.value.grad().to(at::kCPU, at::kDouble));
    }
    return pass;
  }
  Pass Truth(uint64_t batch) const { return Run(batch, Load(at::kCPU, at::kDouble).get()); }

  // With every weight 2^-9 of itself up or down, the root mean square of a rounding to bf16.
  Pass Moved(uint64_t batch) const {
    const auto model = Load(at::kCPU, at::kDouble);
    for (const ModelParameter& parameter : model->parameters()) {
      const Tensor signs =
          UniformValues(parameter.value.sizes().vec(), -1, 1, batch, parameter.description.name)
              .sign();
      Tensor(parameter.value).mul_(1 + std::ldexp(1.0, -9) * signs);
    }
    return Run(batch, model.get());
  }

  // What the model itself moves by in each batch when its weights do: the measure of what bf16 may
  // be off by. No number would fit all models, nor all batches: behind a norm over few channels a
  // gradient is the small rest of what the norm takes away, and one token whose channels are nearly
  // zero can rule a batch.
  std::vector<Errors> Movements(const std::vector<Pass>& truths) const {
    std::vector<Errors> moved;
    for (uint64_t batch = 0; batch < truths.size(); ++batch) {
      moved.push_back(ErrorsOf(Moved(batch), truths[batch]));
    }
    return moved;
  }

  std::vector<Pass> Truths() const {
    std::vector<Pass> truths;
    for (uint64_t batch = 0; batch < kBatches; ++batch) truths.push_back(Truth(batch));
    return truths;
  }

  static constexpr uint64_t kBatches = 27;
  // In the median of all batches. The same models in fp64 with what each operation makes rounded to
  // bf16, forward and backward, are off by 0.87 to 1.13 of what they move by as a whole (Mamba and
  // hybrids), by up to 1.3 in a parameter.
  static constexpr double kWhole = 1.25, kOneParameter = 2;
  static double Bound(const std::string& name) { return IsWhole(name) ? kWhole : kOneParameter; }
  TemporaryDirectory folder_;
  int vocabulary_ = 0;
};

// A bound that a wrong kernel passes says nothing on a GPU: this runs everywhere. Gradients that
// are off by 35 % are found, and one parameter's that is missing.
TEST_P(FormulaModelPasses, BoundsOfBFloat16ShowFaults) {
  for (const auto& [name, moved] : Median(Movements(Truths()))) {
    EXPECT_LT(moved * Bound(name), IsWhole(name) ? 0.35 : 0.9) << name;
    EXPECT_GT(moved * Bound(name), std::ldexp(1.0, -9)) << name;
  }
}

class CudaModel : public FormulaModelPasses {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device";
    FormulaModelPasses::SetUp();
  }

  Errors ErrorsOnDevice(at::ScalarType type, bool recompute, uint64_t batch,
                        const Pass& truth) const {
    const auto model = Load(at::Device(at::kCUDA, 0), type);
    model->SetRecompute(recompute);
    return ErrorsOf(Run(batch, model.get()), truth);
  }
};

TEST_P(CudaModel, AgreesWithTheCpu) {
  const Pass truth = Truth(0);
  for (const bool recompute : {false, true}) {
    SCOPED_TRACE(recompute ? "recomputed" : "kept");
    const Errors errors = ErrorsOnDevice(at::kFloat, recompute, 0, truth);
    EXPECT_LE(errors.at(kLogits), 1e-5);
    EXPECT_LE(errors.at(kGradients), 1e-4);
  }
}

TEST_P(CudaModel, RoundsNoMoreThanBFloat16Does) {
  const std::vector<Pass> truths = Truths();
  const std::vector<Errors> moved = Movements(truths);
  for (const bool recompute : {false, true}) {
    SCOPED_TRACE(recompute ? "recomputed" : "kept");
    std::vector<Errors> shares;  // of what the model moves by in that batch
    for (uint64_t batch = 0; batch < truths.size(); ++batch) {
      Errors errors = ErrorsOnDevice(at::kBFloat16, recompute, batch, truths[batch]);
      for (auto& [name, error] : errors) {
        EXPECT_TRUE(std::isfinite(error)) << name;  // a median would not tell
        error /= moved[batch].at(name);
      }
      shares.push_back(std::move(errors));
    }
    for (const auto& [name, share] : Median(shares)) EXPECT_LE(share, Bound(name)) << name;
  }
}

TEST_P(CudaModel, DecodesAsItReads) {
  at::NoGradGuard no_grad;
  const at::Device device(at::kCUDA, 0);
  const auto model = Load(device, at::kFloat);
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

// Dynamic scaling is the CPU's.
std::vector<std::string> ModelsOfTheDevice() {
  std::vector<std::string> names = mambad::testing::FormulaModelNames();
  std::erase(names, "llama_dynamic");
  return names;
}

INSTANTIATE_TEST_SUITE_P(Formula, FormulaModelPasses,
                         ::testing::ValuesIn(mambad::testing::FormulaModelNames()),
                         [](const auto& info) { return info.param; });
INSTANTIATE_TEST_SUITE_P(Formula, CudaModel, ::testing::ValuesIn(ModelsOfTheDevice()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace mambad::trainer::testing
