// What one launch for a whole pass of few rows walks: products in their order, which block takes
// what of each, and what the blocks wait for in between. Made by persistent_plan.cc and
// persistent_pass.cu.
//
// A product is cut into units, panels of weights or eighths of panels, which blocks take one after
// the other, from block `offset` on: a block's units are its rounds 0, 1, .. of the product. Panels
// that are too few for a round of all blocks are cut into halves or quarters, so that blocks have
// equally much: part p of n has rows [8 / n p, 8 / n (p + 1)) of a panel's first eight and of its
// last eight, which lie together in each tile, as do its columns in an operand. What blocks
// hand to each other goes by mail: every number has a place of its own in device memory, whose word
// is kUnset until the number is there, so that who needs it looks until it is. Layers take turns
// with kMailLayers places, which are emptied in between; a launch uses one of two sets of such
// places and empties the other.

#ifndef MAMBAD_KERNELS_CUDA_PERSISTENT_PROGRAM_CUH_
#define MAMBAD_KERNELS_CUDA_PERSISTENT_PROGRAM_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cuda/packing.cuh"

namespace mambad::kernels::cuda {

inline constexpr int kPassRows = 8;    // rows of a pass, and its sequences, at most
inline constexpr int kPassRounds = 4;  // panels of channels that a block has, at most
inline constexpr int kPassStateSize = 16, kPassTaps = 4;  // at most, each
inline constexpr int kMailLayers = 4;
inline constexpr int kPieceSteps = 10;  // tiles that a place of the ring holds, at most
inline constexpr int kPieceBytes = kPieceSteps * kTileBytes;
// No number that a product, a sum or a rounding gives: they give other NaNs.
inline constexpr uint32_t kUnset = 0xffffffffu;

enum class PassSplit : uint8_t {
  kPanel,   // a unit is a panel: eight warps multiply an eighth of its columns each
  kEighth,  // a unit is an eighth of a panel: the warp of the eighth multiplies it
};

enum class PassAction : uint8_t {
  kChannels,  // x of a Mamba-1 layer's channels, from the residual; then their convolution
  kGates,     // z of the same channels
  kSelect,    // dt_low, B, C from the convolved x, eighths by themselves
  kScan,      // delta of the same channels, from dt_low; then scan and gate. No streamed product
  kOutput,    // residual += W y
  kHead,      // logits of the rows that are wanted
};

// The steps of a layer, in their order: gates come in two, while others' x and others' selections
// are on their way.
inline constexpr int kLayerSteps = 6, kLayerChannels = 0, kLayerSelect = 2, kLayerOutput = 5;

// The same for all layers but for `weights` and `layer`, which a block fills in (PassBlock::Step).
struct PassStep {
  const uint4* weights = nullptr;
  int32_t first_tile = 0;  // of the layer's product number `product`
  int32_t units = 0;       // parts of a panel not counted
  int16_t steps = 0;       // of 16 columns, of a panel
  int16_t offset = 0, span = 0;
  int16_t whole_rounds = 0;  // in which every block has a unit
  int16_t end_round = 0;     // rounds [first_round, end_round) of each block, this time
  int16_t layer = 0;         // of kHead: how many there are
  int8_t product = 0;
  int8_t first_round = 0;
  int8_t cuts = 0;                     // panels of the last round are cut into 2^cuts parts
  int8_t pieces = 0, piece_steps = 0;  // that an eighth of a panel is fetched in; tiles of each
  PassSplit split = PassSplit::kPanel;
  PassAction action = PassAction::kChannels;
};

// Mamba-1 layers, standard (source_width 0), one group, no biases of products and no norms of the
// selection: what all of a pass have in common.
struct PassMamba {
  RecurrentState state;     // but for its data
  int32_t delta_steps = 0;  // of 16 columns
  int32_t inner = 0, state_size = 0, rank = 0, taps = 0;
};
// One of them.
struct PassLayer {
  static constexpr int kProducts = 3;

