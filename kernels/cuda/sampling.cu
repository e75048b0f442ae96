// A row's token in three passes, all rows of all sequences at once, and what becomes of the tokens:
//
//   FindLikeliest  slices of rows: the most likely id of each
//   FindCuts       rows with top_k or top_p: the rank of the last id that is left
//   RunRaces       slices of rows of temperature above 0: the first to arrive of each
//   PlaceDrafts, AcceptWindows  the first of a row's slices is its token
//
// A row of a window is drawn whether or not the drafts before it turn out right: which they are is
// known only when all are drawn.

#include <algorithm>

#include "kernels/cuda/errors.h"
#include "kernels/cuda/log_probabilities.h"
#include "kernels/cuda/sampling.h"
#include "kernels/cuda/token_cut.cuh"
#include "kernels/cuda/token_distribution.cuh"
#include "kernels/cuda/token_race.cuh"

namespace mambad::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kSliceGroups = 2 * kThreads;  // of a row's groups of ids, what one block looks at
constexpr int kMaxGridRows = 65535;

// ---- rows ---------------------------------------------------------------------------------------

// What is known of a call's rows. Row i of sequence s is entry s * window + i; a slice is entry *
// slices + its number.
struct SampledRows {
  SamplingTables tables;
  RowsView logits;
  int window = 1;
  int slices = 1;
  RaceLeader* leaders = nullptr;    // of slices
  uint64_t* likeliest = nullptr;    // ranks, of slices
  uint64_t* least_ranks = nullptr;  // of rows that are cut

  __device__ int64_t Entry(int sequence, int row) const { return int64_t{sequence} * window + row; }
};

// Row `row` of sequence `sequence`. False: there is none.
__device__ bool FindRow(const DraftSampling& request, const SampledRows& rows, int sequence, int,
                        RowContext* found) {
  const int32_t logit_row = request.logit_row[sequence];
  if (logit_row < 0) return false;
  found->logits = rows.logits.data + logit_row * rows.logits.stride;
  found->state = rows.tables.states + request.slot[sequence];
  found->position = request.position[sequence];
  found->window = request.tokens + (request.token_row[sequence] - request.step);
  found->window_count = request.step;
  return true;
}

__device__ bool FindRow(const Acceptance& request, const SampledRows& rows, int sequence, int row,
                        RowContext* found) {
  const int32_t slot = request.slot[sequence];
  if (slot < 0 || row > request.draft_length[sequence]) return false;
  found->logits =
      rows.logits.data + (int64_t{request.logit_begin[sequence]} + row) * rows.logits.stride;
  found->state = rows.tables.states + slot;
  found->position = request.position[sequence] + row;
  found->window = request.tokens + request.token_row[sequence] + 1;
  found->window_count = row;
  return true;
}

__device__ bool HasTopK(const SamplingState& state, int vocabulary) {
  return state.temperature > 0 && state.top_k > 0 && state.top_k < vocabulary;
}
__device__ bool HasTopP(const SamplingState& state) {
  return state.temperature > 0 && state.top_p < 1;  // NaN: off
}

// The most likely id's rank of a row, of all its slices. Called by whole warps; all lanes get it.
__device__ uint64_t LikeliestOf(const SampledRows& rows, int64_t entry) {
  uint64_t best = 0;
  for (int slice = threadIdx.x % kWarpLanes; slice < rows.slices; slice += kWarpLanes) {
    best = max(best, rows.likeliest[entry * rows.slices + slice]);
  }
  return WarpReduce(best, LargerRank());
}

// ---- passes -------------------------------------------------------------------------------------

// Calls visit(group) for the groups of ids of this block's slice.
template <typename Visit>
__device__ void ForGroupsOfSlice(const AdjustedLogits& row, const Visit& visit) {
  const int begin = blockIdx.x * kSliceGroups, end = min(begin + kSliceGroups, row.groups());
  for (int group = begin + static_cast<int>(threadIdx.x); group < end; group += kThreads) {
    visit(group);
  }
}

