#include <algorithm>

#include "kernels/cpu/convolution.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/mixers.h"
#include "kernels/cpu/recurrence.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/mamba_scan.cc"
#include "hwy/cache_control.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/exp2-inl.h"
#include "kernels/cpu/math-inl.h"

#ifndef MAMBAD_KERNELS_CPU_MAMBA_SCAN_SHARED_
#define MAMBAD_KERNELS_CPU_MAMBA_SCAN_SHARED_
namespace mambad::kernels {

struct MambaScanArguments {
  const Batch& batch;
  const MambaLayer& layer;
  const RecurrentState& state;
  const RowsView &x, &delta, &b, &c, &z, &gated;
  int64_t b_groups = 1;  // groups of B before their repetition
};

}  // namespace mambad::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace mambad::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr int kBlock = 16;  // channels
constexpr int kTile = 16;   // state numbers of a channel that run together
using D = hn::CappedTag<float, kBlock>;
using V = hn::Vec<D>;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(D()));
constexpr int kVectors = kBlock / kLanes;
constexpr int kStateAhead = 1024;  // floats: how far before its use a state is asked for

// Everything about sixteen channels that does not depend on the sequence.
struct ScanBlock {
  int64_t channel = 0;
  int64_t state = 0;  // where its state and its A begin
  int count = 0;
  bool shared = true;  // the block lies in one group: B and C are the same for all its channels
  int64_t b_offset[kBlock] = {}, c_offset[kBlock] = {};
  HWY_ALIGN float dt_bias[kBlock] = {};
  HWY_ALIGN float skip[kBlock] = {};
};

// Rows of one chunk, for one block.
struct ScanChunk {
  HWY_ALIGN float dt[kMaxChunkRows][kBlock];     // dt log2(e)
  HWY_ALIGN float input[kMaxChunkRows][kBlock];  // dt x
  HWY_ALIGN float y[kMaxChunkRows][kBlock];
  const float* b[kMaxChunkRows];
  const float* c[kMaxChunkRows];  // nullptr: a replayed row, whose output nobody asks for
};

void PrepareBlock(const MambaScanArguments& arguments, int64_t index, ScanBlock& block) {
  const MambaLayer& layer = arguments.layer;
  block.state = index * layer.state_size * kBlock;
  block.channel = index * kBlock;
  block.count = static_cast<int>(std::min<int64_t>(kBlock, layer.inner_width - block.channel));
  const int64_t group_width = layer.inner_width / layer.groups,
                repeats = layer.groups / arguments.b_groups;
  const auto place = [&](int i) {
    if (layer.groups == 1) return;
    const int64_t group = (block.channel + i) / group_width;
    block.b_offset[i] = group / repeats * layer.state_size;
    block.c_offset[i] = group * layer.state_size;
  };
  place(0);
  place(block.count - 1);
  block.shared = block.c_offset[0] == block.c_offset[block.count - 1];
  for (int i = 1; i < block.count && !block.shared; ++i) place(i);
  std::copy_n(layer.dt_bias + block.channel, block.count, block.dt_bias);
  std::copy_n(layer.skip + block.channel, block.count, block.skip);
}

// Sixteen numbers of a row from `from`; the absent ones of the last block are zero.
HWY_INLINE const float* Lanes(const float* from, int count, float* staged) {
  if (HWY_LIKELY(count == kBlock)) return from;
  for (int i = 0; i < count; ++i) staged[i] = from[i];
  return staged;
}

// Copies a block's numbers by whole vectors where it can: what is loaded as a vector later must be
// stored as one.
HWY_INLINE void CopyLanes(const float* from, int count, float* to) {
  const D d;
  if (HWY_LIKELY(count == kBlock)) {
    for (int lane = 0; lane < kBlock; lane += kLanes)
      hn::StoreU(hn::LoadU(d, from + lane), d, to + lane);
  } else {
    for (int i = 0; i < count; ++i) to[i] = from[i];
  }
}