  const uint4* products[kProducts] = {};    // in, select, out, packed
  float* state = nullptr;                   // of all slots
  float epsilon = 0;                        // of the layer's norm
  const float* norm_weight = nullptr;       // nullptr: times 1
  const float* next_norm_weight = nullptr;  // of what reads the residual behind the layer
  const uint4* delta = nullptr;             // dt's weights, packed
  const float* convolution = nullptr;
  const float* convolution_bias = nullptr;
  const float* dt_bias = nullptr;
  const float* a = nullptr;
  const float* skip = nullptr;
};

struct PassHead {
  NormWeights norm;
  int32_t outputs = 0;
  RowsView logits;
};

// Where a block's shared memory has what, in bytes.
struct PassMemory {
  uint32_t ring = 0, arrivals = 0, meetings = 0, asked = 0, steps = 0, layers = 0, batch = 0,
           parts = 0, operands = 0, select = 0, low = 0, delta = 0, sums = 0, scales = 0,
           channels = 0, selection = 0, end = 0;
};

// One layer's mail, in bytes from its begin: x, gated y and the residual before the layer times its
// norm's weight, rounded, as right operands, [steps][rows][4] (ptx.cuh, a lane's pairs); eighths of
// select, [kEighths][rows][select_stride]; sums of squares of the same residual,
// [rows][residual_steps][4]. `rows` are those that there are. What the head reads of the residual
// stands as if there was one more layer.
struct PassMail {
  uint32_t x = 0, gated = 0, parts = 0, residual = 0, squares = 0, end = 0;
};
// Of mail, in device memory, beside it.
struct PassMailState {
  uint32_t set = 0;   // that the next launch uses; it is empty
  uint32_t done = 0;  // blocks of the launch at hand that are
};

struct PassProgram {
  Batch batch;
  RowsView residual;  // [rows, d]
  PassHead head;
  PassMamba mamba;
  const PassStep* steps = nullptr;  // a layer's, and the head's
  const PassLayer* layers = nullptr;
  int32_t step_count = 0, layer_count = 0;  // steps of all layers, and of the head
  int32_t rows = 0;            // of operands: the larger of batch.rows and batch.logit_count
  int32_t residual_steps = 0;  // of 16 columns
  int32_t inner_steps = 0;     // of the widest layer
  int32_t rank_steps = 0;      // the same
  int32_t select_stride = 0;
  int32_t rounds = 0;         // panels of channels that a block has, at most
  int32_t output_rounds = 0;  // panels of outputs, the same
  int32_t selections = 0;     // of warps of a block that may select at once: 1 or kEighths
  int32_t ring_pieces = 0;    // places of the ring, whole kFetchers
  // Panels are multiplied two by two where the second one is cut into 2^this parts at most: a
  // part's piece is kept for as long as several of the other panel's. -1: one by one.
  int32_t pair_cuts = -1;
  // Pieces that a fetching warp has on their way, at most. Few, for what is on its way is in the
  // way of mail.
  int32_t in_flight = 0;
  PassMemory place;
  PassMail layer_mail;
  unsigned char* mail = nullptr;  // two sets of mail_set bytes
  int64_t mail_set = 0;
  PassMailState* mail_state = nullptr;
  unsigned long long* marks = nullptr;
};

// A batch, with its arrays beside it.
struct PassBatch {
  static constexpr int kArrays = 9;

  Batch batch;
  int32_t numbers[kArrays][kPassRows + 1];
};

// Words of a block at which its warps meet, in shared memory.
enum PassMeeting : int {
  kChannelSums,  // all sums of kChannels are there; of kGates; of kOutput
  kGateSums,
  kOutputSums,
  kHeadSums,                                    // + p: sums of a panel of kHead, at place p
  kHeadTaken = kHeadSums + 2 * kPassRounds,     // + p: they were taken
  kMailCleaned = kHeadTaken + 2 * kPassRounds,  // + p: of layers that have place p, mod kMailLayers
  kPassMeetings = kMailCleaned + kMailLayers,
};

// Tokens that stand beside each other where eighths meet: whole pairs.
inline __host__ __device__ int SumTokens(int rows) { return (rows + 1) / 2 * 2; }
// Steps of an eighth, at most.
inline __host__ __device__ int LongestEighth(int steps) {
  return (steps + kEighths - 1) / kEighths;
}

// Follow from all else that the program says.
inline PassMail PlaceMail(const PassProgram& p) {
  PassMail mail;
  const uint32_t operand = p.rows * 4 * sizeof(uint2);  // of a step
  mail.gated = mail.x + p.inner_steps * operand;
  mail.parts = mail.gated + p.inner_steps * operand;
  mail.residual = mail.parts + kEighths * p.rows * p.select_stride * sizeof(float);
  mail.squares = mail.residual + p.residual_steps * operand;
  const uint32_t end = mail.squares + p.rows * p.residual_steps * sizeof(float4);
  mail.end = (end + 127) / 128 * 128;
  return mail;
}
inline PassMemory PlaceMemory(const PassProgram& p) {
  PassMemory place;
  uint32_t at = 0;
  const auto take = [&at](uint32_t bytes) {
    const uint32_t begin = at;
    at += (bytes + 15) / 16 * 16;
    return begin;
  };
  const uint32_t operand = p.rows * 4 * sizeof(uint2);  // of a step
  const int longest =
      LongestEighth(p.inner_steps > p.residual_steps ? p.inner_steps : p.residual_steps);
  place.ring = take(p.ring_pieces * kPieceBytes);
  place.arrivals = take(2 * p.ring_pieces * sizeof(uint64_t));
  place.meetings = take(kPassMeetings * sizeof(uint64_t));
  place.asked = take(4 * sizeof(uint32_t));
  place.steps = take((kLayerSteps + 1) * sizeof(PassStep));
  place.layers = take(p.layer_count * sizeof(PassLayer));
  place.batch = take(sizeof(PassBatch));
  place.parts = take(2 * kPassRounds * sizeof(int32_t));
  place.operands = take(kEighths * longest * operand);
  place.select = take(p.selections * LongestEighth(p.inner_steps) * operand);
  place.low = take(p.rank_steps * operand);
  place.delta = take(p.rounds * p.rank_steps * kTileBytes);
  place.sums = take((2 * p.rounds + p.output_rounds) * kEighths * kTileRows * SumTokens(p.rows) *
                    sizeof(float));
  place.scales = take(kPassRows * sizeof(float));
  place.channels = take(2 * p.rounds * p.rows * kTileRows * sizeof(float));
  place.selection = take(p.rows * 2 * kPassStateSize * sizeof(float));
  place.end = at;
  return place;
}

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_PROGRAM_CUH_