// Blocks: slices x rows of a window x sequences.
template <typename Request>
__global__ void __launch_bounds__(kThreads)
    FindLikeliest(const Request request, const SampledRows rows) {
  RowContext context;
  if (!FindRow(request, rows, blockIdx.z, blockIdx.y, &context)) return;
  const AdjustedLogits row = Adjust(context, rows.tables);
  uint64_t best = 0;
  ForGroupsOfSlice(row, [&](int group) {
    float x[kGroupIds];
    row.Load(group, x);
#pragma unroll
    for (int i = 0; i < kGroupIds; ++i) best = max(best, RankOf(x[i], group * kGroupIds + i));
  });
  __shared__ uint64_t warps[kWarpLanes];
  best = BlockReduce(best, warps, LargerRank());
  if (threadIdx.x == 0) {
    rows.likeliest[rows.Entry(blockIdx.z, blockIdx.y) * rows.slices + blockIdx.x] = best;
  }
}

// Blocks: rows of a window x sequences.
template <typename Request>
__global__ void __launch_bounds__(kCutThreads, 1)
    FindCuts(const Request request, const SampledRows rows) {
  __shared__ CutScratch scratch;
  RowContext context;
  if (!FindRow(request, rows, blockIdx.y, blockIdx.x, &context)) return;
  const SamplingState& state = *context.state;
  const bool top_k = HasTopK(state, rows.tables.vocabulary), top_p = HasTopP(state);
  if (!top_k && !top_p) return;
  const int64_t entry = rows.Entry(blockIdx.y, blockIdx.x);
  const uint64_t best = LikeliestOf(rows, entry);
  if (best < kLeastPossible) return;
  const AdjustedLogits row = Adjust(context, rows.tables);
  const Weights weights = WeightsOf(best, state.temperature);
  uint64_t least_rank = 0;
  if (top_k) {
    const auto wanted = static_cast<uint64_t>(state.top_k);
    least_rank = RankOfCut(
        row, weights, least_rank, [](float) { return uint64_t{1}; },
        [wanted](uint64_t) { return wanted; }, scratch);
  }
  if (top_p) {
    const float scale = MassScale(rows.tables.vocabulary);
    const double share = fmax(static_cast<double>(state.top_p), 0.0);
    least_rank = RankOfCut(
        row, weights, least_rank, [&](float x) { return MassOf(weights.Of(x), scale); },
        [share](uint64_t all) {
          const double mass = ceil(share * static_cast<double>(all));
          return min(max(static_cast<uint64_t>(mass), uint64_t{1}), all);
        },
        scratch);
  }
  if (threadIdx.x == 0) rows.least_ranks[entry] = least_rank;
}

// The race of this block's slice, for one thread of it.
__device__ RaceLeader RaceOfSlice(const SampledRows& rows, const RowContext& context,
                                  const AdjustedLogits& row, uint64_t best, int64_t entry) {
  const SamplingState& state = *context.state;
  TokenRace race;
  race.weights = WeightsOf(best, state.temperature);
  race.least_weight = state.min_p > 0 ? fminf(state.min_p, 1.0f) : 0.0f;
  if (HasTopK(state, rows.tables.vocabulary) || HasTopP(state)) {
    race.least_rank = rows.least_ranks[entry];
  }
  race.draw = {state.seed, static_cast<uint32_t>(context.position), state.sample};
  // All race against the most likely id, which dismisses nearly all others early.
  __shared__ double first_time;
  const int32_t likeliest = IdOfRank(best);
  if (threadIdx.x == 0) {
    first_time = ArrivalTime(race.draw, likeliest, race.weights.Of(LogitOfRank(best)));
  }
  __syncthreads();
  RaceLeader leader = {first_time, likeliest};
  ForGroupsOfSlice(row, [&](int group) { race.Run(row, group, &leader); });
  return leader;
}

// Blocks: slices x rows of a window x sequences.
template <typename Request>
__global__ void __launch_bounds__(kThreads)
    RunRaces(const Request request, const SampledRows rows) {
  RowContext context;
  if (!FindRow(request, rows, blockIdx.z, blockIdx.y, &context)) return;
  const int64_t entry = rows.Entry(blockIdx.z, blockIdx.y);
  const uint64_t best = LikeliestOf(rows, entry);
  const bool possible = best >= kLeastPossible;
  if (possible && !(context.state->temperature > 0)) return;
  const AdjustedLogits row = Adjust(context, rows.tables);
  RaceLeader leader = RaceLeader::Nobody();
  if (possible) {
    leader = RaceOfSlice(rows, context, row, best, entry);
  } else {
    ForGroupsOfSlice(row, [&](int group) { RunFallback(row, group, &leader); });
  }
  __shared__ RaceLeader warps[kThreads / kWarpLanes];
  const int lane = threadIdx.x % kWarpLanes, warp = threadIdx.x / kWarpLanes;
  leader = WarpFirst(leader);
  if (lane == 0) warps[warp] = leader;
  __syncthreads();
  if (warp != 0) return;
  leader = WarpFirst(lane < kThreads / kWarpLanes ? warps[lane] : RaceLeader::Nobody());
  if (lane == 0) rows.leaders[entry * rows.slices + blockIdx.x] = leader;
}

