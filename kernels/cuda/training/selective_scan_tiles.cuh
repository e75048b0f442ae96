// Pieces of the Mamba-1 selective scan that its two directions share. A block has 32 channels; four
// lanes share a channel, each with kStates of its state in registers. Tiles of tokens are staged in
// shared memory as floats, with what depends on token and channel alone (time steps, gates) worked
// out once.

#ifndef MAMBAD_KERNELS_CUDA_TRAINING_SELECTIVE_SCAN_TILES_CUH_
#define MAMBAD_KERNELS_CUDA_TRAINING_SELECTIVE_SCAN_TILES_CUH_

#include <algorithm>
#include <initializer_list>
#include <type_traits>

#include "kernels/cuda/training/element_access.cuh"
#include "kernels/cuda/training/scan.h"

namespace mambad::kernels::cuda::selective {

inline constexpr int kThreads = 128, kLanes = 4, kWarps = kThreads / 32;
inline constexpr int kChannels = kThreads / kLanes;  // of a block
inline constexpr int kWarpChannels = 32 / kLanes;
inline constexpr int kPack = 4;
inline constexpr int kRowPacks = kChannels / kPack;
inline constexpr float kLog2E = 1.4426950408889634f;
inline constexpr unsigned kAll = 0xffffffffu;

// Tokens of a chunk: its states have to fit the registers.
template <int kStates>
inline constexpr int kChunk = 64 / kStates;

__device__ inline float TimeStepOf(float raw) { return raw > 20.0f ? raw : log1pf(__expf(raw)); }

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

// A block's view of the problem: its sequence and first channel; and a thread's channel and lane.
// kShared: whole warps of channels belong to one group, whose B and C are staged for each warp.
template <typename Element, int kStates, bool kShared>
struct Place {
  static constexpr int kWidth = kStates * kLanes;

  const SelectiveScan& problem;
  int64_t first_row;
  int tokens, states, first_channel, channels, channel, lane, warp, group, source, first_state;
  bool active;               // the thread has a channel
  bool packed_rows, packed;  // of channels; of B and C
  float a[kStates];          // A log2(e)

  __device__ Place(const SelectiveScan& the_problem, int packs)
      : problem(the_problem),
        first_row(blockIdx.y * the_problem.batch.tokens),
        tokens(static_cast<int>(the_problem.batch.tokens)),
        states(static_cast<int>(the_problem.state_size)),
        first_channel(blockIdx.x * kChannels),
        packed_rows(packs & 1),
        packed(packs & 2) {
    lane = threadIdx.x % kLanes;
    warp = threadIdx.x / 32;
    first_state = lane * kStates;
    channels = min(kChannels, static_cast<int>(problem.channels) - first_channel);
    channel = first_channel + threadIdx.x / kLanes;
    active = channel < problem.channels;
    group = GroupOf(channel);
    source = SourceOf(group);
    const int64_t place = int64_t{active ? channel : 0} * states;
    const auto* a_log = static_cast<const float*>(problem.a_log) + place;
#pragma unroll
    for (int i = 0; i < kStates; ++i) {
      a[i] = first_state + i < states ? -expf(a_log[first_state + i]) * kLog2E : 0.0f;
    }
  }

  // Of channels beyond the last: those of channel 0, which exist.
  __device__ int GroupOf(int of_channel) const {
    const int real = of_channel < problem.channels ? of_channel : 0;
    return real / static_cast<int>(problem.channels / problem.groups);
  }
  __device__ int SourceOf(int of_group) const {
    return of_group / static_cast<int>(problem.groups / problem.source_groups);
  }

  template <typename Rows>
  __device__ Element* Row(const Rows& rows, int token) const {
    return static_cast<Element*>(const_cast<void*>(static_cast<const void*>(rows.data))) +
           (first_row + token) * rows.stride;
  }

  // Four of the block's channels at a token; zeros beyond the last token or channel.
  __device__ Pack<Element, kPack> FetchChannels(const InputRows& rows, int token,
                                                int column) const {
    const int width = token < tokens && rows.data != nullptr ? channels : 0;
    return FetchPack<Element>(Row(rows, token) + first_channel, column, width, packed_rows);
  }

  __device__ void StoreChannels(const OutputRows& rows, int token, int column,
                                const float (&values)[kPack]) const {
    if (token >= tokens) return;
    Element* to = Row(rows, token) + first_channel;
    if (packed_rows && column < channels) return StoreFloats<kPack>(to + column, values);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      if (column + i < channels) to[column + i] = FromFloat<Element>(values[i]);
    }
  }

  __device__ Pack<Element, kPack> FetchStates(const InputRows& rows, int token, int of_group,
                                              int state) const {
    return FetchPack<Element>(Row(rows, token) + int64_t{of_group} * states, state,
                              token < tokens ? states : 0, packed);
  }

  __device__ bool Starts(int token) const {
    return token == 0 || (token < tokens && problem.batch.document_start != nullptr &&
                          problem.batch.document_start[first_row + token] != 0);
  }

  // Where the state before a chunk is kept.
  __device__ int64_t CheckpointPlace(int chunk) const {
    const int64_t chunks = (tokens + kChunk<kStates> - 1) / kChunk<kStates>;
    return (((blockIdx.y * chunks + chunk) * problem.channels + channel) * kLanes + lane) * kStates;
  }
};

