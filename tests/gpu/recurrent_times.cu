// Times and digests of the recurrent mixers: kernel_times.h.

#include <algorithm>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include "kernels/cuda/mamba2_scan.h"
#include "kernels/cuda/mixers.h"
#include "tests/gpu/kernel_times.h"

namespace mambad::gpu_check {
namespace {

using kernels::Batch;
using kernels::Buffer;
using kernels::Mamba2Layer;
using kernels::MambaLayer;
using kernels::RecurrentSlotLayout;
using kernels::RecurrentState;
using kernels::RowsView;

constexpr int kWindowRows = 8;
constexpr double kFloat = sizeof(float);

constexpr Load kTimed[] = {
    {"decode", 1, 1},
    {"decode", 8, 1},
    {"decode", 16, 1},
    {"decode", 64, 1},
    {"decode", 128, 1},
    {"decode", 256, 1},
    {"verify 5, 2 replayed", 1, 5, 256, 2},
    {"verify 5, 2 replayed", 64, 5, 256, 2},
    {"only read, 4 wait", 64, 1, 256, 4, 0, 0, 4},
    {"prompt", 1, 2048, 0, 0, 1, 2048},
    {"prompt", 8, 512, 0, 0, 1, 512},
    {"prompt", 16, 64, 0, 0, 1, 64},
};
// Every way in which a call may begin and end.
constexpr Load kCompared[] = {
    {"decode", 3, 1},
    {"decode at 0", 2, 1, 0},
    {"verify", 2, 5, 256, 2},
    {"verify, 8 replayed", 40, 3, 5, 8},
    {"verify, not folding", 2, 3, 256, 3, 0, 0, 3},
    {"fold only", 2, 0, 256, 5, 1, 0},
    {"prompt", 1, 77, 0, 0, 1, 77},
    {"prompt behind replay", 3, 33, 40, 3, 1, 33},
    {"prompt, tail kept", 2, 50, 3, 0, 1, 46},
    {"draft 1", 2, 1, 256, 0, 0, 0, 0, 0, true},
    {"draft 3", 2, 1, 256, 0, 0, 0, 1, 1, true},
    {"draft reads", 20, 3, 256, 4, 1, 3, 0, 0, true},
    {"long verify", 3, 16, 30, 8, 1, 9},
};

std::string Line(const std::string& operation, const Load& load) {
  char line[128];
  std::snprintf(line, sizeof(line), "%s %d x %d %s", operation.c_str(), load.sequences, load.rows,
                load.name);
  return line;
}

// States of some layers, and the rows that all of them use.
struct Memory {
  Memory(const RecurrentSlotLayout& slot, int slots, int count, int64_t projection_columns,
         int64_t inner_columns, int64_t rows)
      : layout(slot),
        layers(count),
        projection_width(projection_columns),
        inner_width(inner_columns),
        slot_count(slots) {
    states = DeviceRandom(layout.floats * slots * layers, -1, 1);
    projected = DeviceRandom(projection_width * rows, -1, 1);
    inner = DeviceRandom(inner_width * rows, -1, 1);
    out = DeviceZeros(static_cast<size_t>(inner_width * rows) * sizeof(float));
  }
  void Restore() const {
    FillRandom(states.as<float>(), layout.floats * slot_count, -1, 1);
    FillRandom(inner.as<float>(), inner.bytes() / sizeof(float), -1, 1);
  }
  RecurrentState Layer(int i) const {
    return {states.as<float>() + i * layout.floats * slot_count, layout.floats, layout};
  }
  RowsView Projected(const Batch& batch, int64_t begin, int64_t columns) const {
    return {projected.as<float>() + begin, batch.rows, columns, projection_width};
  }
  RowsView Inner(const Batch& batch, int64_t columns) const {
    return {inner.as<float>(), batch.rows, columns, inner_width};
  }
  RowsView Out(const Batch& batch, int64_t columns) const {
    return {out.as<float>(), batch.rows, columns, inner_width};
  }
  std::vector<KernelTimes::Words> All() const {
    return {{states.data(), layout.floats * slot_count},
            {inner.data(), static_cast<int64_t>(inner.bytes() / sizeof(float))},
            {out.data(), static_cast<int64_t>(out.bytes() / sizeof(float))}};
  }