// dt, dt x and the places of B and C for the rows of a chunk; keeps x and delta of the rows that
// are to be kept.
void PrepareChunk(const MambaScanArguments& arguments, const SequenceRows& rows,
                  const RecurrenceChunk& chunk, const ScanBlock& block, ScanChunk& data) {
  const D d;
  const int64_t inner = arguments.layer.inner_width;
  const int64_t last = rows.row_begin + rows.rows - 1;
  HWY_ALIGN float staged_x[kBlock] = {}, staged_delta[kBlock] = {};
  for (int i = chunk.begin; i < chunk.end; ++i) {
    const int at = i - chunk.begin;
    const float *x, *delta;
    if (i < rows.replay) {
      const float* kept = rows.replay_row(i);
      x = kept + block.channel;
      delta = kept + inner + block.channel;
      data.b[at] = kept + 2 * inner;
      data.c[at] = nullptr;
    } else {
      const int64_t r = rows.call_row(i);
      x = arguments.x.row(r) + block.channel;
      delta = arguments.delta.row(r) + block.channel;
      data.b[at] = arguments.b.row(r);
      data.c[at] = arguments.c.row(r);
      // Rows lie far apart: ask for those of the next chunk while this one computes.
      const int64_t next = std::min(r + kChunkRows, last);
      hwy::Prefetch(arguments.x.row(next) + block.channel);
      hwy::Prefetch(arguments.delta.row(next) + block.channel);
      hwy::Prefetch(arguments.z.row(next) + block.channel);
    }
    if (i >= rows.kept) {
      float* kept = rows.kept_row(i);
      CopyLanes(x, block.count, kept + block.channel);
      CopyLanes(delta, block.count, kept + inner + block.channel);
    }
    x = Lanes(x, block.count, staged_x);
    delta = Lanes(delta, block.count, staged_delta);
    for (int v = 0; v < kVectors; ++v) {
      const int lane = v * kLanes;
      const V dt =
          Softplus(d, hn::Add(hn::LoadU(d, delta + lane), hn::Load(d, block.dt_bias + lane)));
      hn::Store(hn::Mul(dt, hn::Set(d, kLog2e)), d, data.dt[at] + lane);
      hn::Store(hn::Mul(dt, hn::LoadU(d, x + lane)), d, data.input[at] + lane);
    }
  }
}

// B or C of a row for each channel of the block, where the block crosses groups.
HWY_INLINE void Spread(const float* row, const int64_t* offset, int count, int n, int tile,
                       float (*out)[kBlock]) {
  for (int k = 0; k < tile; ++k) {
    for (int i = 0; i < count; ++i) out[k][i] = row[offset[i] + n + k];
  }
}

// Runs rows [begin, end) of a chunk over kN state numbers of kLanes channels; s stays in registers.
// The sum over the state goes on in the order of n from where the tile before left y.
template <int kN, bool kShared>
HWY_INLINE void RunRows(const ScanBlock& block, const float* a, ScanChunk& data, int begin, int end,
                        int lane, int n, V* s) {
  const D d;
  HWY_ALIGN float spread_b[kShared ? 1 : kN][kBlock] = {}, spread_c[kShared ? 1 : kN][kBlock] = {};
  for (int r = begin; r < end; ++r) {
    const float* b = data.b[r] + block.b_offset[0] + n;
    const float* c = data.c[r] == nullptr ? nullptr : data.c[r] + block.c_offset[0] + n;
    if constexpr (!kShared) {
      Spread(data.b[r], block.b_offset, block.count, n, kN, spread_b);
      if (c != nullptr) Spread(data.c[r], block.c_offset, block.count, n, kN, spread_c);
    }
    const V dt = hn::Load(d, data.dt[r] + lane), input = hn::Load(d, data.input[r] + lane);
#pragma GCC unroll 16
    for (int k = 0; k < kN; ++k) {
      const V decay = Exp2(d, hn::Mul(dt, hn::LoadU(d, a + k * kBlock + lane)));
      const V b_k = kShared ? hn::Set(d, b[k]) : hn::Load(d, spread_b[kShared ? 0 : k] + lane);
      s[k] = hn::MulAdd(decay, s[k], hn::Mul(input, b_k));
    }
    if (c == nullptr) continue;
    V y = n == 0 ? hn::Zero(d) : hn::Load(d, data.y[r] + lane);
#pragma GCC unroll 16
    for (int k = 0; k < kN; ++k) {
      const V c_k = kShared ? hn::Set(d, c[k]) : hn::Load(d, spread_c[kShared ? 0 : k] + lane);
      y = hn::MulAdd(s[k], c_k, y);
    }
    hn::Store(y, d, data.y[r] + lane);
  }
}

