#include "kernels/cpu/linear.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/cpu/instruction_set.h"
#include "kernels/cpu/linear_kernel.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/norm.h"

namespace mambad::kernels {
namespace {

constexpr int64_t kParkedRows =
    96;  // rows whose accumulators wait on the stack between blocks of steps

// Of weights that are read once: far enough for the memory's latency, near enough to stay in the
// second cache until they are needed.
constexpr int64_t kStepsAhead = 32;

int64_t Panels(int64_t rows) { return (rows + kPanelRows - 1) / kPanelRows; }

int64_t Steps(int64_t columns, ElementType type) {
  return type == ElementType::kBFloat16 ? (columns + 1) / 2 : columns;
}
int64_t Steps(const WeightMatrix& weights) { return Steps(weights.columns, weights.type); }

struct Group {
  int64_t begin, panels;
};

// The group that holds a panel. Part s is panels [total * s / parts, total * (s + 1) / parts).
Group GroupOf(const WeightMatrix& weights, int64_t panel) {
  const int64_t total = Panels(weights.rows), parts = weights.parts;
  const int64_t part = ((panel + 1) * parts - 1) / total;
  const int64_t first = total * part / parts, last = total * (part + 1) / parts;
  const int64_t begin = first + (panel - first) / kGroupPanels * kGroupPanels;
  return {begin, std::min<int64_t>(kGroupPanels, last - begin)};
}

LinearKernels ActiveKernels() {
  LinearKernels kernels = DispatchedLinearKernels();
  const InstructionSet set = ActiveInstructionSet();
  if (set >= InstructionSet::kAvx512Bfloat16) AddAvx512Bfloat16Kernels(&kernels);
  if (set >= InstructionSet::kAmxBfloat16) AddAmxBfloat16Kernels(&kernels);
  return kernels;
}

float FromBfloat16(uint16_t value) {
  const uint32_t bits = uint32_t{value} << 16;
  float out;
  std::memcpy(&out, &bits, sizeof(out));
  return out;
}

// Rows [first, last) of the matrix, row-major in `rows`, to their group's place.
template <typename T>
void PackGroup(const T* rows, int64_t count, int64_t columns, int64_t group_panels, T* out) {
  constexpr int64_t kColumnsOfStep = 4 / sizeof(T);
  for (int64_t row = 0; row < count; ++row) {
    T* lane = out + row / kPanelRows * (kStepBytes / sizeof(T)) + row % kPanelRows * kColumnsOfStep;
    for (int64_t k = 0; k < columns; ++k) {
      lane[k / kColumnsOfStep * group_panels * (kStepBytes / sizeof(T)) + k % kColumnsOfStep] =
          rows[row * columns + k];
    }
  }
}

// A product with its activations ready: [rows][x_stride] floats or pairs of bf16.
struct ReadyProduct {
  const WeightMatrix* weights = nullptr;
  const LinearBlocks* blocks = nullptr;
  const char* x = nullptr;  // elements of four bytes
  int64_t x_stride = 0;
  int64_t x_step = 0;  // elements a step
  RowsView y;
  bool add = false;
};

// How many steps are done for all rows and panels before the next: few enough that their weights
// stay in a near cache while every row passes over them.
int64_t StepsOfBlock(const LinearBlocks& blocks, int64_t rows, int64_t panels, int64_t steps) {
  if (rows <= blocks.max_rows && panels <= blocks.panels[rows]) return steps;
  const int64_t block = rows <= blocks.max_rows ? 32 : rows <= 4 * blocks.max_rows ? 128 : 512;
  return steps <= block + block / 2 ? steps : block;
}

// Panels [begin, end), all of one group, rows [row_begin, row_end).
void MultiplyGroup(const ReadyProduct& product, const Group& group, int64_t begin, int64_t end,
                   int64_t row_begin, int64_t row_end) {
  const LinearBlocks& blocks = *product.blocks;
  const int64_t steps = Steps(*product.weights), rows = row_end - row_begin;
  const int64_t block_steps = StepsOfBlock(blocks, rows, end - begin, steps);
  const int64_t row_blocks = (rows + blocks.max_rows - 1) / blocks.max_rows;
  const char* weights = product.weights->packed.as<const char>() + group.begin * steps * kStepBytes;
  alignas(64) float parked[kParkedRows * kGroupRows];

  LinearBlock block;
  block.weight_stride = group.panels * kStepBytes;
  block.x_stride = product.x_stride;
  block.y_stride = product.y.stride;
  block.add = product.add;
  for (int64_t step = 0; step < steps; step += block_steps) {
    block.steps = std::min(block_steps, steps - step);
    block.first = step == 0;
    block.last = step + block.steps == steps;
    for (int64_t i = 0; i < row_blocks; ++i) {
      const int64_t from = rows * i / row_blocks, count = rows * (i + 1) / row_blocks - from;
      block.x = product.x + ((row_begin + from) * product.x_stride + step * product.x_step) * 4;
      for (int64_t panel = begin; panel < end;) {
        const int64_t panels = std::min<int64_t>(blocks.panels[count], end - panel);
        const int64_t output = panel * kPanelRows;
        block.weights = weights + (step * group.panels + panel - group.begin) * kStepBytes;
        // What passes over its weights once brings those near that it needs some steps later; what
        // does so more than once the next ones in the order of memory, a share in every pass, so
        // that reading goes on all the time.
        const int64_t share = panels * kStepBytes / row_blocks;
        block.prefetch =
            block_steps == steps
                ? block.weights + kStepsAhead * block.weight_stride
                : weights + (step + block_steps) * block.weight_stride +
                      (i * (end - begin) / panels + (panel - begin) / panels) * block_steps * share;
        block.prefetch_stride = block_steps == steps ? block.weight_stride : share;
        block.parked = parked + from * kGroupRows + (panel - group.begin) * kPanelRows;
        block.y = product.y.row(row_begin + from) + output;
        block.outputs = product.weights->rows - output;
        blocks.function[count][panels](block);
        panel += panels;
      }
    }
  }
}

void MultiplyPanels(const ReadyProduct& product, int64_t begin, int64_t end) {
  for (int64_t panel = begin; panel < end;) {
    const Group group = GroupOf(*product.weights, panel);
    const int64_t next = std::min(end, group.begin + group.panels);
    for (int64_t row = 0; row < product.y.rows; row += kParkedRows) {
      MultiplyGroup(product, group, panel, next, row, std::min(product.y.rows, row + kParkedRows));
    }
    panel = next;
  }
}

// The bias of panels [begin, end), while their outputs are near.
void AddBias(const float* bias, const RowsView& y, int64_t begin, int64_t end) {
  const int64_t first = begin * kPanelRows, last = std::min(y.columns, end * kPanelRows);
  for (int64_t r = 0; r < y.rows; ++r) {
    float* row = y.row(r);
    for (int64_t i = first; i < last; ++i) row[i] += bias[i];
  }
}

}  // namespace

int64_t PackedBytes(int64_t rows, int64_t columns, ElementType type) {
  return Panels(rows) * Steps(columns, type) * kStepBytes;
}

WeightMatrix PackMatrix(int64_t rows, int64_t columns, ElementType type, const MatrixSource& source,
                        ThreadPool& pool) {
  const bool bfloat16 = type == ElementType::kBFloat16;
  if (rows <= 0 || columns <= 0 || (!bfloat16 && type != ElementType::kFloat32)) {
    Fail("PackMatrix: rows, columns, type", {rows, columns, static_cast<int64_t>(type)});
  }
  WeightMatrix matrix;
  matrix.rows = rows;
  matrix.columns = columns;
  matrix.type = type;
  matrix.parts = pool.threads();
  const int64_t panels = Panels(rows), steps = Steps(matrix);
  matrix.packed = AllocateMemory(PackedBytes(rows, columns, type));
  pool.Split(panels, 1, [&](int64_t begin, int64_t end, int) {
    std::vector<float> wide(bfloat16 ? 0 : kGroupRows * columns);
    std::vector<uint16_t> narrow(bfloat16 ? kGroupRows * columns : 0);
    for (int64_t panel = begin; panel < end;) {
      const Group group = GroupOf(matrix, panel);
      panel = group.begin + group.panels;
      if (group.begin < begin) continue;  // packed whole by the part that has its first panel
      const int64_t first = group.begin * kPanelRows,
                    last = std::min(rows, first + group.panels * kPanelRows);
      char* out = matrix.packed.as<char>() + group.begin * steps * kStepBytes;
      if (bfloat16) {
        source.bfloat16(first, last, narrow.data());
        PackGroup(narrow.data(), last - first, columns, group.panels,
                  reinterpret_cast<uint16_t*>(out));
      } else {
        source.float32(first, last, wide.data());
        PackGroup(wide.data(), last - first, columns, group.panels, reinterpret_cast<float*>(out));
      }
    }
  });
  return matrix;
}

void UnpackRow(const WeightMatrix& weights, int64_t row, float* out) {
  if (row < 0 || row >= weights.rows) Fail("UnpackRow: row, rows", {row, weights.rows});
  const int64_t panel = row / kPanelRows, steps = Steps(weights);
  const Group group = GroupOf(weights, panel);
  const int64_t stride = group.panels * kStepBytes;
  const char* at = weights.packed.as<const char>() + group.begin * steps * kStepBytes +
                   (panel - group.begin) * kStepBytes + row % kPanelRows * 4;
  if (weights.type == ElementType::kBFloat16) {
    for (int64_t k = 0; k < weights.columns; ++k) {
      out[k] = FromBfloat16(reinterpret_cast<const uint16_t*>(at + k / 2 * stride)[k % 2]);
    }
  } else {
    for (int64_t k = 0; k < weights.columns; ++k)
      out[k] = *reinterpret_cast<const float*>(at + k * stride);
  }
}

LinearScratch CreateLinearScratch(int64_t max_rows, int64_t max_columns, const Allocate& allocate) {
  LinearScratch scratch;
  scratch.max_rows = max_rows;
  scratch.max_columns = (max_columns + 1 + 15) / 16 * 16;
  if (scratch.max_columns % 1024 == 0)
    scratch.max_columns += 16;  // rows should not share cache sets
  // The second half holds what is normalised on its way to bf16.
  scratch.packed = allocate(2 * scratch.max_rows * scratch.max_columns * sizeof(float));
  return scratch;
}

bool RoundsActivations(const LinearSettings& settings, ElementType weights) {
  return weights == ElementType::kBFloat16 && settings.activations == ElementType::kBFloat16 &&
         ActiveKernels().bfloat16_pairs != nullptr;
}

void Linear(ThreadPool& pool, const WeightMatrix& weights, const RowsView& x,
            const NormWeights* norm, const RowsView& y, LinearOutput output,
            const LinearSettings& settings, LinearScratch& scratch, const float* bias) {
  if (x.rows == 0) return;
  if (x.columns != weights.columns || y.columns != weights.rows || x.rows != y.rows ||
      x.rows > scratch.max_rows || x.columns >= scratch.max_columns) {
    Fail("Linear", {x.rows, y.rows, scratch.max_rows, x.columns, weights.columns,
                    scratch.max_columns, weights.rows, y.columns});
  }
  const LinearKernels kernels = ActiveKernels();
  const bool bfloat16 = weights.type == ElementType::kBFloat16;
  const bool pairs = bfloat16 && settings.activations == ElementType::kBFloat16 &&
                     kernels.bfloat16_pairs != nullptr;
  // float32 rows are read where they are, unless they are normalised or an odd column needs a
  // zero beside it.
  const bool copied = norm != nullptr || pairs || (bfloat16 && x.columns % 2 != 0);
  const int64_t stride = scratch.max_columns;
  float* ready = scratch.packed.as<float>();
  if (copied) {
    float* normalised = pairs ? ready + scratch.max_rows * stride : ready;
    const auto prepare = [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; ++r) {
        const float* row = x.row(r);
        if (norm != nullptr) {
          RmsNormRow(*norm, row, x.columns, normalised + r * stride);
          row = normalised + r * stride;
        }
        if (pairs) {
          kernels.round_to_pairs(row, x.columns, reinterpret_cast<uint32_t*>(ready + r * stride));
        } else {
          if (norm == nullptr) std::memcpy(ready + r * stride, row, x.columns * sizeof(float));
          ready[r * stride + x.columns] = 0;
        }
      }
    };
    if (x.rows * x.columns < (1 << 14)) {
      prepare(0, x.rows, 0);
    } else {
      pool.Split(x.rows, 1, prepare);
    }
  }

  ReadyProduct product;
  product.weights = &weights;
  product.blocks = pairs ? kernels.bfloat16_pairs : bfloat16 ? kernels.bfloat16 : kernels.float32;
  product.x = reinterpret_cast<const char*>(copied ? ready : x.data);
  product.x_stride = copied ? stride : x.stride;
  product.x_step = bfloat16 && !pairs ? 2 : 1;
  product.y = y;
  product.add = output == LinearOutput::kAdd;
  pool.Split(Panels(weights.rows), 1, [&](int64_t begin, int64_t end, int) {
    MultiplyPanels(product, begin, end);
    if (bias != nullptr) AddBias(bias, y, begin, end);
  });
}

std::string LinearInstructionSet() { return Name(ActiveInstructionSet()); }

}  // namespace mambad::kernels
