// What one launch for a whole pass of few rows walks: products in their order, which block takes
// what of each, and what the blocks wait for in between. Made by persistent_pass.cu.
//
// A product is cut into units, panels of weights or eighths of panels. Unit u belongs to block
// (offset + u % span) % blocks; a block's units are its rounds 0, 1, .. of the product. What blocks
// hand to each other goes by mail: every number has a place of its own in device memory, whose word
// is kUnset until the number is there, so that who needs it looks until it is. A launch uses one of
// two sets of places and empties the other.

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
inline constexpr int kRingSteps = 8;  // steps of weights that a piece of a ring holds
inline constexpr int kRingPiece = kRingSteps * kTileBytes;
// No number that a product, a sum or a rounding gives: they give other NaNs.
inline constexpr uint32_t kUnset = 0xffffffffu;

enum class PassSplit : uint8_t {
  kPanel,   // a unit is a panel: eight warps multiply an eighth of its columns each
  kEighth,  // a unit is an eighth of a panel: the warp of the eighth multiplies it
  kWarp,    // a unit is a panel: the warp of its round multiplies all eighths
};

enum class PassAction : uint8_t {
  kChannels,  // x of a Mamba-1 layer's channels, from the residual; then their convolution
  kGates,     // z of the same channels
  kSelect,    // dt_low, B, C from the convolved x, eighths by themselves
  kScan,      // delta of the same channels, from dt_low; then scan and gate
  kOutput,    // residual += W y
  kHead,      // logits of the rows that are wanted
};

struct PassStep {
  const uint4* weights = nullptr;
  const float* norm_weight = nullptr;  // of kChannels and kHead; nullptr: times 1
  int32_t units = 0;
  int16_t steps = 0;  // of 16 columns, of a panel
  int16_t offset = 0, span = 0;
  int16_t first_round = 0, end_round = 0;  // of each block, this time
  int16_t layer = 0;                       // of kHead: how many there are
  PassSplit split = PassSplit::kPanel;
  PassAction action = PassAction::kChannels;
};

// A Mamba-1 layer, standard (source_width 0), one group, no biases of products and no norms of the
// selection.
struct PassMamba {
  RecurrentState state;
  NormWeights norm;
  int32_t inner = 0, state_size = 0, rank = 0, taps = 0;
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
  uint32_t steps = 0, layers = 0, batch = 0, ring = 0, arrivals = 0, residual = 0, inner = 0,
           low = 0, sums = 0, squares = 0, channels = 0, selection = 0, flags = 0, end = 0;
};

// One layer's mail, in bytes from its begin: x and gated y as right operands, [steps][rows][4]
// (ptx.cuh, a lane's pairs), eighths of select, [kEighths][rows][select_stride], and the residual
// before the layer, [rows][16 residual_steps]; `rows` are those that there are. Behind the last
// layer there is one more, for the residual that the head reads.
struct PassMail {
  uint32_t x = 0, gated = 0, parts = 0, residual = 0, end = 0;
};
// Of mail, in device memory, beside it.
struct PassMailState {
  uint32_t set = 0;       // that the next launch uses; it is empty
  uint32_t done = 0;      // blocks of the launch at hand that are
  uint32_t used[2] = {};  // of each set, 16 bytes each
};

struct PassProgram {
  Batch batch;
  RowsView residual;  // [rows, d]
  PassHead head;
  const PassStep* steps = nullptr;
  const PassMamba* layers = nullptr;
  int32_t step_count = 0, layer_count = 0;
  int32_t rows = 0;            // of operands: the larger of batch.rows and batch.logit_count
  int32_t residual_steps = 0;  // of 16 columns
  int32_t inner_steps = 0;     // of the widest layer
  int32_t rank_steps = 0;      // the same
  int32_t select_stride = 0;
  int32_t ring_pieces = 0;  // that a warp's ring has
  int32_t in_flight = 0;    // that are on their way to it, at most
  PassMemory place;
  PassMail layer_mail;
  unsigned char* mail = nullptr;  // two sets of mail_set bytes
  int64_t mail_set = 0;
  PassMailState* mail_state = nullptr;
};

// A batch, with its arrays beside it.
struct PassBatch {
  static constexpr int kArrays = 9;

  Batch batch;
  int32_t numbers[kArrays][kPassRows + 1];
};

// Follow from all else that the program says.
inline PassMail PlaceMail(const PassProgram& p) {
  PassMail mail;
  const uint32_t operand = p.rows * 4 * sizeof(uint2);  // of a step
  mail.gated = mail.x + p.inner_steps * operand;
  mail.parts = mail.gated + p.inner_steps * operand;
  mail.residual = mail.parts + kEighths * p.rows * p.select_stride * sizeof(float);
  const uint32_t end = mail.residual + p.rows * p.residual_steps * kTileColumns * sizeof(float);
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
  place.steps = take(p.step_count * sizeof(PassStep));
  place.layers = take(p.layer_count * sizeof(PassMamba));
  place.batch = take(sizeof(PassBatch));
  place.ring = take(kEighths * p.ring_pieces * kRingPiece);
  place.arrivals = take(kEighths * p.ring_pieces * sizeof(uint64_t));
  place.residual = take(p.residual_steps * operand);
  place.inner = take(kEighths * ((p.inner_steps + kEighths - 1) / kEighths) * operand);
  place.low = take(p.rank_steps * operand);
  place.sums = take(2 * kEighths * kPassRows * (kTileRows + 4) * sizeof(float));
  place.squares = take(kEighths * kPassRows * sizeof(float));
  place.channels = take(4 * kPassRounds * kPassRows * kTileRows * sizeof(float));
  place.selection = take(kPassRows * 2 * kPassStateSize * sizeof(float));
  place.flags = take(sizeof(uint32_t));
  place.end = at;
  return place;
}

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_PROGRAM_CUH_