  const RecurrentSlotLayout layout;
  const int layers;
  const int64_t projection_width, inner_width;
  const int slot_count;
  Buffer states, projected, inner, out;
};

int Layers(const Load& load, double state_bytes) {
  return LayersOf(2 * state_bytes * load.sequences);
}

// Bytes of states that a load reads and writes.
double StateBytes(const Load& load, double state_bytes) {
  return load.sequences * state_bytes * (load.fold != 0 ? 2 : 1);
}

// ---- Mamba-1 ------------------------------------------------------------------------------------

struct MambaModel {
  MambaModel(int inner, int size, int source, bool early) {
    layer.inner_width = inner;
    layer.state_size = size;
    layer.source_width = source;
    layer.groups = source > 0 ? inner / size : 1;
    layer.repeat_before_convolution = early;
    const int64_t padded = (inner + 15) / 16 * 16;
    convolution = DeviceRandom(int64_t{inner} * 4, -1, 1);
    bias = DeviceRandom(inner, -1, 1);
    dt_bias = DeviceRandom(inner, -6, -2);
    a = DeviceRandom(padded * size, -16, -1);
    skip = DeviceRandom(inner, 0, 1);
    layer.convolution = convolution.as<float>();
    layer.convolution_bias = bias.as<float>();
    layer.dt_bias = dt_bias.as<float>();
    layer.a = a.as<float>();
    layer.skip = skip.as<float>();
  }
  MambaLayer layer;
  Buffer convolution, bias, dt_bias, a, skip;
};

// Rows of a projection as the backend has them, B and C behind it where a selection gives them.
struct MambaColumns {
  explicit MambaColumns(const MambaLayer& layer) {
    const int64_t inner = layer.inner_width, source = layer.source_width, size = layer.state_size;
    const bool standard = source == 0;
    z = standard ? inner : source;
    b = standard ? 2 * inner : source + inner;
    c = b + (standard ? size : source);
    b_width = standard ? size : source;
    c_width = standard ? size : inner;
    delta = c + c_width;
    width = delta + inner;
  }
  int64_t z, b, c, b_width, c_width, delta, width;
};

void RunConvolution(cudaStream_t stream, const MambaModel& model, const Memory& memory,
                    const Batch& batch, int i) {
  const MambaColumns at(model.layer);
  kernels::cuda::MambaConvolution(stream, batch, model.layer, memory.Layer(i),
                                  memory.Projected(batch, 0, at.width),
                                  memory.Inner(batch, model.layer.inner_width));
}

void RunScan(cudaStream_t stream, const MambaModel& model, const Memory& memory, const Batch& batch,
             int i) {
  const MambaColumns at(model.layer);
  const int64_t inner = model.layer.inner_width;
  kernels::cuda::MambaScan(stream, batch, model.layer, memory.Layer(i), memory.Inner(batch, inner),
                           memory.Projected(batch, at.delta, inner),
                           memory.Projected(batch, at.b, at.b_width),
                           memory.Projected(batch, at.c, at.c_width),
                           memory.Projected(batch, at.z, inner), memory.Inner(batch, inner));
}

void TimeMambaModel(KernelTimes& times, const char* name, const MambaModel& model) {
  const double inner = model.layer.inner_width, state = inner * model.layer.state_size * kFloat;
  const RecurrentSlotLayout layout =
      kernels::cuda::MambaSlotLayout(model.layer, kWindowRows, false);
  const std::string convolution = std::string(name) + " convolution";
  const std::string scan = std::string(name) + " scan";
  for (const Load& load : kTimed) {
    if (!times.Wants(Line(convolution, load)) && !times.Wants(Line(scan, load))) continue;
    const BatchOf of(load);
    const Batch& batch = of.batch;
    const Memory memory(layout, load.sequences, Layers(load, state),
                        MambaColumns(model.layer).width, model.layer.inner_width, batch.rows);
    const double taps = load.sequences * (3 + std::min(load.rows, layout.ring_rows));
    times.Time(Line(convolution, load), (2.0 * batch.rows + taps) * inner * kFloat, 0,
               memory.layers,
               [&](int i) { RunConvolution(times.stream(), model, memory, batch, i); });
    const double kept = load.sequences * 2.0 * load.replay;
    times.Time(Line(scan, load),
               StateBytes(load, state) + (4.0 * batch.rows + kept) * inner * kFloat, 0,
               memory.layers, [&](int i) { RunScan(times.stream(), model, memory, batch, i); });
  }
}

void CompareMamba(KernelTimes& times, const char* name, const MambaModel& model) {
  for (const Load& load : kCompared) {
    if (!times.Wants(Line(name, load))) continue;
    const RecurrentSlotLayout layout =
        kernels::cuda::MambaSlotLayout(model.layer, kWindowRows, load.keeps_working);
    const BatchOf of(load);
    const Memory memory(layout, load.sequences, 1, MambaColumns(model.layer).width,
                        model.layer.inner_width, of.batch.rows + 1);
    memory.Restore();
    times.Digest(
        Line(name, load),
        [&] {
          RunConvolution(times.stream(), model, memory, of.batch, 0);
          RunScan(times.stream(), model, memory, of.batch, 0);
        },
        memory.All());
  }
}

// ---- Mamba-2 ------------------------------------------------------------------------------------

struct Mamba2Model {
  Mamba2Model(int inner, int size, int heads, int groups, int source) {
    layer.inner_width = inner;
    layer.state_size = size;
    layer.heads = heads;
    layer.groups = groups;
    layer.source_width = source;
    layer.dt_maximum = std::numeric_limits<float>::infinity();
    const int64_t channels = inner + 2 * int64_t{groups} * size;
    convolution = DeviceRandom(channels * 4, -1, 1);
    bias = DeviceRandom(channels, -1, 1);
    dt_bias = DeviceRandom(heads, -6, -2);
    a = DeviceRandom(heads, -16, -1);
    skip = DeviceRandom(heads, 0, 1);
    norm = DeviceRandom(inner, 0, 1);
    layer.convolution = convolution.as<float>();
    layer.convolution_bias = bias.as<float>();
    layer.dt_bias = dt_bias.as<float>();
    layer.a = a.as<float>();
    layer.skip = skip.as<float>();
    layer.gated_norm = {norm.as<float>(), 1e-5f};
  }
  int64_t ProjectionWidth() const {
    const int64_t groups = int64_t{layer.groups} * layer.state_size, source = layer.source_width;
    return layer.inner_width + (source > 0 ? 2 * source : layer.inner_width + groups) + groups +
           layer.heads;
  }
  Mamba2Layer layer;
  Buffer convolution, bias, dt_bias, a, skip, norm;
};

void RunMix(cudaStream_t stream, const Mamba2Model& model, const Memory& memory, const Batch& batch,
            int i) {
  kernels::cuda::Mamba2Mix(stream, batch, model.layer, memory.Layer(i),
                           memory.Projected(batch, 0, memory.projection_width),
                           memory.Inner(batch, model.layer.convolution_channels()),
                           memory.Out(batch, model.layer.inner_width));
}

void TimeMamba2Model(KernelTimes& times, const char* name, const Mamba2Model& model) {
  const Mamba2Layer& layer = model.layer;
  const double inner = layer.inner_width, state = inner * layer.state_size * kFloat;
  const double channels = layer.convolution_channels();
  const RecurrentSlotLayout layout = kernels::cuda::Mamba2SlotLayout(layer, kWindowRows, false);
  const int64_t widest = layer.convolution_channels() + layer.inner_width;
  const std::string of_scan = std::string(name) + " scan", all = std::string(name) + " all";
  const std::string norm = std::string(name) + " norm";
  for (const Load& load : kTimed) {
    if (!times.Wants(Line(of_scan, load)) && !times.Wants(Line(norm, load)) &&
        !times.Wants(Line(all, load)))
      continue;
    const BatchOf of(load);
    const Batch& batch = of.batch;
    const Memory memory(layout, load.sequences, Layers(load, state), model.ProjectionWidth(),
                        widest, batch.rows);
    const RowsView projected = memory.Projected(batch, 0, memory.projection_width);
    const RowsView convolved = memory.Inner(batch, layer.convolution_channels());
    const RowsView out = memory.Out(batch, layer.inner_width);
    const double taps = load.sequences * (3 + std::min(load.rows, layout.ring_rows));
    const double kept = load.sequences * 1.0 * load.replay;
    const double scan = StateBytes(load, state) + (3.0 * batch.rows + kept) * inner * kFloat;
    const double around = (2.0 * batch.rows + taps) * channels * kFloat;
    times.Time(Line(of_scan, load), scan, 0, memory.layers, [&](int i) {
      kernels::cuda::Mamba2Scan(times.stream(), batch, layer, memory.Layer(i), projected, convolved,
                                out);
    });
    times.Time(Line(norm, load), 2.0 * batch.rows * inner * kFloat, 0, memory.layers, [&](int i) {
      kernels::cuda::Mamba2Finish(times.stream(), batch, layer, memory.Layer(i), projected,
                                  convolved, out);
    });
    times.Time(Line(all, load), scan + around, 0, memory.layers,
               [&](int i) { RunMix(times.stream(), model, memory, batch, i); });
  }
}

void CompareMamba2(KernelTimes& times, const char* name, const Mamba2Model& model) {
  for (const Load& load : kCompared) {
    if (!times.Wants(Line(name, load))) continue;
    const RecurrentSlotLayout layout =
        kernels::cuda::Mamba2SlotLayout(model.layer, kWindowRows, load.keeps_working);
    const BatchOf of(load);
    const int64_t widest = model.layer.convolution_channels() + model.layer.inner_width;
    const Memory memory(layout, load.sequences, 1, model.ProjectionWidth(), widest,
                        of.batch.rows + 1);
    memory.Restore();
    times.Digest(
        Line(name, load), [&] { RunMix(times.stream(), model, memory, of.batch, 0); },
        memory.All());
  }
}

}  // namespace

void TimeMamba(KernelTimes& times) {
  CompareMamba(times, "mamba 200/16", MambaModel(200, 16, 0, true));
  CompareMamba(times, "mamba 320/16", MambaModel(320, 16, 0, true));
  CompareMamba(times, "mamba 56/5", MambaModel(56, 5, 0, true));
  CompareMamba(times, "mamba 192/128", MambaModel(192, 128, 0, true));
  CompareMamba(times, "mamba 256/16 of 64", MambaModel(256, 16, 64, true));
  CompareMamba(times, "mamba 256/16 of 64, late", MambaModel(256, 16, 64, false));
  TimeMambaModel(times, "mamba 2.8B", MambaModel(5120, 16, 0, true));
  TimeMambaModel(times, "mamba 130M", MambaModel(1536, 16, 0, true));
}

void TimeMamba2(KernelTimes& times) {
  CompareMamba2(times, "mamba2 128/128/2", Mamba2Model(128, 128, 2, 1, 0));
  CompareMamba2(times, "mamba2 256/128/2", Mamba2Model(256, 128, 2, 1, 0));
  CompareMamba2(times, "mamba2 512/128/4 of 256", Mamba2Model(512, 128, 4, 4, 256));
  CompareMamba2(times, "mamba2 120/24/3", Mamba2Model(120, 24, 3, 1, 0));
  CompareMamba2(times, "mamba2 256/64/4 in 2", Mamba2Model(256, 64, 4, 2, 0));
  CompareMamba2(times, "mamba2 256/32/8 of 128", Mamba2Model(256, 32, 8, 8, 128));
  CompareMamba2(times, "mamba2 192/256/2", Mamba2Model(192, 256, 2, 1, 0));
  TimeMamba2Model(times, "mamba2 2.7B", Mamba2Model(5120, 128, 80, 1, 0));
  TimeMamba2Model(times, "mamba2 130M", Mamba2Model(1536, 128, 24, 1, 0));
}

}  // namespace mambad::gpu_check
