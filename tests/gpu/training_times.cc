// Times at the sizes of one distillation step: 32 rows of 1024 tokens, width 576, MLP 1536, heads
// of 64 (9 of them, 3 sources), vocabulary 49152, bf16 with an fp32 residual stream.

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <random>

#include "kernels/cuda/training/block.h"
#include "kernels/cuda/training/divergence.h"
#include "kernels/cuda/training/scan.h"
#include "tests/gpu/training_kernels_check.h"

namespace mambad::gpu_check {
namespace {

using namespace kernels;  // NOLINT: the arguments' names

constexpr int64_t kSequences = 32, kTokens = 1024, kRows = kSequences * kTokens;
constexpr int64_t kWidth = 576, kMlp = 1536, kHeads = 9, kSources = 3, kHead = 64;
constexpr int64_t kVocabulary = 49152, kHeadRows = 8192;
constexpr int64_t kConvolved = kWidth + 2 * kSources * kHead;

// A device buffer of random numbers: one block of them again and again.
std::shared_ptr<DeviceMemory> Buffer(int64_t count, Type type, double scale = 1,
                                     double offset = 0) {
  constexpr int64_t kBlock = 1 << 18;
  static std::mt19937_64 generator(3);
  std::normal_distribution<double> normal(offset, scale);
  auto memory = std::make_shared<DeviceMemory>(count * TypeBytes(type));
  const int64_t block = std::min(kBlock, count);
  Numbers values(block);
  for (double& value : values) value = normal(generator);
  const Array filled = Array::Of(type, values);
  auto* to = static_cast<char*>(memory->data());
  for (int64_t place = 0; place < count; place += block) {
    const size_t bytes = std::min(block, count - place) * TypeBytes(type);
    cudaMemcpy(to + place * TypeBytes(type), filled.data(), bytes, cudaMemcpyDeviceToDevice);
  }
  Synchronize();
  return memory;
}

using Memory = std::shared_ptr<DeviceMemory>;
Memory Half(int64_t count, double scale = 1, double offset = 0) {
  return Buffer(count, Type::kHalf, scale, offset);
}
Memory Single(int64_t count, double scale = 1, double offset = 0) {
  return Buffer(count, Type::kFloat, scale, offset);
}
float* Floats(const Memory& memory) { return static_cast<float*>(memory->data()); }

// Median of many runs, microseconds.
double Microseconds(const std::function<void()>& run) {
  constexpr int kWarm = 3, kRuns = 21;
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  std::vector<double> times;
  for (int i = 0; i < kWarm + kRuns; ++i) {
    cudaEventRecord(begin);
    run();
    cudaEventRecord(end);
    Synchronize();
    float milliseconds = 0;
    cudaEventElapsedTime(&milliseconds, begin, end);
    if (i >= kWarm) times.push_back(milliseconds * 1e3);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::nth_element(times.begin(), times.begin() + kRuns / 2, times.end());
  return times[kRuns / 2];
}

class Table {
 public:
  Table() {
    const int64_t bytes = int64_t{1} << 30;
    const DeviceMemory from(bytes), to(bytes);
    const double time = Microseconds(
        [&] { cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice); });
    copy_rate_ = 2.0 * bytes / time * 1e-6;
    std::printf("device copy: %.2f TB/s read and written\n", copy_rate_);
    std::printf("%-28s %9s %9s %8s %6s %6s\n", "kernel", "us", "MB", "of copy", "in KL", "align");
  }
  // `bytes`: what has to be read and written once. Counts: calls in a step.
  void Add(const char* name, double bytes, double in_divergence, double in_alignment,
           const std::function<void()>& run) {
    const double time = Microseconds(run);
    std::printf("%-28s %9.1f %9.1f %7.0f%% %6.0f %6.0f\n", name, time, bytes * 1e-6,
                100 * bytes / time * 1e-6 / copy_rate_, in_divergence, in_alignment);
    divergence_ += in_divergence * time;
    alignment_ += in_alignment * time;
  }
  ~Table() {
    std::printf("sum of a KL step %.2f ms, of an alignment step %.2f ms\n", divergence_ * 1e-3,
                alignment_ * 1e-3);
  }

 private:
  double copy_rate_ = 0, divergence_ = 0, alignment_ = 0;
};

void TimeNorms(Table* table) {
  const Memory input = Single(kRows * kWidth), sum = Single(kRows * kWidth);
  const Memory gradient = Single(kRows * kWidth), delta = Half(kRows * kWidth);
  const Memory output = Half(kRows * kWidth), weight = Single(kWidth), dweight = Single(kWidth);
  const Memory workspace = Single(NormWorkspace(kRows, kWidth));
  NormForwardArguments forward;
  forward.rows = kRows, forward.width = kWidth;
  forward.input = input->data(), forward.delta = delta->data(), forward.sum = sum->data();
  forward.weight = Floats(weight), forward.output = output->data();
  const double one = kRows * kWidth;
  table->Add("norm forward", one * 12, 122, 61,
             [&] { Launch(kernels::cuda::NormForward(forward, nullptr)); });
  NormBackwardArguments backward;
  backward.rows = kRows, backward.width = kWidth, backward.sum = sum->data();
  backward.weight = Floats(weight), backward.output_gradient = output->data();
  backward.sum_gradient = backward.input_gradient = gradient->data();
  backward.delta_gradient = delta->data();
  backward.weight_gradient = Floats(dweight), backward.workspace = Floats(workspace);
  table->Add("norm backward", one * 16, 61, 0,
             [&] { Launch(kernels::cuda::NormBackward(backward, nullptr)); });
}

void TimeGates(Table* table) {
  const Memory fused = Half(2 * kRows * kMlp), output = Half(kRows * kMlp);
  const Memory dfused = Half(2 * kRows * kMlp);
  const auto half = [](const Memory& memory) {
    return static_cast<char*>(memory->data()) + 2 * kMlp;
  };
  GateForwardArguments forward;
  forward.rows = kRows, forward.width = kMlp;
  forward.gate = fused->data(), forward.up = half(fused), forward.output = output->data();
  forward.gate_stride = forward.up_stride = 2 * kMlp, forward.output_stride = kMlp;
  const double one = kRows * kMlp;
  table->Add("gate forward", one * 6, 60, 30,
             [&] { Launch(kernels::cuda::GateForward(forward, nullptr)); });
  GateBackwardArguments backward;
  backward.rows = kRows, backward.width = kMlp;
  backward.gate = fused->data(), backward.up = half(fused);
  backward.output_gradient = output->data();
  backward.gate_gradient = dfused->data(), backward.up_gradient = half(dfused);
  backward.gate_stride = backward.up_stride = 2 * kMlp, backward.output_stride = kMlp;
  backward.gate_gradient_stride = backward.up_gradient_stride = 2 * kMlp;
  table->Add("gate backward", one * 10, 30, 0,
             [&] { Launch(kernels::cuda::GateBackward(backward, nullptr)); });
}

void TimeRotary(Table* table) {
  const int64_t stride = kWidth + 2 * kSources * kHead;
  const Memory fused = Half(kRows * stride);
  const Memory frequencies = Buffer(kHead / 2, Type::kDouble, 0.1, 0.5);
  const Memory positions = Buffer(kRows, Type::kLong, 300, 2000);
  RotaryArguments arguments;
  arguments.tokens = kRows, arguments.head_width = kHead;
  auto* key = static_cast<char*>(fused->data()) + 2 * kWidth;
  arguments.query = {fused->data(), fused->data(), stride, stride, kHeads};
  arguments.key = {key, key, stride, stride, kSources};
  arguments.positions = static_cast<const int64_t*>(positions->data());
  arguments.inverse_frequency = static_cast<const double*>(frequencies->data());
  table->Add("rotary", kRows * (kHeads + kSources) * kHead * 4.0, 60, 30,
             [&] { Launch(kernels::cuda::Rotate(arguments, nullptr)); });
}

void TimeGatedNorms(Table* table) {
  const Memory input = Half(kRows * kWidth), gate = Half(kRows * kWidth);
  const Memory output = Half(kRows * kWidth), dinput = Half(kRows * kWidth);
  const Memory dgate = Half(kRows * kWidth), weight = Single(kWidth), dweight = Single(kWidth);
  const Memory workspace = Single(NormWorkspace(kRows, kWidth));
  GatedNormForwardArguments forward;
  forward.rows = kRows, forward.width = kWidth, forward.groups = kHeads;
  forward.input = input->data(), forward.gate = gate->data(), forward.weight = Floats(weight);
  forward.output = output->data();
  forward.input_stride = forward.gate_stride = forward.output_stride = kWidth;
  const double one = kRows * kWidth;
  table->Add("gated norm forward", one * 6, 15, 15,
             [&] { Launch(kernels::cuda::GatedNormForward(forward, nullptr)); });
  GatedNormBackwardArguments backward;
  backward.rows = kRows, backward.width = kWidth, backward.groups = kHeads;
  backward.input = input->data(), backward.gate = gate->data(), backward.weight = Floats(weight);
  backward.output_gradient = output->data();
  backward.input_gradient = dinput->data(), backward.gate_gradient = dgate->data();
  backward.input_stride = backward.gate_stride = backward.output_stride = kWidth;
  backward.input_gradient_stride = backward.gate_gradient_stride = kWidth;
  backward.weight_gradient = Floats(dweight), backward.workspace = Floats(workspace);
  table->Add("gated norm backward", one * 10, 15, 15,
             [&] { Launch(kernels::cuda::GatedNormBackward(backward, nullptr)); });
}

Memory Starts() {
  std::vector<uint8_t> start(kRows, 0);
  for (int64_t row = 0; row < kRows; row += 317) start[row] = 1;
  auto memory = std::make_shared<DeviceMemory>(start.size());
  memory->Write(start.data());
  return memory;
}

TrainingBatch Batch(const Memory& start) {
  return {kSequences, kTokens, static_cast<const uint8_t*>(start->data()), TrainingType::kBFloat16};
}

void TimeConvolution(Table* table) {
  const Memory start = Starts(), input = Half(kRows * kConvolved),
               output = Half(kRows * kConvolved);
  const Memory gradient = Half(kRows * kConvolved), dinput = Half(kRows * kConvolved);
  const Memory weight = Single(kConvolved * 4, 0.5), bias = Single(kConvolved, 0.1);
  const Memory dweight = Single(kConvolved * 4), dbias = Single(kConvolved);
  CausalConvolution problem;
  problem.batch = Batch(start), problem.channels = kConvolved;
  problem.input = {input->data(), kConvolved};
  problem.weight = weight->data(), problem.bias = bias->data();
  const DeviceMemory scratch(kernels::cuda::WorkspaceBytes(problem).backward_scratch);
  const double one = kRows * kConvolved;
  table->Add("convolution forward", one * 4, 15, 15, [&] {
    Launch(kernels::cuda::CausalConvolutionForward(problem, {output->data(), kConvolved}, nullptr));
  });
  CausalConvolutionGradient backward;
  backward.output = {gradient->data(), kConvolved}, backward.input = {dinput->data(), kConvolved};
  backward.weight = dweight->data(), backward.bias = dbias->data();
  table->Add("convolution backward", one * 6, 15, 15, [&] {
    Launch(kernels::cuda::CausalConvolutionBackward(problem, backward, scratch.data(), nullptr));
  });
}

void TimeMamba2(Table* table) {
  const int64_t source = kSources * kHead;
  const Memory start = Starts(), xbc = Half(kRows * kConvolved), dxbc = Half(kRows * kConvolved);
  const Memory dt = Half(kRows * kHeads, 1, -3), ddt = Half(kRows * kHeads);
  const Memory y = Half(kRows * kWidth), dy = Half(kRows * kWidth);
  const Memory a_log = Single(kHeads, 0.5, 1), skip = Single(kHeads), dt_bias = Single(kHeads, 0.5);
  const Memory sums = Single(3 * kHeads);
  auto* base = static_cast<char*>(xbc->data());
  auto* dbase = static_cast<char*>(dxbc->data());
  Mamba2Scan problem;
  problem.batch = Batch(start);
  problem.heads = kHeads, problem.head_width = problem.state_size = kHead;
  problem.source_heads = problem.source_groups = kSources, problem.groups = kHeads;
  problem.x = {base, kConvolved}, problem.b = {base + 2 * source, kConvolved};
  problem.c = {base + 4 * source, kConvolved}, problem.dt = {dt->data(), kHeads};
  problem.a_log = a_log->data(), problem.skip = skip->data(), problem.dt_bias = dt_bias->data();
  const TrainingWorkspaceBytes bytes = kernels::cuda::WorkspaceBytes(problem);
  const DeviceMemory checkpoints(bytes.checkpoints), forward(bytes.forward_scratch);
  const DeviceMemory backward(bytes.backward_scratch);
  const double one = kRows * (kConvolved + kWidth) * 2.0;
  table->Add("Mamba-2 forward", one, 15, 15, [&] {
    Launch(kernels::cuda::Mamba2ScanForward(problem, {y->data(), kWidth}, checkpoints.data(),
                                            forward.data(), nullptr));
  });
  Mamba2ScanGradient gradient;
  gradient.y = {dy->data(), kWidth}, gradient.x = {dbase, kConvolved};
  gradient.b = {dbase + 2 * source, kConvolved}, gradient.c = {dbase + 4 * source, kConvolved};
  gradient.dt = {ddt->data(), kHeads}, gradient.a_log = Floats(sums);
  gradient.skip = Floats(sums) + kHeads, gradient.dt_bias = Floats(sums) + 2 * kHeads;
  table->Add("Mamba-2 backward", one + kRows * kConvolved * 2.0, 15, 15, [&] {
    Launch(kernels::cuda::Mamba2ScanBackward(problem, gradient, checkpoints.data(), backward.data(),
                                             nullptr));
  });
}

// As many channels as the heads have together; in place of Mamba-2, so it counts for no step.
void TimeSelective(Table* table) {
  constexpr int64_t kState = 16, kGroups = kWidth / kState, kSourceWidth = kSources * kHead;
  const Memory start = Starts(), x = Half(kRows * kWidth), delta = Half(kRows * kWidth, 1, -3);
  const Memory z = Half(kRows * kWidth), b = Half(kRows * kSourceWidth), c = Half(kRows * kWidth);
  const Memory y = Half(kRows * kWidth), dy = Half(kRows * kWidth), dx = Half(kRows * kWidth);
  const Memory ddelta = Half(kRows * kWidth), dz = Half(kRows * kWidth);
  const Memory db = Half(kRows * kSourceWidth), dc = Half(kRows * kWidth);
  const Memory a_log = Single(kWidth * kState, 0.5, 1), skip = Single(kWidth);
  const Memory dt_bias = Single(kWidth, 0.5), sums = Single(kWidth * (kState + 2));
  SelectiveScan problem;
  problem.batch = Batch(start);
  problem.channels = kWidth, problem.state_size = kState;
  problem.groups = kGroups, problem.source_groups = kSourceWidth / kState;
  problem.x = {x->data(), kWidth}, problem.delta = {delta->data(), kWidth};
  problem.b = {b->data(), kSourceWidth}, problem.c = {c->data(), kWidth};
  problem.z = {z->data(), kWidth};
  problem.a_log = a_log->data(), problem.skip = skip->data(), problem.dt_bias = dt_bias->data();
  const TrainingWorkspaceBytes bytes = kernels::cuda::WorkspaceBytes(problem);
  const DeviceMemory checkpoints(bytes.checkpoints), scratch(bytes.backward_scratch);
  const double one = kRows * (5 * kWidth + kSourceWidth) * 2.0;
  table->Add("Mamba-1 forward", one, 0, 0, [&] {
    Launch(kernels::cuda::SelectiveScanForward(problem, {y->data(), kWidth}, checkpoints.data(),
                                               nullptr, nullptr));
  });
  SelectiveScanGradient gradient;
  gradient.y = {dy->data(), kWidth}, gradient.x = {dx->data(), kWidth};
  gradient.delta = {ddelta->data(), kWidth}, gradient.z = {dz->data(), kWidth};
  gradient.b = {db->data(), kSourceWidth}, gradient.c = {dc->data(), kWidth};
  gradient.a_log = Floats(sums), gradient.skip = Floats(sums) + kWidth * kState;
  gradient.dt_bias = Floats(sums) + kWidth * (kState + 1);
  table->Add("Mamba-1 backward", one + kRows * (4 * kWidth + kSourceWidth) * 2.0, 0, 0, [&] {
    Launch(kernels::cuda::SelectiveScanBackward(problem, gradient, checkpoints.data(),
                                                scratch.data(), nullptr));
  });
}

void TimeDivergence(Table* table) {
  const Memory student = Half(kHeadRows * kVocabulary, 2),
               teacher = Half(kHeadRows * kVocabulary, 2);
  const Memory weight = Single(kHeadRows), results = Single(kHeadRows * 5);
  kernels::cuda::DivergenceArguments arguments;
  arguments.student = student->data(), arguments.teacher = teacher->data();
  arguments.row_weight = Floats(weight), arguments.results = Floats(results);
  arguments.rows = kHeadRows, arguments.vocabulary = kVocabulary;
  table->Add("divergence, 8192 rows", kHeadRows * kVocabulary * 6.0, kRows / kHeadRows, 0,
             [&] { Launch(kernels::cuda::DivergenceGradient(arguments, nullptr)); });
}

}  // namespace

void PrintTimes() {
  cudaDeviceProp properties;
  cudaGetDeviceProperties(&properties, 0);
  std::printf("%s, %d multiprocessors\n", properties.name, properties.multiProcessorCount);
  Table table;
  TimeNorms(&table);
  TimeGates(&table);
  TimeRotary(&table);
  TimeGatedNorms(&table);
  TimeConvolution(&table);
  TimeMamba2(&table);
  TimeSelective(&table);
  TimeDivergence(&table);
}

}  // namespace mambad::gpu_check