// One tile of a chunk: load the state, run up to the commit, store, run the rest, store the working
// copy.
template <int kN, bool kShared>
void RunTile(const SequenceRows& rows, const RecurrenceChunk& chunk, const ScanBlock& block,
             const float* a, int n, ScanChunk& data) {
  const D d;
  const int stored = chunk.stored - chunk.begin;
  const int64_t offset = block.state + n * kBlock;
  for (int lane = 0; lane < kBlock; lane += kLanes) {
    V s[kN];
    const float* from = LoadedState(rows) + offset + lane;
#pragma GCC unroll 16
    for (int k = 0; k < kN; ++k) {
      s[k] = hn::LoadU(d, from + k * kBlock);
      hwy::Prefetch(from + k * kBlock + kStateAhead);
    }
    RunRows<kN, kShared>(block, a, data, 0, stored, lane, n, s);
    if (chunk.stores_checkpoint()) {
      float* to = rows.checkpoint() + offset + lane;
#pragma GCC unroll 16
      for (int k = 0; k < kN; ++k) hn::StoreU(s[k], d, to + k * kBlock);
    }
    if (chunk.stored == chunk.end) continue;
    RunRows<kN, kShared>(block, a, data, stored, chunk.rows(), lane, n, s);
    if (!rows.stores_working) continue;
    float* to = rows.working() + offset + lane;
#pragma GCC unroll 16
    for (int k = 0; k < kN; ++k) hn::StoreU(s[k], d, to + k * kBlock);
  }
}

template <int kN>
void RunTile(const SequenceRows& rows, const RecurrenceChunk& chunk, const ScanBlock& block,
             const float* a, int n, ScanChunk& data) {
  if (block.shared) {
    RunTile<kN, true>(rows, chunk, block, a, n, data);
  } else {
    RunTile<kN, false>(rows, chunk, block, a, n, data);
  }
}

// out = (y + D x) SiLU(z) for the chunk's rows of the call.
void FinishChunk(const MambaScanArguments& arguments, const SequenceRows& rows,
                 const RecurrenceChunk& chunk, const ScanBlock& block, const ScanChunk& data) {
  const D d;
  HWY_ALIGN float staged_x[kBlock] = {}, staged_z[kBlock] = {};
  HWY_ALIGN float result[kBlock];
  for (int i = std::max(chunk.begin, rows.replay); i < chunk.end; ++i) {
    const int64_t r = rows.call_row(i);
    const float* x = Lanes(arguments.x.row(r) + block.channel, block.count, staged_x);
    const float* z = Lanes(arguments.z.row(r) + block.channel, block.count, staged_z);
    for (int lane = 0; lane < kBlock; lane += kLanes) {
      const V y = hn::MulAdd(hn::Load(d, block.skip + lane), hn::LoadU(d, x + lane),
                             hn::Load(d, data.y[i - chunk.begin] + lane));
      hn::Store(hn::Mul(y, SiLU(d, hn::LoadU(d, z + lane))), d, result + lane);
    }
    CopyLanes(result, block.count, arguments.gated.row(r) + block.channel);
  }
}

void ScanSequence(const MambaScanArguments& arguments, const SequenceRows& rows,
                  const ScanBlock& block, ScanChunk& data) {
  const int state_size = arguments.layer.state_size;
  for (int begin = 0; begin < rows.total();) {
    const RecurrenceChunk chunk = NextChunk(rows, begin);
    PrepareChunk(arguments, rows, chunk, block, data);
    for (int n = 0; n < state_size;) {
      const int tile = state_size - n >= kTile ? kTile : state_size - n >= 4 ? 4 : 1;
      const float* a = arguments.layer.a + block.state + n * kBlock;
      if (tile == kTile) RunTile<kTile>(rows, chunk, block, a, n, data);
      if (tile == 4) RunTile<4>(rows, chunk, block, a, n, data);
      if (tile == 1) RunTile<1>(rows, chunk, block, a, n, data);
      n += tile;
    }
    FinishChunk(arguments, rows, chunk, block, data);
    begin = chunk.end;
  }
}

