#include "kernels/cpu/mamba2_scan.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/convolution.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/mixers.h"
#include "kernels/cpu/norm.h"
#include "kernels/cpu/recurrence.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/mamba2_scan.cc"
#include "hwy/cache_control.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/math-inl.h"

#ifndef MAMBAD_KERNELS_CPU_MAMBA2_SCAN_SHARED_
#define MAMBAD_KERNELS_CPU_MAMBA2_SCAN_SHARED_
namespace mambad::kernels {

// Widths of x and B, in the projection and as the convolution leaves them.
struct Mamba2Widths {
  explicit Mamba2Widths(const Mamba2Layer& layer)
      : inner(layer.inner_width), groups(int64_t{layer.groups} * layer.state_size) {
    const bool shares = layer.source_width > 0, early = shares && layer.repeat_before_convolution;
    source_x = shares ? layer.source_width : inner;
    source_b = shares ? layer.source_width : groups;
    x = early ? inner : source_x;
    b = early ? groups : source_b;
  }
  int64_t channels() const { return x + b + groups; }
  int64_t dt_column() const { return inner + source_x + source_b + groups; }

  int64_t inner, groups;       // I, G N
  int64_t source_x, source_b;  // in the projection
  int64_t x, b;                // convolved
};

struct Mamba2Arguments {
  const Batch& batch;
  const Mamba2Layer& layer;
  const RecurrentState& state;
  const RowsView &projected, &convolved, &out;
  Mamba2Widths widths;
};

}  // namespace mambad::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace mambad::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, 16>;
using V = hn::Vec<D>;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(D()));
constexpr int kPart = 64;          // numbers of a head that run together, at most
constexpr int kTileRows = 4;       // of the state: n
constexpr int kStateAhead = 1024;  // floats: how far before its use a state is asked for
constexpr int kTileVectors = kLanes == 16 ? 4 : 2;

// One part of one head: columns [first, first + width) of its P.
struct HeadPart {
  int head = 0, first = 0, width = 0;
  int64_t x = 0, b = 0, c = 0;  // where they begin in a convolved row
  int64_t state = 0;            // where the part begins in the state
  int head_width = 0, state_size = 0;
};

struct HeadChunk {
  HWY_ALIGN float input[kMaxChunkRows][kPart];  // dt x
  HWY_ALIGN float y[kMaxChunkRows][kPart];
  HWY_ALIGN float dt[kMaxChunkRows];
  HWY_ALIGN float decay[kMaxChunkRows];
  const float* b[kMaxChunkRows];
  const float* c[kMaxChunkRows];  // nullptr: a replayed row
};

HeadPart PartOf(const Mamba2Arguments& arguments, int64_t index) {
  const Mamba2Layer& layer = arguments.layer;
  const Mamba2Widths& widths = arguments.widths;
  HeadPart part;
  part.head_width = layer.head_width();
  part.state_size = layer.state_size;
  const int parts = (part.head_width + kPart - 1) / kPart;
  part.head = static_cast<int>(index / parts);
  part.first = static_cast<int>(index % parts) * kPart;
  part.width = std::min(kPart, part.head_width - part.first);
  const int64_t group = part.head / (layer.heads / layer.groups);
  part.x = part.head / (widths.inner / widths.x) * part.head_width + part.first;
  part.b = widths.x + group / (widths.groups / widths.b) * part.state_size;
  part.c = widths.x + widths.b + group * part.state_size;
  part.state = int64_t{part.head} * part.state_size * part.head_width + part.first;
  return part;
}