// ---- what becomes of tokens ---------------------------------------------------------------------

// The token of a row after all passes. Called by whole warps; all lanes get it.
__device__ int32_t TokenOf(const SampledRows& rows, const SamplingState& state, int64_t entry) {
  const uint64_t best = LikeliestOf(rows, entry);
  if (best >= kLeastPossible && !(state.temperature > 0)) return IdOfRank(best);
  RaceLeader leader = RaceLeader::Nobody();
  for (int slice = threadIdx.x % kWarpLanes; slice < rows.slices; slice += kWarpLanes) {
    leader.Meet(rows.leaders[entry * rows.slices + slice]);
  }
  return WarpFirst(leader).id;
}

// Warps: sequences.
__global__ void __launch_bounds__(kThreads)
    PlaceDrafts(const DraftSampling request, const SampledRows rows) {
  const int sequence = (blockIdx.x * kThreads + threadIdx.x) / kWarpLanes;
  RowContext context;
  if (sequence >= request.sequences || !FindRow(request, rows, sequence, 0, &context)) return;
  const int32_t token = TokenOf(rows, *context.state, rows.Entry(sequence, 0));
  if (threadIdx.x % kWarpLanes != 0) return;
  request.tokens[request.token_row[sequence]] = token;
  if (request.next_tokens != nullptr && request.next_row[sequence] >= 0) {
    request.next_tokens[request.next_row[sequence]] = token;
  }
}

__device__ bool IsStopId(const SamplingState& state, int32_t id) {
  for (int i = 0; i < state.stop_count; ++i) {
    if (state.stop_ids[i] == id) return true;
  }
  return false;
}

// Blocks: sequences. Lane i of the first warp has row i in hand.
__global__ void __launch_bounds__(kThreads)
    AcceptWindows(const Acceptance request, const SampledRows rows, const AcceptanceResult result) {
  static_assert(kMaxWindowRows < kWarpLanes, "a lane a row");
  __shared__ int32_t drawn[kMaxWindowRows + 1];
  const int sequence = blockIdx.x;
  const int32_t slot = request.slot[sequence];
  if (slot < 0) return;
  const SamplingState& state = rows.tables.states[slot];
  const int length = request.draft_length[sequence];
  if (length < 0 || length >= rows.window) __trap();  // rows that were not drawn
  const int lane = threadIdx.x % kWarpLanes, warp = threadIdx.x / kWarpLanes;
  for (int i = warp; i <= length; i += kThreads / kWarpLanes) {
    const int32_t token = TokenOf(rows, state, rows.Entry(sequence, i));
    if (lane == 0) drawn[i] = token;
  }
  __syncthreads();
  if (warp != 0) return;
  const int32_t token = lane <= length ? drawn[lane] : -1;
  const int32_t* const drafts = request.tokens + request.token_row[sequence] + 1;
  const bool right = lane < length && drafts[lane] == token;
  const int accepted = __ffs(~__ballot_sync(kWholeWarp, right)) - 1;
  int kept = min(accepted + 1, request.limit[sequence]);
  const unsigned stops = __ballot_sync(kWholeWarp, lane < kept && IsStopId(state, token));
  if (stops != 0) kept = __ffs(stops);
  if (lane < kept) {
    result.tokens[int64_t{sequence} * (kMaxWindowRows + 1) + lane] = token;
    if (state.counts_row >= 0 && token >= 0 && token < rows.tables.vocabulary) {
      atomicAdd(
          rows.tables.counts + int64_t{state.counts_row} * rows.tables.padded_vocabulary + token,
          1);
    }
  }
  if (lane == 0) {
    result.accepted[sequence] = accepted;
    result.kept[sequence] = kept;
    result.stopped[sequence] = stops != 0 ? 1 : 0;
  }
}

