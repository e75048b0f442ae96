// A hybrid from a Transformer: what is copied, where rows go, how the rest starts, what stays in a
// second round, and that the engine reads it.

#include "trainer/initialize.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/model_runner.h"
#include "tests/support/formula_models.h"
#include "tests/support/model_directory.h"
#include "tests/trainer/modules/batches.h"

namespace mambad::trainer::testing {
namespace {

using at::Tensor;
using checkpoint::MixerKind;
using checkpoint::ModelConfig;
using checkpoint::Role;
using mambad::testing::FormulaTokens;
using mambad::testing::ModelRunner;
using mambad::testing::TemporaryDirectory;

// 4 query heads and 2 key/value heads of 32.
ModelConfig TeacherConfig() {
  ModelConfig config;
  config.width = 48;
  config.layers = 4;
  config.vocabulary = config.padded_vocabulary = 50;
  config.mlp_width = 64;
  config.tied_head = true;
  config.context_length = 128;
  config.mixers.assign(4, MixerKind::kAttention);
  config.fused_attention.assign(4, false);
  config.fused_mamba.assign(4, false);
  config.attention.query_heads = 4;
  config.attention.key_value_heads = 2;
  config.attention.head_width = 32;
  return config;
}

std::unique_ptr<LanguageModel> Teacher() {
  return LanguageModel::Create(TeacherConfig(), 1, at::kCPU, at::kFloat);
}

Tensor Logits(const LanguageModel& model, const std::vector<int32_t>& tokens) {
  return at::mm(model.Hidden(PackedRows({{tokens}}))[0], model.Head().t());
}

void ExpectSameOutsideMixers(const LanguageModel& a, const LanguageModel& b) {
  int compared = 0;
  for (const ModelParameter& parameter : a.parameters()) {
    const Role role = parameter.description.role;
    if (IsRecurrentMixerRole(role) || IsAttentionRole(role)) continue;
    EXPECT_TRUE(at::equal(parameter.value, b.Find(role, parameter.description.layer)))
        << parameter.description.name;
    ++compared;
  }
  EXPECT_GT(compared, 10);
}

TEST(Initialize, Mamba2TakesValueKeyQueryAndOutput) {
  const auto teacher = Teacher();
  const auto student = InitializeHybrid(*teacher, {.recurrent_layers = {3, 1}});
  ExpectSameOutsideMixers(*teacher, *student);
  const Tensor in = student->Find(Role::kMamba2In, 3);
  ASSERT_EQ(in.sizes(), at::IntArrayRef({128 + 64 + 64 + 128 + 4, 48}));
  EXPECT_TRUE(at::equal(in.narrow(0, 128, 64), teacher->Find(Role::kAttentionValue, 3)));
  EXPECT_TRUE(at::equal(in.narrow(0, 192, 64), teacher->Find(Role::kAttentionKey, 3)));
  EXPECT_TRUE(at::equal(in.narrow(0, 256, 128), teacher->Find(Role::kAttentionQuery, 3)));
  EXPECT_TRUE(
      at::equal(student->Find(Role::kMambaOut, 3), teacher->Find(Role::kAttentionOutput, 3)));
  EXPECT_TRUE(
      at::equal(student->Find(Role::kAttentionQuery, 0), teacher->Find(Role::kAttentionQuery, 0)));
  EXPECT_FALSE(student->Find(Role::kAttentionQuery, 1).defined());
}

void ExpectAll(const Tensor& values, double expected) {
  EXPECT_TRUE(at::equal(values, at::full_like(values, expected)));
}

// N(0, deviation): its first two moments, within five of their own deviations.
void ExpectNormal(const Tensor& values, double deviation) {
  const auto count = static_cast<double>(values.numel());
  EXPECT_LT(std::abs(values.mean().item<double>()), 5 * deviation / std::sqrt(count));
  EXPECT_NEAR(values.std().item<double>(), deviation, 5 * deviation / std::sqrt(2 * count));
}

// U(low, high): never outside, and its mean within five of that's deviations, its extremes near the
// ends.
void ExpectUniform(const Tensor& values, double low, double high) {
  const auto count = static_cast<double>(values.numel());
  const double range = high - low, margin = 1e-6 * range;
  EXPECT_GE(values.min().item<double>(), low - margin);
  EXPECT_LE(values.max().item<double>(), high + margin);
  EXPECT_NEAR(values.mean().item<double>(), (low + high) / 2, 5 * range / std::sqrt(12 * count));
  EXPECT_LT(values.min().item<double>(), low + 10 * range / count);
  EXPECT_GT(values.max().item<double>(), high - 10 * range / count);
}

// Models of four layers with every mixer new, of several seeds. Values of a role, of all layers one
// after the other.
class NewMixers {
 public:
  NewMixers(MixerKind kind, bool published) {
    const auto teacher = Teacher();
    for (uint64_t seed = 1; seed <= 8; ++seed) {
      students_.push_back(InitializeHybrid(*teacher, {.recurrent_layers = {0, 1, 2, 3},
                                                      .mixer = kind,
                                                      .published_rest = published,
                                                      .seed = seed}));
    }
  }
  Tensor Of(Role role) const {
    std::vector<Tensor> layers;
    for (const auto& student : students_) {
      for (int layer = 0; layer < 4; ++layer) layers.push_back(student->Find(role, layer));
    }
    return at::stack(layers);
  }

