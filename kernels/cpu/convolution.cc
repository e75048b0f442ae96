#include "kernels/cpu/convolution.h"

#include <algorithm>

#include "kernels/cpu/memory.h"
#include "kernels/cpu/recurrence.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/convolution.cc"
#include "hwy/cache_control.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mambad::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr int kBlock = 16;  // channels
using D = hn::CappedTag<float, kBlock>;
using V = hn::Vec<D>;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(D()));
constexpr int64_t kRowsTogether = 16;
constexpr int64_t kFloatsAhead = 64;  // in a row: what is asked for early

// Sixteen (at the end fewer) channels and where their inputs stand.
struct ChannelBlock {
  int64_t channel = 0;
  int count = 0;
  bool four = false;  // four taps, sixteen neighbouring inputs: only source[0] is filled in
  int64_t source[kBlock] = {};
  HWY_ALIGN float weights[kMaxConvolutionWidth][kBlock] = {};
  HWY_ALIGN float bias[kBlock] = {};
};

int64_t SourceColumn(const ConvolutionShape& shape, int64_t channel) {
  int i = 0;
  while (i + 1 < shape.segment_count && channel >= shape.segments[i].end) ++i;
  const ChannelSegment& segment = shape.segments[i];
  const int64_t at = channel - segment.begin;
  if (segment.repeats == 1) return segment.source + at;
  return segment.source + at / (segment.group * segment.repeats) * segment.group +
         at % segment.group;
}

void PrepareBlock(const ConvolutionShape& shape, int64_t channel, ChannelBlock& block) {
  block.channel = channel;
  block.count = static_cast<int>(std::min<int64_t>(kBlock, shape.channels - channel));
  int i = 0;
  while (i + 1 < shape.segment_count && channel >= shape.segments[i].end) ++i;
  const ChannelSegment& segment = shape.segments[i];
  const int64_t first = channel - segment.begin, last = first + kBlock - 1;
  const bool whole = block.count == kBlock && channel + kBlock <= segment.end;
  const bool neighbours = segment.repeats == 1 || first / segment.group == last / segment.group;
  block.four = shape.width == 4 && shape.out_repeats == 1 && whole && neighbours;
  block.source[0] = SourceColumn(shape, channel);
  if (block.four) return;
  for (int k = 0; k < block.count; ++k) {
    block.source[k] = SourceColumn(shape, channel + k);
    const float* weights = shape.weights + (channel + k) * shape.width;
    for (int j = 0; j < shape.width; ++j) block.weights[j][k] = weights[j];
    block.bias[k] = shape.bias == nullptr ? 0.0f : shape.bias[channel + k];
  }
}

void StoreResult(const ConvolutionShape& shape, const ChannelBlock& block, const float* result,
                 float* row) {
  if (shape.out_repeats == 1) {
    std::copy_n(result, block.count, row + block.channel);
    return;
  }
  for (int i = 0; i < block.count; ++i) {
    const int64_t group = (block.channel + i) / shape.out_group,
                  at = (block.channel + i) % shape.out_group;
    for (int64_t k = 0; k < shape.out_repeats; ++k) {
      row[(group * shape.out_repeats + k) * shape.out_group + at] = result[i];
    }
  }
}

// Where a sequence's earlier inputs of this block stand.
struct Ring {
  float* data = nullptr;  // of channel 0
  int64_t channels = 0;
  int rows = 0;

  float* row(int64_t position) const { return data + position % rows * channels; }
};

// One sequence's rows of a block.
struct BlockRows {
  const float* in = nullptr;
  float* out = nullptr;
  int64_t in_stride = 0, out_stride = 0;
  int64_t position = 0, rows = 0;
};

// Any width and any arrangement of channels. A circle of W inputs: that of position p stands at p %
// width.
void ConvolveRows(const ConvolutionShape& shape, const ChannelBlock& block, const Ring& ring,
                  const BlockRows& rows) {
  const D d;
  const int width = shape.width;
  HWY_ALIGN float taps[kMaxConvolutionWidth][kBlock] = {};
  for (int64_t p = std::max<int64_t>(0, rows.position - width + 1); p < rows.position; ++p) {
    std::copy_n(ring.row(p) + block.channel, block.count, taps[p % width]);
  }
  HWY_ALIGN float result[kBlock];
  for (int64_t r = 0; r < rows.rows; ++r) {
    const int64_t p = rows.position + r;
    float* newest = taps[p % width];
    for (int i = 0; i < block.count; ++i) newest[i] = rows.in[r * rows.in_stride + block.source[i]];
    for (int lane = 0; lane < kBlock; lane += kLanes) {
      V sum = hn::Load(d, block.bias + lane);
      for (int j = 0; j < width; ++j) {
        sum = hn::MulAdd(hn::Load(d, block.weights[j] + lane),
                         hn::Load(d, taps[(p + 1 + j) % width] + lane), sum);
      }
      hn::Store(SiLU(d, sum), d, result + lane);
    }
    StoreResult(shape, block, result, rows.out + r * rows.out_stride);
    if (rows.rows - r <= ring.rows) std::copy_n(newest, block.count, ring.row(p) + block.channel);
  }
}