// dt, decay, dt x and the places of B and C for the rows of a chunk.
void PrepareChunk(const Mamba2Arguments& arguments, const SequenceRows& rows,
                  const RecurrenceChunk& chunk, const HeadPart& part, HeadChunk& data) {
  const D d;
  const Mamba2Layer& layer = arguments.layer;
  const Mamba2Widths& widths = arguments.widths;
  const float* x[kMaxChunkRows];
  for (int i = chunk.begin; i < chunk.end; ++i) {
    const int at = i - chunk.begin;
    const bool replayed = i < rows.replay;
    const float* row = replayed ? rows.replay_row(i) : arguments.convolved.row(rows.call_row(i));
    x[at] = row + part.x;
    data.b[at] = row + part.b;
    data.c[at] = replayed ? nullptr : row + part.c;
    const float* raw = replayed ? row + widths.x + widths.b
                                : arguments.projected.row(rows.call_row(i)) + widths.dt_column();
    data.dt[at] = raw[part.head] + layer.dt_bias[part.head];
  }
  for (int at = chunk.rows(); at % kLanes != 0; ++at) data.dt[at] = 0;
  for (int at = 0; at < chunk.rows(); at += kLanes) {
    const V soft = Softplus(d, hn::Load(d, data.dt + at));
    const V dt = hn::Min(hn::Max(soft, hn::Set(d, layer.dt_minimum)), hn::Set(d, layer.dt_maximum));
    hn::Store(dt, d, data.dt + at);
    hn::Store(Exp(d, hn::Mul(dt, hn::Set(d, layer.a[part.head]))), d, data.decay + at);
  }
  for (int at = 0; at < chunk.rows(); ++at) {
    const V dt = hn::Set(d, data.dt[at]);
    int p = 0;
    for (; p + kLanes <= part.width; p += kLanes)
      hn::Store(hn::Mul(dt, hn::LoadU(d, x[at] + p)), d, data.input[at] + p);
    for (; p < part.width; ++p) data.input[at][p] = data.dt[at] * x[at][p];
  }
}

// S <- decay S + dt x B; y += S C over rows [begin, end) of a chunk, for kN rows of the state and
// kP vectors of p, which stay in registers. y goes on in the order of n from where the tile before
// left it.
template <int kN, int kP>
HWY_INLINE void RunRows(HeadChunk& data, int begin, int end, int n, int p, V (&s)[kN][kP]) {
  const D d;
  for (int r = begin; r < end; ++r) {
    const V decay = hn::Set(d, data.decay[r]);
    const float *b = data.b[r] + n, *input = data.input[r] + p;
#pragma GCC unroll 8
    for (int i = 0; i < kN; ++i) {
      const V b_i = hn::Set(d, b[i]);
#pragma GCC unroll 8
      for (int j = 0; j < kP; ++j) {
        s[i][j] = hn::MulAdd(hn::Load(d, input + j * kLanes), b_i, hn::Mul(s[i][j], decay));
      }
    }
    if (data.c[r] == nullptr) continue;
    const float* c = data.c[r] + n;
    float* out = data.y[r] + p;
    V y[kP];
#pragma GCC unroll 8
    for (int j = 0; j < kP; ++j) y[j] = n == 0 ? hn::Zero(d) : hn::Load(d, out + j * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kN; ++i) {
      const V c_i = hn::Set(d, c[i]);
#pragma GCC unroll 8
      for (int j = 0; j < kP; ++j) y[j] = hn::MulAdd(s[i][j], c_i, y[j]);
    }
#pragma GCC unroll 8
    for (int j = 0; j < kP; ++j) hn::Store(y[j], d, out + j * kLanes);
  }
}

template <int kN, int kP>
HWY_INLINE void LoadTile(const float* from, int64_t stride, V (&s)[kN][kP]) {
#pragma GCC unroll 8
  for (int i = 0; i < kN; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kP; ++j) {
      s[i][j] = hn::LoadU(D(), from + i * stride + j * kLanes);
      hwy::Prefetch(from + i * stride + j * kLanes + kStateAhead);
    }
  }
}

template <int kN, int kP>
HWY_INLINE void StoreTile(const V (&s)[kN][kP], int64_t stride, float* to) {
#pragma GCC unroll 8
  for (int i = 0; i < kN; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kP; ++j) hn::StoreU(s[i][j], D(), to + i * stride + j * kLanes);
  }
}

