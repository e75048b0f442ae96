#include "trainer/modules/block_functions.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "trainer/optional_tensor.h"

#ifdef MAMBAD_TRAINING_CUDA
#include "trainer/modules/block_functions_cuda.h"
#endif

namespace mambad::trainer {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Tensor SideBySide(const Tensor& tensor) {
  const bool fits = tensor.stride(-1) == 1 && tensor.stride(0) >= tensor.size(-1);
  return fits ? tensor : tensor.contiguous();
}

// ---- norms -------------------------------------------------------------------------------------

// values [M, G, n] -> 1 / sqrt(mean over n + epsilon), [M, G, 1].
Tensor InverseRoot(const Tensor& values, double epsilon) {
  return values.square().mean(-1, /*keepdim=*/true).add_(epsilon).rsqrt_();
}

struct NormGradient {
  Tensor input, weight;  // [M, G, n] wide; [G n]
};

// Of RMSNorm(values) * weight, given the gradient of the result; all wide, in groups [M, G, n].
NormGradient BackwardNorm(const Tensor& values, const Tensor& weight, const Tensor& gradient,
                          double epsilon, bool wants_weight) {
  const Tensor inverse = InverseRoot(values, epsilon);
  const Tensor normed = values * inverse;
  NormGradient result;
  if (wants_weight) result.weight = (gradient * normed).sum(0).flatten();
  Tensor inner = gradient * weight.view({values.size(1), values.size(2)});
  const Tensor along = (inner * normed).mean(-1, /*keepdim=*/true);
  result.input = inner.sub_(normed * along).mul_(inverse);
  return result;
}

// With a delta {sum, normed}, without one {normed}.
class NormFunction : public torch::autograd::Function<NormFunction> {
 public:
  static variable_list forward(AutogradContext* context, Tensor residual,
                               std::optional<Tensor> given_delta, Tensor weight, double epsilon,
                               at::ScalarType type) {
    const Tensor delta = OrUndefined(given_delta);
    context->set_materialize_grads(false);
    context->saved_data["epsilon"] = epsilon;
    context->saved_data["type"] = static_cast<int64_t>(type);
    Tensor sum, normed;
#ifdef MAMBAD_TRAINING_CUDA
    if (residual.is_cuda()) {
      std::tie(sum, normed) = cuda::NormForward(residual, delta, weight, epsilon, type);
    }
#endif
    if (!normed.defined()) {
      sum = delta.defined() ? residual + delta : residual;
      normed = (sum * InverseRoot(sum, epsilon)).mul_(weight).to(type);
    }
    context->save_for_backward({sum, weight});
    if (delta.defined()) return {sum, normed};
    return {normed};
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    at::NoGradGuard no_grad;
    const variable_list saved = context->get_saved_variables();
    const Tensor &sum = saved[0], &weight = saved[1];
    const double epsilon = context->saved_data["epsilon"].toDouble();
    const auto type = static_cast<at::ScalarType>(context->saved_data["type"].toInt());
    const bool has_delta = gradients.size() == 2;
    const Tensor normed_gradient = gradients.back();
    const Tensor sum_gradient = has_delta ? gradients[0] : Tensor();
    const bool wants_delta = has_delta && context->needs_input_grad(1);
    const bool wants_weight = context->needs_input_grad(has_delta ? 2 : 1);
    variable_list result(5);
    if (!normed_gradient.defined()) {
      result[0] = sum_gradient;
      if (wants_delta && sum_gradient.defined()) result[1] = sum_gradient.to(type);
      return result;
    }
#ifdef MAMBAD_TRAINING_CUDA
    if (sum.is_cuda()) {
      const cuda::NormGradients made =
          cuda::NormBackward(sum, weight, normed_gradient, sum_gradient, epsilon,
                             {context->needs_input_grad(0), wants_delta, wants_weight});
      result[0] = made.input;
      result[1] = made.delta;
      result[2] = made.weight;
      return result;
    }
#endif
    NormGradient made =
        BackwardNorm(sum.unsqueeze(1), weight, normed_gradient.to(sum.scalar_type()).unsqueeze(1),
                     epsilon, wants_weight);
    Tensor input = made.input.squeeze(1);
    if (sum_gradient.defined()) input.add_(sum_gradient);
    result[0] = input;
    if (wants_delta) result[1] = input.to(type);
    result[2] = made.weight;
    return result;
  }
};

class GatedNormFunction : public torch::autograd::Function<GatedNormFunction> {
 public:
  static Tensor forward(AutogradContext* context, Tensor input, Tensor gate, Tensor weight,
                        int64_t groups, double epsilon) {
    context->save_for_backward({input, gate, weight});
    context->saved_data["groups"] = groups;
    context->saved_data["epsilon"] = epsilon;
#ifdef MAMBAD_TRAINING_CUDA
    if (input.is_cuda()) return cuda::GatedNormForward(input, gate, weight, groups, epsilon);
#endif
    const at::ScalarType wide = WideType(input.scalar_type());
    const Tensor values =
        (input.to(wide) * at::silu(gate.to(wide))).view({-1, groups, input.size(1) / groups});
    return (values * InverseRoot(values, epsilon))
        .view({-1, input.size(1)})
        .mul_(weight)
        .to(input.scalar_type());
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    at::NoGradGuard no_grad;
    const variable_list saved = context->get_saved_variables();
    const Tensor &input = saved[0], &gate = saved[1], &weight = saved[2];
    const int64_t groups = context->saved_data["groups"].toInt();
    const double epsilon = context->saved_data["epsilon"].toDouble();
    const bool wants_weight = context->needs_input_grad(2);
    variable_list result(5);
#ifdef MAMBAD_TRAINING_CUDA
    if (input.is_cuda()) {
      const cuda::GatedNormGradients made = cuda::GatedNormBackward(
          input, gate, weight, SideBySide(gradients[0]), groups, epsilon, wants_weight);
      result[0] = made.input;
      result[1] = made.gate;
      result[2] = made.weight;
      return result;
    }
#endif
    const at::ScalarType wide = WideType(input.scalar_type());
    const Tensor values = input.to(wide), gates = gate.to(wide), factor = at::silu(gates);
    const std::vector<int64_t> shape = {values.size(0), groups, values.size(1) / groups};
    NormGradient made = BackwardNorm((values * factor).view(shape), weight,
                                     gradients[0].to(wide).reshape(shape), epsilon, wants_weight);
    const Tensor product = made.input.view({values.size(0), values.size(1)});
    result[0] = (product * factor).to(input.scalar_type());
    result[1] = at::silu_backward(product * values, gates).to(gate.scalar_type());
    result[2] = made.weight;
    return result;
  }
};

// ---- gate and rotation -------------------------------------------------------------------------

class GatedProductFunction : public torch::autograd::Function<GatedProductFunction> {
 public:
  static Tensor forward(AutogradContext* context, Tensor fused, int64_t width) {
    context->save_for_backward({fused});
    context->saved_data["width"] = width;
#ifdef MAMBAD_TRAINING_CUDA
    if (fused.is_cuda()) return cuda::GateForward(fused, width);
#endif
    return at::silu(fused.narrow(1, 0, width)).mul_(fused.narrow(1, width, width));
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    at::NoGradGuard no_grad;
    const Tensor fused = context->get_saved_variables()[0];
    const int64_t width = context->saved_data["width"].toInt();
    Tensor result = at::empty_like(fused);
    const int64_t rest = fused.size(1) - 2 * width;
    if (rest > 0) result.narrow(1, 2 * width, rest).zero_();
#ifdef MAMBAD_TRAINING_CUDA
    if (fused.is_cuda()) {
      cuda::GateBackward(fused, width, SideBySide(gradients[0]), result);
      return {result, Tensor()};
    }
#endif
    const Tensor gate = fused.narrow(1, 0, width), up = fused.narrow(1, width, width);
    Tensor gate_gradient = result.narrow(1, 0, width), up_gradient = result.narrow(1, width, width);
    at::mul_out(up_gradient, gradients[0], at::silu(gate));
    gate_gradient.copy_(at::silu_backward(gradients[0] * up, gate));
    return {result, Tensor()};
  }
};

// [M, heads, head_width], the other way round with `inverse`.
Tensor RotateHeads(const Tensor& heads, const Tensor& cosine, const Tensor& sine, bool inverse) {
  const int64_t half = heads.size(2) / 2;
  const Tensor first = heads.narrow(2, 0, half), second = heads.narrow(2, half, half);
  const Tensor turned = inverse ? sine.neg() : sine;
  return at::cat({first * cosine - second * turned, second * cosine + first * turned}, 2);
}

class RotateFunction : public torch::autograd::Function<RotateFunction> {
 public:
  static variable_list forward(AutogradContext* context, Tensor query, Tensor key, Tensor positions,
                               Tensor inverse_frequency, std::optional<Tensor> given_cosine,
                               std::optional<Tensor> given_sine) {
    const Tensor cosine = OrUndefined(given_cosine), sine = OrUndefined(given_sine);
    context->save_for_backward({positions, inverse_frequency, cosine, sine});
    return Turn(query, key, positions, inverse_frequency, cosine, sine, false);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    at::NoGradGuard no_grad;
    const variable_list saved = context->get_saved_variables();
    variable_list result = Turn(gradients[0].flatten(1), gradients[1].flatten(1), saved[0],
                                saved[1], saved[2], saved[3], true);
    for (Tensor& gradient : result) gradient = gradient.flatten(1);
    result.resize(6);
    return result;
  }

