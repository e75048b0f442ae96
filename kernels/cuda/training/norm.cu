// RMSNorm with the residual sum in it, and the gated group norm, forward and backward. A team of
// threads holds a row (or a row's group) in registers, so that each number is read once.

#include <algorithm>
#include <initializer_list>

#include "kernels/cuda/training/block.h"
#include "kernels/cuda/training/column_sum.h"
#include "kernels/cuda/training/element_access.cuh"

namespace mambad::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxWidth = 16384;

// A team's size, the width of its loads and how many numbers of a row one thread holds.
template <int kTeamThreads, int kPackWidth, int kValuesOfThread>
struct Team {
  static constexpr int kSize = kTeamThreads, kPack = kPackWidth, kValues = kValuesOfThread;
  static constexpr int64_t kMost = int64_t{kSize} * kValues;  // the widest row
  static constexpr int kPacks = kValues / kPack;
  static constexpr int kBlock = kSize > kThreads ? kSize : kThreads;
  static constexpr int kTeams = kBlock / kSize;

  __device__ static int Lane() { return threadIdx.x % kSize; }
  __device__ static int Index() { return threadIdx.x / kSize; }
  // The column of this thread's pack i.
  __device__ static int Column(int i) { return (Lane() + i * kSize) * kPack; }
};

// Sums over the team; every thread of it gets the same bits. All threads of the block call it.
template <typename T>
__device__ float2 TeamSum(float2 value) {
  constexpr int kWithinWarp = T::kSize < 32 ? T::kSize : 32;
#pragma unroll
  for (int lanes = kWithinWarp / 2; lanes > 0; lanes /= 2) {
    value.x += __shfl_xor_sync(0xffffffffu, value.x, lanes);
    value.y += __shfl_xor_sync(0xffffffffu, value.y, lanes);
  }
  if constexpr (T::kSize > 32) {
    __shared__ float2 warps[T::kBlock / 32];
    __syncthreads();
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
    __syncthreads();
    constexpr int kWarps = T::kSize / 32;
    value = make_float2(0, 0);
    for (int warp = 0; warp < kWarps; ++warp) {
      value.x += warps[T::Index() * kWarps + warp].x;
      value.y += warps[T::Index() * kWarps + warp].y;
    }
  }
  return value;
}

template <typename T, typename Element>
__device__ void LoadRow(const Element* row, int width, float (&values)[T::kValues]) {
#pragma unroll
  for (int i = 0; i < T::kPacks; ++i) {
    const int column = T::Column(i);
    if (column < width) {
      LoadFloats<T::kPack>(row + column, values + i * T::kPack);
    } else {
#pragma unroll
      for (int j = 0; j < T::kPack; ++j) values[i * T::kPack + j] = 0;
    }
  }
}

template <typename T, typename Element>
__device__ void StoreRow(Element* row, int width, const float (&values)[T::kValues]) {
#pragma unroll
  for (int i = 0; i < T::kPacks; ++i) {
    const int column = T::Column(i);
    if (column < width) StoreFloats<T::kPack>(row + column, values + i * T::kPack);
  }
}

// The weight is short and read by every row: it comes from the cache each time.
template <typename T>
__device__ void LoadWeight(const float* weight, int width, int i, float (&values)[T::kPack]) {
  const int column = T::Column(i);
#pragma unroll
  for (int j = 0; j < T::kPack; ++j) values[j] = column < width ? weight[column + j] : 0.0f;
}

// values *= factor * weight.
template <typename T>
__device__ void Scale(const float* weight, int width, float factor, float (&values)[T::kValues]) {
#pragma unroll
  for (int i = 0; i < T::kPacks; ++i) {
    float scales[T::kPack];
    LoadWeight<T>(weight, width, i, scales);
#pragma unroll
    for (int j = 0; j < T::kPack; ++j) values[i * T::kPack + j] *= factor * scales[j];
  }
}

template <typename T>
__device__ float SumOfSquares(const float (&values)[T::kValues]) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < T::kValues; ++i) sum += values[i] * values[i];
  return sum;
}

