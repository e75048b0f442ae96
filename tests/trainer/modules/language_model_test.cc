// The trainer's models against the engine, against the double precision oracle and against
// themselves: every family, layout and mixer.

#include "trainer/modules/language_model.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/model_runner.h"
#include "tests/support/formula_models.h"
#include "tests/support/model_directory.h"
#include "tests/support/oracle.h"
#include "tests/trainer/modules/batches.h"
#include "trainer/modules/decode_state.h"
#include "trainer/modules/trained_parameters.h"

namespace mambad::trainer::testing {
namespace {

using at::Tensor;
using checkpoint::Parameter;
using checkpoint::Role;
using checkpoint::StorageType;
using mambad::testing::FormulaTokens;
using mambad::testing::ModelRunner;
using mambad::testing::TemporaryDirectory;

constexpr double kFloat32Tolerance = 1e-5;  // relative L2 of logits, as the engine's own tests

// [tokens, vocabulary], fp64.
Tensor Logits(const LanguageModel& model, const TokenBatch& batch) {
  return at::matmul(model.Hidden(batch), model.Head().t()).to(at::kDouble).flatten(0, 1);
}

double Distance(const Tensor& found, const Tensor& truth) {
  return ((found - truth).norm() / truth.norm()).item<double>();
}

template <typename Row>
Tensor AsTensor(const std::vector<Row>& rows, int64_t columns) {
  Tensor result = at::empty({static_cast<int64_t>(rows.size()), columns}, at::kDouble);
  for (size_t i = 0; i < rows.size(); ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      result.data_ptr<double>()[i * columns + j] = static_cast<double>(rows[i][j]);
    }
  }
  return result;
}

class EveryModel : public ::testing::TestWithParam<std::string> {
 protected:
  EveryModel() {
    const auto model = mambad::testing::MakeFormulaModel(GetParam());
    model.directory.Write(folder_.path(), mambad::testing::StoredAs::kFloat32);
    vocabulary_ = model.vocabulary;
  }
  std::unique_ptr<LanguageModel> Load(at::ScalarType type) const {
    return LanguageModel::Load(folder_.path(), at::kCPU, type);
  }
  // Lengths that no block of a kernel or of attention divides.
  std::vector<Documents> Rows() const {
    const auto part = [&](int begin, int count) {
      const std::vector<int32_t> all = FormulaTokens(60, vocabulary_);
      return std::vector<int32_t>(all.begin() + begin, all.begin() + begin + count);
    };
    return {{part(0, 17), part(20, 1), part(5, 11)}, {part(13, 29)}};
  }
  // The engine's logits of one sequence by the directory's model, in fp32.
  Tensor EngineLogits(const std::string& directory, const std::vector<int32_t>& tokens) const {
    const auto runner = ModelRunner::Open(directory, {.type = ComputeType::kFloat32});
    EXPECT_TRUE(runner.ok()) << runner.status();
    return AsTensor((*runner)->Read(0, tokens, 33), vocabulary_);
  }

