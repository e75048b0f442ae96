// A pass of few rows in one launch (kernels/cuda/persistent_pass.h) at the sizes of real models,
// with random weights: every word that it leaves against what the operations' own kernels leave,
// then its time.
//
//   pass_times [--checks] [FILTER]    FILTER: only models whose name contains it
//
// Times: microseconds a pass inside a graph, beside the copy rate of the same run, one line for
// each way in which weights are fetched ahead.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/errors.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/mixers.h"
#include "kernels/cuda/packing.h"
#include "kernels/cuda/persistent_pass.h"
#include "kernels/cuda/persistent_plan.h"
#include "tests/gpu/kernel_times.h"

namespace mambad::gpu_check {
namespace {

using kernels::Buffer;
using kernels::ElementType;
using kernels::MambaLayer;
using kernels::NormWeights;
using kernels::RecurrentSlotLayout;
using kernels::RecurrentState;
using kernels::RowsView;
using kernels::WeightMatrix;
using kernels::cuda::Check;
using kernels::cuda::CheckLaunch;
using kernels::cuda::Linear;
using kernels::cuda::LinearOutput;
using kernels::cuda::PassLaunch;
using kernels::cuda::PassPlan;
using kernels::cuda::PassProgram;

constexpr int kWindowRows = 8, kMostRows = 8;
constexpr int64_t kFloat = sizeof(float);

struct ModelShape {
  const char* name;
  int layers, width, inner, rank, vocabulary;
};
constexpr ModelShape kShapes[] = {{"Mamba-2.8B", 64, 2560, 5120, 160, 50280},
                                  {"Mamba-130M", 24, 768, 1536, 48, 50280},
                                  {"Mamba-370M", 48, 1024, 2048, 64, 50280}};

__device__ float Uniform(uint64_t i) {
  uint64_t x = (i + 1) * 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  return static_cast<float>(static_cast<int32_t>(x >> 32)) * 0x1p-31f;
}
__global__ void FillHalves(uint16_t* data, int64_t count, float scale, uint64_t seed) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    const float number = Uniform(i + (seed << 34)) * scale;
    data[i] = static_cast<uint16_t>(__float_as_uint(number) >> 16);
  }
}
// A = -(n + 1), [I / 16][16][16].
__global__ void FillDecay(float* a, int64_t count) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    a[i] = -static_cast<float>(i / 16 % 16 + 1);
  }
}
__global__ void CountDifferent(const uint32_t* a, const uint32_t* b, int64_t count,
                               int* different) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    if (a[i] != b[i]) atomicAdd(different, 1);
  }
}

// A model's weights, one slot of state, and rows.
class Model {
 public:
  explicit Model(const ModelShape& s) : shape(s) {
    std::printf("%s\n", s.name);
    for (int i = 0; i < s.layers; ++i) AddLayer();
    norm = {Random(s.width, 0.9f, 1.1f), 1e-5f};
    head = &Matrix(s.vocabulary, s.width);
    layout = kernels::cuda::MambaSlotLayout(layers[0], kWindowRows, false);
    states = DeviceZeros(layout.floats * s.layers * kFloat);
    first_states = DeviceRandom(layout.floats * s.layers, -0.3f, 0.3f);
    residual_memory = DeviceZeros(kMostRows * s.width * kFloat);
    first_residual = DeviceRandom(kMostRows * s.width, -1, 1);
    logits_memory = DeviceZeros(kMostRows * int64_t{s.vocabulary} * kFloat);
    scratch = kernels::cuda::CreateLinearScratch(kernels::cuda::OpenProductUnits(), kMostRows,
                                                 2 * s.inner,
                                                 [](size_t bytes) { return DeviceZeros(bytes); });
    inner = DeviceZeros(kMostRows * s.inner * kFloat);
    second = DeviceZeros(kMostRows * s.inner * kFloat);
    projected = DeviceZeros(kMostRows * 2 * s.inner * kFloat);
    selected = DeviceZeros(kMostRows * 512 * kFloat);
  }

