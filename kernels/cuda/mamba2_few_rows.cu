// Mamba-2's recurrence where sequences have few rows: its time is that of reading states, and of
// writing those that are stored.
//
// A block takes parts of heads one after the other, 64 columns each. Its threads share the work:
// one finds out what comes next, some fetch, some prepare rows and finish them, and the runners,
// who hold the state in registers, two columns of an eighth of its rows each, only run. Four items
// are in shared memory: one that is finished, one that is run, two on their way. A runner sums over
// the same numbers in the same order as a thread of mamba2_scan.cu.

#include <algorithm>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/batch_rows.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mamba2_scan.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/recurrence.cuh"

namespace mambad::kernels::cuda {
namespace {

constexpr int kColumns = 64;  // of a part
constexpr int kGroups = 8;    // of the state's rows
constexpr int kRunners = kGroups * kWarp;
constexpr int kFetchers = 64, kFinishers = 64;
constexpr int kThreads = kRunners + kFetchers + kFinishers + kWarp;
constexpr int kStages = 4;
constexpr int kItems = 8;      // that are known of at once, a power of two
constexpr int kMostRows = 24;  // of a sequence, on average; more is for the other kernels

// Rows [begin, begin + count) of the recurrence of one part of one sequence's state.
struct Item {
  SequenceRows rows;
  bool there = false, first = false, last = false;  // first, last: of the sequence's rows
  int begin = 0, count = 0, head = 0;
  int64_t x = 0, b = 0, c = 0;    // in a convolved row
  int64_t column = 0;             // in rows of z and of the result
  int64_t state = 0, stride = 0;  // in the state, and from one row of it to the next
  float bias = 0, a = 0, skip = 0;
};

// A state's part and what its rows feed it. A group's rows of the state are together, [kNumbers]
// [kColumns], and once they are in its warp's registers, its parts of y stand there, [kRows]
// [kColumns]: no warp writes where another reads.
template <int kNumbers, int kRows>
struct Stage {
  static constexpr int kSize = kGroups * kNumbers;  // N
  static constexpr int kGroupRows = std::max(kNumbers, kRows);
  alignas(16) float state[kGroups * kGroupRows * kColumns];
  alignas(16) float b[kRows][kSize];
  alignas(16) float c[kRows][kSize];
  alignas(16) float x[kRows][kColumns];
  alignas(16) float z[kRows][kColumns];
  float2 step[kRows];  // dt, decay

  // Row n of the state.
  __device__ static constexpr int PlaceOf(int n) {
    return (n / kNumbers * kGroupRows + n % kNumbers) * kColumns;
  }
  __device__ float* YOf(int group, int row) {
    return state + (group * kGroupRows + row) * kColumns;
  }
};

template <int kNumbers, int kRows>
struct Memory {
  Stage<kNumbers, kRows> stages[kStages];
  Item items[kItems];
};

// ---- scouts and finishers -----------------------------------------------------------------------

// A block's items in their order.
template <int kRows>
struct Cursor {
  const Mamba2Arguments& arguments;
  int unit, step, units;  // parts of heads, sequence by sequence
  int begin = 0;

