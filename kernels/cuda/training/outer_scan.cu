#include <algorithm>

#include "kernels/cuda/training/element_access.cuh"
#include "kernels/cuda/training/outer_scan.h"

namespace mambad::kernels::cuda {
namespace {

// A block has one head of one sequence and one slice of the value's columns. Its threads lie as 8
// (key) by 16 (value); each keeps kKeys by 4 of the state in registers. Tiles of kSteps tokens are
// staged as floats in shared memory while the next tile is on its way in registers.
constexpr int kThreads = 128;
constexpr int kSteps = 16;
constexpr int kKeyThreads = 8;
constexpr int kSlice = kOuterScanSlice;
constexpr int kPack = 4;
constexpr int kValuePacks = kSteps * kSlice / kPack / kThreads;  // staged by one thread

template <int kKeys>
struct Tile {
  static constexpr int kWidth = kKeys * kKeyThreads;
  static constexpr int kPacks = kSteps * kWidth / kPack / kThreads;  // staged by one thread
  float key[kSteps][kWidth], query[kSteps][kWidth];
  float value[kSteps][kSlice], out[kSteps][kSlice];
  float decay[kSteps];
};

// What a thread has fetched for a tile.
template <typename Element, int kKeys>
struct Fetched {
  Pack<Element, kPack> key[Tile<kKeys>::kPacks], query[Tile<kKeys>::kPacks];
  Pack<Element, kPack> value[kValuePacks], partner[kValuePacks];
  float scale[kValuePacks];
  float decay;  // of step threadIdx.x
};

template <typename Element>
__device__ Pack<Element, kPack> FetchPack(const Element* row, int column, int width, bool packed) {
  if (packed && column < width) return LoadPack<kPack>(row + column);
  Pack<Element, kPack> pack;
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    pack.elements[i] = column + i < width ? row[column + i] : FromFloat<Element>(0.0f);
  }
  return pack;
}

// One block's view of a scan.
template <typename Element>
struct Place {
  const OuterScan& scan;
  const Element *value, *key, *query, *partner;
  const float *scale, *log_decay;
  int tokens, slice_begin, slice_width;
  bool packed;

  __device__ Place(const OuterScans& scans, const OuterScan& the_scan, bool is_packed)
      : scan(the_scan),
        tokens(scans.tokens),
        slice_begin(blockIdx.x * kSlice),
        slice_width(min(kSlice, scan.value_width - slice_begin)),
        packed(is_packed) {
    const int head = blockIdx.y % scans.heads;
    const int64_t row = int64_t{blockIdx.y} / scans.heads * tokens;
    value = Rows(scan.value, row, head, scan.value_width) + slice_begin;
    partner = scan.partner.data == nullptr
                  ? nullptr
                  : Rows(scan.partner, row, head, scan.value_width) + slice_begin;
    key = Rows(scan.key, row, head, scan.key_width);
    query = Rows(scan.query, row, head, scan.key_width);
    scale = scans.scale + int64_t{blockIdx.y} * tokens;
    log_decay = scans.log_decay + int64_t{blockIdx.y} * tokens;
  }

  __device__ static const Element* Rows(const OuterScanRows& rows, int64_t row, int head,
                                        int width) {
    return static_cast<const Element*>(rows.data) + row * rows.stride +
           int64_t{head / rows.share} * width;
  }

  // The token of a step; outside of the sequence for steps behind the last.
  __device__ int Token(int step) const { return scan.reversed ? tokens - 1 - step : step; }