// From v and the gradient g of v / sqrt(mean(v^2) + epsilon) * weight, the gradient of v in `g`;
// adds the row's share of the weight's gradient to `weight_sum`.
template <typename T>
__device__ void NormGradient(const float (&v)[T::kValues], const float* weight, int width,
                             float epsilon, float (&g)[T::kValues],
                             float (&weight_sum)[T::kValues]) {
  float2 sums = make_float2(SumOfSquares<T>(v), 0);
#pragma unroll
  for (int i = 0; i < T::kPacks; ++i) {
    float scales[T::kPack];
    LoadWeight<T>(weight, width, i, scales);
#pragma unroll
    for (int j = 0; j < T::kPack; ++j) {
      sums.y += scales[j] * g[i * T::kPack + j] * v[i * T::kPack + j];
    }
  }
  sums = TeamSum<T>(sums);
  const float inverse = rsqrtf(sums.x / width + epsilon);
  const float mean = sums.y / width * inverse * inverse;
#pragma unroll
  for (int i = 0; i < T::kPacks; ++i) {
    float scales[T::kPack];
    LoadWeight<T>(weight, width, i, scales);
#pragma unroll
    for (int j = 0; j < T::kPack; ++j) {
      const int k = i * T::kPack + j;
      weight_sum[k] += g[k] * v[k] * inverse;
      g[k] = inverse * (scales[j] * g[k] - v[k] * mean);
    }
  }
}

// One row of partial sums a block: the teams' sums added in the order of the teams.
template <typename T>
__device__ void StorePartials(const float (&weight_sum)[T::kValues], int width, float* partials) {
  if constexpr (T::kTeams == 1) {
    StoreRow<T>(partials, width, weight_sum);
    return;
  }
  extern __shared__ __align__(16) float team_sums[];  // [kTeams, width]
  StoreRow<T>(team_sums + T::Index() * width, width, weight_sum);
  __syncthreads();
  for (int column = threadIdx.x; column < width; column += T::kBlock) {
    float sum = team_sums[column];
    for (int team = 1; team < T::kTeams; ++team) sum += team_sums[team * width + column];
    partials[column] = sum;
  }
}

template <typename T, typename Stream, typename Element>
__global__ void __launch_bounds__(T::kBlock) NormForwardKernel(NormForwardArguments arguments) {
  const int width = static_cast<int>(arguments.width);
  const int64_t row = blockIdx.x * int64_t{T::kTeams} + T::Index();
  const bool inside = row < arguments.rows;
  const int64_t begin = row * width;
  float h[T::kValues] = {};
  if (inside) {
    LoadRow<T>(static_cast<const Stream*>(arguments.input) + begin, width, h);
    if (arguments.delta != nullptr) {
      float delta[T::kValues];
      LoadRow<T>(static_cast<const Element*>(arguments.delta) + begin, width, delta);
#pragma unroll
      for (int i = 0; i < T::kValues; ++i) h[i] = ToFloat(FromFloat<Stream>(h[i] + delta[i]));
    }
    if (arguments.sum != nullptr) {
      StoreRow<T>(static_cast<Stream*>(arguments.sum) + begin, width, h);
    }
  }
  const float2 sums = TeamSum<T>(make_float2(SumOfSquares<T>(h), 0));
  if (!inside) return;
  Scale<T>(arguments.weight, width, rsqrtf(sums.x / width + arguments.epsilon), h);
  StoreRow<T>(static_cast<Element*>(arguments.output) + begin, width, h);
}

