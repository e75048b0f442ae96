// The gate of an MLP and the rotation of queries and keys, forward and backward.

#include <initializer_list>

#include "kernels/cuda/training/block.h"
#include "kernels/cuda/training/element_access.cuh"

namespace mambad::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// One thread a pack of kPack columns of a row.
template <typename Arguments>
__device__ bool Place(const Arguments& arguments, int pack, int64_t* row, int* column) {
  const int packs = static_cast<int>(arguments.width) / pack;
  const int64_t index = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  *row = index / packs;
  *column = static_cast<int>(index - *row * packs) * pack;
  return *row < arguments.rows;
}

template <typename Element, int kPack>
__global__ void __launch_bounds__(kThreads) GateForwardKernel(GateForwardArguments arguments) {
  int64_t row;
  int column;
  if (!Place(arguments, kPack, &row, &column)) return;
  float gate[kPack], up[kPack];
  LoadFloats<kPack>(
      static_cast<const Element*>(arguments.gate) + row * arguments.gate_stride + column, gate);
  LoadFloats<kPack>(static_cast<const Element*>(arguments.up) + row * arguments.up_stride + column,
                    up);
#pragma unroll
  for (int i = 0; i < kPack; ++i) up[i] *= gate[i] * Sigmoid(gate[i]);
  StoreFloats<kPack>(
      static_cast<Element*>(arguments.output) + row * arguments.output_stride + column, up);
}

template <typename Element, int kPack>
__global__ void __launch_bounds__(kThreads) GateBackwardKernel(GateBackwardArguments arguments) {
  int64_t row;
  int column;
  if (!Place(arguments, kPack, &row, &column)) return;
  float gate[kPack], up[kPack], gradient[kPack];
  LoadFloats<kPack>(
      static_cast<const Element*>(arguments.gate) + row * arguments.gate_stride + column, gate);
  LoadFloats<kPack>(static_cast<const Element*>(arguments.up) + row * arguments.up_stride + column,
                    up);
  LoadFloats<kPack>(static_cast<const Element*>(arguments.output_gradient) +
                        row * arguments.output_stride + column,
                    gradient);
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    const Silu silu = SiluOf(gate[i]);
    gate[i] = gradient[i] * up[i] * silu.slope;
    up[i] = gradient[i] * silu.value;
  }
  StoreFloats<kPack>(static_cast<Element*>(arguments.gate_gradient) +
                         row * arguments.gate_gradient_stride + column,
                     gate);
  StoreFloats<kPack>(
      static_cast<Element*>(arguments.up_gradient) + row * arguments.up_gradient_stride + column,
      up);
}

constexpr int kTokens = 8;  // of a block that rotates
constexpr int64_t kMaxHeadWidth = 512;

template <typename Element, int kPack>
__device__ void RotateOperand(const RotaryOperand& operand, int64_t first, int tokens, int half,
                              const float* cosines, const float* sines) {
  const int packs = half / kPack, items = static_cast<int>(operand.heads) * packs;
  for (int item = threadIdx.x; item < tokens * items; item += kThreads) {
    const int token = item / items, head = item % items / packs, i = item % packs * kPack;
    const int64_t column = int64_t{head} * 2 * half + i;
    const Element* from = static_cast<const Element*>(operand.input) +
                          (first + token) * operand.input_stride + column;
    Element* to =
        static_cast<Element*>(operand.output) + (first + token) * operand.output_stride + column;
    float a[kPack], b[kPack];
    LoadFloats<kPack>(from, a);
    LoadFloats<kPack>(from + half, b);
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      const float cosine = cosines[token * half + i + j], sine = sines[token * half + i + j];
      const float turned = a[j] * cosine - b[j] * sine;
      b[j] = b[j] * cosine + a[j] * sine;
      a[j] = turned;
    }
    StoreFloats<kPack>(to, a);
    StoreFloats<kPack>(to + half, b);
  }
}

template <typename Element, int kPack>
__global__ void __launch_bounds__(kThreads) RotaryKernel(RotaryArguments arguments) {
  extern __shared__ float table[];  // cosines, then sines, [kTokens, half] each
  const int half = static_cast<int>(arguments.head_width / 2);
  const int64_t first = blockIdx.x * int64_t{kTokens};
  const int tokens = static_cast<int>(min(int64_t{kTokens}, arguments.tokens - first));
  float* sines = table + kTokens * half;
  constexpr double kTurn = 6.283185307179586476925286766559;
  for (int item = threadIdx.x; item < tokens * half; item += kThreads) {
    const double angle = static_cast<double>(arguments.positions[first + item / half]) *
                         arguments.inverse_frequency[item % half];
    float sine, cosine;
    sincosf(static_cast<float>(angle - kTurn * rint(angle / kTurn)), &sine, &cosine);
    table[item] = cosine;
    sines[item] = arguments.inverse ? -sine : sine;
  }
  __syncthreads();
  RotateOperand<Element, kPack>(arguments.query, first, tokens, half, table, sines);
  RotateOperand<Element, kPack>(arguments.key, first, tokens, half, table, sines);
}

