// Losses against their definitions in fp64, and their gradients against central differences.

#include "trainer/losses.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <vector>

namespace mambad::trainer {
namespace {

using at::Tensor;

constexpr double kStep = 1e-5;
constexpr double kTolerance = 2e-9;  // of a central difference in fp64 with that step

Tensor Numbers(at::IntArrayRef shape, int seed, double scale = 1.0) {
  at::Generator generator = at::detail::createCPUGenerator(static_cast<uint64_t>(seed));
  return at::randn(shape, generator, at::TensorOptions().dtype(at::kDouble)) * scale;
}

// The gradient that autograd gives for `input` against differences of `loss`.
void ExpectGradient(Tensor input, const std::function<Tensor()>& loss, const char* what) {
  input.set_requires_grad(true);
  input.mutable_grad() = Tensor();
  loss().backward();
  const Tensor found = input.grad().clone();
  input.set_requires_grad(false);
  double* values = input.data_ptr<double>();
  for (int64_t i = 0; i < input.numel(); ++i) {
    const double kept = values[i];
    values[i] = kept + kStep;
    const double above = loss().item<double>();
    values[i] = kept - kStep;
    const double below = loss().item<double>();
    values[i] = kept;
    EXPECT_NEAR(found.data_ptr<double>()[i], (above - below) / (2 * kStep),
                kTolerance * std::max(1.0, std::fabs(found.data_ptr<double>()[i])) * 10)
        << what << " " << i;
  }
}

struct Case {
  Tensor hidden = Numbers({5, 3}, 1), head = Numbers({7, 3}, 2);
  Tensor teacher_hidden = Numbers({5, 4}, 3), teacher_head = Numbers({7, 4}, 4);
  Tensor targets = at::tensor({6, 0, 3, 3, 2}, at::kLong);
  Tensor weight = at::tensor({0.5, 0.25, 0.0, 1.5, 0.125}, at::kDouble);