template <typename T, typename Stream, typename Element>
__global__ void __launch_bounds__(T::kBlock, T::kBlock > kThreads ? 1 : 2)
    NormBackwardKernel(NormBackwardArguments arguments) {
  const int width = static_cast<int>(arguments.width);
  float weight_sum[T::kValues] = {};
  const int64_t step = gridDim.x * int64_t{T::kTeams};
  for (int64_t first = blockIdx.x * int64_t{T::kTeams}; first < arguments.rows; first += step) {
    const bool inside = first + T::Index() < arguments.rows;
    const int64_t begin = (first + T::Index()) * width;
    float h[T::kValues] = {}, g[T::kValues] = {};
    if (inside) {
      LoadRow<T>(static_cast<const Stream*>(arguments.sum) + begin, width, h);
      LoadRow<T>(static_cast<const Element*>(arguments.output_gradient) + begin, width, g);
    }
    NormGradient<T>(h, arguments.weight, width, arguments.epsilon, g, weight_sum);
    if (!inside) continue;
    if (arguments.sum_gradient != nullptr) {
      LoadRow<T>(static_cast<const Stream*>(arguments.sum_gradient) + begin, width, h);
#pragma unroll
      for (int i = 0; i < T::kValues; ++i) g[i] += h[i];
    }
    if (arguments.input_gradient != nullptr) {
      StoreRow<T>(static_cast<Stream*>(arguments.input_gradient) + begin, width, g);
    }
    if (arguments.delta_gradient != nullptr) {
      StoreRow<T>(static_cast<Element*>(arguments.delta_gradient) + begin, width, g);
    }
  }
  if (arguments.weight_gradient != nullptr) {
    StorePartials<T>(weight_sum, width, arguments.workspace + blockIdx.x * int64_t{width});
  }
}

template <typename T, typename Element>
__global__ void __launch_bounds__(T::kBlock)
    GatedNormForwardKernel(GatedNormForwardArguments arguments) {
  const int width = static_cast<int>(arguments.width / arguments.groups);
  const int64_t first_column = blockIdx.y * int64_t{width};
  const int64_t row = blockIdx.x * int64_t{T::kTeams} + T::Index();
  const bool inside = row < arguments.rows;
  float v[T::kValues] = {}, z[T::kValues] = {};
  if (inside) {
    LoadRow<T>(
        static_cast<const Element*>(arguments.input) + row * arguments.input_stride + first_column,
        width, v);
    LoadRow<T>(
        static_cast<const Element*>(arguments.gate) + row * arguments.gate_stride + first_column,
        width, z);
  }
#pragma unroll
  for (int i = 0; i < T::kValues; ++i) v[i] *= z[i] * Sigmoid(z[i]);
  const float2 sums = TeamSum<T>(make_float2(SumOfSquares<T>(v), 0));
  if (!inside) return;
  Scale<T>(arguments.weight + first_column, width, rsqrtf(sums.x / width + arguments.epsilon), v);
  StoreRow<T>(
      static_cast<Element*>(arguments.output) + row * arguments.output_stride + first_column, width,
      v);
}

template <typename T, typename Element>
__global__ void __launch_bounds__(T::kBlock, T::kBlock > kThreads ? 1 : 2)
    GatedNormBackwardKernel(GatedNormBackwardArguments arguments) {
  const int width = static_cast<int>(arguments.width / arguments.groups);
  const int64_t first_column = blockIdx.y * int64_t{width};
  float weight_sum[T::kValues] = {};
  const int64_t step = gridDim.x * int64_t{T::kTeams};
  for (int64_t first = blockIdx.x * int64_t{T::kTeams}; first < arguments.rows; first += step) {
    const int64_t row = first + T::Index();
    const bool inside = row < arguments.rows;
    float v[T::kValues] = {}, z[T::kValues] = {}, g[T::kValues] = {};
    const Element* input =
        static_cast<const Element*>(arguments.input) + row * arguments.input_stride + first_column;
    if (inside) {
      LoadRow<T>(input, width, v);
      LoadRow<T>(
          static_cast<const Element*>(arguments.gate) + row * arguments.gate_stride + first_column,
          width, z);
      LoadRow<T>(static_cast<const Element*>(arguments.output_gradient) +
                     row * arguments.output_stride + first_column,
                 width, g);
    }
#pragma unroll
    for (int i = 0; i < T::kValues; ++i) v[i] *= z[i] * Sigmoid(z[i]);
    NormGradient<T>(v, arguments.weight + first_column, width, arguments.epsilon, g, weight_sum);
    if (!inside) continue;
    LoadRow<T>(input, width, v);  // x once more, from the cache: registers are dearer
#pragma unroll
    for (int i = 0; i < T::kValues; ++i) {
      const Silu silu = SiluOf(z[i]);
      z[i] = g[i] * v[i] * silu.slope;
      v[i] = g[i] * silu.value;
    }
    StoreRow<T>(static_cast<Element*>(arguments.input_gradient) +
                    row * arguments.input_gradient_stride + first_column,
                width, v);
    StoreRow<T>(static_cast<Element*>(arguments.gate_gradient) +
                    row * arguments.gate_gradient_stride + first_column,
                width, z);
  }
  if (arguments.weight_gradient != nullptr) {
    StorePartials<T>(weight_sum, width,
                     arguments.workspace + blockIdx.x * arguments.width + first_column);
  }
}

