// What the threads of a block share while they walk a pass: eight warps that multiply, eight that
// finish what those have multiplied and compute all else, three that ask for weights, and one that
// empties mail. Little may be kept in local memory: after a look at mail it is away from the first
// cache.

#ifndef MAMBAD_KERNELS_CUDA_PERSISTENT_BLOCK_CUH_
#define MAMBAD_KERNELS_CUDA_PERSISTENT_BLOCK_CUH_

#include <cstdint>

#include "kernels/cuda/batch_rows.cuh"
#include "kernels/cuda/linear_kernels.cuh"
#include "kernels/cuda/persistent_program.cuh"
#include "kernels/cuda/persistent_sync.cuh"
#include "kernels/cuda/recurrence.cuh"

namespace mambad::kernels::cuda {

inline constexpr int kMultipliers = kEighths * kWarp;
inline constexpr int kFinishers = 8 * kWarp;
inline constexpr int kFetchers = 3;  // warps
inline constexpr int kPassThreads = kMultipliers + kFinishers + (kFetchers + 1) * kWarp;

inline constexpr int kFinishersMeet = 1;  // a barrier of the block (0: all of it)

// EighthBegin in a few instructions, of as many steps as a PassStep can have.
__device__ __forceinline__ int PassEighth(int steps, int eighth) {
  return static_cast<int>(static_cast<unsigned>(steps) * static_cast<unsigned>(eighth) / kEighths);
}

// A unit of a product, or part `part` of the 2^cuts of a panel.
struct PassPart {
  int unit = 0, part = 0, cuts = 0;

  // Whether row `row` of the panel is in the part, and a pair of its columns as an operand.
  __device__ __forceinline__ bool HasRow(int row) const { return row % 8 >> (3 - cuts) == part; }
  __device__ __forceinline__ bool HasPair(int pair) const { return pair >> (2 - cuts) == part; }
};

// The units of a product that are a block's, one after the other.
struct PassUnits : PassPart {
  int round = 0;

  __device__ __forceinline__ explicit PassUnits(const PassStep& step) : round(step.first_round) {
    first_ = static_cast<int>(blockIdx.x) - step.offset;
    if (first_ < 0) first_ += static_cast<int>(gridDim.x);
    Find(step);
  }
  __device__ __forceinline__ bool There(const PassStep& step) const {
    return unit < step.units && round < step.end_round;
  }
  __device__ __forceinline__ void Advance(const PassStep& step) { ++round, Find(step); }
  // Whether the block has more units of the product, this time or later.
  __device__ __forceinline__ bool More(const PassStep& step) const { return unit < step.units; }
  __device__ __forceinline__ int Panel(const PassStep& step) const {
    return step.split == PassSplit::kEighth ? static_cast<unsigned>(unit) / kEighths : unit;
  }
  // A part's piece has the tiles of 1 + this pieces of a whole unit, which is 2^k - 1.
  __device__ __forceinline__ int LaterPieces() const { return (1 << cuts) - 1; }
  // Lanes that hold the part of a tile, one behind the other.
  __device__ __forceinline__ int Lanes() const { return kWarp >> cuts; }

 private:
  __device__ __forceinline__ void Find(const PassStep& step) {
    const bool whole = round < step.whole_rounds;
    cuts = whole ? 0 : step.cuts;
    part = whole ? 0 : first_ & ((1 << cuts) - 1);
    unit = round <= step.whole_rounds ? round * step.span + (first_ >> cuts) : step.units;
  }

  int first_ = 0;
};

struct PassBlock {
  const PassProgram& program;
  unsigned char* memory;
  const PassMemory& place;
  unsigned char* mail = nullptr;  // of this launch's set
  int there = 0;                  // rows of the batch
  int logits = 0;                 // rows of logits
  // Rounds of the layers' channels that the block has, and of their outputs.
  int channel_rounds = 0, output_rounds = 0;

