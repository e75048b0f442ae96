#include "trainer/losses.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <stdexcept>

#include "trainer/head_gradient.h"

namespace mambad::trainer {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

int64_t RowsAtOnce(int64_t wanted, const Tensor& head, int64_t rows) {
  constexpr int64_t kLogitBytes = int64_t{256} << 20;
  const int64_t row_bytes = head.size(0) * static_cast<int64_t>(head.element_size());
  // Whole tiles of the matrix products: multiples of 128 rows.
  const int64_t fitting = std::max<int64_t>(kLogitBytes / row_bytes / 128 * 128, 128);
  return std::max<int64_t>(1, std::min(rows, wanted > 0 ? wanted : fitting));
}

void CheckShapes(const Tensor& hidden, const Tensor& head, const Tensor& targets) {
  TORCH_CHECK(hidden.dim() == 2 && head.dim() == 2 && hidden.size(1) == head.size(1),
              "head loss: hidden ", hidden.sizes(), " and head ", head.sizes());
  TORCH_CHECK(!targets.defined() || targets.numel() == hidden.size(0),
              "head loss: ", hidden.size(0), " rows and ", targets.numel(), " targets");
}

// Forward makes the gradients, backward hands them out. `options` in fields because autograd
// functions take values.
class HeadLossFunction : public torch::autograd::Function<HeadLossFunction> {
 public:
  static variable_list forward(AutogradContext* context, Tensor hidden, Tensor head,
                               std::optional<Tensor> given_teacher_hidden,
                               std::optional<Tensor> given_teacher_head,
                               std::optional<Tensor> given_targets, Tensor row_weight,
                               HeadLossOptions options, bool gradients_on) {
    const Tensor teacher_hidden = given_teacher_hidden.value_or(Tensor());
    const Tensor teacher_head = given_teacher_head.value_or(Tensor());
    const Tensor targets = given_targets.value_or(Tensor());
    const bool wants_hidden = gradients_on && hidden.requires_grad();
    const bool wants_head = gradients_on && head.requires_grad();
    const bool wants_gradient = wants_hidden || wants_head;
    const bool has_teacher = teacher_hidden.defined();
    const int64_t rows = hidden.size(0);
    const at::ScalarType type = hidden.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    Tensor hidden_gradient, head_gradient;
    if (wants_hidden) hidden_gradient = at::empty_like(hidden);
    if (wants_head) head_gradient = at::zeros(head.sizes(), head.options().dtype(type));
    Tensor results = at::empty({rows, kRowResults}, hidden.options().dtype(type));
    const Tensor head_columns = head.t();
    const int64_t step = RowsAtOnce(options.rows_at_once, head, rows);
    for (int64_t begin = 0; begin < rows; begin += step) {
      const int64_t count = std::min(step, rows - begin);
      const auto part = [&](const Tensor& tensor) {
        return tensor.defined() ? tensor.narrow(0, begin, count) : tensor;
      };
      const Tensor logits = at::mm(part(hidden), head_columns);
      const Tensor teacher_logits =
          has_teacher ? at::mm(part(teacher_hidden), teacher_head.t()) : Tensor();
      part(results).copy_(LogitsToGradient(logits, teacher_logits, part(targets), part(row_weight),
                                           options, wants_gradient));
      if (wants_hidden) {
        Tensor out = part(hidden_gradient);
        at::mm_out(out, logits, head);
      }
      if (wants_head) head_gradient.add_(at::mm(logits.t(), part(hidden)));
    }
    const Tensor weight = row_weight.to(type);
    const Tensor counted = weight.gt(0).to(type);
    // A matrix-vector product would leave the order of the sum to a library.
    Tensor sums = (results.narrow(1, 1, kRowResults - 1) * counted.unsqueeze(1)).sum(0);
    Tensor loss = (results.select(1, 0) * weight).sum();
    context->save_for_backward({hidden_gradient, head_gradient});
    context->saved_data["head_type"] = static_cast<int64_t>(head.scalar_type());
    context->mark_non_differentiable({sums});
    return {loss, sums};
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const auto head_type = static_cast<at::ScalarType>(context->saved_data["head_type"].toInt());
    const Tensor& scale = gradients[0];
    variable_list result(8);
    if (saved[0].defined()) result[0] = saved[0] * scale.to(saved[0].scalar_type());
    if (saved[1].defined()) result[1] = (saved[1] * scale).to(head_type);
    return result;
  }
};

// Saves the log normaliser of each row; backward makes the logits again.
class LogProbabilityFunction : public torch::autograd::Function<LogProbabilityFunction> {
 public:
  static Tensor forward(AutogradContext* context, Tensor hidden, Tensor head, Tensor targets,
                        int64_t rows_at_once) {
    at::NoGradGuard no_grad;
    const int64_t rows = hidden.size(0);
    const at::ScalarType type = hidden.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    Tensor result = at::empty({rows}, hidden.options().dtype(type));
    Tensor normaliser = at::empty_like(result);
    const int64_t step = RowsAtOnce(rows_at_once, head, rows);
    for (int64_t begin = 0; begin < rows; begin += step) {
      const int64_t count = std::min(step, rows - begin);
      const Tensor logits = at::mm(hidden.narrow(0, begin, count), head.t()).to(type);
      const Tensor chosen = logits.gather(1, targets.narrow(0, begin, count).unsqueeze(1));
      const Tensor total = at::logsumexp(logits, {1});
      normaliser.narrow(0, begin, count).copy_(total);
      result.narrow(0, begin, count).copy_(chosen.squeeze(1) - total);
    }
    context->save_for_backward({hidden, head, targets, normaliser});
    context->saved_data["rows_at_once"] = rows_at_once;
    return result;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    at::NoGradGuard no_grad;
    const variable_list saved = context->get_saved_variables();
    const Tensor &hidden = saved[0], &head = saved[1], &targets = saved[2], &normaliser = saved[3];
    const bool wants_head = context->needs_input_grad(1);
    const int64_t rows = hidden.size(0);
    const at::ScalarType type = normaliser.scalar_type();
    Tensor hidden_gradient = at::empty_like(hidden), head_gradient;
    if (wants_head) head_gradient = at::zeros(head.sizes(), head.options().dtype(type));
    const int64_t step = RowsAtOnce(context->saved_data["rows_at_once"].toInt(), head, rows);
    for (int64_t begin = 0; begin < rows; begin += step) {
      const int64_t count = std::min(step, rows - begin);
      const auto part = [&](const Tensor& tensor) { return tensor.narrow(0, begin, count); };
      const Tensor outer = part(gradients[0]).unsqueeze(1);
      Tensor q = (at::mm(part(hidden), head.t()).to(type) - part(normaliser).unsqueeze(1)).exp_();
      q.mul_(outer).neg_().scatter_add_(1, part(targets).unsqueeze(1), outer);
      const Tensor logits_gradient = q.to(hidden.scalar_type());
      Tensor out = part(hidden_gradient);
      at::mm_out(out, logits_gradient, head);
      if (wants_head) head_gradient.add_(at::mm(logits_gradient.t(), part(hidden)));
    }
    return {hidden_gradient, wants_head ? head_gradient.to(head.scalar_type()) : Tensor(), Tensor(),
            Tensor()};
  }
};

}  // namespace

