#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/cuda/errors.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/linear_cut.h"
#include "kernels/cuda/linear_kernels.cuh"
#include "kernels/cuda/packing.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/token_tiles.cuh"

namespace mambad::kernels::cuda {
namespace {

constexpr int kFewRows = 64;  // up to here a matrix is streamed through the multiplying warps
constexpr int64_t kTileRowsMax = 160;  // rows that a tile of LaunchTiles or a cut spans, at most
static_assert(kTileRowsMax >= kMostTileTokens);
constexpr int kCutColumns = kCutSteps * kTileColumns;

// A block turns eight rows of x into operands, a warp an eighth of their columns.
template <bool kBfloat16>
__global__ void __launch_bounds__(kEighths* kWarp)
    PrepareTokens(const Product p, uint2* operands, float* numbers, float* scales) {
  FollowEarlierKernels();
  __shared__ float squares[kEighths][kGroupTokens];
  const int eighth = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, token = lane / 4;
  const int group = blockIdx.x, there = p.RowsThatThereAre() - group * kGroupTokens;
  if (there <= 0) return;
  const int steps = static_cast<int>(Steps(p.columns));
  const int begin = EighthBegin(steps, eighth), end = EighthBegin(steps, eighth + 1);
  const int64_t row = group * kGroupTokens + token;
  const float* x = p.x + row * p.x_stride;
  float sum = 0;
#pragma unroll 4
  for (int step = begin; step < end; ++step) {
    TokenPairs u = {};
    if (token < there) {
      u = LoadPairs(x, step, p.columns, p.pairs_aligned);
      sum = AddSquares(u, sum);
      if (p.norm_weight != nullptr) {
        u = Times(u, LoadPairs(p.norm_weight, step, p.columns, p.pairs_aligned));
      }
    }
    if (kBfloat16) {
      operands[(static_cast<int64_t>(group) * steps + step) * kWarp + lane] = RoundedOperand(u);
    } else if (token < there) {
      float* to = numbers + row * p.numbers_stride;
      const int column = step * kTileColumns + lane % 4 * 2;
      if (column < p.numbers_stride) *reinterpret_cast<float2*>(to + column) = u.low;
      if (column + 8 < p.numbers_stride) *reinterpret_cast<float2*>(to + column + 8) = u.high;
    }
  }
  if (!p.normed) return;
  sum = AddLanesOfToken(sum);
  if (lane % 4 == 0) squares[eighth][token] = sum;
  __syncthreads();
  if (threadIdx.x < kGroupTokens && static_cast<int>(threadIdx.x) < there) {
    scales[group * kGroupTokens + threadIdx.x] =
        FinishScale(squares, threadIdx.x, p.columns, p.epsilon);
  }
}

int64_t RoundUp(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

bool Aligned(const void* pointer, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

template <bool kBfloat16>
void Prepare(cudaStream_t stream, Product& product, LinearScratch& scratch) {
  uint2* operands = scratch.activations.as<uint2>();
  float *numbers = scratch.activations.as<float>(), *scales = scratch.scales.as<float>();
  if (!kBfloat16) product.numbers_stride = RoundUp(product.columns, kQuad);
  LaunchEarly("Linear: rows of x", stream, dim3((product.rows + kGroupTokens - 1) / kGroupTokens),
              dim3(kEighths * kWarp), 0, PrepareTokens<kBfloat16>, product, operands, numbers,
              scales);
  product.operands = operands;
  product.numbers = numbers;
  product.scales = scales;
}

bool HasTiles(const ProductUnits& units, int64_t columns) {
  return units.warpgroups && columns % kCutColumns == 0;
}

Cut CutOf(const ProductUnits& units, int64_t outputs, int64_t rows, int64_t columns) {
  return ChooseCut(Panels(outputs), Steps(columns), rows, units);
}

TokenTiles TilesOf(const Cut& cut, int64_t columns, const LinearScratch& scratch) {
  return {scratch.activations.as<uint16_t>(), cut.tokens,
          static_cast<int>(columns / kTileColumns / kStageSteps)};
}

void MultiplyTiles(cudaStream_t stream, Product& product, const Cut& cut, const TokenTiles& tiles,
                   const LinearScratch& scratch) {
  product.token_tiles = reinterpret_cast<const uint4*>(tiles.data);
  LaunchWarpgroups(stream, product, cut, scratch.units.multiprocessors);
}

void MultiplyBfloat16(cudaStream_t stream, Product& product, LinearScratch& scratch) {
  if (product.rows > kGroupTokens && HasTiles(scratch.units, product.columns)) {
    const Cut cut = CutOf(scratch.units, product.outputs, product.rows, product.columns);
    const TokenTiles tiles = TilesOf(cut, product.columns, scratch);
    PrepareWarpgroups(stream, product, tiles, scratch.scales.as<float>());
    MultiplyTiles(stream, product, cut, tiles, scratch);
    return;
  }
  const bool prepared =
      product.rows > (HasFewColumns(product) ? kFewRows : kGroupTokens) || !product.pairs_aligned;
  if (prepared) Prepare<true>(stream, product, scratch);
  if (product.rows <= kFewRows) {
    LaunchFewRows(stream, product, prepared, scratch.units.multiprocessors);
  } else {
    LaunchTiles(stream, product, scratch.units.multiprocessors);
  }
}

void MultiplyFloat32(cudaStream_t stream, Product& product, LinearScratch& scratch) {
  const bool as_they_are = !product.normed && product.columns % kQuad == 0 &&
                           product.x_stride % kQuad == 0 && Aligned(product.x, 16);
  if (as_they_are) {
    product.numbers = product.x;
    product.numbers_stride = product.x_stride;
  } else {
    Prepare<false>(stream, product, scratch);
  }
  LaunchFloatRows(stream, product);
}

void RequireShapes(const WeightMatrix& weights, const RowsView& x, const RowsView& y,
                   const LinearScratch& scratch) {
  if (x.columns != weights.columns || y.columns != weights.rows || y.rows < x.rows) {
    Fail("Linear: x, W, y", {x.rows, x.columns, weights.rows, weights.columns, y.rows, y.columns});
  }
  if (x.rows > scratch.max_rows || x.columns > scratch.max_columns) {
    Fail("Linear: scratch", {x.rows, scratch.max_rows, x.columns, scratch.max_columns});
  }
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() / 2;
  if (std::max({weights.rows, weights.columns, x.rows}) > kMost) {
    Fail("Linear: too large", {weights.rows, weights.columns, x.rows});
  }
}

// What products of all kinds are told.
Product Describe(const int32_t* row_count, const WeightMatrix& weights, int64_t rows,
                 const RowsView& y, LinearOutput output, const float* bias) {
  Product product;
  product.row_count = row_count;
  product.rows = static_cast<int>(rows);
  product.outputs = static_cast<int>(weights.rows);
  product.columns = static_cast<int>(weights.columns);
  product.weights = weights.packed.data();
  product.y = y.data;
  product.y_stride = y.stride;
  product.add = output == LinearOutput::kAdd;
  product.bias = bias;
  return product;
}

}  // namespace

ProductUnits OpenProductUnits() {
  constexpr const char* kWhat = "OpenProductUnits";
  ProductUnits units;
  int device = 0;
  Check(cudaGetDevice(&device), kWhat);
  Check(cudaDeviceGetAttribute(&units.multiprocessors, cudaDevAttrMultiProcessorCount, device),
        kWhat);
  AllowTiles();
  AllowWarpgroups(units);
  return units;
}

LinearScratch CreateLinearScratch(const ProductUnits& units, int64_t max_rows, int64_t max_columns,
                                  const Allocate& allocate) {
  LinearScratch scratch;
  scratch.units = units;
  scratch.max_rows = max_rows;
  scratch.max_columns = max_columns;
  const int64_t operands = (max_rows + kTileRowsMax) * Steps(max_columns) * kTileColumns * 2;
  const int64_t numbers = max_rows * RoundUp(max_columns, kQuad) * int64_t{sizeof(float)};
  scratch.activations = allocate(std::max({operands, numbers, int64_t{16}}));
  scratch.scales = allocate(std::max<int64_t>(max_rows, 1) * kEighths * sizeof(float));
  return scratch;
}

void Linear(cudaStream_t stream, const int32_t* row_count, const WeightMatrix& weights,
            const RowsView& x, const NormWeights* norm, const RowsView& y, LinearOutput output,
            LinearScratch& scratch, const float* bias) {
  RequireShapes(weights, x, y, scratch);
  if (x.rows == 0) return;
  Product product = Describe(row_count, weights, x.rows, y, output, bias);
  product.x = x.data;
  product.x_stride = x.stride;
  product.normed = norm != nullptr;
  if (norm != nullptr) {
    product.norm_weight = norm->weight;
    product.epsilon = norm->epsilon;
  }
  product.pairs_aligned =
      Aligned(x.data, 8) && x.stride % 2 == 0 && Aligned(product.norm_weight, 8);
  if (weights.type == ElementType::kBFloat16) {
    MultiplyBfloat16(stream, product, scratch);
  } else if (weights.type == ElementType::kFloat32) {
    MultiplyFloat32(stream, product, scratch);
  } else {
    Fail("Linear: type", {static_cast<int64_t>(weights.type)});
  }
}

TokenTiles TilesFor(const WeightMatrix& weights, int64_t rows, LinearScratch& scratch) {
  if (weights.type != ElementType::kBFloat16 || !HasTiles(scratch.units, weights.columns))
    return {};
  const Cut cut = CutOf(scratch.units, weights.rows, rows, weights.columns);
  // Few rows, too, where all blocks run at once: clusters then take less time than LaunchFewRows.
  const bool at_once = cut.split && cut.panel_tiles <= scratch.units.clusters;
  if (rows == 0 || (rows <= kGroupTokens && !at_once)) return {};
  return TilesOf(cut, weights.columns, scratch);
}

void LinearOfTiles(cudaStream_t stream, const int32_t* row_count, const WeightMatrix& weights,
                   const RowsView& x, const TokenTiles& tiles, const RowsView& y,
                   LinearOutput output, LinearScratch& scratch, const float* bias) {
  RequireShapes(weights, x, y, scratch);
  const Cut cut = CutOf(scratch.units, weights.rows, x.rows, weights.columns);
  if (!tiles || tiles.tokens != cut.tokens) Fail("Linear: tiles", {tiles.tokens, cut.tokens});
  Product product = Describe(row_count, weights, x.rows, y, output, bias);
  MultiplyTiles(stream, product, cut, tiles, scratch);
}

}  // namespace mambad::kernels::cuda