  __device__ Item Next() {
    const Mamba2Layer& layer = arguments.layer;
    const Mamba2Widths& widths = arguments.widths;
    const int width = layer.inner_width / layer.heads, parts = layer.inner_width / kColumns;
    Item item;
    for (; unit < units; unit += step) {
      item.rows = RowsOfSequence(arguments.batch, arguments.state, unit / parts);
      if (item.rows.runs()) break;
    }
    if (unit >= units) return item;
    item.there = true;
    item.begin = begin;
    item.count = min(kRows, item.rows.total() - begin);
    item.first = begin == 0;
    item.last = begin + item.count == item.rows.total();
    item.column = unit % parts * kColumns;
    item.head = static_cast<int>(item.column) / width;
    const int first = static_cast<int>(item.column) % width;
    const int group = item.head / (layer.heads / layer.groups);
    item.x =
        item.head / (static_cast<int>(widths.inner) / static_cast<int>(widths.x)) * width + first;
    item.b = widths.x + group / (static_cast<int>(widths.groups) / static_cast<int>(widths.b)) *
                            layer.state_size;
    item.c = widths.x + widths.b + group * layer.state_size;
    item.stride = width;
    item.state = int64_t{item.head} * layer.state_size * width + first;
    item.bias = layer.dt_bias[item.head];
    item.a = layer.a[item.head];
    item.skip = layer.skip[item.head];
    begin = item.last ? 0 : begin + kRows;
    if (item.last) unit += step;
    return item;
  }
};

// dt as it comes of row `thread` of an item.
__device__ inline float RawStep(const Mamba2Arguments& arguments, const Item item, int thread) {
  if (!item.there || thread >= item.count) return 0;
  const SequenceRows& rows = item.rows;
  const int i = item.begin + thread;
  const float* const raw =
      i < rows.replay
          ? ReplayRow(rows, arguments.state.layout, i) + arguments.widths.x + arguments.widths.b
          : RowOf(arguments.projected, rows.call_row(i)) + arguments.widths.dt_column;
  return raw[item.head];
}

__device__ inline float2 StepOf(const Mamba2Layer& layer, const Item item, float raw) {
  const float soft = Softplus(raw + item.bias);
  const float dt = fminf(fmaxf(soft, layer.dt_minimum), layer.dt_maximum);
  return {dt, expf(dt * item.a)};
}

// (y + D x) SiLU(z) for an item's rows of the call; groups' sums are added in their order.
template <int kNumbers, int kRows>
__device__ void FinishRows(const Mamba2Arguments& arguments, const Item item, int thread,
                           Stage<kNumbers, kRows>& stage) {
  const int p = thread % kColumns;
#pragma unroll 2
  for (int r = max(item.rows.replay - item.begin, 0); r < item.count; ++r) {
    float y = 0;
#pragma unroll
    for (int group = 0; group < kGroups; ++group) y += stage.YOf(group, r)[p];
    RowOf(arguments.out, item.rows.call_row(item.begin + r))[item.column + p] =
        fmaf(item.skip, stage.x[r][p], y) * SiLU(stage.z[r][p]);
  }
}

// Looks for items, three ahead: one thread does.
template <int kNumbers, int kRows>
__device__ void Scout(const Mamba2Arguments& arguments, int units,
                      Memory<kNumbers, kRows>& memory) {
  Cursor<kRows> cursor{arguments, static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x), units};
  const bool looks = threadIdx.x % kWarp == 0;
  if (looks) {
    for (int i = 0; i < 3; ++i) memory.items[i] = cursor.Next();
  }
  __syncthreads();
  __syncthreads();
  for (int at = 0;; ++at) {
    const bool more = memory.items[at % kItems].there;
    if (looks) memory.items[(at + 3) % kItems] = cursor.Next();
    __syncthreads();
    if (!more) return;
  }
}

// The second warp's lanes know a row each of the item after the next one.
template <int kNumbers, int kRows>
__device__ void Finish(const Mamba2Arguments& arguments, Memory<kNumbers, kRows>& memory) {
  static_assert(kFinishers == kColumns && kRows <= kWarp, "a thread a column; a lane a row");
  const int thread = threadIdx.x - kRunners - kFetchers, row = thread - kWarp;
  __syncthreads();
  float raw = 0;
  if (row >= 0) {
    raw = RawStep(arguments, memory.items[1], row);
    const float now = RawStep(arguments, memory.items[0], row);
    if (row < kRows) memory.stages[0].step[row] = StepOf(arguments.layer, memory.items[0], now);
  }
  __syncthreads();
  for (int at = 0;; ++at) {
    if (row >= 0) {
      const float next = RawStep(arguments, memory.items[(at + 2) % kItems], row);
      const float2 step = StepOf(arguments.layer, memory.items[(at + 1) % kItems], raw);
      if (row < kRows) memory.stages[(at + 1) % kStages].step[row] = step;
      raw = next;
    }
    if (at > 0) {
      FinishRows(arguments, memory.items[(at - 1) % kItems], thread,
                 memory.stages[(at - 1) % kStages]);
    }
    const bool more = memory.items[at % kItems].there;
    __syncthreads();
    if (!more) return;
  }
}

// ---- fetchers -----------------------------------------------------------------------------------

// An item's rows, and the state before its first one, begin to come.
template <int kNumbers, int kRows>
__device__ void FetchItem(const Mamba2Arguments& arguments, const Item item, int thread,
                          Stage<kNumbers, kRows>& stage) {
  constexpr int kSize = Stage<kNumbers, kRows>::kSize, kFours = kSize / 4, kQuads = kColumns / 4;
  const SequenceRows& rows = item.rows;
  if (item.first) {
    const int n = thread / kQuads, p = thread % kQuads * 4;
    const float* from =
        LoadedState(rows, arguments.state.layout) + item.state + n * item.stride + p;
    float* const to = stage.state + n * kColumns + p;
    constexpr int kTogether = kFetchers / kQuads;  // rows of the state, of one group
    static_assert(kNumbers % kTogether == 0);
#pragma unroll 8
    for (int k = 0; k < kSize; k += kTogether) {
      CopyAsync(to + Stage<kNumbers, kRows>::PlaceOf(k), from, true);
      from += kTogether * item.stride;
    }
  }
  for (int r = 0; r < item.count; ++r) {
    const int i = item.begin + r;
    const bool of_call = i >= rows.replay;
    const float* const row = of_call ? RowOf(arguments.convolved, rows.call_row(i))
                                     : ReplayRow(rows, arguments.state.layout, i);
    if (thread < kFours) {
      CopyAsync(&stage.b[r][4 * thread], row + item.b + 4 * thread, true);
    } else if (of_call && thread < 2 * kFours) {
      const int n = 4 * (thread - kFours);
      CopyAsync(&stage.c[r][n], row + item.c + n, true);
    }
    if (thread < kQuads) {
      CopyAsync(&stage.x[r][4 * thread], row + item.x + 4 * thread, true);
    } else if (of_call && thread < 2 * kQuads) {
      const int p = 4 * (thread - kQuads);
      const float* const z = RowOf(arguments.projected, rows.call_row(i)) + item.column;
      CopyAsync(&stage.z[r][p], z + p, true);
    }
  }
}

template <int kNumbers, int kRows>
__device__ void Fetch(const Mamba2Arguments& arguments, Memory<kNumbers, kRows>& memory) {
  static_assert(2 * Stage<kNumbers, kRows>::kSize / 4 <= kFetchers, "B and C of a row at once");
  const int thread = threadIdx.x - kRunners;
  const auto fetch = [&](int at) {
    const Item item = memory.items[at % kItems];
    if (item.there) FetchItem(arguments, item, thread, memory.stages[at % kStages]);
    CommitCopies();
  };
  __syncthreads();
  fetch(0);
  fetch(1);
  WaitForCopies<1>();
  __syncthreads();
  for (int at = 0;; ++at) {
    const bool more = memory.items[at % kItems].there;
    fetch(at + 2);
    WaitForCopies<1>();
    __syncthreads();
    if (!more) return;
  }
}

// ---- runners ------------------------------------------------------------------------------------

// Two columns of kNumbers rows of a state.
template <int kNumbers, int kRows>
struct PairState {
  int column = threadIdx.x % kWarp * 2, group = threadIdx.x / kWarp;
  float2 s[kNumbers];

