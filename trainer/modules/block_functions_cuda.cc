#include "trainer/modules/block_functions_cuda.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "kernels/cuda/training/block.h"
#include "kernels/training_block.h"

namespace mambad::trainer::cuda {
namespace {

using at::Tensor;
using kernels::ElementType;

// The tensor's device is the current one while this lives; its current stream.
class Launch {
 public:
  explicit Launch(const Tensor& tensor)
      : guard_(tensor.device()),
        stream_(c10::cuda::getCurrentCUDAStream(tensor.device().index()).stream()) {}
  CUstream_st* stream() const { return stream_; }

 private:
  c10::cuda::CUDAGuard guard_;
  CUstream_st* stream_;
};

ElementType Type(at::ScalarType type) {
  TORCH_CHECK(type == at::kFloat || type == at::kBFloat16,
              "blocks on CUDA compute in fp32 or bf16, ", type, " found");
  return type == at::kFloat ? ElementType::kFloat32 : ElementType::kBFloat16;
}

void Check(const char* wrong) { TORCH_CHECK(wrong == nullptr, wrong); }

Tensor Floats(int64_t count, const Tensor& like) {
  return at::empty({count}, like.options().dtype(at::kFloat));
}

Tensor EmptyRows(const Tensor& like, int64_t columns, at::ScalarType type) {
  return at::empty({like.size(0), columns}, like.options().dtype(type));
}

void* Address(const Tensor& tensor) { return tensor.defined() ? tensor.data_ptr() : nullptr; }

}  // namespace

std::pair<Tensor, Tensor> NormForward(const Tensor& residual, const Tensor& delta,
                                      const Tensor& weight, double epsilon, at::ScalarType type) {
  const Tensor input = residual.contiguous();
  const Tensor added = delta.defined() ? delta.contiguous() : delta;
  Tensor sum = added.defined() ? at::empty_like(input) : Tensor();
  Tensor normed = EmptyRows(input, input.size(1), type);
  kernels::NormForwardArguments arguments;
  arguments.rows = input.size(0);
  arguments.width = input.size(1);
  arguments.epsilon = static_cast<float>(epsilon);
  arguments.stream_type = Type(input.scalar_type());
  arguments.type = Type(type);
  arguments.input = input.data_ptr();
  arguments.delta = Address(added);
  arguments.sum = Address(sum);
  arguments.weight = weight.data_ptr<float>();
  arguments.output = normed.data_ptr();
  Check(kernels::cuda::NormForward(arguments, Launch(input).stream()));
  return {added.defined() ? sum : input, normed};
}

NormGradients NormBackward(const Tensor& sum, const Tensor& weight, const Tensor& normed_gradient,
                           const Tensor& sum_gradient, double epsilon, const NormWanted& wanted) {
  const Tensor given = normed_gradient.contiguous();
  const Tensor direct = sum_gradient.defined() ? sum_gradient.contiguous() : sum_gradient;
  NormGradients result;
  if (wanted.input) result.input = at::empty_like(sum);
  if (wanted.delta) result.delta = EmptyRows(sum, sum.size(1), given.scalar_type());
  Tensor workspace;
  if (wanted.weight) {
    result.weight = at::empty_like(weight);
    workspace = Floats(kernels::NormWorkspace(sum.size(0), sum.size(1)), sum);
  }
  kernels::NormBackwardArguments arguments;
  arguments.rows = sum.size(0);
  arguments.width = sum.size(1);
  arguments.epsilon = static_cast<float>(epsilon);
  arguments.stream_type = Type(sum.scalar_type());
  arguments.type = Type(given.scalar_type());
  arguments.sum = sum.data_ptr();
  arguments.weight = weight.data_ptr<float>();
  arguments.output_gradient = given.data_ptr();
  arguments.sum_gradient = Address(direct);
  arguments.input_gradient = Address(result.input);
  arguments.delta_gradient = Address(result.delta);
  arguments.weight_gradient = static_cast<float*>(Address(result.weight));
  arguments.workspace = static_cast<float*>(Address(workspace));
  Check(kernels::cuda::NormBackward(arguments, Launch(sum).stream()));
  return result;
}

Tensor GatedNormForward(const Tensor& input, const Tensor& gate, const Tensor& weight,
                        int64_t groups, double epsilon) {
  Tensor output = EmptyRows(input, input.size(1), input.scalar_type());
  kernels::GatedNormForwardArguments arguments;
  arguments.rows = input.size(0);
  arguments.width = input.size(1);
  arguments.groups = groups;
  arguments.epsilon = static_cast<float>(epsilon);
  arguments.type = Type(input.scalar_type());
  arguments.input = input.data_ptr();
  arguments.gate = gate.data_ptr();
  arguments.weight = weight.data_ptr<float>();
  arguments.output = output.data_ptr();
  arguments.input_stride = input.stride(0);
  arguments.gate_stride = gate.stride(0);
  arguments.output_stride = output.stride(0);
  Check(kernels::cuda::GatedNormForward(arguments, Launch(input).stream()));
  return output;
}

GatedNormGradients GatedNormBackward(const Tensor& input, const Tensor& gate, const Tensor& weight,
                                     const Tensor& gradient, int64_t groups, double epsilon,
                                     bool wants_weight) {
  GatedNormGradients result;
  result.input = EmptyRows(input, input.size(1), input.scalar_type());
  result.gate = EmptyRows(input, input.size(1), input.scalar_type());
  Tensor workspace;
  if (wants_weight) {
    result.weight = at::empty_like(weight);
    workspace = Floats(kernels::NormWorkspace(input.size(0), input.size(1)), input);
  }
  kernels::GatedNormBackwardArguments arguments;
  arguments.rows = input.size(0);
  arguments.width = input.size(1);
  arguments.groups = groups;
  arguments.epsilon = static_cast<float>(epsilon);
  arguments.type = Type(input.scalar_type());
  arguments.input = input.data_ptr();
  arguments.gate = gate.data_ptr();
  arguments.weight = weight.data_ptr<float>();
  arguments.output_gradient = gradient.data_ptr();
  arguments.input_gradient = result.input.data_ptr();
  arguments.gate_gradient = result.gate.data_ptr();
  arguments.input_stride = input.stride(0);
  arguments.gate_stride = gate.stride(0);
  arguments.output_stride = gradient.stride(0);
  arguments.input_gradient_stride = result.input.stride(0);
  arguments.gate_gradient_stride = result.gate.stride(0);
  arguments.weight_gradient = static_cast<float*>(Address(result.weight));
  arguments.workspace = static_cast<float*>(Address(workspace));
  Check(kernels::cuda::GatedNormBackward(arguments, Launch(input).stream()));
  return result;
}

Tensor GateForward(const Tensor& fused, int64_t width) {
  const Tensor up = fused.narrow(1, width, width);
  Tensor output = EmptyRows(fused, width, fused.scalar_type());
  kernels::GateForwardArguments arguments;
  arguments.rows = fused.size(0);
  arguments.width = width;
  arguments.type = Type(fused.scalar_type());
  arguments.gate = fused.data_ptr();
  arguments.up = up.data_ptr();
  arguments.output = output.data_ptr();
  arguments.gate_stride = arguments.up_stride = fused.stride(0);
  arguments.output_stride = output.stride(0);
  Check(kernels::cuda::GateForward(arguments, Launch(fused).stream()));
  return output;
}

void GateBackward(const Tensor& fused, int64_t width, const Tensor& gradient, Tensor& result) {
  kernels::GateBackwardArguments arguments;
  arguments.rows = fused.size(0);
  arguments.width = width;
  arguments.type = Type(fused.scalar_type());
  arguments.gate = fused.data_ptr();
  arguments.up = fused.narrow(1, width, width).data_ptr();
  arguments.output_gradient = gradient.data_ptr();
  arguments.gate_gradient = result.data_ptr();
  arguments.up_gradient = result.narrow(1, width, width).data_ptr();
  arguments.gate_stride = arguments.up_stride = fused.stride(0);
  arguments.output_stride = gradient.stride(0);
  arguments.gate_gradient_stride = arguments.up_gradient_stride = result.stride(0);
  Check(kernels::cuda::GateBackward(arguments, Launch(fused).stream()));
}

std::vector<Tensor> Rotate(const Tensor& query, const Tensor& key, const Tensor& positions,
                           const Tensor& inverse_frequency, bool inverse) {
  const int64_t head_width = 2 * inverse_frequency.size(0);
  kernels::RotaryArguments arguments;
  arguments.tokens = query.size(0);
  arguments.head_width = head_width;
  arguments.type = Type(query.scalar_type());
  arguments.positions = positions.data_ptr<int64_t>();
  arguments.inverse_frequency = inverse_frequency.data_ptr<double>();
  arguments.inverse = inverse;
  const auto operand = [&](const Tensor& input, Tensor* output) {
    *output = EmptyRows(input, input.size(1), input.scalar_type());
    return kernels::RotaryOperand{input.data_ptr(), output->data_ptr(), input.stride(0),
                                  output->stride(0), input.size(1) / head_width};
  };
  Tensor turned_query, turned_key;
  arguments.query = operand(query, &turned_query);
  arguments.key = operand(key, &turned_key);
  Check(kernels::cuda::Rotate(arguments, Launch(query).stream()));
  return {turned_query.unflatten(1, {-1, head_width}), turned_key.unflatten(1, {-1, head_width})};
}

}  // namespace mambad::trainer::cuda