// ---- launches -----------------------------------------------------------------------------------

int64_t SlicesOf(int64_t vocabulary) {
  constexpr int64_t kSliceIds = kSliceGroups * kGroupIds;
  return (vocabulary + kSliceIds - 1) / kSliceIds;
}

SampledRows Rows(const char* operation, int sequences, int window, const SamplingTables& tables,
                 const RowsView& logits, const SamplingScratch& scratch) {
  const int64_t slices = SlicesOf(tables.vocabulary), count = int64_t{sequences} * window;
  if (tables.vocabulary < 1 || tables.vocabulary > tables.padded_vocabulary ||
      tables.vocabulary > logits.columns || slices > scratch.slices || window < 1 ||
      count > scratch.rows || sequences > kMaxGridRows) {
    Fail(operation, {tables.vocabulary, tables.padded_vocabulary, logits.columns, scratch.slices,
                     sequences, window, scratch.rows});
  }
  SampledRows rows;
  rows.tables = tables;
  rows.logits = logits;
  rows.window = window;
  rows.slices = static_cast<int>(slices);
  rows.leaders = scratch.memory.as<RaceLeader>();
  rows.likeliest = reinterpret_cast<uint64_t*>(rows.leaders + scratch.rows * scratch.slices);
  rows.least_ranks = rows.likeliest + scratch.rows * scratch.slices;
  return rows;
}

template <typename Request>
void DrawTokens(cudaStream_t stream, const Request& request, const SampledRows& rows) {
  const auto sequences = static_cast<unsigned>(request.sequences);
  const auto window = static_cast<unsigned>(rows.window);
  const dim3 slices(static_cast<unsigned>(rows.slices), window, sequences);
  FindLikeliest<<<slices, kThreads, 0, stream>>>(request, rows);
  CheckLaunch("FindLikeliest");
  FindCuts<<<dim3(window, sequences), kCutThreads, 0, stream>>>(request, rows);
  CheckLaunch("FindCuts");
  RunRaces<<<slices, kThreads, 0, stream>>>(request, rows);
  CheckLaunch("RunRaces");
}

}  // namespace

SamplingScratch CreateSamplingScratch(int max_sequences, int max_rows, int64_t padded_vocabulary,
                                      const std::function<Buffer(size_t bytes)>& allocate) {
  SamplingScratch scratch;
  scratch.rows = int64_t{max_sequences} * std::clamp(max_rows, 1, kMaxWindowRows + 1);
  scratch.slices = SlicesOf(padded_vocabulary);
  const int64_t bytes =
      scratch.rows * (scratch.slices * static_cast<int64_t>(sizeof(RaceLeader) + sizeof(uint64_t)) +
                      static_cast<int64_t>(sizeof(uint64_t)));
  scratch.memory = allocate(static_cast<size_t>(bytes));
  return scratch;
}

void SampleDraftTokens(cudaStream_t stream, const DraftSampling& request,
                       const SamplingTables& tables, const RowsView& logits,
                       SamplingScratch& scratch) {
  if (request.sequences == 0) return;
  const SampledRows rows = Rows("SampleDraftTokens", request.sequences, 1, tables, logits, scratch);
  DrawTokens(stream, request, rows);
  constexpr int kSequences = kThreads / kWarpLanes;
  PlaceDrafts<<<(request.sequences + kSequences - 1) / kSequences, kThreads, 0, stream>>>(request,
                                                                                          rows);
  CheckLaunch("PlaceDrafts");
}

void AcceptDrafts(cudaStream_t stream, const Acceptance& request, const SamplingTables& tables,
                  const RowsView& logits, const AcceptanceResult& result, SamplingScratch& scratch,
                  int longest_draft) {
  if (request.sequences == 0) return;
  const int window = static_cast<int>(std::min<int64_t>(std::min(longest_draft, kMaxWindowRows) + 1,
                                                        std::max<int64_t>(logits.rows, 1)));
  const SampledRows rows = Rows("AcceptDrafts", request.sequences, window, tables, logits, scratch);
  DrawTokens(stream, request, rows);
  AcceptWindows<<<request.sequences, kThreads, 0, stream>>>(request, rows, result);
  CheckLaunch("AcceptWindows");
  if (request.logprobs) LogProbabilitiesOfKept(stream, request, tables, logits, result, window);
}

}  // namespace mambad::kernels::cuda