// One tile of a chunk: load the state, run up to the commit, store, run the rest, store the working
// copy.
template <int kN, int kP>
HWY_INLINE void RunTile(const SequenceRows& rows, const RecurrenceChunk& chunk,
                        const HeadPart& part, int n, int p, HeadChunk& data) {
  const int64_t offset = part.state + int64_t{n} * part.head_width + p;
  const int stored = chunk.stored - chunk.begin;
  V s[kN][kP];
  LoadTile(LoadedState(rows) + offset, part.head_width, s);
  RunRows(data, 0, stored, n, p, s);
  if (chunk.stores_checkpoint()) StoreTile(s, part.head_width, rows.checkpoint() + offset);
  if (chunk.stored == chunk.end) return;
  RunRows(data, stored, chunk.rows(), n, p, s);
  if (rows.stores_working) StoreTile(s, part.head_width, rows.working() + offset);
}

// A tile of one row of the state and fewer numbers than a vector: the same over staged copies.
void RunTail(const SequenceRows& rows, const RecurrenceChunk& chunk, const HeadPart& part, int n,
             int p, HeadChunk& data) {
  const D d;
  const int64_t offset = part.state + int64_t{n} * part.head_width + p;
  const int stored = chunk.stored - chunk.begin;
  const size_t bytes = (part.width - p) * sizeof(float);
  HWY_ALIGN float staged[kLanes] = {};
  std::memcpy(staged, LoadedState(rows) + offset, bytes);
  V s[1][1] = {{hn::Load(d, staged)}};
  RunRows(data, 0, stored, n, p, s);
  hn::Store(s[0][0], d, staged);
  if (chunk.stores_checkpoint()) std::memcpy(rows.checkpoint() + offset, staged, bytes);
  if (chunk.stored == chunk.end) return;
  RunRows(data, stored, chunk.rows(), n, p, s);
  hn::Store(s[0][0], d, staged);
  if (rows.stores_working) std::memcpy(rows.working() + offset, staged, bytes);
}

template <int kN>
HWY_INLINE void RunStateRows(const SequenceRows& rows, const RecurrenceChunk& chunk,
                             const HeadPart& part, int n, HeadChunk& data) {
  int p = 0;
  for (; p + kTileVectors * kLanes <= part.width; p += kTileVectors * kLanes) {
    RunTile<kN, kTileVectors>(rows, chunk, part, n, p, data);
  }
  for (; p + kLanes <= part.width; p += kLanes) RunTile<kN, 1>(rows, chunk, part, n, p, data);
  if (p == part.width) return;
  for (int i = 0; i < kN; ++i) RunTail(rows, chunk, part, n + i, p, data);
}

// (y + D x) SiLU(z) for the chunk's rows of the call.
void FinishChunk(const Mamba2Arguments& arguments, const SequenceRows& rows,
                 const RecurrenceChunk& chunk, const HeadPart& part, const HeadChunk& data) {
  const D d;
  const V skip = hn::Set(d, arguments.layer.skip[part.head]);
  const int64_t column = int64_t{part.head} * part.head_width + part.first;
  HWY_ALIGN float staged_x[kLanes] = {}, staged_z[kLanes] = {};
  for (int i = std::max(chunk.begin, rows.replay); i < chunk.end; ++i) {
    const int64_t r = rows.call_row(i);
    const float* x = arguments.convolved.row(r) + part.x;
    const float* z = arguments.projected.row(r) + column;
    float* out = arguments.out.row(r) + column;
    const float* sum = data.y[i - chunk.begin];
    const auto gated = [&](V x_p, V sum_p, V z_p)
                           HWY_ATTR { return hn::Mul(hn::MulAdd(skip, x_p, sum_p), SiLU(d, z_p)); };
    int p = 0;
    for (; p + kLanes <= part.width; p += kLanes) {
      hn::StoreU(gated(hn::LoadU(d, x + p), hn::Load(d, sum + p), hn::LoadU(d, z + p)), d, out + p);
    }
    if (p == part.width) continue;
    std::copy(x + p, x + part.width, staged_x);
    std::copy(z + p, z + part.width, staged_z);
    hn::Store(gated(hn::Load(d, staged_x), hn::Load(d, sum + p), hn::Load(d, staged_z)), d,
              staged_z);
    std::copy(staged_z, staged_z + part.width - p, out + p);
  }
}

