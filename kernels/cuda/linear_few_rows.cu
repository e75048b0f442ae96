// Products of few rows with bfloat16 weights: every weight is read from device memory once, as the
// operand it is multiplied as, with many loads of each warp on their way.

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear_kernels.cuh"
#include "kernels/cuda/packing.cuh"
#include "kernels/cuda/ptx.cuh"

namespace mambad::kernels::cuda {
namespace {

enum class TokenSource {
  kPrepared,  // operands
  kRows,      // rows of x, which become operands here; one group
};

// Steps [step, min(step + kChunk, end)) of a row.
template <int kChunk>
__device__ __forceinline__ void LoadSteps(const float* row, int step, int end, int columns,
                                          TokenPairs (&pairs)[kChunk]) {
  if (step + kChunk <= end && (step + kChunk) * kTileColumns <= columns) {  // mostly
    const float2* from = reinterpret_cast<const float2*>(row + step * kTileColumns) +
                         static_cast<int>(threadIdx.x) % 4;
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      pairs[i] = {__ldg(from + i * (kTileColumns / 2)), __ldg(from + i * (kTileColumns / 2) + 4)};
    }
  } else {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      if (step + i < end) pairs[i] = LoadPairs(row, step + i, columns, true);
    }
  }
}

// The right operands of kChunk steps at a time, of up to kGroups groups.
template <TokenSource kSource, int kGroups, int kChunk>
struct Tokens {
  uint2 operands[kChunk][kGroups];
  float squares = 0;  // of this lane's columns and token

  // Steps [step, min(step + kChunk, end)). `group`: the first of `groups`; `there`: tokens.
  __device__ __forceinline__ void Load(const Product& p, int group, int groups, int there,
                                       int steps, int step, int end) {
    const int lane = threadIdx.x % kWarp;
    if constexpr (kSource == TokenSource::kPrepared) {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
#pragma unroll
        for (int j = 0; j < kGroups; ++j) {
          operands[i][j] = {};
          if (step + i < end && j < groups) {
            operands[i][j] =
                __ldg(p.operands + (int64_t{group + j} * steps + step + i) * kWarp + lane);
          }
        }
      }
    } else {
      TokenPairs x[kChunk] = {}, weight[kChunk];
#pragma unroll
      for (int i = 0; i < kChunk; ++i) weight[i] = {{1, 1}, {1, 1}};
      if (lane / 4 < there) {
        LoadSteps(p.x + int64_t{group * kGroupTokens + lane / 4} * p.x_stride, step, end, p.columns,
                  x);
        if (p.norm_weight != nullptr) LoadSteps(p.norm_weight, step, end, p.columns, weight);
      }
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        // Zeros where there is no step or no token: they change no sum that is looked at.
        squares = AddSquares(x[i], squares);
        operands[i][0] = RoundedOperand(Times(x[i], weight[i]));
      }
    }
  }
};

// Where the eighths of a group of tokens meet, in shared memory.
template <int kPanels>
struct Parts {
  static constexpr int kRows = kPanels * kTileRows;
  // Places of a token are kRows + 4 apart: lanes of one store meet all banks.
  float sums[2][kEighths][kGroupTokens][kRows + 4];
  float squares[kEighths][kGroupTokens];

  // This warp's sums of group j.
  template <int kGroups>
  __device__ __forceinline__ void Store(int at, int j, const float (&from)[kPanels][kGroups][4]) {
    const int eighth = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int m = 0; m < kPanels; ++m) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        sums[at][eighth][2 * t + e % 2][m * kTileRows + g + e / 2 * 8] = from[m][j][e];
      }
    }
  }
  // What the number that a thread puts first is added to.
  __device__ __forceinline__ static float Before(const Product& p, int there, int first_panel,
                                                 int group) {
    const int token = threadIdx.x / kRows, output = first_panel * kTileRows + threadIdx.x % kRows;
    if (token >= min(there, kGroupTokens) || output >= p.outputs) return 0;
    return p.Before(group * kGroupTokens + token, output);
  }
  // Adds and puts what stands at `at`: `there` tokens of group `group`.
  template <TokenSource kSource>
  __device__ __forceinline__ void AddUp(const Product& p, int at, int there, int first_panel,
                                        int group, float before) const {
    static_assert(kGroupTokens * kRows <= kEighths * kWarp, "a number for each thread at most");
    const int token = threadIdx.x / kRows, row = threadIdx.x % kRows;
    const int output = first_panel * kTileRows + row;
    if (token >= min(there, kGroupTokens) || output >= p.outputs) return;
    float sum = 0;
#pragma unroll
    for (int eighth = 0; eighth < kEighths; ++eighth) sum += sums[at][eighth][token][row];
    const int y_row = group * kGroupTokens + token;
    float scale = 1;
    if (p.normed) {
      scale = kSource == TokenSource::kRows ? FinishScale(squares, token, p.columns, p.epsilon)
                                            : p.scales[y_row];
    }
    p.Put(y_row, output, sum, scale, before);
  }
};