 private:
  static variable_list Turn(const Tensor& query, const Tensor& key,
                            [[maybe_unused]] const Tensor& positions,
                            const Tensor& inverse_frequency, const Tensor& cosine,
                            const Tensor& sine, bool inverse) {
#ifdef MAMBAD_TRAINING_CUDA
    if (query.is_cuda()) return cuda::Rotate(query, key, positions, inverse_frequency, inverse);
#endif
    const int64_t width = 2 * inverse_frequency.size(0);
    return {RotateHeads(query.unflatten(1, {-1, width}), cosine, sine, inverse),
            RotateHeads(key.unflatten(1, {-1, width}), cosine, sine, inverse)};
  }
};

}  // namespace

at::ScalarType WideType(at::ScalarType type) {
  return type == at::kDouble ? at::kDouble : at::kFloat;
}

NormedSum AddAndNorm(const Tensor& residual, const Tensor& delta, const Tensor& weight,
                     double epsilon, at::ScalarType type) {
  const variable_list made = NormFunction::apply(residual, IfDefined(delta), weight, epsilon, type);
  if (!delta.defined()) return {residual, made[0]};
  return {made[0], made[1]};
}

Tensor GatedNorm(const Tensor& input, const Tensor& gate, const Tensor& weight, int64_t groups,
                 double epsilon) {
  return GatedNormFunction::apply(SideBySide(input), SideBySide(gate), weight, groups, epsilon);
}