  template <typename T>
  __device__ __forceinline__ T* At(uint32_t bytes) const {
    return reinterpret_cast<T*>(memory + bytes);
  }
  __device__ __forceinline__ const PassLayer& Layer(int layer) const {
    return At<PassLayer>(place.layers)[layer];
  }
  // Step `i` of the pass; of the layers' steps, what all layers have in common is there once.
  __device__ __forceinline__ PassStep Step(int i) const {
    const int layer = i / kLayerSteps;
    const bool of_layer = layer < program.layer_count;
    PassStep step = At<PassStep>(place.steps)[of_layer ? i % kLayerSteps : kLayerSteps];
    step.layer = static_cast<int16_t>(layer);
    if (of_layer) step.weights = Layer(layer).products[step.product] + step.first_tile * kWarp;
    return step;
  }
  // Of round `round`.
  __device__ __forceinline__ PassPart Channels(int round) const { return PartAt(round); }
  __device__ __forceinline__ PassPart Outputs(int round) const {
    return PartAt(kPassRounds + round);
  }
  // Counts the two and writes them down, before anybody looks: all threads.
  __device__ __forceinline__ void FindParts() {
    channel_rounds = FindParts(Step(kLayerChannels), kPassRounds, 0);
    output_rounds = FindParts(Step(kLayerOutput), kPassRounds, kPassRounds);
  }
  __device__ __forceinline__ SequenceRows RowsOf(const PassLayer& layer, int s) const {
    RecurrentState state = program.mamba.state;
    state.data = layer.state;
    return RowsOfSequence(batch(), state, s);
  }
  __device__ __forceinline__ const Batch& batch() const {
    return At<PassBatch>(place.batch)->batch;
  }

  // Whether a panel, or part of one, is multiplied together with the whole panel before it.
  __device__ __forceinline__ bool Pairs(const PassPart& part) const {
    return part.cuts <= program.pair_cuts;
  }
  // A place of the ring; turns over when its piece came, and when that was multiplied.
  __device__ __forceinline__ uint4* Piece(int at) const {
    return At<uint4>(place.ring) + at * (kPieceSteps * kWarp);
  }
  __device__ __forceinline__ uint64_t* PieceCame(int at) const {
    return At<uint64_t>(place.arrivals) + at;
  }
  __device__ __forceinline__ uint64_t* PieceTaken(int at) const {
    return At<uint64_t>(place.arrivals) + program.ring_pieces + at;
  }
  // How many pieces were asked for before the next one of each fetching thread, and that one.
  __device__ __forceinline__ volatile uint32_t* Asked(int fetcher) const {
    return At<volatile uint32_t>(place.asked) + fetcher;
  }
  __device__ __forceinline__ uint64_t* Meeting(int which) const {
    return At<uint64_t>(place.meetings) + which;
  }

  // Sums of an eighth of the panel at place `panel`, [16][SumTokens].
  __device__ __forceinline__ float* Sums(int panel, int eighth) const {
    return At<float>(place.sums) +
           (panel * kEighths + eighth) * (kTileRows * SumTokens(program.rows));
  }
  // All eighths, added up in their order.
  __device__ __forceinline__ float SumOfEighths(int panel, int row, int token) const {
    const int tokens = SumTokens(program.rows);
    const float* const from = Sums(panel, 0) + row * tokens + token;
    float sum = 0;
#pragma unroll
    for (int eighth = 0; eighth < kEighths; ++eighth) sum += from[eighth * kTileRows * tokens];
    return sum;
  }
  // Places of sums: rounds of channels, gates and outputs have their own. A warp has its part of
  // the next layer's residual maybe before the block's outputs were taken.
  __device__ __forceinline__ int ChannelPlace(int round) const { return round; }
  __device__ __forceinline__ int GatePlace(int round) const { return program.rounds + round; }
  __device__ __forceinline__ int OutputPlace(int round) const { return 2 * program.rounds + round; }
  // Panels of the head take channels' and gates' places in turn.
  __device__ __forceinline__ int HeadPlaces() const { return 2 * program.rounds; }

  // Of the block's channels, [rounds][rows][16]: the convolution's input, and what it gave.
  __device__ __forceinline__ float* Input(int round, int row) const {
    return At<float>(place.channels) + (round * program.rows + row) * kTileRows;
  }
  __device__ __forceinline__ float* Convolved(int round, int row) const {
    return Input(program.rounds + round, row);
  }
  // dt's weights of the same channels, as they are packed.
  __device__ __forceinline__ uint4* Delta(int round) const {
    return At<uint4>(place.delta) + round * program.rank_steps * kWarp;
  }
  // B, then C, kPassStateSize each.
  __device__ __forceinline__ float* Selection(int row) const {
    return At<float>(place.selection) + row * 2 * kPassStateSize;
  }
  // By which sums of a row are multiplied, of what its norm precedes.
  __device__ __forceinline__ float* Scales() const { return At<float>(place.scales); }