const char* CheckGate(int64_t rows, int64_t width) {
  if (width < 1 || width > (1 << 24)) return "gate: width not in 1..2^24";
  if (rows < 0 || rows > (int64_t{1} << 38) / width) return "gate: too many rows";
  return nullptr;
}

template <int kPack, typename Arguments>
unsigned GateBlocks(const Arguments& arguments) {
  const int64_t packs = arguments.rows * (arguments.width / kPack);
  return static_cast<unsigned>((packs + kThreads - 1) / kThreads);
}

template <typename Element>
bool RowsPack(std::initializer_list<const void*> rows, int64_t strides) {
  bool packed = true;
  for (const void* data : rows) packed = packed && CanPack<Element, 8>(data, strides);
  return packed;
}

template <typename Element>
const char* LaunchGate(const GateForwardArguments& arguments, CUstream_st* stream) {
  const bool packed = RowsPack<Element>(
      {arguments.gate, arguments.up, arguments.output},
      arguments.width | arguments.gate_stride | arguments.up_stride | arguments.output_stride);
  if (packed) {
    GateForwardKernel<Element, 8><<<GateBlocks<8>(arguments), kThreads, 0, stream>>>(arguments);
  } else {
    GateForwardKernel<Element, 1><<<GateBlocks<1>(arguments), kThreads, 0, stream>>>(arguments);
  }
  return LaunchError();
}

template <typename Element>
const char* LaunchGate(const GateBackwardArguments& arguments, CUstream_st* stream) {
  const bool packed = RowsPack<Element>(
      {arguments.gate, arguments.up, arguments.output_gradient, arguments.gate_gradient,
       arguments.up_gradient},
      arguments.width | arguments.gate_stride | arguments.up_stride | arguments.output_stride |
          arguments.gate_gradient_stride | arguments.up_gradient_stride);
  if (packed) {
    GateBackwardKernel<Element, 8><<<GateBlocks<8>(arguments), kThreads, 0, stream>>>(arguments);
  } else {
    GateBackwardKernel<Element, 1><<<GateBlocks<1>(arguments), kThreads, 0, stream>>>(arguments);
  }
  return LaunchError();
}

template <typename Arguments>
const char* LaunchGateOfType(const Arguments& arguments, CUstream_st* stream) {
  if (const char* wrong = CheckGate(arguments.rows, arguments.width)) return wrong;
  if (arguments.rows == 0) return nullptr;
  if (arguments.type == ElementType::kFloat32) return LaunchGate<float>(arguments, stream);
  if (arguments.type == ElementType::kBFloat16) return LaunchGate<__nv_bfloat16>(arguments, stream);
  return "gate: element type other than float32 or bfloat16";
}

template <typename Element>
const char* LaunchRotary(const RotaryArguments& arguments, CUstream_st* stream) {
  const bool packed = RowsPack<Element>(
      {arguments.query.input, arguments.query.output, arguments.key.input, arguments.key.output},
      arguments.head_width / 2 | arguments.query.input_stride | arguments.query.output_stride |
          arguments.key.input_stride | arguments.key.output_stride);
  const auto blocks = static_cast<unsigned>((arguments.tokens + kTokens - 1) / kTokens);
  const size_t bytes = kTokens * arguments.head_width * sizeof(float);
  if (packed)
    RotaryKernel<Element, 8><<<blocks, kThreads, bytes, stream>>>(arguments);
  else
    RotaryKernel<Element, 1><<<blocks, kThreads, bytes, stream>>>(arguments);
  return LaunchError();
}

}  // namespace

const char* GateForward(const GateForwardArguments& arguments, CUstream_st* stream) {
  return LaunchGateOfType(arguments, stream);
}

const char* GateBackward(const GateBackwardArguments& arguments, CUstream_st* stream) {
  return LaunchGateOfType(arguments, stream);
}

const char* Rotate(const RotaryArguments& given, CUstream_st* stream) {
  RotaryArguments arguments = given;
  if (arguments.head_width < 2 || arguments.head_width % 2 != 0 ||
      arguments.head_width > kMaxHeadWidth) {
    return "rotary: head width odd or not in 2..512";
  }
  for (RotaryOperand* operand : {&arguments.query, &arguments.key}) {
    if (operand->input == nullptr) *operand = RotaryOperand{};
    if (operand->heads < 0 || operand->heads > 4096) return "rotary: heads not in 0..4096";
  }
  if (arguments.tokens < 0 || arguments.tokens > 0x7fffffff) {
    return "rotary: tokens do not fit 31 bits";
  }
  if (arguments.tokens == 0) return nullptr;
  if (arguments.type == ElementType::kFloat32) return LaunchRotary<float>(arguments, stream);
  if (arguments.type == ElementType::kBFloat16) {
    return LaunchRotary<__nv_bfloat16>(arguments, stream);
  }
  return "rotary: element type other than float32 or bfloat16";
}

}  // namespace mambad::kernels::cuda
