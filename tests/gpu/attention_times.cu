// Times and digests of attention over pages: kernel_times.h.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/cuda/errors.h"
#include "kernels/cuda/mixers.h"
#include "tests/gpu/kernel_times.h"

namespace mambad::gpu_check {
namespace {

using kernels::AttentionLayer;
using kernels::Batch;
using kernels::Buffer;
using kernels::ElementType;
using kernels::KeyValueLayout;
using kernels::RowsView;

struct Shape {
  const char* name;
  int queries, keys, width, window = 0;
  ElementType type = ElementType::kBFloat16;
};
constexpr Shape kTimedShapes[] = {{"attention 32/8 x 128", 32, 8, 128},
                                  {"attention 32/8 x 64", 32, 8, 64}};
constexpr Shape kComparedShapes[] = {
    {"attention 4/2 x 64", 4, 2, 64},
    {"attention 6/1 x 128", 6, 1, 128},
    {"attention 8/8 x 64", 8, 8, 64},
    {"attention 16/1 x 128", 16, 1, 128},
    {"attention 2/1 x 128, 70 seen", 2, 1, 128, 70},
    {"attention 3/3 x 80", 3, 3, 80},
    {"attention 2/1 x 20", 2, 1, 20},
    {"attention 4/1 x 256", 4, 1, 256},
    {"attention 4/2 x 64, 100 seen", 4, 2, 64, 100},
    {"attention 4/2 x 64, float", 4, 2, 64, 0, ElementType::kFloat32}};
// sequences, rows, position
constexpr Load kTimed[] = {
    {"at 2k", 1, 1, 2047},           {"at 8k", 1, 1, 8191},   {"at 32k", 1, 1, 32767},
    {"at 2k", 8, 1, 2047},           {"at 32k", 8, 1, 32767}, {"at 0.5k", 64, 1, 511},
    {"at 2k", 64, 1, 2047},          {"at 8k", 64, 1, 8191},  {"at 32k", 64, 1, 32767},
    {"at 8k", 1, 5, 8187},           {"at 2k", 64, 5, 2043},  {"prompt", 1, 2048, 0},
    {"prompt at 6k", 1, 2048, 6144}, {"prompt", 8, 512, 0}};
constexpr Load kCompared[] = {{"at 0", 2, 1, 0},         {"at 300", 3, 1, 300},
                              {"at 1000", 40, 1, 1000},  {"at 511", 2, 5, 511},
                              {"prompt", 1, 77, 0},      {"prompt at 190", 2, 130, 190},
                              {"prompt at 3", 1, 600, 3}};

struct Model {
  explicit Model(const Shape& shape) {
    layer.query_heads = shape.queries;
    layer.key_value_heads = shape.keys;
    layer.head_width = shape.width;
    layer.sliding_window = shape.window;
    frequencies = DeviceRandom(shape.width / 2, 0.001f, 1);
    layer.inverse_frequency = frequencies.as<float>();
    layout = kernels::cuda::AttentionPageLayout(layer, shape.type);
  }
  int64_t ProjectionWidth() const {
    return int64_t{layer.query_heads + 2 * layer.key_value_heads} * layer.head_width;
  }
  int64_t OutWidth() const { return int64_t{layer.query_heads} * layer.head_width; }
  AttentionLayer layer;
  KeyValueLayout layout;
  Buffer frequencies;
};

// Pages of some layers, one behind the other, and rows.
struct Memory {
  Memory(const Model& model, const Load& load, const Batch& batch, int count)
      : layers(count),
        layer_bytes(load.sequences * int64_t{batch.pages_per_sequence} * model.layout.key_bytes) {
    keys = DeviceZeros(layer_bytes * layers);
    values = DeviceZeros(layer_bytes * layers);
    projected = DeviceRandom(batch.rows * model.ProjectionWidth(), -1, 1);
    out = DeviceZeros(batch.rows * model.OutWidth() * sizeof(float));
    kernels::WorkspaceShape shape;
    shape.max_rows = batch.rows;
    shape.max_inner = model.OutWidth();
    shape.max_context = batch.max_position + 1;
    scratch = DeviceZeros(kernels::cuda::AttentionScratchBytes(shape));
    for (const Buffer* pages : {&keys, &values}) {
      if (model.layout.type == ElementType::kFloat32) {
        FillRandom(pages->as<float>(), layer_bytes * layers / 4, -1, 1);
      } else {
        FillRandomHalves(pages->data(), layer_bytes * layers / 2);
      }
    }
  }
  void Run(cudaStream_t stream, const Model& model, const Batch& batch, int i, bool alone) const {
    const kernels::KeyValueState state{keys.as<std::byte>() + i * layer_bytes,
                                       values.as<std::byte>() + i * layer_bytes, model.layout};
    kernels::cuda::AttentionScratch room;
    if (!alone) room = {scratch.as<float>(), static_cast<int64_t>(scratch.bytes())};
    kernels::cuda::PagedAttention(
        stream, batch, model.layer, state,
        {projected.as<float>(), batch.rows, model.ProjectionWidth(), model.ProjectionWidth()},
        {out.as<float>(), batch.rows, model.OutWidth(), model.OutWidth()}, room);
  }
  const int layers;
  const int64_t layer_bytes;
  Buffer keys, values, projected, out, scratch;
};

std::string Line(const Shape& shape, const Load& load, const char* how) {
  char line[128];
  std::snprintf(line, sizeof(line), "%s %d x %d %s%s", shape.name, load.sequences, load.rows,
                load.name, how);
  return line;
}

void TimeShape(KernelTimes& times, const Shape& shape) {
  const Model model(shape);
  for (const Load& load : kTimed) {
    if (!times.Wants(Line(shape, load, ""))) continue;
    const BatchOf of(load);
    const double width = shape.width, seen = static_cast<double>(of.batch.max_position + 1);
    const double pages = load.sequences * seen * 2 * shape.keys * width *
                         static_cast<double>(ElementBytes(shape.type));
    double pairs = 0;  // of a row and a key that it sees
    for (int r = 0; r < load.rows; ++r) pairs += static_cast<double>(load.position + r + 1);
    const double operations = 4.0 * load.sequences * pairs * shape.queries * width;
    const double rows = 2.0 * static_cast<double>(of.batch.rows * model.OutWidth()) * sizeof(float);
    const Memory memory(model, load, of.batch, std::min(LayersOf(pages), 32));
    times.Time(Line(shape, load, ""), pages + rows, load.rows > 16 ? operations : 0, memory.layers,
               [&](int i) { memory.Run(times.stream(), model, of.batch, i, false); });
  }
}

void CompareShape(KernelTimes& times, const Shape& shape) {
  const Model model(shape);
  for (const Load& load : kCompared) {
    if (!times.Wants(Line(shape, load, ""))) continue;
    const BatchOf of(load);
    for (const bool alone : {false, true}) {
      const Memory memory(model, load, of.batch, 1);
      times.Digest(Line(shape, load, alone ? " alone" : ""),
                   [&] { memory.Run(times.stream(), model, of.batch, 0, alone); },
                   {{memory.keys.data(), static_cast<int64_t>(memory.keys.bytes() / 4)},
                    {memory.values.data(), static_cast<int64_t>(memory.values.bytes() / 4)},
                    {memory.projected.data(), static_cast<int64_t>(memory.projected.bytes() / 4)},
                    {memory.out.data(), static_cast<int64_t>(memory.out.bytes() / 4)}});
    }
  }
}

// ---- against double -----------------------------------------------------------------------------

constexpr int kMostKeys = 1024;

// Block (row, query head): what a row's head gives, in double, from queries as they were rotated
// and pages as they stand. out [R, H hd] doubles.
__global__ void Reference(const __grid_constant__ Batch batch,
                          const __grid_constant__ AttentionLayer layer, const uint16_t* keys,
                          const uint16_t* values, const float* projected, int64_t stride,
                          double* out) {
  __shared__ double weights[kMostKeys];
  const int rows = batch.row_begin[1], row = blockIdx.x, head = blockIdx.y, sequence = row / rows;
  const int width = layer.head_width, key_head = head / (layer.query_heads / layer.key_value_heads);
  const int position = batch.position[sequence] + row % rows;
  const int oldest = layer.sliding_window > 0 ? max(0, position - layer.sliding_window + 1) : 0;
  const int32_t* const pages =
      batch.pages + batch.slot[sequence] * int64_t{batch.pages_per_sequence};
  const auto number = [&](const uint16_t* all, int key, int d) {
    const int64_t place =
        ((int64_t{pages[key / 16]} * layer.key_value_heads + key_head) * 16 + key % 16) * width + d;
    return static_cast<double>(__uint_as_float(static_cast<uint32_t>(all[place]) << 16));
  };
  const float* const query = projected + row * stride + int64_t{head} * width;
  for (int key = oldest + threadIdx.x; key <= position; key += blockDim.x) {
    double score = 0;
    for (int d = 0; d < width; ++d) score += static_cast<double>(query[d]) * number(keys, key, d);
    weights[key - oldest] = exp(score / sqrt(static_cast<double>(width)));
  }
  __syncthreads();
  double all = 0;
  for (int key = oldest; key <= position; ++key) all += weights[key - oldest];
  for (int d = threadIdx.x; d < width; d += blockDim.x) {
    double sum = 0;
    for (int key = oldest; key <= position; ++key)
      sum += weights[key - oldest] * number(values, key, d);
    out[(int64_t{row} * layer.query_heads + head) * width + d] = sum / all;
  }
}

template <typename T>
std::vector<T> OnHost(const Buffer& buffer) {
  std::vector<T> values(buffer.bytes() / sizeof(T));
  kernels::cuda::Check(cudaDeviceSynchronize(), "kernels");
  kernels::cuda::Check(
      cudaMemcpy(values.data(), buffer.data(), buffer.bytes(), cudaMemcpyDeviceToHost), "copy");
  return values;
}

// A prompt's rows against double, and against the same rows by themselves.
void CheckShape(KernelTimes& times, const Shape& shape, const Load& load) {
  if (!times.Wants(Line(shape, load, "")) || shape.type != ElementType::kBFloat16 ||
      load.position + load.rows > kMostKeys)
    return;
  const Model model(shape);
  const BatchOf of(load);
  const Memory memory(model, load, of.batch, 1);
  const int64_t width = model.ProjectionWidth(), out_width = model.OutWidth();
  memory.Run(times.stream(), model, of.batch, 0, false);
  const Buffer exact = DeviceZeros(of.batch.rows * out_width * sizeof(double));
  kernels::cuda::Check(cudaDeviceSynchronize(), "kernels");
  Reference<<<dim3(of.batch.rows, shape.queries), 128>>>(
      of.batch, model.layer, memory.keys.as<uint16_t>(), memory.values.as<uint16_t>(),
      memory.projected.as<float>(), width, exact.as<double>());
  const std::vector<double> expected = OnHost<double>(exact);
  const std::vector<float> found = OnHost<float>(memory.out);
  double error = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    error += (found[i] - expected[i]) * (found[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  int64_t different = 0, compared = 0;
  for (const int row : {0, 1, 15, 16, 63, 64, 65, 100, load.rows - 1}) {
    if (row >= load.rows) continue;
    FillRandom(memory.projected.as<float>(), of.batch.rows * width, -1, 1);  // not rotated
    const Load alone_load{"", load.sequences, 1, load.position + row};
    BatchOf alone(alone_load);
    alone.batch.pages = of.batch.pages;
    alone.batch.pages_per_sequence = of.batch.pages_per_sequence;
    const Buffer out = DeviceZeros(load.sequences * out_width * sizeof(float));
    const kernels::KeyValueState state{memory.keys.as<std::byte>(), memory.values.as<std::byte>(),
                                       model.layout};
    kernels::cuda::PagedAttention(
        times.stream(), alone.batch, model.layer, state,
        {memory.projected.as<float>() + row * width, load.sequences, width, load.rows * width},
        {out.as<float>(), load.sequences, out_width, out_width},
        {memory.scratch.as<float>(), static_cast<int64_t>(memory.scratch.bytes())});
    const std::vector<float> by_itself = OnHost<float>(out);
    for (int s = 0; s < load.sequences; ++s) {
      for (int64_t i = 0; i < out_width; ++i, ++compared) {
        const float a = by_itself[s * out_width + i];
        const float b = found[(int64_t{s} * load.rows + row) * out_width + i];
        different += std::memcmp(&a, &b, sizeof(a)) != 0;
      }
    }
  }
  std::printf("%s: error %.2e, %lld of %lld numbers differ in rows by themselves\n",
              Line(shape, load, "").c_str(), std::sqrt(error / size),
              static_cast<long long>(different), static_cast<long long>(compared));
}

}  // namespace

void TimeAttention(KernelTimes& times) {
  for (const Shape& shape : kComparedShapes) {
    for (const Load& load : kCompared) CheckShape(times, shape, load);
  }
  for (const Shape& shape : kComparedShapes) CompareShape(times, shape);
  for (const Shape& shape : kTimedShapes) TimeShape(times, shape);
}

}  // namespace mambad::gpu_check
