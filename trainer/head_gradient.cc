#include "trainer/head_gradient.h"

#include <ATen/ATen.h>

#ifdef MAMBAD_TRAINING_CUDA
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "kernels/cuda/training/divergence.h"
#endif

namespace mambad::trainer {
namespace {

using at::Tensor;

at::ScalarType AccumulateType(const Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// d/dz of sum_v min(p_v, q_v) = q_j ([q_j < p_j] - sum over v with q_v < p_v of q_v), divided by
// the temperature by the caller.
Tensor OverlapGradient(const Tensor& p, const Tensor& q) {
  const Tensor below = at::where(q < p, q, at::zeros({}, q.options()));
  return below.sub_(q * below.sum(-1, true));
}

Tensor InOperations(Tensor student, const Tensor& teacher, const Tensor& targets,
                    const Tensor& row_weight, const HeadLossOptions& options, bool wants_gradient) {
  const at::ScalarType type = AccumulateType(student);
  const double inverse = 1.0 / options.temperature;
  const Tensor logits = student.to(type);
  Tensor results = at::zeros({student.size(0), kRowResults}, logits.options());
  Tensor loss = results.select(1, 0), gradient;
  if (wants_gradient) gradient = at::zeros_like(logits);
  if (teacher.defined()) {
    const Tensor log_q = at::log_softmax(logits * inverse, -1);
    const Tensor log_p = at::log_softmax(teacher.to(type) * inverse, -1);
    const Tensor q = log_q.exp(), p = log_p.exp();
    const Tensor divergence = (p * (log_p - log_q)).sum(-1);
    const Tensor alpha = at::minimum(p, q).sum(-1);
    results.select(1, 1).copy_(divergence);
    results.select(1, 3).copy_(student.argmax(-1) == teacher.argmax(-1));
    results.select(1, 4).copy_(alpha);
    if (options.acceptance) {
      const Tensor lambda = at::exp(alpha * -3.0);
      loss.add_(lambda * divergence + (1.0 - lambda) * (1.0 - alpha));
      if (wants_gradient) {
        gradient.add_(lambda.unsqueeze(1) * (q - p) * inverse);
        gradient.sub_((1.0 - lambda).unsqueeze(1) * OverlapGradient(p, q) * inverse);
      }
    } else {
      const double weight = options.divergence_weight * options.temperature * options.temperature;
      loss.add_(divergence * weight);
      if (wants_gradient) gradient.add_((q - p) * (weight * inverse));
    }
  }
  if (targets.defined()) {
    const Tensor log_q = at::log_softmax(logits, -1);
    const Tensor column = targets.unsqueeze(1);
    const Tensor cross_entropy = log_q.gather(1, column).squeeze(1).neg();
    results.select(1, 2).copy_(cross_entropy);
    loss.add_(cross_entropy * options.cross_entropy_weight);
    if (wants_gradient && options.cross_entropy_weight != 0) {
      Tensor q = log_q.exp();
      q.scatter_add_(1, column, at::full_like(cross_entropy, -1.0).unsqueeze(1));
      gradient.add_(q * options.cross_entropy_weight);
    }
  }
  if (wants_gradient) student.copy_(gradient * row_weight.to(type).unsqueeze(1));
  return results;
}

}  // namespace

Tensor LogitsToGradient(Tensor student, const Tensor& teacher, const Tensor& targets,
                        const Tensor& row_weight, const HeadLossOptions& options,
                        bool wants_gradient) {
#ifdef MAMBAD_TRAINING_CUDA
  if (student.is_cuda() && student.scalar_type() == at::kBFloat16) {
    Tensor results = at::empty({student.size(0), kRowResults}, student.options().dtype(at::kFloat));
    kernels::cuda::DivergenceArguments arguments;
    arguments.student = student.data_ptr();
    arguments.teacher = teacher.defined() ? teacher.data_ptr() : nullptr;
    arguments.targets = targets.defined() ? targets.data_ptr<int64_t>() : nullptr;
    arguments.row_weight = row_weight.data_ptr<float>();
    arguments.results = results.data_ptr<float>();
    arguments.rows = student.size(0);
    arguments.vocabulary = student.size(1);
    arguments.divergence_weight = static_cast<float>(options.divergence_weight);
    arguments.cross_entropy_weight = static_cast<float>(options.cross_entropy_weight);
    arguments.temperature = static_cast<float>(options.temperature);
    arguments.acceptance = options.acceptance;
    arguments.wants_gradient = wants_gradient;
    const c10::cuda::CUDAGuard guard(student.device());
    const char* error = kernels::cuda::DivergenceGradient(
        arguments, c10::cuda::getCurrentCUDAStream(student.get_device()).stream());
    TORCH_CHECK(error == nullptr, "head gradient kernel: ", error);
    return results;
  }
#endif
  return InOperations(student, teacher, targets, row_weight, options, wants_gradient);
}

}  // namespace mambad::trainer