template <typename T>
size_t PartialBytes(int64_t width) {
  return T::kTeams == 1 ? 0 : T::kTeams * width * sizeof(float);
}

// Calls launch(Team) with the smallest team that holds `width`; packs where `packed`.
template <typename Launch>
void WithTeam(int64_t width, bool packed, const Launch& launch) {
  if (packed && width <= Team<8, 8, 8>::kMost)
    launch(Team<8, 8, 8>());
  else if (packed && width <= Team<32, 8, 8>::kMost)
    launch(Team<32, 8, 8>());
  else if (packed && width <= Team<32, 8, 24>::kMost)
    launch(Team<32, 8, 24>());
  else if (packed && width <= Team<128, 8, 16>::kMost)
    launch(Team<128, 8, 16>());
  else if (packed)
    launch(Team<512, 8, 32>());
  else if (width <= Team<32, 1, 24>::kMost)
    launch(Team<32, 1, 24>());
  else
    launch(Team<512, 1, 32>());
}

// Calls launch(Stream(), Element()).
template <typename Launch>
const char* WithTypes(ElementType stream, ElementType type, const Launch& launch) {
  constexpr ElementType kFloat = ElementType::kFloat32, kHalf = ElementType::kBFloat16;
  if (stream == kFloat && type == kFloat)
    launch(float(), float());
  else if (stream == kFloat && type == kHalf)
    launch(float(), __nv_bfloat16());
  else if (stream == kHalf && type == kHalf)
    launch(__nv_bfloat16(), __nv_bfloat16());
  else
    return "norm: element types other than (float32 or bfloat16, bfloat16) or float32 alone";
  return LaunchError();
}

bool RowsPack(int64_t width, std::initializer_list<const void*> rows) {
  bool packed = width % 8 == 0;
  for (const void* data : rows) packed = packed && CanPack<__nv_bfloat16, 8>(data, 0);
  return packed;
}

const char* CheckRows(int64_t rows, int64_t width) {
  if (rows < 0 || rows > 0x7fffffff) return "norm: rows do not fit 31 bits";
  if (width < 1 || width > kMaxWidth) return "norm: width not in 1..16384";
  return nullptr;
}

}  // namespace

const char* NormForward(const NormForwardArguments& arguments, CUstream_st* stream) {
  if (const char* wrong = CheckRows(arguments.rows, arguments.width)) return wrong;
  if (arguments.rows == 0) return nullptr;
  const bool packed = RowsPack(arguments.width,
                               {arguments.input, arguments.delta, arguments.sum, arguments.output});
  return WithTypes(arguments.stream_type, arguments.type, [&](auto stream_one, auto one) {
    WithTeam(arguments.width, packed, [&](auto team) {
      using T = decltype(team);
      const int64_t blocks = (arguments.rows + T::kTeams - 1) / T::kTeams;
      NormForwardKernel<T, decltype(stream_one), decltype(one)>
          <<<static_cast<unsigned>(blocks), T::kBlock, 0, stream>>>(arguments);
    });
  });
}

