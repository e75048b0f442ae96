// The arithmetics that models are computed in: what the engine promises bit for bit, it promises in
// each of them.

#ifndef MAMBAD_TESTS_ENGINE_ARITHMETIC_H_
#define MAMBAD_TESTS_ENGINE_ARITHMETIC_H_

#include <string>
#include <vector>

#include "engine/options.h"
#include "engine/weight_type.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/engine/tested_device.h"

namespace mambad::testing {

struct Arithmetic {
  std::string name;
  ComputeType weights = ComputeType::kFloat32, activations = ComputeType::kFloat32;
  ComputeType key_values = ComputeType::kFloat32;

  EngineOptions AddedTo(EngineOptions options) const {
    options.weight_type = weights;
    options.activations = activations;
    options.kv_type = key_values;
    return options;
  }
  kernels::ElementType backend_key_values() const { return ElementTypeOf(key_values); }
  kernels::ElementType backend_activations() const { return ElementTypeOf(activations); }
};

// Whether the tested device multiplies pairs of bf16 numbers; another one than the CPU always does
// so with bf16 weights.
inline bool RoundsActivations() {
  using kernels::ElementType;
  if (!OnCpu()) return true;
  const auto backend =
      kernels::CreateCpuBackend({.threads = 1, .activations = ElementType::kBFloat16});
  return backend->Activations(ElementType::kBFloat16) == ElementType::kBFloat16;
}

// All that the tested device has, the most exact one first.
inline std::vector<Arithmetic> EveryArithmetic() {
  if (!OnCpu()) {
    return {{"float32", ComputeType::kFloat32, ComputeType::kFloat32},
            {"float32_bfloat16_cache", ComputeType::kFloat32, ComputeType::kFloat32,
             ComputeType::kBFloat16},
            {"rounded_float32_cache", ComputeType::kBFloat16, ComputeType::kBFloat16},
            {"rounded", ComputeType::kBFloat16, ComputeType::kBFloat16, ComputeType::kBFloat16}};
  }
  std::vector<Arithmetic> all = {
      {"float32", ComputeType::kFloat32, ComputeType::kFloat32},
      {"bfloat16", ComputeType::kBFloat16, ComputeType::kFloat32},
      {"bfloat16_cache", ComputeType::kBFloat16, ComputeType::kFloat32, ComputeType::kBFloat16}};
  if (RoundsActivations()) {
    all.push_back(
        {"rounded", ComputeType::kBFloat16, ComputeType::kBFloat16, ComputeType::kBFloat16});
  }
  return all;
}
// Of them the most exact one and the least.
inline std::vector<Arithmetic> ExtremeArithmetics() {
  const std::vector<Arithmetic> all = EveryArithmetic();
  return {all.front(), all.back()};
}

// What a bf16 model's activations are, where the device has a choice.
inline std::vector<ComputeType> EveryActivations() {
  if (!OnCpu()) return {ComputeType::kBFloat16};
  std::vector<ComputeType> all = {ComputeType::kFloat32};
  if (RoundsActivations()) all.push_back(ComputeType::kBFloat16);
  return all;
}
inline std::string NameOf(ComputeType activations) {
  return activations == ComputeType::kBFloat16 ? "rounded" : "float32";
}

}  // namespace mambad::testing

#endif  // MAMBAD_TESTS_ENGINE_ARITHMETIC_H_