  RecurrentState State(int layer) const {
    return {states.as<float>() + layer * layout.floats, layout.floats, layout};
  }
  RowsView Residual(int rows) const {
    return {residual_memory.as<float>(), rows, shape.width, shape.width};
  }
  RowsView Logits(int rows) const {
    return {logits_memory.as<float>(), rows, shape.vocabulary, shape.vocabulary};
  }
  void Restore() const {
    const auto copy = [](const Buffer& to, const Buffer& from) {
      Check(cudaMemcpy(to.data(), from.data(), to.bytes(), cudaMemcpyDeviceToDevice), "Restore");
    };
    copy(states, first_states);
    copy(residual_memory, first_residual);
    Check(cudaMemset(logits_memory.data(), 0x77, logits_memory.bytes()), "Restore");
    Check(cudaDeviceSynchronize(), "Restore");
  }
  double Bytes() const { return weight_bytes + 2.0 * shape.layers * shape.inner * 64; }

  const ModelShape shape;
  std::deque<WeightMatrix> matrices;
  std::deque<Buffer> arrays;
  std::vector<MambaLayer> layers;
  NormWeights norm;
  const WeightMatrix* head = nullptr;
  RecurrentSlotLayout layout;
  Buffer states, first_states, residual_memory, first_residual, logits_memory;
  kernels::cuda::LinearScratch scratch;
  Buffer inner, second, projected, selected;
  double weight_bytes = 0;

 private:
  const float* Random(int64_t count, float low, float high) {
    return arrays.emplace_back(DeviceRandom(count, low, high)).as<float>();
  }
  const WeightMatrix& Matrix(int64_t rows, int64_t columns) {
    WeightMatrix& matrix = matrices.emplace_back();
    matrix.rows = rows;
    matrix.columns = columns;
    matrix.type = ElementType::kBFloat16;
    const int64_t bytes = kernels::cuda::PackedBytes(rows, columns, matrix.type);
    matrix.packed = DeviceZeros(bytes);
    const float scale = 1.7f / std::sqrt(static_cast<float>(columns));
    FillHalves<<<1024, 256>>>(matrix.packed.as<uint16_t>(), bytes / 2, scale, matrices.size());
    CheckLaunch("FillHalves");
    weight_bytes += static_cast<double>(rows * columns * 2);
    return matrix;
  }
  void AddLayer() {
    MambaLayer layer;
    layer.inner_width = shape.inner;
    layer.state_size = 16;
    layer.dt_rank = shape.rank;
    layer.convolution_width = 4;
    layer.norm = {Random(shape.width, 0.9f, 1.1f), 1e-5f};
    layer.in = &Matrix(2 * shape.inner, shape.width);
    layer.select = &Matrix(shape.rank + 32, shape.inner);
    layer.dt = &Matrix(shape.inner, shape.rank);
    layer.out = &Matrix(shape.width, shape.inner);
    layer.convolution = Random(shape.inner * 4, -0.5f, 0.5f);
    layer.convolution_bias = Random(shape.inner, -0.1f, 0.1f);
    layer.dt_bias = Random(shape.inner, -4, -2);
    layer.skip = Random(shape.inner, 0.9f, 1.1f);
    Buffer& a = arrays.emplace_back(DeviceZeros(shape.inner * 16 * kFloat));
    FillDecay<<<256, 256>>>(a.as<float>(), shape.inner * 16);
    CheckLaunch("FillDecay");
    layer.a = a.as<float>();
    layers.push_back(layer);
  }
};