// B and C of a tile of kTokens tokens.
template <typename Element, int kStates, int kTokens, bool kShared>
struct StateTile {
  using Where = Place<Element, kStates, kShared>;
  static constexpr int kWidth = Where::kWidth;
  static constexpr int kPacks =
      kShared ? kTokens * kWarps * kWidth / kPack / kThreads : 1;  // staged by one thread
  struct Fetched {
    Pack<Element, kPack> b[kPacks], c[kPacks];
  };
  float b[kShared ? kTokens : 1][kWarps][kWidth], c[kShared ? kTokens : 1][kWarps][kWidth];

  __device__ static void Item(int i, int* token, int* warp, int* state) {
    const int item = threadIdx.x + i * kThreads;
    *state = item % (kWidth / kPack) * kPack;
    *warp = item / (kWidth / kPack) % kWarps;
    *token = item / (kWidth / kPack) / kWarps;
  }

  __device__ static void Fetch(const Where& place, int first, Fetched* fetched) {
#pragma unroll
    for (int i = 0; i < (kShared ? kPacks : 0); ++i) {
      int token, warp, state;
      Item(i, &token, &warp, &state);
      const int group = place.GroupOf(place.first_channel + warp * kWarpChannels);
      fetched->b[i] =
          place.FetchStates(place.problem.b, first + token, place.SourceOf(group), state);
      fetched->c[i] = place.FetchStates(place.problem.c, first + token, group, state);
    }
  }

  __device__ void Stage(const Fetched& fetched) {
#pragma unroll
    for (int i = 0; i < (kShared ? kPacks : 0); ++i) {
      int token, warp, state;
      float values[kPack];
      Item(i, &token, &warp, &state);
      Unpack<kPack>(fetched.b[i], values);
      StoreFloats<kPack>(&b[token][warp][state], values);
      Unpack<kPack>(fetched.c[i], values);
      StoreFloats<kPack>(&c[token][warp][state], values);
    }
  }

  // This thread's four state numbers from first_state + i on.
  __device__ void LoadB(const Where& place, int first, int token, int i, float* values) const {
    if constexpr (kShared) {
      LoadFloats<kPack>(&b[token][place.warp][place.first_state + i], values);
    } else {
      Unpack<kPack>(
          place.FetchStates(place.problem.b, first + token, place.source, place.first_state + i),
          values);
    }
  }
  __device__ void LoadC(const Where& place, int first, int token, int i, float* values) const {
    if constexpr (kShared) {
      LoadFloats<kPack>(&c[token][place.warp][place.first_state + i], values);
    } else {
      Unpack<kPack>(
          place.FetchStates(place.problem.c, first + token, place.group, place.first_state + i),
          values);
    }
  }
};

inline int64_t RoundUp(int64_t bytes) { return (bytes + 63) / 64 * 64; }

inline int StatesOfLane(const SelectiveScan& problem) { return problem.state_size <= 16 ? 4 : 16; }

inline int UnitOf(const SelectiveScan& problem) {
  const int64_t group_channels = problem.channels / problem.groups;
  for (const int unit : {32, 16, 8}) {
    if (group_channels % unit == 0) return unit;
  }
  return 1;
}

inline const char* CheckSizes(const SelectiveScan& problem) {
  if (problem.batch.type == TrainingType::kFloat64) return "selective scan: no float64 on the GPU";
  if (problem.state_size > kMaxSelectiveState) return "selective scan: state size above 64";
  if (problem.batch.sequences > 65535 || problem.batch.tokens > (1 << 24) ||
      problem.channels > (1 << 20)) {
    return "selective scan: more than 65535 sequences, 2^24 tokens or 2^20 channels";
  }
  return nullptr;
}

// 1: rows of channels may be read in packs; 2: B and C may.
template <typename Element>
int PacksOf(const SelectiveScan& problem, std::initializer_list<InputRows> more) {
  bool rows = problem.channels % kPack == 0;
  for (const InputRows& one : {problem.x, problem.delta, problem.z}) {
    rows = rows && CanPack<Element, kPack>(one.data, one.stride);
  }
  for (const InputRows& one : more) rows = rows && CanPack<Element, kPack>(one.data, one.stride);
  const bool states = problem.state_size % kPack == 0 &&
                      CanPack<Element, kPack>(problem.b.data, problem.b.stride) &&
                      CanPack<Element, kPack>(problem.c.data, problem.c.stride);
  return (rows ? 1 : 0) | (states ? 2 : 0);
}

inline InputRows Rows(const OutputRows& rows) { return {rows.data, rows.stride}; }

inline dim3 GridOf(const SelectiveScan& problem) {
  return dim3(static_cast<unsigned>((problem.channels + kChannels - 1) / kChannels),
              static_cast<unsigned>(problem.batch.sequences));
}

// Calls launch(states, shared) with constants.
template <typename Launch>
const char* WithShape(const SelectiveScan& problem, const Launch& launch) {
  using std::integral_constant;
  const bool shared = UnitOf(problem) > 1;
  const auto with = [&](auto states) {
    if (shared)
      launch(states, std::true_type());
    else
      launch(states, std::false_type());
  };
  if (StatesOfLane(problem) == 4)
    with(integral_constant<int, 4>());
  else
    with(integral_constant<int, 16>());
  return LaunchError();
}

}  // namespace mambad::kernels::cuda::selective

#endif  // MAMBAD_KERNELS_CUDA_TRAINING_SELECTIVE_SCAN_TILES_CUH_