  // Mail of a layer.
  __device__ __forceinline__ unsigned char* Mail(int layer, uint32_t part) const {
    return mail + layer % kMailLayers * program.layer_mail.end + part;
  }
  __device__ __forceinline__ uint2* X(int layer) const {
    return reinterpret_cast<uint2*>(Mail(layer, program.layer_mail.x));
  }
  __device__ __forceinline__ uint2* Gated(int layer) const {
    return reinterpret_cast<uint2*>(Mail(layer, program.layer_mail.gated));
  }
  __device__ __forceinline__ float* Parts(int layer, int eighth) const {
    return reinterpret_cast<float*>(Mail(layer, program.layer_mail.parts)) +
           eighth * there * program.select_stride;
  }
  // The residual before layer `layer`, whole steps of columns, with zeros behind those that there
  // are; and its squares.
  __device__ __forceinline__ uint2* Residual(int layer) const {
    return reinterpret_cast<uint2*>(Mail(layer, program.layer_mail.residual));
  }
  __device__ __forceinline__ float4* Squares(int layer, int row) const {
    return reinterpret_cast<float4*>(Mail(layer, program.layer_mail.squares)) +
           row * program.residual_steps;
  }
  // The row of the residual that row i of what kChannels or kHead multiply is.
  __device__ __forceinline__ int RowOf(const PassStep& step, int i) const {
    return step.action == PassAction::kHead ? batch().logit_rows[i] : i;
  }
  __device__ __forceinline__ int Rows(const PassStep& step) const {
    return step.action == PassAction::kHead ? logits : there;
  }
  // Whether nothing of the step is multiplied: there are no rows, or its product is the scan's.
  __device__ __forceinline__ bool Skips(const PassStep& step) const {
    return step.action == PassAction::kScan || there == 0 || Rows(step) == 0;
  }

  // Writes a word of a layer's mail, behind AwaitCleanMail.
  __device__ __forceinline__ void Send(void* to, uint32_t word) const {
    StoreFresh(static_cast<uint32_t*>(to), word == kUnset ? 0x7fffffffu : word);
  }
  // Until the block's places of three layers before are empty (persistent_clean.cuh).
  __device__ __forceinline__ void AwaitCleanMail(int layer) const {
    const int before = layer - kMailLayers + 1;
    if (before < 0) return;
    AwaitTurn(Meeting(kMailCleaned + before % kMailLayers), before / kMailLayers % 2);
  }

 private:
  __device__ __forceinline__ PassPart PartAt(int at) const {
    const int word = At<int32_t>(place.parts)[at];
    PassPart part;
    part.unit = word >> 4, part.part = word >> 2 & 3, part.cuts = word & 3;
    return part;
  }
  __device__ __forceinline__ int FindParts(const PassStep& step, int most, int to) const {
    PassUnits units(step);
    int count = 0;
    for (; count < most && units.unit < step.units; units.Advance(step), ++count) {
      const int32_t word = units.unit << 4 | units.part << 2 | units.cuts;
      if (threadIdx.x == 0) At<int32_t>(place.parts)[to + count] = word;
    }
    return count;
  }
};

__device__ __forceinline__ bool Missing(uint32_t word) { return word == kUnset; }
__device__ __forceinline__ bool Missing(const uint4& words) {
  return words.x == kUnset || words.y == kUnset || words.z == kUnset || words.w == kUnset;
}
// Looks at one word until it is there, not too often: looking is traffic, too, and many who look at
// all words slow down who writes.
__device__ __forceinline__ void AwaitWord(const void* word) {
  while (Missing(LoadFresh(static_cast<const uint32_t*>(word)))) __nanosleep(20);
}
// Asks for the kCount pieces of mail for which wanted(k), at from(k), until all are there; those
// that were missing are asked for again, together.
template <typename Words, int kCount, typename Wanted, typename From>
__device__ __forceinline__ void TakeWords(Words (&words)[kCount], const Wanted& wanted,
                                          const From& from) {
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    words[k] = {};
    if (wanted(k)) words[k] = LoadFresh(from(k));
  }
  bool missing;
  do {
    missing = false;
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      if (Missing(words[k])) {
        words[k] = LoadFresh(from(k));
        missing = true;
      }
    }
  } while (missing);
}

// A pair's place among right operands of `rows` rows, [steps][rows][4]; `column` is even.
__device__ __forceinline__ uint32_t* OperandPlace(uint2* operands, int rows, int column, int row) {
  uint2* const pairs = operands + (column / kTileColumns * rows + row) * 4 + column % 8 / 2;
  return reinterpret_cast<uint32_t*>(pairs) + column % kTileColumns / 8;
}
// The numbers of two lanes beside each other, columns 2 k and 2 k + 1, rounded. All lanes of a
// warp.
__device__ __forceinline__ uint32_t PairOfLanes(float number) {
  const float other = __shfl_xor_sync(kAllLanes, number, 1);
  return threadIdx.x % 2 == 0 ? RoundPair(number, other) : RoundPair(other, number);
}

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_BLOCK_CUH_