// The operations' own kernels, one behind the other.
void RunKernels(cudaStream_t stream, Model& model, const kernels::Batch& batch) {
  const int rows = batch.rows;
  const int64_t inner = model.shape.inner, rank = model.shape.rank;
  const int32_t* const count = batch.row_begin + batch.sequences;
  const RowsView residual = model.Residual(rows);
  const RowsView projected{model.projected.as<float>(), rows, 2 * inner, 2 * inner};
  const RowsView x{model.inner.as<float>(), rows, inner, inner};
  const RowsView delta{model.second.as<float>(), rows, inner, inner};
  const RowsView selected{model.selected.as<float>(), rows, rank + 32, rank + 32};
  const auto columns = [](const RowsView& of, int64_t begin, int64_t wide) {
    return RowsView{of.data + begin, of.rows, wide, of.stride};
  };
  for (int i = 0; i < model.shape.layers; ++i) {
    const MambaLayer& layer = model.layers[i];
    const RecurrentState state = model.State(i);
    const auto product = [&](const WeightMatrix& weights, const RowsView& from,
                             const NormWeights* norm, const RowsView& to, LinearOutput output) {
      Linear(stream, count, weights, from, norm, to, output, model.scratch);
    };
    product(*layer.in, residual, &layer.norm, projected, LinearOutput::kStore);
    kernels::cuda::MambaConvolution(stream, batch, layer, state, projected, x);
    product(*layer.select, x, nullptr, selected, LinearOutput::kStore);
    product(*layer.dt, columns(selected, 0, rank), nullptr, delta, LinearOutput::kStore);
    kernels::cuda::MambaScan(stream, batch, layer, state, x, delta, columns(selected, rank, 16),
                             columns(selected, rank + 16, 16), columns(projected, inner, inner), x);
    product(*layer.out, x, nullptr, residual, LinearOutput::kAdd);
  }
  Linear(stream, count, *model.head, residual, &model.norm, model.Logits(rows),
         LinearOutput::kStore, model.scratch);
}

// The same as one launch.
class Pass {
 public:
  Pass(Model& model, const kernels::Batch& batch, const PassLaunch& launch) : launch_(launch) {
    PassPlan plan(launch.blocks);
    for (int i = 0; i < model.shape.layers; ++i) plan.AddMamba(model.layers[i], model.State(i));
    plan.AddHead(model.norm, *model.head, model.Logits(batch.rows));
    plan.Describe(program_);
    program_.batch = batch;
    program_.residual = model.Residual(batch.rows);
    program_.rows = batch.rows;
    kernels::WorkspaceShape shape;
    shape.width = model.shape.width;
    shape.max_inner = model.shape.inner;
    shape.max_selection = model.shape.rank + 32;
    mail_ = DeviceZeros(kernels::cuda::MailBytes(shape));
    kernels::cuda::EmptyMail(nullptr, mail_);
    Check(cudaDeviceSynchronize(), "EmptyMail");
    fits_ =
        kernels::cuda::FitPass(launch_, program_) && kernels::cuda::AddressMail(mail_, program_);
    memory_ = kernels::cuda::UploadPlan(plan, program_);
  }
  void Run(cudaStream_t stream) const { kernels::cuda::LaunchPass(stream, launch_, program_); }
  const PassProgram& program() const { return program_; }
  bool fits() const { return fits_; }

 private:
  const PassLaunch launch_;
  PassProgram program_;
  Buffer mail_;
  bool fits_ = false;
  Buffer memory_;
};