  __device__ void Take(const Stage<kNumbers, kRows>& stage) {
#pragma unroll
    for (int k = 0; k < kNumbers; ++k) {
      s[k] = *reinterpret_cast<const float2*>(stage.state +
                                              (group * stage.kGroupRows + k) * kColumns + column);
    }
  }
  __device__ void Store(const Item item, float* to) const {
    to += item.state + group * kNumbers * item.stride + column;
#pragma unroll
    for (int k = 0; k < kNumbers; ++k) {
      *reinterpret_cast<float2*>(to + k * item.stride) = s[k];
    }
  }

  // S <- decay S + (dt x) B; y: sum of S C over the thread's own numbers, lowest first.
  template <bool kOutput>
  __device__ __forceinline__ void Run(Stage<kNumbers, kRows>& stage, int r) {
    const float2 x = *reinterpret_cast<const float2*>(&stage.x[r][column]);
    const float2 step = stage.step[r];
    const float2 input = {step.x * x.x, step.x * x.y};
    float2 y = {0, 0};
#pragma unroll
    for (int k = 0; k < kNumbers; k += 4) {
      const int n = group * kNumbers + k;
      const float4 b_k = *reinterpret_cast<const float4*>(&stage.b[r][n]);
      const float4 c_k = kOutput ? *reinterpret_cast<const float4*>(&stage.c[r][n]) : float4{};
      const float b4[4] = {b_k.x, b_k.y, b_k.z, b_k.w}, c4[4] = {c_k.x, c_k.y, c_k.z, c_k.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        s[k + j].x = fmaf(input.x, b4[j], s[k + j].x * step.y);
        s[k + j].y = fmaf(input.y, b4[j], s[k + j].y * step.y);
        if constexpr (kOutput) {
          y.x = fmaf(s[k + j].x, c4[j], y.x);
          y.y = fmaf(s[k + j].y, c4[j], y.y);
        }
      }
    }
    if constexpr (kOutput) *reinterpret_cast<float2*>(stage.YOf(group, r) + column) = y;
  }
};

template <int kNumbers, int kRows>
__device__ void RunItem(const Mamba2Arguments& arguments, const Item item,
                        PairState<kNumbers, kRows>& state, Stage<kNumbers, kRows>& stage) {
  const SequenceRows& rows = item.rows;
  const int behind = item.begin + item.count;
  if (item.first) state.Take(stage);
  __syncwarp();  // y goes where the group's rows of the state stood: all lanes have taken them
  for (int i = item.begin; i < behind;) {
    const int end = SegmentEnd(rows, i, behind);
    if (i < rows.replay) {
#pragma unroll 2
      for (; i < end; ++i) state.template Run<false>(stage, i - item.begin);
    } else {
#pragma unroll 2
      for (; i < end; ++i) state.template Run<true>(stage, i - item.begin);
    }
    if (end == rows.stored) state.Store(item, rows.slot + arguments.state.layout.checkpoint);
  }
  if (item.last && rows.stores_working) {
    state.Store(item, rows.slot + arguments.state.layout.working);
  }
}

template <int kNumbers, int kRows>
__device__ void Run(const Mamba2Arguments& arguments, Memory<kNumbers, kRows>& memory) {
  PairState<kNumbers, kRows> state;
  __syncthreads();
  __syncthreads();
  for (int at = 0;; ++at) {
    const Item item = memory.items[at % kItems];
    const bool more = item.there;
    if (more) RunItem(arguments, item, state, memory.stages[at % kStages]);
    __syncthreads();
    if (!more) return;
  }
}

template <int kNumbers, int kRows>
__global__ void __launch_bounds__(kThreads, 1)
    RunParts(const __grid_constant__ Mamba2Arguments arguments, int units) {
  FollowEarlierKernels();
  extern __shared__ __align__(16) unsigned char bytes[];
  auto& memory = *reinterpret_cast<Memory<kNumbers, kRows>*>(bytes);
  if (threadIdx.x < kRunners) {
    Run(arguments, memory);
  } else if (threadIdx.x < kRunners + kFetchers) {
    Fetch(arguments, memory);
  } else if (threadIdx.x < kRunners + kFetchers + kFinishers) {
    Finish(arguments, memory);
  } else {
    Scout(arguments, units, memory);
  }
}

// False: the device has too little shared memory.
template <int kNumbers, int kRows>
bool Launch(cudaStream_t stream, const Mamba2Arguments& arguments) {
  constexpr int kShared = sizeof(Memory<kNumbers, kRows>);
  int device = 0, multiprocessors = 0, most_shared = 0;
  Check(cudaGetDevice(&device), "cudaGetDevice");
  Check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
        "cudaDeviceGetAttribute");
  Check(cudaDeviceGetAttribute(&most_shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "cudaDeviceGetAttribute");
  if (kShared > most_shared) return false;
  Check(cudaFuncSetAttribute(RunParts<kNumbers, kRows>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             kShared),
        "Mamba2Scan: shared memory");
  const int units = arguments.batch.sequences * (arguments.layer.inner_width / kColumns);
  const int blocks = std::min(units, multiprocessors);
  LaunchEarly("Mamba2Scan: few rows", stream, dim3(blocks), dim3(kThreads), kShared,
              RunParts<kNumbers, kRows>, arguments, units);
  return true;
}

// As many rows at once as find room.
template <int kNumbers>
bool LaunchSize(cudaStream_t stream, const Mamba2Arguments& arguments) {
  return Launch<kNumbers, 10>(stream, arguments) || Launch<kNumbers, 4>(stream, arguments);
}

}  // namespace

bool Mamba2FewRows(cudaStream_t stream, const Mamba2Arguments& arguments) {
  const Mamba2Layer& layer = arguments.layer;
  const bool fits = layer.head_width() % kColumns == 0 && arguments.widths.x % 4 == 0 &&
                    arguments.widths.b % 4 == 0 && BeginsOn16Bytes(arguments.projected) &&
                    BeginsOn16Bytes(arguments.convolved) &&
                    arguments.batch.rows <= int64_t{kMostRows} * arguments.batch.sequences;
  if (!fits) return false;
  if (layer.state_size == 128) return LaunchSize<16>(stream, arguments);
  if (layer.state_size == 64) return LaunchSize<8>(stream, arguments);
  return false;
}

}  // namespace mambad::kernels::cuda