// Four taps over sixteen neighbouring columns: the taps slide through registers.
void ConvolveFour(const ConvolutionShape& shape, const ChannelBlock& block, const Ring& ring,
                  const BlockRows& rows) {
  const D d;
  const int64_t ring_from = rows.rows - ring.rows;  // rows from here on stay in the ring
  for (int lane = 0; lane < kBlock; lane += kLanes) {
    const float* in = rows.in + block.source[0] + lane;
    float* out = rows.out + block.channel + lane;
    const auto before = [&](int64_t p) HWY_ATTR {
      return p < 0 ? hn::Zero(d) : hn::LoadU(d, ring.row(p) + block.channel + lane);
    };
    V x0 = before(rows.position - 3), x1 = before(rows.position - 2),
      x2 = before(rows.position - 1);
    V w0, w1, w2, w3;
    hn::LoadInterleaved4(d, shape.weights + (block.channel + lane) * 4, w0, w1, w2, w3);
    const V bias =
        shape.bias == nullptr ? hn::Zero(d) : hn::LoadU(d, shape.bias + block.channel + lane);
    for (int64_t r = 0; r < rows.rows; ++r) {
      hwy::Prefetch(in + r * rows.in_stride + kFloatsAhead);
      hwy::Prefetch(out + r * rows.out_stride + kFloatsAhead);
      const V x3 = hn::LoadU(d, in + r * rows.in_stride);
      const V sum =
          hn::MulAdd(w3, x3, hn::MulAdd(w2, x2, hn::MulAdd(w1, x1, hn::MulAdd(w0, x0, bias))));
      hn::StoreU(SiLU(d, sum), d, out + r * rows.out_stride);
      if (r >= ring_from) hn::StoreU(x3, d, ring.row(rows.position + r) + block.channel + lane);
      x0 = x1;
      x1 = x2;
      x2 = x3;
    }
  }
}

void ConvolveAll(ThreadPool& pool, const Batch& batch, const ConvolutionShape& shape,
                 const RecurrentState& state, const RowsView& in, const RowsView& out) {
  const int64_t blocks = (shape.channels + kBlock - 1) / kBlock;
  pool.Split(blocks, 1, [&](int64_t begin, int64_t end, int) HWY_ATTR {
    ChannelBlock block;
    for (int s = 0; s < batch.sequences; ++s) {
      const int64_t first = batch.row_begin[s], rows = batch.row_begin[s + 1] - first;
      const Ring ring{state.slot(batch.slot[s]) + state.layout.ring, shape.channels,
                      state.layout.ring_rows};
      // Rows lie far apart, neighbouring blocks side by side: a few rows of all blocks, then the
      // next few, out of the ring.
      for (int64_t r = 0; r < rows; r += kRowsTogether) {
        const BlockRows few{
            in.row(first + r), out.row(first + r),    in.stride,
            out.stride,        batch.position[s] + r, std::min(kRowsTogether, rows - r)};
        for (int64_t i = begin; i < end; ++i) {
          PrepareBlock(shape, i * kBlock, block);
          if (block.four) {
            ConvolveFour(shape, block, ring, few);
          } else {
            ConvolveRows(shape, block, ring, few);
          }
        }
      }
    }
  });
}

}  // namespace mambad::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mambad::kernels {

HWY_EXPORT(ConvolveAll);

void Convolve(ThreadPool& pool, const Batch& batch, const ConvolutionShape& shape,
              const RecurrentState& state, const RowsView& in, const RowsView& out) {
  if (shape.width < 1 || shape.width > kMaxConvolutionWidth ||
      state.layout.ring_rows < RingRows(shape.width, state.layout.window_rows)) {
    Fail("convolution: width, ring rows, window rows",
         {shape.width, state.layout.ring_rows, state.layout.window_rows});
  }
  HWY_DYNAMIC_DISPATCH(ConvolveAll)(pool, batch, shape, state, in, out);
}

}  // namespace mambad::kernels
#endif  // HWY_ONCE