// Whether the pass leaves every word that the kernels leave.
bool Compare(cudaStream_t stream, Model& model, const kernels::Batch& batch, const Pass& pass) {
  const Buffer* const all[] = {&model.states, &model.residual_memory, &model.logits_memory};
  std::vector<Buffer> expected;
  model.Restore();
  RunKernels(stream, model, batch);
  Check(cudaStreamSynchronize(stream), "kernels");
  for (const Buffer* buffer : all) {
    Buffer& copy = expected.emplace_back(DeviceZeros(buffer->bytes()));
    Check(cudaMemcpy(copy.data(), buffer->data(), copy.bytes(), cudaMemcpyDeviceToDevice), "copy");
  }
  const Buffer different = DeviceZeros(3 * sizeof(int));
  for (int repeat = 0; repeat < 3; ++repeat) {
    model.Restore();
    Check(cudaDeviceSynchronize(), "Restore");
    pass.Run(stream);
    Check(cudaStreamSynchronize(stream), "pass");
    for (int i = 0; i < 3; ++i) {
      CountDifferent<<<1024, 256>>>(all[i]->as<uint32_t>(), expected[i].as<uint32_t>(),
                                    static_cast<int64_t>(all[i]->bytes() / 4),
                                    different.as<int>() + i);
      CheckLaunch("CountDifferent");
    }
  }
  int counts[3];
  Check(cudaMemcpy(counts, different.data(), sizeof(counts), cudaMemcpyDeviceToHost), "counts");
  float logits[4];
  Check(cudaMemcpy(logits, model.logits_memory.data(), sizeof(logits), cudaMemcpyDeviceToHost),
        "logits");
  const bool equal = counts[0] == 0 && counts[1] == 0 && counts[2] == 0;
  std::printf("  %d rows: words that differ: states %d, residual %d, logits %d (%g %g %g) %s\n",
              batch.rows, counts[0], counts[1], counts[2], logits[0], logits[1], logits[2],
              equal ? "equal" : "DIFFERENT");
  std::fflush(stdout);
  return equal;
}

struct Way {
  int blocks, in_flight;
};

bool Measure(KernelTimes& times, const ModelShape& shape, bool checks_only,
             const std::vector<Way>& ways) {
  Model model(shape);
  bool equal = true;
  const PassLaunch device = kernels::cuda::PassLaunchOfDevice();
  for (const int rows : {1, 5, 8}) {
    Load load{"", 1, rows, 256};
    load.replay = rows == 1 ? 1 : 3;
    BatchOf of(load);
    const Buffer logit_rows = DeviceCopy({0, 1, 2, 3, 4, 5, 6, 7});
    of.batch.logit_rows = logit_rows.as<int32_t>();
    of.batch.logit_count = rows;
    for (const Way& way : ways) {
      PassLaunch launch = device;
      if (way.blocks > 0) launch.blocks = way.blocks;
      launch.in_flight = way.in_flight;
      const Pass pass(model, of.batch, launch);
      if (!pass.fits()) {
        std::printf("  %d rows do not fit\n", rows);
        continue;
      }
      char line[128];
      std::snprintf(line, sizeof(line), "%s %d rows, %d blocks, %d pieces, 3 x %d on their way",
                    shape.name, rows, launch.blocks, pass.program().ring_pieces,
                    pass.program().in_flight);
      equal = Compare(times.stream(), model, of.batch, pass) && equal;
      model.Restore();
      if (!checks_only) {
        times.Time(line, model.Bytes(), 0, 1, [&](int) { pass.Run(times.stream()); });
      }
    }
    if (!checks_only) {
      times.Time(std::string(shape.name) + " by single kernels", model.Bytes(), 0, 1,
                 [&](int) { RunKernels(times.stream(), model, of.batch); });
    }
  }
  return equal;
}

}  // namespace
}  // namespace mambad::gpu_check

int main(int argc, char** argv) {
  using namespace mambad::gpu_check;
  std::string filter;
  bool checks_only = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--checks") == 0) {
      checks_only = true;
    } else {
      filter = argv[i];
    }
  }
  KernelTimes times("", checks_only);
  bool equal = true;
  for (const ModelShape& shape : kShapes) {
    if (std::string(shape.name).find(filter) == std::string::npos) continue;
    std::vector<Way> ways = {{0, 0}, {0, 2}, {0, 3}, {0, 6}};
    if (shape.width < 1500) ways = {{0, 0}, {96, 0}, {0, 2}};
    equal = Measure(times, shape, checks_only, ways) && equal;
  }
  return equal ? 0 : 1;
}