  TemporaryDirectory folder_;
  int vocabulary_ = 0;
};

TEST_P(EveryModel, Invariant8ExportedModelsHaveTheSameLogitsInTheEngine) {
  at::NoGradGuard no_grad;
  const std::vector<int32_t> tokens = FormulaTokens(60, vocabulary_);
  const TokenBatch batch = PackedRows({{tokens}});
  auto model = Load(at::kFloat);
  for (const StorageType type : {StorageType::kFloat32, StorageType::kBFloat16}) {
    SCOPED_TRACE(type == StorageType::kFloat32 ? "float32" : "bfloat16");
    TemporaryDirectory exported;
    model->Save(exported.path(), type, "");
    // What bf16 rounds away is gone for both.
    model = LanguageModel::Load(exported.path(), at::kCPU, at::kFloat);
    EXPECT_LE(Distance(Logits(*model, batch), EngineLogits(exported.path(), tokens)),
              kFloat32Tolerance);
  }
}

TEST_P(EveryModel, AgreesWithTheOracle) {
  at::NoGradGuard no_grad;
  const auto oracle = oracle::Oracle::Open(folder_.path());
  ASSERT_TRUE(oracle.ok()) << oracle.status();
  // Shorter and longer than a sliding window.
  for (const int length : {1, 8, 60}) {
    SCOPED_TRACE(length);
    const std::vector<int32_t> tokens = FormulaTokens(length, vocabulary_);
    const Tensor truth = AsTensor((*oracle)->Logits(tokens), vocabulary_);
    EXPECT_LE(Distance(Logits(*Load(at::kFloat), PackedRows({{tokens}})), truth),
              kFloat32Tolerance);
    // Rotary frequencies are fp32, as in the engine: the only difference.
    EXPECT_LE(Distance(Logits(*Load(at::kDouble), PackedRows({{tokens}})), truth), 1e-6);
  }
}

TEST_P(EveryModel, PackedDocumentsAreAsIfAlone) {
  at::NoGradGuard no_grad;
  const auto model = Load(at::kDouble);
  const std::vector<Documents> rows = Rows();
  const Tensor together = Logits(*model, PackedRows(rows));
  int64_t begin = 0;
  for (const Documents& documents : rows) {
    for (const auto& document : documents) {
      const int64_t count = static_cast<int64_t>(document.size());
      EXPECT_LE(
          Distance(together.narrow(0, begin, count), Logits(*model, PackedRows({{document}}))),
          1e-12);
      begin += count;
    }
  }
}

TEST_P(EveryModel, GradientsAreFiniteDifferences) {
  const auto model = Load(at::kDouble);
  model->SetTrained([](const Parameter&) { return true; });
  const TokenBatch batch = PackedRows(Rows());
  const Tensor slopes = at::randn({58, vocabulary_}, at::make_generator<at::CPUGeneratorImpl>(7),
                                  at::TensorOptions().dtype(at::kDouble));
  const auto loss = [&] {
    return (at::log_softmax(Logits(*model, batch), -1) * slopes).sum() / 58.0;
  };
  loss().backward();
  int checked = 0;
  for (const ModelParameter& parameter : model->parameters()) {
    SCOPED_TRACE(parameter.description.name);
    at::NoGradGuard no_grad;
    Tensor value = parameter.value;
    ASSERT_TRUE(value.grad().defined());
    const Tensor direction =
        at::randn(value.sizes(), at::make_generator<at::CPUGeneratorImpl>(11 + checked),
                  value.options().requires_grad(false));
    const double expected = (value.grad() * direction).sum().item<double>();
    const auto at_step = [&](double step) {
      value.add_(direction, step);
      const double result = loss().item<double>();
      value.add_(direction, -step);
      return result;
    };
    // Small enough for the third derivative of a gated norm, whose groups may be near zero.
    constexpr double kStep = 3e-7;
    const double slope = (at_step(kStep) - at_step(-kStep)) / (2 * kStep);
    EXPECT_NEAR(slope, expected, 1e-6 * std::max(std::abs(expected), 1e-1));
    EXPECT_NE(expected, 0);
    ++checked;
  }
  EXPECT_GT(checked, 10);
}

TEST_P(EveryModel, RecomputingBlocksChangesNoBit) {
  const auto model = Load(at::kFloat);
  model->SetTrained([](const Parameter&) { return true; });
  const TokenBatch batch = PackedRows(Rows());
  const auto gradients = [&](bool recompute) {
    model->SetRecompute(recompute);
    const Tensor hidden = model->Hidden(batch);
    hidden.square().sum().backward();
    std::vector<Tensor> result = {hidden.detach().clone()};
    for (const ModelParameter& parameter : model->parameters()) {
      if (!parameter.value.grad().defined()) continue;  // an untied head
      result.push_back(parameter.value.grad().clone());
      parameter.value.mutable_grad() = Tensor();
    }
    return result;
  };
  const std::vector<Tensor> kept = gradients(false), made_again = gradients(true);
  ASSERT_EQ(kept.size(), made_again.size());
  for (size_t i = 0; i < kept.size(); ++i) EXPECT_TRUE(at::equal(kept[i], made_again[i])) << i;
}

// Three places: one reads, one rests now and then, one begins late in a place that another left.
TEST_P(EveryModel, DecodingIsTheForwardPass) {
  at::NoGradGuard no_grad;
  const auto model = Load(at::kDouble);
  const std::vector<int32_t> first = FormulaTokens(40, vocabulary_),
                             second = FormulaTokens(40, vocabulary_, 1),
                             third = FormulaTokens(40, vocabulary_, 2);
  DecodeState state(model.get(), 3, 40);
  std::vector<Tensor> logits[3];
  const auto feed = [&](size_t step, bool second_rests) {
    const size_t own = logits[1].size(), late = logits[2].size();
    const Tensor made = state.Step(
        {first[step], second_rests ? -1 : second[own], step < 6 ? first[step] : third[late]});
    logits[0].push_back(made[0]);
    if (!second_rests) logits[1].push_back(made[1]);
    if (step >= 6) logits[2].push_back(made[2]);
  };
  for (size_t step = 0; step < 40; ++step) {
    if (step == 6) state.Reset(2);
    feed(step, step % 3 == 1);
  }
  EXPECT_EQ(state.length(2), 34);
  const std::vector<int32_t>* sequences[] = {&first, &second, &third};
  for (int place = 0; place < 3; ++place) {
    const int64_t count = static_cast<int64_t>(logits[place].size());
    const Tensor truth = Logits(*model, PackedRows({{*sequences[place]}})).narrow(0, 0, count);
    EXPECT_LE(Distance(at::stack(logits[place]).to(at::kDouble), truth), 1e-6) << place;
  }
  EXPECT_THROW(state.Step({0, 0, 0}), std::runtime_error);  // place 0 is full
}

INSTANTIATE_TEST_SUITE_P(Formula, EveryModel,
                         ::testing::ValuesIn(mambad::testing::FormulaModelNames()),
                         [](const auto& info) { return info.param; });

// ---- things that one family shows as well as another -------------------------------------------

class OneModel : public ::testing::Test {
 protected:
  std::unique_ptr<LanguageModel> Load(const std::string& name) const {
    mambad::testing::MakeFormulaModel(name).directory.Write(folder_.path(),
                                                            mambad::testing::StoredAs::kFloat32);
    return LanguageModel::Load(folder_.path(), at::kCPU, at::kFloat);
  }
  TemporaryDirectory folder_;
};

TEST_F(OneModel, OnlyWhatIsTrainedGetsGradients) {
  const auto model = Load("hybrid_mamba2");
  model->SetTrained(
      [](const Parameter& parameter) { return IsRecurrentMixerRole(parameter.role); });
  model->Hidden(PackedRows({{FormulaTokens(20, 50)}})).sum().backward();
  int trained = 0;
  for (const ModelParameter& parameter : model->parameters()) {
    const bool mixer = parameter.description.name.find(".mamba.") != std::string::npos;
    EXPECT_EQ(parameter.value.grad().defined(), mixer) << parameter.description.name;
    trained += mixer;
  }
  EXPECT_GT(trained, 0);
  model->SetTrained([](const Parameter&) { return false; });
  for (const ModelParameter& parameter : model->parameters()) {
    EXPECT_FALSE(parameter.value.grad().defined());
  }
}

TEST_F(OneModel, GroupsHoldEveryTrainedParameterOnce) {
  const auto model = Load("hybrid_mamba");
  model->SetTrained([](const Parameter& parameter) { return parameter.role != Role::kEmbedding; });
  std::set<std::string> names;
  for (const ParameterGroup& group : TrainedGroups(
           *model, {.mixer_learning_rate = 3, .rest_learning_rate = 2, .weight_decay = 1})) {
    for (const auto& [name, tensor] : group.parameters) {
      EXPECT_TRUE(names.insert(name).second) << name;
      const bool mixer = name.find(".mamba.") != std::string::npos;
      EXPECT_EQ(group.learning_rate, mixer ? 3 : 2) << name;
      EXPECT_EQ(group.weight_decay, WantsWeightDecay(name, tensor.dim()) ? 1 : 0) << name;
    }
  }
  EXPECT_EQ(names.size() + 1, model->parameters().size());
}

TEST_F(OneModel, AnObserverSeesEveryMixer) {
  at::NoGradGuard no_grad;
  const auto model = Load("hybrid_mamba2");
  const TokenBatch batch = PackedRows({{FormulaTokens(9, 50), FormulaTokens(4, 50)}});
  int seen = 0;
  model->Hidden(batch, [&](int layer, const Tensor& input, const Tensor& output) {
    EXPECT_EQ(layer, seen++);
    EXPECT_EQ(output.sizes(), at::IntArrayRef({1, 13, model->config().width}));
    EXPECT_TRUE(at::equal(model->Mixer(layer, input, batch), output)) << layer;
  });
  EXPECT_EQ(seen, model->config().layers);
}

TEST_F(OneModel, FactorisedEmbeddingIsItsProduct) {
  auto model = Load("mamba2_groups");  // tied
  const Tensor base = at::randn({model->config().padded_vocabulary, 12}, at::kFloat);
  model->FactoriseEmbedding(base, 5);
  model->SetTrained([](const Parameter& parameter) { return parameter.role == Role::kEmbedding; });
  const TokenBatch batch = PackedRows({{FormulaTokens(15, 50)}});
  const Tensor logits = Logits(*model, batch);
  logits.square().sum().backward();
  EXPECT_GT(model->Find(Role::kEmbedding, -1).grad().norm().item<double>(), 0);
  // Rows about as long as of an embedding that Create draws.
  EXPECT_NEAR(model->Embedding().std().item<double>(), 0.02, 0.004);

  TemporaryDirectory exported;
  model->Save(exported.path(), StorageType::kFloat32, "");
  const auto plain = LanguageModel::Load(exported.path(), at::kCPU, at::kFloat);
  EXPECT_LE(Distance(Logits(*plain, batch), logits), 1e-5);
  EXPECT_THROW(model->FactoriseEmbedding(at::zeros({3, 12}), 5), std::runtime_error);

  // Masters of the projection and of another matrix are what is written.
  const ModelParameter& projection = model->parameters().front();
  const ModelParameter& other = model->parameters().back();
  model->Save(exported.path(), StorageType::kFloat32, "",
              {{projection.description.name, projection.value.detach() * 2},
               {other.description.name, other.value.detach() + 1}});
  const auto finer = LanguageModel::Load(exported.path(), at::kCPU, at::kFloat);
  EXPECT_TRUE(at::allclose(finer->Embedding(), model->Embedding() * 2));
  EXPECT_TRUE(at::equal(finer->parameters().back().value, other.value.detach() + 1));
}

TEST_F(OneModel, CreateIsTheSameForTheSameSeedAndLearns) {
  const checkpoint::ModelConfig config = Load("hybrid_mamba2")->config();
  const auto first = LanguageModel::Create(config, 3, at::kCPU, at::kFloat);
  const auto same = LanguageModel::Create(config, 3, at::kCPU, at::kDouble);
  const auto other = LanguageModel::Create(config, 4, at::kCPU, at::kFloat);
  for (size_t i = 0; i < first->parameters().size(); ++i) {
    EXPECT_TRUE(
        at::equal(first->parameters()[i].value, same->parameters()[i].value.to(at::kFloat)));
  }
  EXPECT_FALSE(at::equal(first->Find(Role::kEmbedding, -1), other->Find(Role::kEmbedding, -1)));
  EXPECT_NEAR(first->Find(Role::kMlpGate, 0).std().item<double>(), 0.02, 1e-3);
  const Tensor logits = Logits(*first, PackedRows({{FormulaTokens(30, 50)}}));
  EXPECT_TRUE(at::isfinite(logits).all().item<bool>());
  EXPECT_LT(logits.abs().max().item<double>(), 2.0);  // about uniform
}

TEST_F(OneModel, SavingBringsTheTokenizerAlong) {
  const auto model = Load("llama_tied");
  TemporaryDirectory text, exported;
  std::ofstream(text.path() + "/tokenizer_config.json") << "{}";
  const std::string target = exported.path() + "/a/b";
  model->Save(target, StorageType::kFloat32, text.path());
  EXPECT_TRUE(std::filesystem::exists(target + "/tokenizer_config.json"));
  EXPECT_TRUE(std::filesystem::exists(target + "/config.json"));
  EXPECT_THROW(model->Save(target, StorageType::kFloat32, text.path() + "/model.gguf"),
               std::runtime_error);
}

TEST_F(OneModel, ProposedTokensStayWithTheModel) {
  const auto model = Load("mamba2");
  EXPECT_THAT(model->proposed_tokens(), ::testing::IsEmpty());
  TemporaryDirectory saved;
  model->SetProposedTokens({2, 3, 41});
  model->Save(saved.path(), StorageType::kFloat32, "");
  const auto again = LanguageModel::Load(saved.path(), at::kCPU, at::kFloat);
  EXPECT_THAT(again->proposed_tokens(), ::testing::ElementsAre(2, 3, 41));
  // A list of an earlier model must not be believed.
  model->SetProposedTokens({});
  model->Save(saved.path(), StorageType::kFloat32, "");
  EXPECT_FALSE(std::filesystem::exists(saved.path() + "/proposed_tokens.json"));
  std::ofstream(saved.path() + "/proposed_tokens.json") << "[3, 2]";
  try {
    LanguageModel::Load(saved.path(), at::kCPU, at::kFloat);
    FAIL();
  } catch (const std::runtime_error& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("/proposed_tokens.json: [1]: 2 found"));
  }
}

TEST_F(OneModel, BadFilesAreNamed) {
  const auto message = [](const std::string& path) {
    try {
      LanguageModel::Load(path, at::kCPU, at::kFloat);
    } catch (const std::runtime_error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_THAT(message(folder_.path() + "/absent"), ::testing::HasSubstr("/absent"));
  Load("llama_tied");
  std::filesystem::resize_file(folder_.path() + "/model.safetensors", 1000);
  EXPECT_THAT(message(folder_.path()), ::testing::HasSubstr("model.safetensors"));
  EXPECT_THROW(LanguageModel::Load(folder_.path(), at::kCPU, at::kBFloat16), std::runtime_error);
}

}  // namespace
}  // namespace mambad::trainer::testing
