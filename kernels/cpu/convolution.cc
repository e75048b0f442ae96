#include "kernels/cpu/convolution.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/memory.h"
#include "kernels/cpu/recurrence.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/convolution.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mambad::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr int kBlock = 16;   // channels
using D = hn::CappedTag<float, kBlock>;
using V = hn::Vec<D>;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(D()));
constexpr int kVectors = kBlock / kLanes;

// Sixteen (at the end fewer) channels and where their inputs stand.
struct ChannelBlock {
  int64_t channel = 0;
  int count = 0;
  bool contiguous = true;         // inputs are columns source[0] ...
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
  return segment.source + at / (segment.group * segment.repeats) * segment.group + at % segment.group;
}

void PrepareBlock(const ConvolutionShape& shape, int64_t channel, ChannelBlock& block) {
  block.channel = channel;
  block.count = static_cast<int>(std::min<int64_t>(kBlock, shape.channels - channel));
  block.contiguous = true;
  for (int i = 0; i < block.count; ++i) {
    block.source[i] = SourceColumn(shape, channel + i);
    block.contiguous = block.contiguous && block.source[i] == block.source[0] + i;
  }
  for (int i = 0; i < block.count; ++i) {
    const float* weights = shape.weights + (channel + i) * shape.width;
    for (int j = 0; j < shape.width; ++j) block.weights[j][i] = weights[j];
    block.bias[i] = shape.bias == nullptr ? 0.0f : shape.bias[channel + i];
  }
}

// The block's inputs of one row: in place where they are sixteen neighbours, else gathered into `staged`.
HWY_INLINE const float* Inputs(const ChannelBlock& block, const float* row, float* staged) {
  if (block.contiguous && block.count == kBlock) return row + block.source[0];
  for (int i = 0; i < block.count; ++i) staged[i] = row[block.source[i]];
  return staged;
}

void StoreResult(const ConvolutionShape& shape, const ChannelBlock& block, const float* result, float* row) {
  if (shape.out_repeats == 1) {
    std::memcpy(row + block.channel, result, block.count * sizeof(float));
    return;
  }
  for (int i = 0; i < block.count; ++i) {
    const int64_t group = (block.channel + i) / shape.out_group, at = (block.channel + i) % shape.out_group;
    for (int64_t k = 0; k < shape.out_repeats; ++k) {
      row[(group * shape.out_repeats + k) * shape.out_group + at] = result[i];
    }
  }
}

// Where a sequence's earlier inputs of this block stand.
struct Ring {
  float* data = nullptr;   // of channel 0
  int64_t channels = 0;
  int rows = 0;

  float* row(int64_t position) const { return data + position % rows * channels; }
};

// Rows [0, rows) of one sequence: `taps` slides over the inputs, oldest first; the newest is put in before each row.
void ConvolveRows(const ConvolutionShape& shape, const ChannelBlock& block, const Ring& ring, int64_t position,
                  int64_t rows, const float* in, int64_t in_stride, float* out, int64_t out_stride) {
  const D d;
  const int width = shape.width;
  // A circle of W inputs: that of position p stands at p % width.
  HWY_ALIGN float taps[kMaxConvolutionWidth][kBlock] = {};
  for (int64_t p = std::max<int64_t>(0, position - width + 1); p < position; ++p) {
    std::memcpy(taps[p % width], ring.row(p) + block.channel, block.count * sizeof(float));
  }
  HWY_ALIGN float result[kBlock];
  HWY_ALIGN float staged[kBlock] = {};
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t p = position + r;
    const float* input = Inputs(block, in + r * in_stride, staged);
    std::memcpy(taps[p % width], input, block.count * sizeof(float));
    for (int v = 0; v < kVectors; ++v) {
      V sum = hn::Load(d, block.bias + v * kLanes);
      for (int j = 0; j < width; ++j) {
        const float* tap = taps[(p + 1 + j) % width];
        sum = hn::MulAdd(hn::Load(d, block.weights[j] + v * kLanes), hn::Load(d, tap + v * kLanes), sum);
      }
      hn::Store(SiLU(d, sum), d, result + v * kLanes);
    }
    StoreResult(shape, block, result, out + r * out_stride);
    if (rows - r <= ring.rows) std::memcpy(ring.row(p) + block.channel, taps[p % width], block.count * sizeof(float));
  }
}

void ConvolveAll(ThreadPool& pool, const Batch& batch, const ConvolutionShape& shape, const RecurrentState& state,
                 const RowsView& in, const RowsView& out) {
  const int64_t blocks = (shape.channels + kBlock - 1) / kBlock;
  pool.Split(blocks, 1, [&](int64_t begin, int64_t end, int) HWY_ATTR {
    ChannelBlock block;
    for (int64_t i = begin; i < end; ++i) {
      PrepareBlock(shape, i * kBlock, block);
      for (int s = 0; s < batch.sequences; ++s) {
        const int64_t first = batch.row_begin[s], rows = batch.row_begin[s + 1] - first;
        const Ring ring{state.data + batch.slot[s] * state.layout.floats + state.layout.ring, shape.channels,
                        state.layout.ring_rows};
        ConvolveRows(shape, block, ring, batch.position[s], rows, in.row(first), in.stride, out.row(first), out.stride);
      }
    }
  });
}

}  // namespace mambad::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mambad::kernels {

HWY_EXPORT(ConvolveAll);

void Convolve(ThreadPool& pool, const Batch& batch, const ConvolutionShape& shape, const RecurrentState& state,
              const RowsView& in, const RowsView& out) {
  if (shape.width < 1 || shape.width > kMaxConvolutionWidth || state.layout.ring_rows < RingRows(shape.width)) {
    Fail("convolution: width, ring rows", {shape.width, state.layout.ring_rows});
  }
  HWY_DYNAMIC_DISPATCH(ConvolveAll)(pool, batch, shape, state, in, out);
}

}  // namespace mambad::kernels
#endif  // HWY_ONCE