// Blocks of kEighths warps; block (i, j): panels kPanels i .., groups kGroups j ... A warp
// multiplies its eighth of the columns, with kDepth steps of weights on their way and the tokens of
// kChunk steps asked for at once. kBlocks blocks fit a multiprocessor.
template <TokenSource kSource, int kPanels, int kGroups, int kDepth, int kChunk, int kBlocks>
__global__ void __launch_bounds__(kEighths* kWarp, kBlocks) MultiplyFewRows(const Product p) {
  static_assert(kDepth % kChunk == 0);
  static_assert(kSource == TokenSource::kPrepared || kGroups == 1);
  __shared__ Parts<kPanels> parts;
  const int eighth = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int first_group = blockIdx.y * kGroups, first_panel = blockIdx.x * kPanels;
  const int steps = static_cast<int>(Steps(p.columns));
  const int begin = EighthBegin(steps, eighth), end = EighthBegin(steps, eighth + 1);

  const uint4* weights[kPanels];
#pragma unroll
  for (int m = 0; m < kPanels; ++m) {  // where there is no such panel, the last one again
    const int panel = min(first_panel + m, static_cast<int>(Panels(p.outputs)) - 1);
    weights[m] = static_cast<const uint4*>(p.weights) + int64_t{panel} * steps * kWarp + lane;
  }
  uint4 ahead[kDepth][kPanels] = {};
#pragma unroll
  for (int i = 0; i < kDepth; ++i) {
#pragma unroll
    for (int m = 0; m < kPanels; ++m) {
      if (begin + i < end) ahead[i][m] = LoadStreaming(weights[m] + int64_t{begin + i} * kWarp);
    }
  }
  // Weights are asked for before earlier kernels end; what those wrote is read from here on.
  FollowEarlierKernels();
  const int there = min(p.RowsThatThereAre() - first_group * kGroupTokens, kGroups * kGroupTokens);
  if (there <= 0) return;
  const int groups = (there + kGroupTokens - 1) / kGroupTokens;
  constexpr bool kEarly = kPanels == 1;  // else registers are few
  float before = kEarly ? parts.Before(p, there, first_panel, first_group) : 0.0f;
  float sums[kPanels][kGroups][4] = {};
  Tokens<kSource, kGroups, kChunk> tokens;
#pragma unroll 1
  for (int from = begin; from < end; from += kDepth) {
#pragma unroll
    for (int chunk = 0; chunk < kDepth; chunk += kChunk) {
      if (from + chunk >= end) break;
      tokens.Load(p, first_group, groups, there, steps, from + chunk, end);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        const int step = from + chunk + i;
        if (step >= end) break;
#pragma unroll
        for (int m = 0; m < kPanels; ++m) {
          uint4& weight = ahead[chunk + i][m];
#pragma unroll
          for (int j = 0; j < kGroups; ++j) {
            if (j < groups) MultiplyAdd(weight, tokens.operands[i][j], sums[m][j]);
          }
          if (step + kDepth < end) {
            weight = LoadStreaming(weights[m] + int64_t{step + kDepth} * kWarp);
          }
        }
      }
    }
  }

  if constexpr (kSource == TokenSource::kRows) {
    const float sum = AddLanesOfToken(tokens.squares);
    if (lane % 4 == 0) parts.squares[eighth][lane / 4] = sum;
  }
#pragma unroll
  for (int j = 0; j < kGroups; ++j) {
    if (j >= groups) break;
    // The readers of the same place, two groups ago, have met at the barrier since.
    parts.Store(j % 2, j, sums);
    const int left = there - j * kGroupTokens;
    if (j > 0 || !kEarly) before = parts.Before(p, left, first_panel, first_group + j);
    __syncthreads();
    parts.template AddUp<kSource>(p, j % 2, left, first_panel, first_group + j, before);
  }
}

constexpr int kShortSteps = 16, kShortWarps = 4;
// Blocks that fit a multiprocessor: with five, those of 5,120 outputs and 64 rows run all at once.
constexpr int ShortBlocks(int steps) { return steps <= 10 ? 5 : 3; }