HeadLoss HeadLossAndGradient(const Tensor& student_hidden, const Tensor& student_head,
                             const Tensor& teacher_hidden, const Tensor& teacher_head,
                             const Tensor& targets, const Tensor& row_weight,
                             const HeadLossOptions& options) {
  CheckShapes(student_hidden, student_head, targets);
  TORCH_CHECK(row_weight.numel() == student_hidden.size(0), "head loss: one weight a row");
  TORCH_CHECK(options.temperature > 0, "head loss: temperature above 0");
  if (teacher_hidden.defined()) {
    CheckShapes(teacher_hidden, teacher_head, targets);
    TORCH_CHECK(teacher_hidden.size(0) == student_hidden.size(0) &&
                    teacher_head.size(0) == student_head.size(0),
                "head loss: a teacher of ", teacher_hidden.size(0), " rows and ",
                teacher_head.size(0), " tokens, a student of ", student_hidden.size(0), " and ",
                student_head.size(0));
  }
  TORCH_CHECK(teacher_hidden.defined() || (targets.defined() && !options.acceptance),
              "head loss: neither teacher nor targets");
  // Autograd functions want what may be undefined as an optional.
  const auto given = [](const Tensor& tensor) {
    return tensor.defined() ? std::optional<Tensor>(tensor) : std::nullopt;
  };
  const variable_list result = HeadLossFunction::apply(
      student_hidden.contiguous(), student_head, given(teacher_hidden), given(teacher_head),
      given(targets), row_weight.contiguous(), options, at::GradMode::is_enabled());
  return {result[0], result[1]};
}

Tensor TokenLogProbabilities(const Tensor& hidden, const Tensor& head, const Tensor& targets,
                             int64_t rows_at_once) {
  CheckShapes(hidden, head, targets);
  return LogProbabilityFunction::apply(hidden.contiguous(), head, targets, rows_at_once);
}

Tensor AlignmentLoss(const Tensor& student, const Tensor& teacher, const Tensor& mask,
                     AlignmentKind kind) {
  const at::ScalarType type = student.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const Tensor wanted = teacher.detach().to(type);
  const Tensor counted = mask.defined() ? mask.to(type) : Tensor();
  const auto masked = [&](const Tensor& rows) { return counted.defined() ? rows * counted : rows; };
  const Tensor squares = (student.to(type) - wanted).square().sum(-1);
  if (kind == AlignmentKind::kRelativeSquaredError) {
    return masked(squares).sum() / masked(wanted.square().sum(-1)).sum().clamp_min(1e-12);
  }
  // The root has no slope at 0: a perfect row must not turn the gradient into NaN.
  const Tensor distance = (squares + 1e-12).sqrt() / std::sqrt(student.size(-1));
  if (!counted.defined()) return distance.mean();
  return masked(distance).sum() / counted.sum().clamp_min(1.0);
}

PreferenceLoss DirectPreferenceLoss(const Tensor& chosen, const Tensor& rejected,
                                    const Tensor& reference_chosen,
                                    const Tensor& reference_rejected, double beta) {
  const Tensor margin =
      ((chosen - reference_chosen.detach()) - (rejected - reference_rejected.detach())) * beta;
  return {at::log_sigmoid(margin).sum().neg(), margin.detach().gt(0).sum(), margin.detach().sum()};
}

}  // namespace mambad::trainer