  template <int kKeys>
  __device__ void Fetch(int first_step, Fetched<Element, kKeys>* fetched) const {
    constexpr int kRowPacks = Tile<kKeys>::kWidth / kPack;
#pragma unroll
    for (int i = 0; i < Tile<kKeys>::kPacks; ++i) {
      const int item = threadIdx.x + i * kThreads, column = item % kRowPacks * kPack;
      const int step = first_step + item / kRowPacks, token = Token(step);
      const int width = step < tokens ? scan.key_width : 0;
      fetched->key[i] = FetchPack(key + token * scan.key.stride, column, width, packed);
      fetched->query[i] = FetchPack(query + token * scan.query.stride, column, width, packed);
    }
#pragma unroll
    for (int i = 0; i < kValuePacks; ++i) {
      const int item = threadIdx.x + i * kThreads, column = item % (kSlice / kPack) * kPack;
      const int step = first_step + item / (kSlice / kPack), token = Token(step);
      const int width = step < tokens ? slice_width : 0;
      fetched->value[i] = FetchPack(value + token * scan.value.stride, column, width, packed);
      if (partner != nullptr) {
        fetched->partner[i] =
            FetchPack(partner + token * scan.partner.stride, column, width, packed);
      }
      fetched->scale[i] = step < tokens ? scale[token] : 0.0f;
    }
    const int step = first_step + static_cast<int>(threadIdx.x);
    const int token = scan.reversed ? Token(step) + 1 : step;
    fetched->decay =
        threadIdx.x < kSteps && token > 0 && token < tokens ? expf(log_decay[token]) : 0.0f;
  }
};

template <typename Element, int kKeys>
__device__ void Stage(const Fetched<Element, kKeys>& fetched, bool reversed, Tile<kKeys>* tile) {
  constexpr int kRowPacks = Tile<kKeys>::kWidth / kPack;
#pragma unroll
  for (int i = 0; i < Tile<kKeys>::kPacks; ++i) {
    const int item = threadIdx.x + i * kThreads, column = item % kRowPacks * kPack;
    float values[kPack];
    Unpack<kPack>(fetched.key[i], values);
    StoreFloats<kPack>(&tile->key[item / kRowPacks][column], values);
    Unpack<kPack>(fetched.query[i], values);
    StoreFloats<kPack>(&tile->query[item / kRowPacks][column], values);
  }
#pragma unroll
  for (int i = 0; i < kValuePacks; ++i) {
    const int item = threadIdx.x + i * kThreads, column = item % (kSlice / kPack) * kPack;
    float values[kPack];
    Unpack<kPack>(fetched.value[i], values);
#pragma unroll
    for (int j = 0; j < kPack; ++j) values[j] *= reversed ? 1.0f : fetched.scale[i];
    StoreFloats<kPack>(&tile->value[item / (kSlice / kPack)][column], values);
  }
  if (threadIdx.x < kSteps) tile->decay[threadIdx.x] = fetched.decay;
}

// Sums of four numbers over the 8 key threads: each pair of lanes ends up with one of the sums.
__device__ float SumOverKeys(const float (&sums)[kPack], int key_thread) {
  const bool upper = key_thread & 4, odd = key_thread & 2;
  const float first = upper ? sums[2] : sums[0], second = upper ? sums[3] : sums[1];
  const float first_other = upper ? sums[0] : sums[2], second_other = upper ? sums[1] : sums[3];
  const float a = first + __shfl_xor_sync(0xffffffffu, first_other, 4);
  const float b = second + __shfl_xor_sync(0xffffffffu, second_other, 4);
  float sum = (odd ? b : a) + __shfl_xor_sync(0xffffffffu, odd ? a : b, 2);
  sum += __shfl_xor_sync(0xffffffffu, sum, 1);
  return sum;
}

// The steps of one staged tile: state[i][j] belongs to key column (i / 4) * 32 + key_thread * 4 + i
// % 4 and value column value_thread * 4 + j.
template <int kKeys>
__device__ void Advance(Tile<kKeys>* tile, float (&state)[kKeys][kPack]) {
  const int key_thread = threadIdx.x % kKeyThreads, value_thread = threadIdx.x / kKeyThreads;
#pragma unroll 2
  for (int step = 0; step < kSteps; ++step) {
    const float decay = tile->decay[step];
    float value[kPack], sums[kPack] = {};
    LoadFloats<kPack>(&tile->value[step][value_thread * kPack], value);
#pragma unroll
    for (int block = 0; block < kKeys / kPack; ++block) {
      float key[kPack], query[kPack];
      const int column = (block * kKeyThreads + key_thread) * kPack;
      LoadFloats<kPack>(&tile->key[step][column], key);
      LoadFloats<kPack>(&tile->query[step][column], query);
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
#pragma unroll
        for (int j = 0; j < kPack; ++j) {
          float& s = state[block * kPack + i][j];
          s = fmaf(key[i], value[j], decay * s);
          sums[j] = fmaf(query[i], s, sums[j]);
        }
      }
    }
    const float sum = SumOverKeys(sums, key_thread);
    if (key_thread % 2 == 0) tile->out[step][value_thread * kPack + key_thread / 2] = sum;
  }
}