 private:
  std::vector<std::unique_ptr<LanguageModel>> students_;
};

// Time steps softplus(bias) are drawn log-uniformly from [0.001, 0.1]; D, and where there is one
// the norm, are 1.
TEST(Initialize, StateStartsAsPublishedForMamba) {
  const NewMixers mixers(MixerKind::kMamba, false);
  ExpectUniform(at::softplus(mixers.Of(Role::kMambaDtBias).to(at::kDouble)).log(), std::log(1e-3),
                std::log(1e-1));
  ExpectAll(mixers.Of(Role::kMambaD), 1);
  const Tensor a_log = mixers.Of(Role::kMambaALog);
  ASSERT_EQ(a_log.sizes(), at::IntArrayRef({8 * 4, 128, 16}));
  const Tensor counted = at::arange(1, 17).to(at::kFloat).log();
  EXPECT_TRUE(at::allclose(a_log, counted.expand_as(a_log), 1e-6, 0));
}

TEST(Initialize, StateStartsAsPublishedForMamba2) {
  const NewMixers mixers(MixerKind::kMamba2, false);
  ExpectUniform(at::softplus(mixers.Of(Role::kMamba2DtBias).to(at::kDouble)).log(), std::log(1e-3),
                std::log(1e-1));
  ExpectUniform(mixers.Of(Role::kMambaALog).exp(), 1, 16);
  ExpectAll(mixers.Of(Role::kMambaD), 1);
  ExpectAll(mixers.Of(Role::kMamba2Norm), 1);
}

// What attention has no counterpart for: small, and a convolution that lets through.
TEST(Initialize, TheRestStartsSmall) {
  for (const MixerKind kind : {MixerKind::kMamba, MixerKind::kMamba2}) {
    const NewMixers mixers(kind, false);
    const Tensor taps = mixers.Of(Role::kConvolution);
    ExpectAll(taps.narrow(3, 0, 3), 0);
    ExpectAll(taps.select(3, 3), 1);
    ExpectAll(mixers.Of(Role::kConvolutionBias), 0);
    if (kind == MixerKind::kMamba2) {
      ExpectNormal(mixers.Of(Role::kMamba2In).narrow(1, 0, 128), 0.02);
      ExpectNormal(mixers.Of(Role::kMamba2In).narrow(1, 384, 4), 0.02);
      continue;
    }
    for (const Role role : {Role::kMambaInZ, Role::kMambaInDt, Role::kMambaDt}) {
      ExpectNormal(mixers.Of(role), 0.02);
    }
  }
}

TEST(Initialize, ThePublishedRestIsUniform) {
  const double from_width = 1 / std::sqrt(48.0), from_rank = 1 / std::sqrt(3.0);
  for (const MixerKind kind : {MixerKind::kMamba, MixerKind::kMamba2}) {
    const NewMixers mixers(kind, true);
    ExpectUniform(mixers.Of(Role::kConvolution), -0.5, 0.5);
    ExpectUniform(mixers.Of(Role::kConvolutionBias), -0.5, 0.5);
    if (kind == MixerKind::kMamba2) {
      ExpectUniform(mixers.Of(Role::kMamba2In).narrow(1, 0, 128), -from_width, from_width);
      ExpectUniform(mixers.Of(Role::kMamba2In).narrow(1, 384, 4), -from_width, from_width);
      continue;
    }
    ExpectUniform(mixers.Of(Role::kMambaInZ), -from_width, from_width);
    ExpectUniform(mixers.Of(Role::kMambaInDt), -from_width, from_width);
    ExpectUniform(mixers.Of(Role::kMambaDt), -from_rank, from_rank);
  }
}

// With weights that say whose they are, every channel group of C must meet the key/value head that
// its query head had, and the same part of it.
TEST(Initialize, CorrectedOrderMeetsTheRightHead) {
  const auto teacher = Teacher();
  const auto mark = [&](Role role, int64_t heads) {  // head, and which sixteenth of it
    Tensor value = teacher->Find(role, 2);
    value.view({heads, 2, 16, 48}).copy_(at::arange(heads * 2).view({heads, 2, 1, 1}));
  };
  mark(Role::kAttentionQuery, 4);
  mark(Role::kAttentionKey, 2);
  mark(Role::kAttentionValue, 2);
  teacher->Find(Role::kAttentionOutput, 2)
      .copy_(teacher->Find(Role::kAttentionQuery, 2).select(1, 0).expand({48, 128}));
  const auto misplaced = [&](bool corrected) {
    const auto student = InitializeHybrid(
        *teacher,
        {.recurrent_layers = {2}, .mixer = MixerKind::kMamba, .corrected_head_order = corrected});
    const Tensor c = student->Find(Role::kMambaInC, 2), b = student->Find(Role::kMambaInB, 2),
                 x = student->Find(Role::kMambaInX, 2), out = student->Find(Role::kMambaOut, 2);
    int wrong = 0;
    for (int channel = 0; channel < 128; ++channel) {
      const int group = channel / 16, source = group / 2;  // 8 groups, 4 sources
      const int query_part = c[channel][0].item<int>(), key_part = b[source * 16][0].item<int>();
      EXPECT_EQ(out[0][channel].item<int>(), query_part);
      EXPECT_EQ(x[source * 16][0].item<int>(), key_part);
      const int query_head = query_part / 2, key_head = key_part / 2;
      wrong += query_head / 2 != key_head || query_part % 2 != key_part % 2;
    }
    return wrong;
  };
  EXPECT_EQ(misplaced(true), 0);
  EXPECT_GT(misplaced(false), 0);
}

TEST(Initialize, ASecondRoundKeepsTrainedMixers) {
  const auto teacher = Teacher();
  for (const MixerKind kind : {MixerKind::kMamba, MixerKind::kMamba2}) {
    const auto half = InitializeHybrid(*teacher, {.recurrent_layers = {1, 3}, .mixer = kind});
    half->Find(Role::kMambaOut, 1).fill_(0.25);
    half->Find(Role::kAttentionOutput, 2).fill_(0.5);
    const auto all =
        InitializeHybrid(*half, {.recurrent_layers = {0, 1, 2, 3}, .mixer = kind, .seed = 9});
    ExpectSameOutsideMixers(*half, *all);
    for (const ModelParameter& parameter : half->parameters()) {
      if (!IsRecurrentMixerRole(parameter.description.role)) continue;
      EXPECT_TRUE(at::equal(parameter.value,
                            all->Find(parameter.description.role, parameter.description.layer)));
    }
    EXPECT_EQ(all->Find(Role::kMambaOut, 2).min().item<float>(), 0.5f);
    EXPECT_EQ(all->config().context_length, 0);
    // Dropping or changing a trained one is refused.
    EXPECT_THROW(InitializeHybrid(*half, {.recurrent_layers = {3}, .mixer = kind}),
                 std::runtime_error);
  }
}

TEST(Initialize, TrainedMixersComeFromAnotherHybrid) {
  const auto teacher = Teacher();
  const auto trained = InitializeHybrid(*teacher, {.recurrent_layers = {0, 1, 2, 3}});
  trained->Find(Role::kMambaOut, 2).fill_(0.25);
  const auto result = InitializeHybrid(
      *teacher, {.recurrent_layers = {2}, .trained_mixers = trained.get(), .seed = 5});
  EXPECT_TRUE(at::equal(result->Find(Role::kMambaOut, 2), trained->Find(Role::kMambaOut, 2)));
  EXPECT_TRUE(at::equal(result->Find(Role::kMamba2In, 2), trained->Find(Role::kMamba2In, 2)));
  const auto half = InitializeHybrid(*teacher, {.recurrent_layers = {1}});
  EXPECT_THROW(InitializeHybrid(*teacher, {.recurrent_layers = {2}, .trained_mixers = half.get()}),
               std::runtime_error);
}

// A teacher with what Qwen2 and Qwen3 have and Llama has not, its numbers of a trained model's
// kind.
std::unique_ptr<LanguageModel> QwenTeacher(bool norms, bool biases) {
  ModelConfig config = TeacherConfig();
  config.attention.head_norm = norms;
  config.attention.bias = biases;
  auto teacher = LanguageModel::Create(config, 1, at::kCPU, at::kFloat);
  for (const ModelParameter& parameter : teacher->parameters()) {
    const Role role = parameter.description.role;
    const Tensor value = parameter.value;
    const Tensor wave = (at::arange(value.numel(), at::kFloat) * 0.9).sin().view(value.sizes());
    if (role == Role::kAttentionQueryNorm || role == Role::kAttentionKeyNorm ||
        role == Role::kMixerNorm)
      Tensor(value).copy_(1 + 0.5 * wave);
    if (role == Role::kAttentionQueryBias || role == Role::kAttentionKeyBias ||
        role == Role::kAttentionValueBias)
      Tensor(value).copy_(0.3 * wave);
  }
  return teacher;
}

// B begins as large as the normed keys are, number by number, where the matrix alone is many times
// smaller.
TEST(Initialize, NormsOfHeadsBecomeTheirAverage) {
  at::NoGradGuard no_grad;
  const auto teacher = QwenTeacher(/*norms=*/true, /*biases=*/false);
  const auto student = InitializeHybrid(*teacher, {.recurrent_layers = {1}});
  const Tensor input = at::randn({4000, 48}, at::make_generator<at::CPUGeneratorImpl>(7)) *
                       teacher->Find(Role::kMixerNorm, 1);
  const auto normed = [&](Role matrix, Role weight, int64_t heads) {
    const Tensor values = at::mm(input, teacher->Find(matrix, 1).t()).view({4000, heads, 32});
    const Tensor scale = (values.square().mean(-1, true) + 1e-5).rsqrt();
    return (values * scale * teacher->Find(weight, 1)).flatten(1).square().mean(0);
  };
  const Tensor in = student->Find(Role::kMamba2In, 1);
  const auto made = [&](int64_t begin, int64_t rows) {
    return at::mm(input, in.narrow(0, begin, rows).t()).square().mean(0);
  };
  const Tensor keys = normed(Role::kAttentionKey, Role::kAttentionKeyNorm, 2);
  const Tensor queries = normed(Role::kAttentionQuery, Role::kAttentionQueryNorm, 4);
  EXPECT_LT((made(192, 64) / keys - 1).abs().max().item<double>(), 0.15);
  EXPECT_LT((made(256, 128) / queries - 1).abs().max().item<double>(), 0.15);
  EXPECT_LT(at::mm(input, teacher->Find(Role::kAttentionKey, 1).t()).square().mean().item<double>(),
            0.1 * keys.mean().item<double>());
}

TEST(Initialize, BiasesBecomeTheConvolutions) {
  at::NoGradGuard no_grad;
  const auto teacher = QwenTeacher(/*norms=*/false, /*biases=*/true);
  const Tensor value = teacher->Find(Role::kAttentionValueBias, 1);
  const auto second = InitializeHybrid(*teacher, {.recurrent_layers = {1}});
  EXPECT_TRUE(at::equal(second->Find(Role::kConvolutionBias, 1),
                        at::cat({value, teacher->Find(Role::kAttentionKeyBias, 1),
                                 teacher->Find(Role::kAttentionQueryBias, 1)})));
  const auto first =
      InitializeHybrid(*teacher, {.recurrent_layers = {1}, .mixer = MixerKind::kMamba});
  // Groups of 16 numbers, each twice.
  std::vector<Tensor> groups;
  for (int i = 0; i < 8; ++i) groups.push_back(value.narrow(0, i / 2 * 16, 16));
  EXPECT_TRUE(at::equal(first->Find(Role::kConvolutionBias, 1), at::cat(groups)));
}

TEST(Initialize, Invariant8TheEngineReadsAStudentOfQwen) {
  at::NoGradGuard no_grad;
  const std::vector<int32_t> tokens = FormulaTokens(40, 50);
  for (const bool norms : {false, true}) {
    const auto teacher = QwenTeacher(norms, !norms);
    for (const MixerKind kind : {MixerKind::kMamba, MixerKind::kMamba2}) {
      const auto student = InitializeHybrid(*teacher, {.recurrent_layers = {1, 3}, .mixer = kind});
      TemporaryDirectory folder;
      student->Save(folder.path(), checkpoint::StorageType::kFloat32, "");
      const auto runner = ModelRunner::Open(folder.path(), {.type = ComputeType::kFloat32});
      ASSERT_TRUE(runner.ok()) << runner.status();
      EXPECT_EQ((*runner)->config().attention.head_norm, norms);
      const auto rows = (*runner)->Read(0, tokens, 40);
      Tensor engine = at::empty({40, 50});
      for (int i = 0; i < 40; ++i)
        std::copy_n(rows[i].begin(), 50, engine.data_ptr<float>() + i * 50);
      EXPECT_LE(((Logits(*student, tokens) - engine).norm() / engine.norm()).item<double>(), 1e-5);
    }
  }
}

TEST(Initialize, Invariant8TheEngineReadsWhatIsMade) {
  at::NoGradGuard no_grad;
  const auto teacher = Teacher();
  const std::vector<int32_t> tokens = FormulaTokens(40, 50);
  for (const MixerKind kind : {MixerKind::kMamba, MixerKind::kMamba2}) {
    for (const std::vector<int>& layers : {std::vector<int>{1, 3}, std::vector<int>{0, 1, 2, 3}}) {
      for (const bool published : {false, true}) {
        const auto student = InitializeHybrid(
            *teacher, {.recurrent_layers = layers, .mixer = kind, .published_rest = published});
        TemporaryDirectory folder;
        student->Save(folder.path(), checkpoint::StorageType::kFloat32, "");
        const auto runner = ModelRunner::Open(folder.path(), {.type = ComputeType::kFloat32});
        ASSERT_TRUE(runner.ok()) << runner.status();
        const auto rows = (*runner)->Read(0, tokens, 40);
        Tensor engine = at::empty({40, 50});
        for (int i = 0; i < 40; ++i) {
          std::copy_n(rows[i].begin(), 50, engine.data_ptr<float>() + i * 50);
        }
        EXPECT_LE(((Logits(*student, tokens) - engine).norm() / engine.norm()).item<double>(),
                  1e-5);
      }
    }
  }
}

TEST(Initialize, DrawsDependOnSeedAndLayerAlone) {
  const auto teacher = Teacher();
  const auto one = InitializeHybrid(*teacher, {.recurrent_layers = {1}, .from_attention = false});
  const auto two =
      InitializeHybrid(*teacher, {.recurrent_layers = {1, 2}, .from_attention = false});
  const auto other =
      InitializeHybrid(*teacher, {.recurrent_layers = {1}, .from_attention = false, .seed = 2});
  EXPECT_TRUE(at::equal(one->Find(Role::kMamba2In, 1), two->Find(Role::kMamba2In, 1)));
  EXPECT_FALSE(at::equal(two->Find(Role::kMamba2In, 1), two->Find(Role::kMamba2In, 2)));
  EXPECT_FALSE(at::equal(one->Find(Role::kMamba2In, 1), other->Find(Role::kMamba2In, 1)));
  EXPECT_NEAR(one->Find(Role::kMamba2In, 1).std().item<double>(), 0.02, 1e-3);
}

TEST(Initialize, WrongWishesAreRefused) {
  const auto teacher = Teacher();
  const auto refused = [&](const InitializeOptions& options) {
    EXPECT_THROW(InitializeHybrid(*teacher, options), std::runtime_error);
  };
  refused({.recurrent_layers = {}});
  refused({.recurrent_layers = {4}});
  refused({.recurrent_layers = {-1}});
  refused({.recurrent_layers = {1, 1}});
  refused({.recurrent_layers = {1}, .mixer = MixerKind::kAttention});
  refused({.recurrent_layers = {1}, .mixer = MixerKind::kMamba, .state_size = 12});
  refused({.recurrent_layers = {1}, .mixer = MixerKind::kMamba2, .state_size = 16});
}

}  // namespace
}  // namespace mambad::trainer::testing