void ScanSequence(const Mamba2Arguments& arguments, const SequenceRows& rows, const HeadPart& part,
                  HeadChunk& data) {
  for (int begin = 0; begin < rows.total();) {
    const RecurrenceChunk chunk = NextChunk(rows, begin);
    PrepareChunk(arguments, rows, chunk, part, data);
    int n = 0;
    for (; n + kTileRows <= part.state_size; n += kTileRows)
      RunStateRows<kTileRows>(rows, chunk, part, n, data);
    for (; n < part.state_size; ++n) RunStateRows<1>(rows, chunk, part, n, data);
    FinishChunk(arguments, rows, chunk, part, data);
    begin = chunk.end;
  }
}

// Sequence by sequence: a thread's part of a slot is one stretch of memory.
void ScanHeads(ThreadPool& pool, const Mamba2Arguments& arguments) {
  const Mamba2Layer& layer = arguments.layer;
  const int64_t parts = (layer.head_width() + kPart - 1) / kPart;
  pool.Split(layer.heads * parts, 1, [&](int64_t begin, int64_t end, int) HWY_ATTR {
    HeadChunk data;
    for (int s = 0; s < arguments.batch.sequences; ++s) {
      const SequenceRows rows = RowsOfSequence(arguments.batch, arguments.state, s);
      for (int64_t i = begin; i < end && rows.total() > 0; ++i) {
        ScanSequence(arguments, rows, PartOf(arguments, i), data);
      }
    }
  });
}

}  // namespace mambad::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mambad::kernels {
namespace {

HWY_EXPORT(ScanHeads);

int64_t RoundUp16(int64_t count) { return (count + 15) / 16 * 16; }

void CheckLayer(const Mamba2Layer& layer) {
  bool fits = layer.inner_width > 0 && layer.state_size > 0 && layer.groups > 0 &&
              layer.heads > 0 && layer.inner_width % layer.heads == 0 &&
              layer.heads % layer.groups == 0;
  if (fits && layer.source_width > 0) {
    const int64_t groups = int64_t{layer.groups} * layer.state_size;
    fits = layer.inner_width % layer.source_width == 0 && groups % layer.source_width == 0 &&
           layer.source_width % layer.state_size == 0 &&
           layer.source_width % layer.head_width() == 0;
  }
  if (!fits) {
    Fail("Mamba-2 layer: inner width, state size, heads, groups, source width",
         {layer.inner_width, layer.state_size, layer.heads, layer.groups, layer.source_width});
  }
}

ConvolutionShape ConvolutionOf(const Mamba2Layer& layer, const Mamba2Widths& widths) {
  ConvolutionShape shape;
  shape.width = layer.convolution_width;
  shape.weights = layer.convolution;
  shape.bias = layer.convolution_bias;
  shape.channels = widths.channels();
  const int64_t x = widths.inner, b = x + widths.source_x, c = b + widths.source_b;
  shape.segments[0] = {0, widths.x, x, layer.head_width(), widths.x / widths.source_x};
  shape.segments[1] = {widths.x, widths.x + widths.b, b, layer.state_size,
                       widths.b / widths.source_b};
  shape.segments[2] = {widths.x + widths.b, shape.channels, c, 1, 1};
  shape.segment_count = 3;
  return shape;
}

// x and B of kept rows, which heads share, and dt go to the replay rows when all heads have read
// the old ones.
void KeepWindow(ThreadPool& pool, const Mamba2Arguments& arguments) {
  const int64_t shared = arguments.widths.x + arguments.widths.b;
  const auto keep = [&](int64_t begin, int64_t end, int) {
    for (int64_t s = begin; s < end; ++s) {
      const SequenceRows rows =
          RowsOfSequence(arguments.batch, arguments.state, static_cast<int>(s));
      for (int i = rows.kept; i < rows.total(); ++i) {
        float* kept = rows.kept_row(i);
        const float* dt = arguments.projected.row(rows.call_row(i)) + arguments.widths.dt_column();
        std::memcpy(kept, arguments.convolved.row(rows.call_row(i)), shared * sizeof(float));
        std::memcpy(kept + shared, dt, arguments.layer.heads * sizeof(float));
      }
    }
  };
  int64_t kept = 0;
  for (int s = 0; s < arguments.batch.sequences; ++s) {
    const SequenceRows rows = RowsOfSequence(arguments.batch, arguments.state, s);
    kept += rows.total() - rows.kept;
  }
  if (kept > 0) pool.Split(arguments.batch.sequences, 1, keep);
}

void NormGroups(ThreadPool& pool, const Mamba2Layer& layer, int64_t rows, const RowsView& out) {
  const int64_t width = layer.inner_width / layer.groups;
  pool.Split(rows, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      for (int group = 0; group < layer.groups; ++group) {
        const NormWeights norm{layer.gated_norm.weight + group * width, layer.gated_norm.epsilon};
        float* y = out.row(r) + group * width;
        RmsNormRow(norm, y, width, y);
      }
    }
  });
}

}  // namespace