// Writes what a tile gives; adds to *skip_dot.
template <typename Element, int kKeys>
__device__ void Finish(const Place<Element>& place, int first_step, const Tile<kKeys>& tile,
                       const Pack<Element, kPack> (&values)[kValuePacks],
                       const Pack<Element, kPack> (&partners)[kValuePacks],
                       const float (&scales)[kValuePacks], float skip, Element* out, float* dots,
                       float* skip_dot) {
#pragma unroll
  for (int i = 0; i < kValuePacks; ++i) {
    const int item = threadIdx.x + i * kThreads, column = item % (kSlice / kPack) * kPack;
    const int step = item / (kSlice / kPack), token = place.Token(first_step + step);
    const bool inside = first_step + step < place.tokens;
    float sums[kPack], value[kPack];
    LoadFloats<kPack>(&tile.out[step][column], sums);
    Unpack<kPack>(values[i], value);
    if (place.partner != nullptr) {
      float partner[kPack], dot = 0;
      Unpack<kPack>(partners[i], partner);
#pragma unroll
      for (int j = 0; j < kPack; ++j) {
        dot += partner[j] * sums[j];
        *skip_dot += partner[j] * value[j];
      }
#pragma unroll
      for (int lanes = kSlice / kPack / 2; lanes > 0; lanes /= 2) {
        dot += __shfl_xor_sync(0xffffffffu, dot, lanes);
      }
      if (dots != nullptr && inside && column == 0) dots[token] = dot;
    }
    if (!inside) continue;
    const float scale = place.scan.reversed ? scales[i] : 1.0f;
#pragma unroll
    for (int j = 0; j < kPack; ++j) sums[j] = fmaf(sums[j], scale, skip * value[j]);
    Element* to = out + token * place.scan.out_stride;
    if (place.packed && column < place.slice_width) {
      StoreFloats<kPack>(to + column, sums);
    } else {
#pragma unroll
      for (int j = 0; j < kPack; ++j) {
        if (column + j < place.slice_width) to[column + j] = FromFloat<Element>(sums[j]);
      }
    }
  }
}

template <typename Element, int kKeys>
__global__ void __launch_bounds__(kThreads)
    OuterScanKernel(const __grid_constant__ OuterScans scans, int packed) {
  const OuterScan& scan = scans.scans[blockIdx.z];
  if (static_cast<int>(blockIdx.x * kSlice) >= scan.value_width) return;
  __shared__ __align__(16) Tile<kKeys> tile;
  const Place<Element> place(scans, scan, packed >> blockIdx.z & 1);
  const int head = blockIdx.y % scans.heads;
  const int64_t row = int64_t{blockIdx.y} / scans.heads * scans.tokens;
  const int64_t slice_head = int64_t{blockIdx.x} * gridDim.y + blockIdx.y;
  Element* out = static_cast<Element*>(scan.out) + row * scan.out_stride +
                 int64_t{head} * scan.value_width + place.slice_begin;
  float* dots = scan.dots == nullptr ? nullptr : scan.dots + slice_head * scans.tokens;
  const float skip = scan.skip == nullptr ? 0.0f : scan.skip[head];
  float state[kKeys][kPack] = {}, skip_dot = 0;
  Fetched<Element, kKeys> fetched;
  place.Fetch(0, &fetched);
  for (int first = 0; first < scans.tokens; first += kSteps) {
    __syncthreads();
    Stage(fetched, scan.reversed, &tile);
    Pack<Element, kPack> values[kValuePacks], partners[kValuePacks];
    float scales[kValuePacks];
#pragma unroll
    for (int i = 0; i < kValuePacks; ++i) {
      values[i] = fetched.value[i];
      partners[i] = fetched.partner[i];
      scales[i] = fetched.scale[i];
    }
    __syncthreads();
    if (first + kSteps < scans.tokens) place.Fetch(first + kSteps, &fetched);
    Advance(&tile, state);
    __syncthreads();
    Finish(place, first, tile, values, partners, scales, skip, out, dots, &skip_dot);
  }
  if (scan.skip_dots == nullptr) return;
  __syncthreads();
  __shared__ float sums[kThreads];
  sums[threadIdx.x] = skip_dot;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < kThreads; ++i) skip_dot += sums[i];
  scan.skip_dots[slice_head] = skip_dot;
}