// Few columns, at most kSteps steps, and no norm: a warp has a panel and eight rows of x to itself,
// all eighths one after the other; all that it needs is asked for at once. Block (i, j): panels
// kShortWarps i .., rows 8 j ...
template <int kSteps>
__global__ void __launch_bounds__(kShortWarps* kWarp, ShortBlocks(kSteps))
    MultiplyFewColumns(const Product p) {
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const int panel = blockIdx.x * kShortWarps + threadIdx.x / kWarp, group = blockIdx.y;
  const bool has_panel = panel < static_cast<int>(Panels(p.outputs));
  const int steps = static_cast<int>(Steps(p.columns));
  const uint4* const from =
      static_cast<const uint4*>(p.weights) + int64_t{panel} * steps * kWarp + lane;
  uint4 weights[kSteps];
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    if (step < steps && has_panel) weights[step] = LoadStreaming(from + step * kWarp);
  }
  FollowEarlierKernels();
  const int there = min(p.RowsThatThereAre() - group * kGroupTokens, kGroupTokens);
  if (!has_panel || there <= 0) return;
  TokenPairs x[kSteps] = {};
  if (g < there) {
    LoadSteps(p.x + int64_t{group * kGroupTokens + g} * p.x_stride, 0, steps, p.columns, x);
  }
  float total[4] = {}, sums[4] = {};
  int eighth = 0;
  const auto end_eighths = [&](int step) {  // those that end before this step
    for (; eighth < kEighths && EighthBegin(steps, eighth + 1) <= step; ++eighth) {
#pragma unroll
      for (int e = 0; e < 4; ++e) total[e] += sums[e], sums[e] = 0;
    }
  };
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    if (step >= steps) break;
    end_eighths(step);
    MultiplyAdd(weights[step], RoundedOperand(x[step]), sums);
  }
  end_eighths(steps);
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const int token = 2 * t + e % 2, output = panel * kTileRows + g + e / 2 * 8;
    if (token < there && output < p.outputs) {
      p.Put(group * kGroupTokens + token, output, total[e], 1.0f);
    }
  }
}

template <TokenSource kSource, int kPanels, int kGroups, int kDepth, int kChunk, int kBlocks>
void Start(cudaStream_t stream, const Product& product) {
  const int panels = static_cast<int>(Panels(product.outputs));
  const int groups = (product.rows + kGroupTokens - 1) / kGroupTokens;
  LaunchEarly("Linear: few rows", stream,
              dim3((panels + kPanels - 1) / kPanels, (groups + kGroups - 1) / kGroups),
              dim3(kEighths * kWarp), 0,
              MultiplyFewRows<kSource, kPanels, kGroups, kDepth, kChunk, kBlocks>, product);
}

void StartFewColumns(cudaStream_t stream, const Product& product) {
  const auto panels = static_cast<unsigned>(Panels(product.outputs));
  const auto groups = static_cast<unsigned>((product.rows + kGroupTokens - 1) / kGroupTokens);
  const auto kernel =
      Steps(product.columns) <= 10 ? MultiplyFewColumns<10> : MultiplyFewColumns<kShortSteps>;
  LaunchEarly("Linear: few columns", stream, dim3((panels + kShortWarps - 1) / kShortWarps, groups),
              dim3(kShortWarps * kWarp), 0, kernel, product);
}

}  // namespace

bool HasFewColumns(const Product& product) {
  return !product.normed && Steps(product.columns) <= kShortSteps;
}

void LaunchFewRows(cudaStream_t stream, const Product& product, bool prepared,
                   int multiprocessors) {
  const int64_t panels = Panels(product.outputs);
  // Few blocks want more on their way each.
  const bool few_blocks = panels < 4 * multiprocessors;
  constexpr TokenSource kRows = TokenSource::kRows, kPrepared = TokenSource::kPrepared;
  if (!prepared && HasFewColumns(product)) {
    StartFewColumns(stream, product);
  } else if (!prepared && few_blocks) {
    Start<kRows, 1, 1, 16, 4, 2>(stream, product);
  } else if (!prepared) {  // two panels a block: 10,240 outputs are one wave of blocks on 132
    Start<kRows, 2, 1, 4, 2, 3>(stream, product);
  } else if (product.rows <= kGroupTokens) {
    Start<kPrepared, 1, 1, 8, 4, 3>(stream, product);
  } else if (product.rows <= 2 * kGroupTokens) {
    Start<kPrepared, 1, 2, 8, 2, 3>(stream, product);
  } else if (product.rows <= 4 * kGroupTokens) {
    few_blocks ? Start<kPrepared, 1, 4, 8, 2, 2>(stream, product)
               : Start<kPrepared, 2, 4, 4, 2, 2>(stream, product);
  } else {
    few_blocks ? Start<kPrepared, 1, 8, 4, 1, 2>(stream, product)
               : Start<kPrepared, 2, 8, 4, 2, 1>(stream, product);
  }
}

}  // namespace mambad::kernels::cuda
