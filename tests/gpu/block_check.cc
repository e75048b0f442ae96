// Norms, gates and rotation against double.

#include <algorithm>
#include <cmath>

#include "kernels/cuda/training/block.h"
#include "tests/gpu/training_kernels_check.h"

namespace mambad::gpu_check {
namespace {

using kernels::ElementType;

ElementType KernelType(Type type) {
  return type == Type::kFloat ? ElementType::kFloat32 : ElementType::kBFloat16;
}

// What rounding the results to the type costs at least, with room for fp32 in between.
double Tolerance(Type type) { return type == Type::kFloat ? 1e-5 : 4e-3; }
constexpr double kSumTolerance = 1e-4;  // of fp32 sums over rows

std::string Title(const char* what, Type stream, Type type, int64_t rows, int64_t width) {
  return std::string(what) + (stream == Type::kFloat ? " float" : " bf16") +
         (type == Type::kFloat ? " float " : " bf16 ") + std::to_string(rows) + "x" +
         std::to_string(width);
}

void CheckNorm(Type stream, Type type, int64_t rows, int64_t width, Report* report) {
  const Array input = Array::Random(stream, rows, width, 2),
              delta = Array::Random(type, rows, width, 1);
  const Array weight = Array::Random(Type::kFloat, 1, width, 0.3, 1);
  const Array output_gradient = Array::Random(type, rows, width, 1);
  const Array sum_gradient = Array::Random(stream, rows, width, 1);
  Numbers h = input.values();
  for (size_t i = 0; i < h.size(); ++i) h[i] = Round(h[i] + delta.values()[i], stream);
  const double epsilon = 1e-5;
  const NormResult expected =
      ReferenceNorm(h, weight.values(), output_gradient.values(), rows, width, 1, epsilon);
  const Array sum(stream, rows, width), output(type, rows, width);
  kernels::NormForwardArguments forward;
  forward.rows = rows, forward.width = width, forward.epsilon = epsilon;
  forward.stream_type = KernelType(stream), forward.type = KernelType(type);
  forward.input = input.data(), forward.delta = delta.data(), forward.sum = sum.data();
  forward.weight = weight.floats(), forward.output = output.data();
  report->Check(Title("norm", stream, type, rows, width),
                {{"sum", sum, h, stream == Type::kFloat ? 1e-6 : 1e-4},
                 {"output", output, expected.output, Tolerance(type)}},
                [&] { Launch(kernels::cuda::NormForward(forward, nullptr)); });

  Numbers gradient = expected.input_gradient;
  for (size_t i = 0; i < gradient.size(); ++i) gradient[i] += sum_gradient.values()[i];
  const Array delta_gradient(type, rows, width), weight_gradient(Type::kFloat, 1, width);
  const Array workspace(Type::kFloat, 1, kernels::NormWorkspace(rows, width));
  kernels::NormBackwardArguments backward;
  backward.rows = rows, backward.width = width, backward.epsilon = epsilon;
  backward.stream_type = KernelType(stream), backward.type = KernelType(type);
  backward.sum = sum.data(), backward.weight = weight.floats();
  backward.output_gradient = output_gradient.data();
  backward.sum_gradient = backward.input_gradient = sum_gradient.data();  // in place
  backward.delta_gradient = delta_gradient.data();
  backward.weight_gradient = weight_gradient.floats(), backward.workspace = workspace.floats();
  report->Check(Title("norm backward", stream, type, rows, width),
                {{"input gradient", sum_gradient, gradient, Tolerance(stream), true},
                 {"delta gradient", delta_gradient, gradient, Tolerance(type)},
                 {"weight gradient", weight_gradient, expected.weight_gradient, kSumTolerance}},
                [&] { Launch(kernels::cuda::NormBackward(backward, nullptr)); });

  // Alone: no delta, nothing from later blocks, a frozen weight.
  const NormResult alone = ReferenceNorm(input.values(), weight.values(), output_gradient.values(),
                                         rows, width, 1, epsilon);
  forward.delta = nullptr, forward.sum = nullptr;
  backward.sum = input.data(), backward.sum_gradient = nullptr,
  backward.input_gradient = sum.data();
  backward.delta_gradient = nullptr, backward.weight_gradient = backward.workspace = nullptr;
  report->Check(Title("norm alone", stream, type, rows, width),
                {{"output", output, alone.output, Tolerance(type)},
                 {"input gradient", sum, alone.input_gradient, Tolerance(stream)}},
                [&] {
                  Launch(kernels::cuda::NormForward(forward, nullptr));
                  Launch(kernels::cuda::NormBackward(backward, nullptr));
                });
}

void CheckGatedNorm(Type type, int64_t rows, int64_t width, int64_t groups, int64_t gap,
                    Report* report) {
  const int64_t stride = width + gap;
  const Array input = Array::Random(type, rows, width, 1, 0, stride);
  const Array gate = Array::Random(type, rows, width, 2, 0, width + 2 * gap);
  const Array weight = Array::Random(Type::kFloat, 1, width, 0.3, 1);
  const Array output_gradient = Array::Random(type, rows, width, 1, 0, stride);
  const GatedNormResult expected =
      ReferenceGatedNorm(input.values(), gate.values(), weight.values(), output_gradient.values(),
                         rows, width, groups, 1e-5);
  const Array output(type, rows, width, stride);
  kernels::GatedNormForwardArguments forward;
  forward.rows = rows, forward.width = width, forward.groups = groups;
  forward.type = KernelType(type), forward.weight = weight.floats();
  forward.input = input.data(), forward.gate = gate.data(), forward.output = output.data();
  forward.input_stride = stride, forward.gate_stride = gate.stride(),
  forward.output_stride = stride;
  const std::string title = " groups " + std::to_string(groups) + " gap " + std::to_string(gap);
  report->Check(Title("gated norm", type, type, rows, width) + title,
                {{"output", output, expected.output, Tolerance(type)}},
                [&] { Launch(kernels::cuda::GatedNormForward(forward, nullptr)); });

  const Array input_gradient(type, rows, width, stride), gate_gradient(type, rows, width, stride);
  const Array weight_gradient(Type::kFloat, 1, width);
  const Array workspace(Type::kFloat, 1, kernels::NormWorkspace(rows, width));
  kernels::GatedNormBackwardArguments backward;
  backward.rows = rows, backward.width = width, backward.groups = groups;
  backward.type = KernelType(type), backward.weight = weight.floats();
  backward.input = input.data(), backward.gate = gate.data();
  backward.output_gradient = output_gradient.data();
  backward.input_gradient = input_gradient.data(), backward.gate_gradient = gate_gradient.data();
  backward.input_stride = backward.output_stride = stride;
  backward.gate_stride = gate.stride();
  backward.input_gradient_stride = backward.gate_gradient_stride = stride;
  backward.weight_gradient = weight_gradient.floats(), backward.workspace = workspace.floats();
  report->Check(Title("gated norm backward", type, type, rows, width) + title,
                {{"input gradient", input_gradient, expected.input_gradient, Tolerance(type)},
                 {"gate gradient", gate_gradient, expected.gate_gradient, Tolerance(type)},
                 {"weight gradient", weight_gradient, expected.weight_gradient, kSumTolerance}},
                [&] { Launch(kernels::cuda::GatedNormBackward(backward, nullptr)); });
}

void CheckGate(Type type, int64_t rows, int64_t width, int64_t gap, Report* report) {
  const int64_t stride = 2 * width + gap;
  // Gate and up as the halves of one fused product.
  const Array gate = Array::Random(type, rows, width, 2, 0, stride);
  const Array up = Array::Random(type, rows, width, 1, 0, stride);
  const Array output_gradient = Array::Random(type, rows, width, 1);
  const GateResult expected = ReferenceGate(gate.values(), up.values(), output_gradient.values());
  const Array output(type, rows, width);
  kernels::GateForwardArguments forward;
  forward.rows = rows, forward.width = width, forward.type = KernelType(type);
  forward.gate = gate.data(), forward.up = up.data(), forward.output = output.data();
  forward.gate_stride = forward.up_stride = stride, forward.output_stride = width;
  report->Check(Title("gate", type, type, rows, width),
                {{"output", output, expected.output, Tolerance(type)}},
                [&] { Launch(kernels::cuda::GateForward(forward, nullptr)); });
  kernels::GateBackwardArguments backward;
  backward.rows = rows, backward.width = width, backward.type = KernelType(type);
  backward.gate = backward.gate_gradient = gate.data();  // in place
  backward.up = backward.up_gradient = up.data();
  backward.output_gradient = output_gradient.data();
  backward.gate_stride = backward.up_stride = stride, backward.output_stride = width;
  backward.gate_gradient_stride = backward.up_gradient_stride = stride;
  report->Check(Title("gate backward", type, type, rows, width),
                {{"gate gradient", gate, expected.gate_gradient, Tolerance(type), true},
                 {"up gradient", up, expected.up_gradient, Tolerance(type), true}},
                [&] { Launch(kernels::cuda::GateBackward(backward, nullptr)); });
}

void CheckRotary(Type type, int64_t tokens, int64_t query_heads, int64_t key_heads, int64_t width,
                 int64_t gap, bool inverse, Report* report) {
  std::vector<int64_t> places;
  for (int64_t i = 0; i < tokens; ++i) places.push_back(i * 7919 % 131072);
  Numbers frequencies;
  for (int64_t i = 0; i < width / 2; ++i) frequencies.push_back(std::pow(1e5, -2.0 * i / width));
  const Array positions = Array::OfLongs(places),
              inverse_frequency = Array::Of(Type::kDouble, frequencies);
  const Array query =
      Array::Random(type, tokens, query_heads * width, 1, 0, query_heads * width + gap);
  const Array key = Array::Random(type, tokens, key_heads * width, 1);
  const Array turned_query(type, tokens, query_heads * width);
  kernels::RotaryArguments arguments;
  arguments.tokens = tokens, arguments.head_width = width, arguments.type = KernelType(type);
  arguments.query = {query.data(), turned_query.data(), query.stride(), turned_query.stride(),
                     query_heads};
  arguments.key = {key.data(), key.data(), key.stride(), key.stride(), key_heads};  // in place
  arguments.positions = static_cast<const int64_t*>(positions.data());
  arguments.inverse_frequency = static_cast<const double*>(inverse_frequency.data());
  arguments.inverse = inverse;
  report->Check(
      Title("rotary", type, type, tokens, width) + (inverse ? " inverse" : ""),
      {{"query", turned_query,
        ReferenceRotation(query.values(), places, frequencies, query_heads, width, inverse),
        Tolerance(type)},
       {"key", key, ReferenceRotation(key.values(), places, frequencies, key_heads, width, inverse),
        Tolerance(type), true}},
      [&] { Launch(kernels::cuda::Rotate(arguments, nullptr)); });
}

}  // namespace

void CheckBlocks(Report* report) {
  for (const auto& [stream, type] : {std::pair{Type::kFloat, Type::kFloat},
                                     {Type::kFloat, Type::kHalf},
                                     {Type::kHalf, Type::kHalf}}) {
    for (const int64_t width : {3, 7, 64, 130, 256, 576, 1000, 1025, 2048, 4104, 16384}) {
      CheckNorm(stream, type, width > 2000 ? 5 : 37, width, report);
    }
    CheckNorm(stream, type, 5001, 72, report);
  }
  for (const Type type : {Type::kFloat, Type::kHalf}) {
    for (const int64_t gap : {0, 8, 9}) {
      CheckGatedNorm(type, 61, 576, 9, gap, report);
      CheckGatedNorm(type, 13, 1536, 1, gap, report);
      CheckGatedNorm(type, 17, 66, 3, gap, report);
      CheckGatedNorm(type, 3, 8192, 2, gap, report);
      CheckGate(type, 33, 1536, gap, report);
      CheckGate(type, 5, 37, gap, report);
      CheckRotary(type, 29, 9, 3, 64, gap, false, report);
      CheckRotary(type, 29, 9, 3, 64, gap, true, report);
      CheckRotary(type, 5, 2, 1, 6, gap, false, report);
    }
    CheckGatedNorm(type, 3001, 576, 9, 0, report);
  }
}

}  // namespace mambad::gpu_check