template <typename Element>
bool Packs(const OuterScan& scan) {
  bool packs = scan.value_width % kPack == 0 && scan.key_width % kPack == 0 &&
               CanPack<Element, kPack>(scan.out, scan.out_stride);
  for (const OuterScanRows* rows : {&scan.value, &scan.key, &scan.query, &scan.partner}) {
    packs = packs && CanPack<Element, kPack>(rows->data, rows->stride);
  }
  return packs;
}

template <typename Element, int kKeys>
const char* Launch(const OuterScans& scans, CUstream_st* stream) {
  int packed = 0, slices = 0;
  for (int i = 0; i < scans.count; ++i) {
    packed |= Packs<Element>(scans.scans[i]) ? 1 << i : 0;
    slices = std::max(slices, OuterScanSlices(scans.scans[i].value_width));
  }
  const dim3 grid(static_cast<unsigned>(slices),
                  static_cast<unsigned>(scans.sequences * scans.heads),
                  static_cast<unsigned>(scans.count));
  OuterScanKernel<Element, kKeys><<<grid, kThreads, 0, stream>>>(scans, packed);
  return LaunchError();
}

// State numbers along the key that a thread has to hold.
int KeysOf(const OuterScan& scan) {
  for (const int keys : {4, 8, 16}) {
    if (scan.key_width <= keys * kKeyThreads) return keys;
  }
  return 32;
}

template <typename Element>
const char* LaunchOfWidth(const OuterScans& scans, CUstream_st* stream) {
  switch (KeysOf(scans.scans[0])) {
    case 4:
      return Launch<Element, 4>(scans, stream);
    case 8:
      return Launch<Element, 8>(scans, stream);
    case 16:
      return Launch<Element, 16>(scans, stream);
    default:
      return Launch<Element, 32>(scans, stream);
  }
}

}  // namespace

const char* RunOuterScans(const OuterScans& scans, TrainingType type, CUstream_st* stream) {
  // Those of the same width go together, in the order given.
  const auto way = [&](const OuterScan& scan) {
    return KeysOf(scan) + (CanRunInChunks(scan, type) ? 1 : 0);
  };
  bool done[OuterScans::kMost] = {};
  for (int i = 0; i < scans.count; ++i) {
    if (done[i]) continue;
    OuterScans together = scans;
    together.count = 0;
    for (int j = i; j < scans.count; ++j) {
      if (done[j] || way(scans.scans[j]) != way(scans.scans[i])) continue;
      done[j] = true;
      together.scans[together.count++] = scans.scans[j];
    }
    const char* wrong =
        CanRunInChunks(scans.scans[i], type) ? RunOuterScansInChunks(together, stream)
        : type == TrainingType::kBFloat16    ? LaunchOfWidth<__nv_bfloat16>(together, stream)
                                             : LaunchOfWidth<float>(together, stream);
    if (wrong != nullptr) return wrong;
  }
  return nullptr;
}

}  // namespace mambad::kernels::cuda