  HeadLoss Run(const HeadLossOptions& options) const {
    return HeadLossAndGradient(hidden, head, teacher_hidden, teacher_head, targets, weight,
                               options);
  }
};

// Loss of each row by definition.
Tensor RowLosses(const Case& c, const HeadLossOptions& options) {
  const Tensor logits = c.hidden.mm(c.head.t()), teacher = c.teacher_hidden.mm(c.teacher_head.t());
  const Tensor q = at::softmax(logits / options.temperature, 1);
  const Tensor p = at::softmax(teacher / options.temperature, 1);
  const Tensor divergence = (p * (p.log() - q.log())).sum(1);
  const Tensor cross_entropy =
      -at::softmax(logits, 1).log().gather(1, c.targets.unsqueeze(1)).squeeze(1);
  if (options.acceptance) {
    const Tensor alpha = at::minimum(p, q).sum(1);
    const Tensor lambda = (alpha * -3).exp();
    return lambda * divergence + (1 - lambda) * (1 - alpha) +
           options.cross_entropy_weight * cross_entropy;
  }
  return options.divergence_weight * options.temperature * options.temperature * divergence +
         options.cross_entropy_weight * cross_entropy;
}

std::vector<HeadLossOptions> AllOptions() {
  HeadLossOptions divergence, entropy, both, acceptance;
  entropy.divergence_weight = 0;
  entropy.cross_entropy_weight = 1;
  both.cross_entropy_weight = 0.1;
  both.divergence_weight = 0.7;
  both.temperature = 2.5;
  acceptance.acceptance = true;
  return {divergence, entropy, both, acceptance};
}

TEST(HeadLoss, ValuesByDefinition) {
  const Case c;
  for (const HeadLossOptions& options : AllOptions()) {
    const HeadLoss loss = c.Run(options);
    EXPECT_NEAR(loss.loss.item<double>(), (RowLosses(c, options) * c.weight).sum().item<double>(),
                1e-12);
    const Tensor logits = c.hidden.mm(c.head.t());
    const Tensor teacher = c.teacher_hidden.mm(c.teacher_head.t());
    const Tensor counted = c.weight.gt(0).to(at::kDouble);
    const Tensor agreement = logits.argmax(1).eq(teacher.argmax(1)).to(at::kDouble);
    const Tensor alpha = at::minimum(at::softmax(logits / options.temperature, 1),
                                     at::softmax(teacher / options.temperature, 1))
                             .sum(1);
    HeadLossOptions only = options;
    only.acceptance = false;
    only.divergence_weight = 1.0 / (options.temperature * options.temperature);
    only.cross_entropy_weight = 0;
    const double* sums = loss.sums.data_ptr<double>();
    EXPECT_NEAR(sums[0], (RowLosses(c, only) * counted).sum().item<double>(), 1e-12);
    only.divergence_weight = 0;
    only.cross_entropy_weight = 1;
    EXPECT_NEAR(sums[1], (RowLosses(c, only) * counted).sum().item<double>(), 1e-12);
    EXPECT_EQ(sums[2], (agreement * counted).sum().item<double>());
    EXPECT_NEAR(sums[3], (alpha * counted).sum().item<double>(), 1e-12);
  }
}

TEST(HeadLoss, GradientsAgainstDifferences) {
  for (const HeadLossOptions& options : AllOptions()) {
    if (options.acceptance) continue;  // lambda counts as a constant there: below
    Case c;
    ExpectGradient(
        c.hidden, [&] { return c.Run(options).loss; }, "hidden");
    ExpectGradient(
        c.head, [&] { return c.Run(options).loss; }, "head");
  }
}

// Differences of the same loss with lambda held at its value.
TEST(HeadLoss, AcceptanceGradientAgainstDifferences) {
  Case c;
  HeadLossOptions options;
  options.acceptance = true;
  const Tensor lambda = [&] {
    const Tensor q = at::softmax(c.hidden.mm(c.head.t()), 1);
    const Tensor p = at::softmax(c.teacher_hidden.mm(c.teacher_head.t()), 1);
    return (at::minimum(p, q).sum(1) * -3).exp();
  }();
  c.hidden.set_requires_grad(true);
  c.Run(options).loss.backward();
  const Tensor found = c.hidden.grad().clone();
  c.hidden.set_requires_grad(false);
  const auto held = [&] {
    const Tensor q = at::softmax(c.hidden.mm(c.head.t()), 1);
    const Tensor p = at::softmax(c.teacher_hidden.mm(c.teacher_head.t()), 1);
    const Tensor divergence = (p * (p.log() - q.log())).sum(1);
    const Tensor alpha = at::minimum(p, q).sum(1);
    return ((lambda * divergence + (1 - lambda) * (1 - alpha)) * c.weight).sum().item<double>();
  };
  double* values = c.hidden.data_ptr<double>();
  for (int64_t i = 0; i < c.hidden.numel(); ++i) {
    const double kept = values[i];
    values[i] = kept + kStep;
    const double above = held();
    values[i] = kept - kStep;
    const double below = held();
    values[i] = kept;
    EXPECT_NEAR(found.data_ptr<double>()[i], (above - below) / (2 * kStep), 1e-8) << i;
  }
}

TEST(HeadLoss, PiecesOfRowsChangeNothing) {
  for (HeadLossOptions options : AllOptions()) {
    Case whole, cut;
    std::vector<Tensor> gradients;
    for (Case* c : {&whole, &cut}) {
      options.rows_at_once = c == &cut ? 2 : 0;
      c->hidden.set_requires_grad(true);
      c->head.set_requires_grad(true);
      const HeadLoss loss = c->Run(options);
      loss.loss.backward();
      gradients.push_back(c->hidden.grad());
      gradients.push_back(c->head.grad());
      gradients.push_back(loss.sums);
    }
    for (int i = 0; i < 3; ++i) {
      EXPECT_TRUE(at::allclose(gradients[i], gradients[3 + i], 1e-12, 1e-14)) << i;
    }
  }
}

// A step's gradient is the same whatever its batch is cut into: weights are of tokens, not batches.
TEST(HeadLoss, MicroBatchesAddUp) {
  Case c;
  c.hidden.set_requires_grad(true);
  c.Run({}).loss.backward();
  const Tensor whole = c.hidden.grad().clone();
  c.hidden.mutable_grad().zero_();
  for (const auto& [begin, count] : std::vector<std::pair<int64_t, int64_t>>{{0, 1}, {1, 4}}) {
    HeadLossAndGradient(c.hidden.narrow(0, begin, count), c.head,
                        c.teacher_hidden.narrow(0, begin, count), c.teacher_head,
                        c.targets.narrow(0, begin, count), c.weight.narrow(0, begin, count), {})
        .loss.backward();
  }
  EXPECT_TRUE(at::allclose(c.hidden.grad(), whole, 1e-12, 1e-14));
}

TEST(HeadLoss, WithoutATeacherOrWithoutTargets) {
  const Case c;
  HeadLossOptions entropy;
  entropy.cross_entropy_weight = 1;
  const HeadLoss alone =
      HeadLossAndGradient(c.hidden, c.head, {}, {}, c.targets, c.weight, entropy);
  entropy.divergence_weight = 0;
  EXPECT_NEAR(alone.loss.item<double>(), (RowLosses(c, entropy) * c.weight).sum().item<double>(),
              1e-12);
  const HeadLoss untargeted =
      HeadLossAndGradient(c.hidden, c.head, c.teacher_hidden, c.teacher_head, {}, c.weight, {});
  EXPECT_NEAR(untargeted.loss.item<double>(), (RowLosses(c, {}) * c.weight).sum().item<double>(),
              1e-12);
  EXPECT_THROW(HeadLossAndGradient(c.hidden, c.head, {}, {}, {}, c.weight, {}), c10::Error);
  EXPECT_THROW(HeadLossAndGradient(c.hidden, c.head, c.teacher_hidden,
                                   c.teacher_head.narrow(0, 0, 6), {}, c.weight, {}),
               c10::Error);
}

TEST(HeadLoss, WithoutGradientsTheValuesAreTheSame) {
  Case c;
  const double with = c.Run({}).loss.item<double>();
  c.hidden.set_requires_grad(true);
  at::NoGradGuard no_grad;
  EXPECT_EQ(c.Run({}).loss.item<double>(), with);
}

TEST(TokenLogProbabilities, ValuesAndGradients) {
  for (const int64_t rows_at_once : {0, 2}) {
    Case c;
    const Tensor expected =
        at::log_softmax(c.hidden.mm(c.head.t()), 1).gather(1, c.targets.unsqueeze(1)).squeeze(1);
    EXPECT_TRUE(at::allclose(TokenLogProbabilities(c.hidden, c.head, c.targets, rows_at_once),
                             expected, 1e-12, 1e-14));
    const auto loss = [&] {
      return (TokenLogProbabilities(c.hidden, c.head, c.targets, rows_at_once) * c.weight).sum();
    };
    ExpectGradient(c.hidden, loss, "hidden");
    ExpectGradient(c.head, loss, "head");
  }
}

TEST(AlignmentLoss, ValuesAndGradients) {
  Tensor student = Numbers({2, 3, 4}, 5);
  const Tensor teacher = Numbers({2, 3, 4}, 6);
  const Tensor mask = at::tensor({1, 1, 0, 1, 0, 1}, at::kFloat).view({2, 3});
  for (const Tensor& counted : {mask, Tensor()}) {
    const Tensor weight =
        counted.defined() ? counted.to(at::kDouble) : at::ones({2, 3}, at::kDouble);
    const Tensor squares = (student - teacher).square().sum(-1);
    const double relative =
        ((squares * weight).sum() / (teacher.square().sum(-1) * weight).sum()).item<double>();
    const double distance =
        ((squares.sqrt() * weight).sum() / weight.sum()).item<double>() / std::sqrt(4.0);
    EXPECT_NEAR(AlignmentLoss(student, teacher, counted, AlignmentKind::kRelativeSquaredError)
                    .item<double>(),
                relative, 1e-12);
    EXPECT_NEAR(AlignmentLoss(student, teacher, counted, AlignmentKind::kDistance).item<double>(),
                distance, 1e-11);
    for (const AlignmentKind kind :
         {AlignmentKind::kRelativeSquaredError, AlignmentKind::kDistance}) {
      ExpectGradient(
          student, [&] { return AlignmentLoss(student, teacher, counted, kind); }, "student");
    }
  }
}

TEST(AlignmentLoss, APerfectStudentHasAFiniteGradient) {
  Tensor student = Numbers({3, 4}, 7);
  const Tensor teacher = student.clone();
  student.set_requires_grad(true);
  AlignmentLoss(student, teacher, {}, AlignmentKind::kDistance).backward();
  EXPECT_TRUE(at::isfinite(student.grad()).all().item<bool>());
}

TEST(DirectPreferenceLoss, ValuesAndGradients) {
  Tensor chosen = Numbers({4}, 8), rejected = Numbers({4}, 9);
  const Tensor chosen_before = Numbers({4}, 10), rejected_before = Numbers({4}, 11);
  const double beta = 0.3;
  double loss = 0, margin = 0, accuracy = 0;
  for (int i = 0; i < 4; ++i) {
    const double one = beta * ((chosen[i] - chosen_before[i]).item<double>() -
                               (rejected[i] - rejected_before[i]).item<double>());
    loss += std::log1p(std::exp(-one));
    margin += one;
    accuracy += one > 0;
  }
  const PreferenceLoss found =
      DirectPreferenceLoss(chosen, rejected, chosen_before, rejected_before, beta);
  EXPECT_NEAR(found.loss.item<double>(), loss, 1e-12);
  EXPECT_NEAR(found.margin.item<double>(), margin, 1e-12);
  EXPECT_EQ(found.accuracy.item<double>(), accuracy);
  const auto again = [&] {
    return DirectPreferenceLoss(chosen, rejected, chosen_before, rejected_before, beta).loss;
  };
  ExpectGradient(chosen, again, "chosen");
  ExpectGradient(rejected, again, "rejected");
}

}  // namespace
}  // namespace mambad::trainer