const char* NormBackward(const NormBackwardArguments& arguments, CUstream_st* stream) {
  if (const char* wrong = CheckRows(arguments.rows, arguments.width)) return wrong;
  if (arguments.rows == 0) return "norm: no rows to take a gradient of";
  const bool packed =
      RowsPack(arguments.width, {arguments.sum, arguments.output_gradient, arguments.sum_gradient,
                                 arguments.input_gradient, arguments.delta_gradient});
  int64_t blocks = 0;
  const char* wrong =
      WithTypes(arguments.stream_type, arguments.type, [&](auto stream_one, auto one) {
        WithTeam(arguments.width, packed, [&](auto team) {
          using T = decltype(team);
          blocks = std::min<int64_t>(kNormPartials, (arguments.rows + T::kTeams - 1) / T::kTeams);
          NormBackwardKernel<T, decltype(stream_one), decltype(one)>
              <<<static_cast<unsigned>(blocks), T::kBlock, PartialBytes<T>(arguments.width),
                 stream>>>(arguments);
        });
      });
  if (wrong != nullptr || arguments.weight_gradient == nullptr) return wrong;
  return SumColumns(arguments.workspace, blocks, arguments.width, arguments.width,
                    arguments.weight_gradient, stream);
}

const char* GatedNormForward(const GatedNormForwardArguments& arguments, CUstream_st* stream) {
  if (arguments.groups < 1 || arguments.width % arguments.groups != 0) {
    return "gated norm: groups do not divide the width";
  }
  const int64_t width = arguments.width / arguments.groups;
  if (const char* wrong = CheckRows(arguments.rows, width)) return wrong;
  if (arguments.rows == 0) return nullptr;
  const int64_t strides = arguments.input_stride | arguments.gate_stride | arguments.output_stride;
  const bool packed =
      strides % 8 == 0 && RowsPack(width, {arguments.input, arguments.gate, arguments.output});
  return WithTypes(arguments.type, arguments.type, [&](auto, auto one) {
    WithTeam(width, packed, [&](auto team) {
      using T = decltype(team);
      const dim3 blocks(static_cast<unsigned>((arguments.rows + T::kTeams - 1) / T::kTeams),
                        static_cast<unsigned>(arguments.groups));
      GatedNormForwardKernel<T, decltype(one)><<<blocks, T::kBlock, 0, stream>>>(arguments);
    });
  });
}

const char* GatedNormBackward(const GatedNormBackwardArguments& arguments, CUstream_st* stream) {
  if (arguments.groups < 1 || arguments.width % arguments.groups != 0) {
    return "gated norm: groups do not divide the width";
  }
  const int64_t width = arguments.width / arguments.groups;
  if (const char* wrong = CheckRows(arguments.rows, width)) return wrong;
  if (arguments.rows == 0) return "gated norm: no rows to take a gradient of";
  const int64_t strides = arguments.input_stride | arguments.gate_stride | arguments.output_stride |
                          arguments.input_gradient_stride | arguments.gate_gradient_stride;
  const bool packed = strides % 8 == 0 &&
                      RowsPack(width, {arguments.input, arguments.gate, arguments.output_gradient,
                                       arguments.input_gradient, arguments.gate_gradient});
  int64_t blocks = 0;
  const char* wrong = WithTypes(arguments.type, arguments.type, [&](auto, auto one) {
    WithTeam(width, packed, [&](auto team) {
      using T = decltype(team);
      blocks = std::min<int64_t>(std::max<int64_t>(1, kNormPartials / arguments.groups),
                                 (arguments.rows + T::kTeams - 1) / T::kTeams);
      const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(arguments.groups));
      GatedNormBackwardKernel<T, decltype(one)>
          <<<grid, T::kBlock, PartialBytes<T>(width), stream>>>(arguments);
    });
  });
  if (wrong != nullptr || arguments.weight_gradient == nullptr) return wrong;
  return SumColumns(arguments.workspace, blocks, arguments.width, arguments.width,
                    arguments.weight_gradient, stream);
}

}  // namespace mambad::kernels::cuda