Tensor GatedProduct(const Tensor& fused, int64_t width) {
  return GatedProductFunction::apply(SideBySide(fused), width);
}

Rotation MakeRotation(const Tensor& positions, const Tensor& inverse_frequency, at::ScalarType type,
                      const RotationGrowth& growth) {
  Rotation rotation;
  rotation.positions = positions.flatten();
  rotation.inverse_frequency = inverse_frequency;
  if (positions.is_cuda()) return rotation;
  const Tensor places = rotation.positions.to(at::kDouble).unsqueeze(1);
  Tensor angles = places * inverse_frequency;
  if (growth.context > 0) {
    const int64_t half = inverse_frequency.size(0);
    const Tensor times = (places + 1) / static_cast<double>(growth.context);
    const Tensor base = (times * growth.factor - (growth.factor - 1)).clamp_min(1);
    const Tensor exponents = at::arange(half, inverse_frequency.options()) / (1.0 - half);
    angles = angles * at::pow(base, exponents);
  }
  rotation.cosine = angles.cos().to(WideType(type)).unsqueeze(1);
  rotation.sine = angles.sin().to(WideType(type)).unsqueeze(1);
  return rotation;
}

std::pair<Tensor, Tensor> Rotate(const Tensor& query, const Tensor& key, const Rotation& rotation) {
  const variable_list turned = RotateFunction::apply(
      SideBySide(query), SideBySide(key), rotation.positions, rotation.inverse_frequency,
      IfDefined(rotation.cosine), IfDefined(rotation.sine));
  return {turned[0], turned[1]};
}

Tensor NormHeads(const Tensor& input, const Tensor& weight, double epsilon) {
  const Tensor heads = input.reshape({-1, weight.size(0)}).to(WideType(input.scalar_type()));
  return AddAndNorm(heads, Tensor(), weight, epsilon, input.scalar_type())
      .normed.view({input.size(0), -1});
}

Tensor AddBiases(const Tensor& product, const std::vector<Tensor>& biases) {
  std::vector<Tensor> parts = biases;
  int64_t columns = 0;
  for (const Tensor& bias : biases) columns += bias.size(0);
  if (columns < product.size(1))
    parts.push_back(at::zeros({product.size(1) - columns}, biases[0].options()));
  return (product + (parts.size() == 1 ? parts[0] : at::cat(parts))).to(product.scalar_type());
}

Tensor FusedProduct(const Tensor& input, const std::vector<Tensor>& matrices) {
  constexpr int64_t kWholeWords = 16;
  std::vector<Tensor> parts = matrices;
  int64_t rows = 0;
  for (const Tensor& matrix : matrices) rows += matrix.size(0);
  const int64_t missing = input.is_cuda() ? (kWholeWords - rows % kWholeWords) % kWholeWords : 0;
  if (missing > 0) parts.push_back(at::zeros({missing, input.size(1)}, input.options()));
  const Tensor whole = parts.size() == 1 ? parts[0] : at::cat(parts);
  return at::mm(input, whole.t());
}

}  // namespace mambad::trainer