// Sequence by sequence: a thread's part of a slot is one stretch of memory.
void ScanAll(ThreadPool& pool, const MambaScanArguments& arguments) {
  const int64_t blocks = (arguments.layer.inner_width + kBlock - 1) / kBlock;
  pool.Split(blocks, 1, [&](int64_t begin, int64_t end, int) HWY_ATTR {
    ScanBlock block;
    ScanChunk data;
    for (int s = 0; s < arguments.batch.sequences; ++s) {
      const SequenceRows rows = RowsOfSequence(arguments.batch, arguments.state, s);
      for (int64_t i = begin; i < end && rows.total() > 0; ++i) {
        PrepareBlock(arguments, i, block);
        ScanSequence(arguments, rows, block, data);
      }
    }
  });
}

}  // namespace mambad::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mambad::kernels {
namespace {

HWY_EXPORT(ScanAll);

int64_t RoundUp16(int64_t count) { return (count + 15) / 16 * 16; }

// Groups of B before their repetition.
int64_t GroupsOfB(const MambaLayer& layer) {
  return layer.source_width > 0 ? layer.source_width / layer.state_size : layer.groups;
}

void CheckLayer(const MambaLayer& layer) {
  const bool sizes = layer.inner_width > 0 && layer.state_size > 0 && layer.groups > 0;
  const bool groups = sizes && layer.inner_width % layer.groups == 0;
  const bool sources =
      groups && (layer.source_width == 0 || (layer.source_width % layer.state_size == 0 &&
                                             layer.inner_width % layer.source_width == 0 &&
                                             layer.groups % GroupsOfB(layer) == 0));
  if (!sources) {
    Fail("Mamba layer: inner width, state size, groups, source width",
         {layer.inner_width, layer.state_size, layer.groups, layer.source_width});
  }
}

}  // namespace

RecurrentSlotLayout MambaSlotLayout(const MambaLayer& layer, int window_rows, bool keeps_working) {
  CheckLayer(layer);
  CheckWindowRows(window_rows);
  const int64_t state = RoundUp16(layer.inner_width) * layer.state_size;
  RecurrentSlotLayout layout;
  layout.checkpoint = 0;
  int64_t at = state;
  if (keeps_working) {
    layout.working = at;
    at += state;
  }
  layout.ring = at;
  layout.window_rows = layout.replay_rows = window_rows;
  layout.ring_rows = RingRows(layer.convolution_width, window_rows);
  at += RoundUp16(int64_t{layout.ring_rows} * layer.convolution_channels());
  layout.replay = at;
  layout.replay_row =
      RoundUp16(2 * int64_t{layer.inner_width} + GroupsOfB(layer) * layer.state_size);
  layout.floats = at + window_rows * layout.replay_row;
  return layout;
}

void MambaConvolution(ThreadPool& pool, const Batch& batch, const MambaLayer& layer,
                      const RecurrentState& state, const RowsView& projected,
                      const RowsView& x_out) {
  const bool repeats = layer.source_width > 0 && layer.source_width != layer.inner_width;
  ConvolutionShape shape;
  shape.width = layer.convolution_width;
  shape.weights = layer.convolution;
  shape.bias = layer.convolution_bias;
  shape.channels = layer.convolution_channels();
  shape.segments[0] = {0, shape.channels, 0, 1, 1};
  shape.segment_count = 1;
  if (repeats) {
    const int64_t times = layer.inner_width / layer.source_width;
    (layer.repeat_before_convolution ? shape.segments[0].repeats : shape.out_repeats) = times;
    (layer.repeat_before_convolution ? shape.segments[0].group : shape.out_group) =
        layer.state_size;
  }
  Convolve(pool, batch, shape, state, projected, x_out);
}

void MambaScan(ThreadPool& pool, const Batch& batch, const MambaLayer& layer,
               const RecurrentState& state, const RowsView& x, const RowsView& delta,
               const RowsView& b, const RowsView& c, const RowsView& z, const RowsView& gated) {
  CheckLayer(layer);
  const int64_t b_groups = GroupsOfB(layer);
  HWY_DYNAMIC_DISPATCH(ScanAll)(pool, {batch, layer, state, x, delta, b, c, z, gated, b_groups});
  KeepRows(batch, state, b, b_groups * layer.state_size, 2 * int64_t{layer.inner_width});
}

}  // namespace mambad::kernels
#endif  // HWY_ONCE
