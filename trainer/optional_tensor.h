// Autograd functions take tensors that may be undefined as optional ones. Those that are absent do
// not count when the context is asked by number which gradients are needed.

#ifndef MAMBAD_TRAINER_OPTIONAL_TENSOR_H_
#define MAMBAD_TRAINER_OPTIONAL_TENSOR_H_

#include <ATen/core/Tensor.h>

#include <optional>

namespace mambad::trainer {

inline std::optional<at::Tensor> IfDefined(const at::Tensor& tensor) {
  if (!tensor.defined()) return std::nullopt;
  return tensor;
}

inline at::Tensor OrUndefined(const std::optional<at::Tensor>& tensor) {
  return tensor.has_value() ? *tensor : at::Tensor();
}

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_OPTIONAL_TENSOR_H_