RecurrentSlotLayout Mamba2SlotLayout(const Mamba2Layer& layer, int window_rows,
                                     bool keeps_working) {
  CheckLayer(layer);
  CheckWindowRows(window_rows);
  const Mamba2Widths widths(layer);
  const int64_t state = RoundUp16(int64_t{layer.inner_width} * layer.state_size);
  RecurrentSlotLayout layout;
  layout.checkpoint = 0;
  int64_t at = state;
  if (keeps_working) {
    layout.working = at;
    at += state;
  }
  layout.ring = at;
  layout.window_rows = window_rows;
  // No row waits: to run rows again costs a core more than to write a state less often saves it.
  layout.waiting_rows = 0;
  layout.replay_rows = window_rows;
  layout.ring_rows = RingRows(layer.convolution_width, window_rows);
  at += RoundUp16(layout.ring_rows * widths.channels());
  layout.replay = at;
  layout.replay_row = RoundUp16(widths.x + widths.b + layer.heads);
  layout.floats = at + layout.replay_rows * layout.replay_row;
  return layout;
}

void Mamba2Scan(ThreadPool& pool, const Batch& batch, const Mamba2Layer& layer,
                const RecurrentState& state, const RowsView& projected, const RowsView& convolved,
                const RowsView& gated) {
  CheckLayer(layer);
  const Mamba2Arguments arguments{
      batch, layer, state, projected, convolved, gated, Mamba2Widths(layer)};
  HWY_DYNAMIC_DISPATCH(ScanHeads)(pool, arguments);
  KeepWindow(pool, arguments);
}

void Mamba2Mix(ThreadPool& pool, const Batch& batch, const Mamba2Layer& layer,
               const RecurrentState& state, const RowsView& projected, const RowsView& convolved,
               const RowsView& out) {
  CheckLayer(layer);
  Convolve(pool, batch, ConvolutionOf(layer, Mamba2Widths(layer)), state, projected, convolved);
  Mamba2Scan(pool, batch, layer, state, projected, convolved, out);
  NormGroups(pool, layer, batch.rows, out);
}

}  // namespace mambad::kernels
#endif  // HWY_ONCE
