// The training scans beside the same recurrences written in LibTorch operations, token by token,
// with its automatic gradient. Usage: training_scan_bench [rounds] [threads]
//
// Prints milliseconds forward and backward, the best of the rounds (LibTorch: of two), how many
// times faster ours is in all, and the largest relative difference of y and of the gradients of x.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include "ATen/ATen.h"
#include "ATen/Parallel.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/training_scan.h"

namespace mambad::bench {
namespace {

using namespace kernels;  // NOLINT: a program of one file

double Milliseconds(const std::function<void()>& task) {
  const auto begin = std::chrono::steady_clock::now();
  task();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
      .count();
}

void Check(const char* wrong) {
  if (wrong == nullptr) return;
  std::fprintf(stderr, "%s\n", wrong);
  std::exit(1);
}

InputRows In(const at::Tensor& tensor) { return {tensor.data_ptr<float>(), tensor.size(-1)}; }
OutputRows Out(const at::Tensor& tensor) { return {tensor.data_ptr<float>(), tensor.size(-1)}; }

at::Tensor Uniform(at::IntArrayRef shape, double low, double high) {
  return at::rand(shape) * (high - low) + low;
}

double Difference(const at::Tensor& ours, const at::Tensor& theirs) {
  return ((ours - theirs).norm() / theirs.norm()).item<double>();
}

struct Times {
  double forward = 1e30, backward = 1e30;
};

// Runs `forward` (which returns y) and the backward of its sum against `weight`.
Times TimeTorch(const std::function<at::Tensor()>& forward, const std::vector<at::Tensor>& in,
                const at::Tensor& weight, at::Tensor& y) {
  Times times;
  for (int round = 0; round < 2; ++round) {
    for (const at::Tensor& tensor : in) tensor.mutable_grad().reset();
    times.forward = std::min(times.forward, Milliseconds([&] { y = forward(); }));
    times.backward = std::min(times.backward, Milliseconds([&] { (y * weight).sum().backward(); }));
  }
  return times;
}

void Report(const char* name, const Times& ours, const Times& torch, double y, double x) {
  std::printf("%-46s %8.1f %8.1f   %9.1f %9.1f   %6.1f   %.1e %.1e\n", name, ours.forward,
              ours.backward, torch.forward, torch.backward,
              (torch.forward + torch.backward) / (ours.forward + ours.backward), y, x);
}

// Scratch and checkpoints for a problem.
struct Workspace {
  explicit Workspace(const TrainingWorkspaceBytes& bytes)
      : checkpoints(AllocateMemory(bytes.checkpoints)),
        scratch(AllocateMemory(std::max(bytes.forward_scratch, bytes.backward_scratch))) {}
  Buffer checkpoints, scratch;
};

struct SelectiveSizes {
  const char* name;
  int64_t sequences, tokens, channels, state_size, groups, source_groups;
};

at::Tensor TorchSelective(const SelectiveSizes& sizes, const std::vector<at::Tensor>& in) {
  const int64_t width = sizes.channels / sizes.groups;
  const at::Tensor a = -in[5].exp();
  const at::Tensor dt = at::softplus(in[1] + in[7]);
  const auto expand = [&](const at::Tensor& rows, int64_t groups) {  // [B, T, I, N]
    return rows.reshape({sizes.sequences, sizes.tokens, groups, sizes.state_size})
        .repeat_interleave(sizes.channels / groups, 2);
  };
  const bool shared = width == sizes.channels;
  const auto view = [&](const at::Tensor& rows, int64_t groups) {
    return shared ? rows.unsqueeze(2) : expand(rows, groups);
  };
  const std::vector<at::Tensor> steps = dt.unbind(1), x = in[0].unbind(1),
                                b = view(in[2], sizes.source_groups).unbind(1),
                                c = view(in[3], sizes.groups).unbind(1);
  at::Tensor state = at::zeros({sizes.sequences, sizes.channels, sizes.state_size});
  std::vector<at::Tensor> outputs;
  for (int64_t t = 0; t < sizes.tokens; ++t) {
    const at::Tensor step = steps[t].unsqueeze(-1);
    state = at::exp(step * a) * state + step * x[t].unsqueeze(-1) * b[t];
    outputs.push_back((state * c[t]).sum(-1));
  }
  return (at::stack(outputs, 1) + in[6] * in[0]) * at::silu(in[4]);
}

void BenchSelective(const SelectiveSizes& sizes, int rounds, ThreadPool& pool) {
  const int64_t s = sizes.sequences, t = sizes.tokens, channels = sizes.channels,
                n = sizes.state_size;
  std::vector<at::Tensor> in = {Uniform({s, t, channels}, -1, 1),
                                Uniform({s, t, channels}, -5, 0),
                                Uniform({s, t, sizes.source_groups * n}, -1, 1),
                                Uniform({s, t, sizes.groups * n}, -1, 1),
                                Uniform({s, t, channels}, -2, 2),
                                Uniform({channels, n}, 0, 2.5),
                                Uniform({channels}, -1, 1),
                                Uniform({channels}, -1, 1)};
  const at::Tensor weight = Uniform({s, t, channels}, -1, 1);
  SelectiveScan problem;
  problem.batch.sequences = s;
  problem.batch.tokens = t;
  problem.channels = channels;
  problem.state_size = n;
  problem.groups = sizes.groups;
  problem.source_groups = sizes.source_groups;
  problem.x = In(in[0]);
  problem.delta = In(in[1]);
  problem.b = In(in[2]);
  problem.c = In(in[3]);
  problem.z = In(in[4]);
  problem.a_log = in[5].data_ptr();
  problem.skip = in[6].data_ptr();
  problem.dt_bias = in[7].data_ptr();
  std::vector<at::Tensor> out;
  for (const at::Tensor& tensor : in) out.push_back(at::empty_like(tensor));
  const at::Tensor y = at::empty_like(weight);
  const SelectiveScanGradient gradient{In(weight),        Out(out[0]),       Out(out[1]),
                                       Out(out[2]),       Out(out[3]),       Out(out[4]),
                                       out[5].data_ptr(), out[6].data_ptr(), out[7].data_ptr()};
  const Workspace workspace(cpu::WorkspaceBytes(problem, pool.threads()));
  void *checkpoints = workspace.checkpoints.data(), *scratch = workspace.scratch.data();
  Times ours;
  for (int round = 0; round < rounds; ++round) {
    ours.forward =
        std::min(ours.forward, Milliseconds([&] {
                   Check(cpu::SelectiveScanForward(problem, Out(y), checkpoints, scratch, pool));
                 }));
    ours.backward =
        std::min(ours.backward, Milliseconds([&] {
                   Check(cpu::SelectiveScanBackward(problem, gradient, checkpoints, scratch, pool));
                 }));
  }
  for (at::Tensor& tensor : in) tensor.set_requires_grad(true);
  at::Tensor their_y;
  const Times torch = TimeTorch([&] { return TorchSelective(sizes, in); }, in, weight, their_y);
  Report(sizes.name, ours, torch, Difference(y, their_y), Difference(out[0], in[0].grad()));
}

struct Mamba2Sizes {
  const char* name;
  int64_t sequences, tokens, heads, source_heads, groups, source_groups, width, state_size;
};

at::Tensor TorchMamba2(const Mamba2Sizes& sizes, const std::vector<at::Tensor>& in) {
  const int64_t s = sizes.sequences, tokens = sizes.tokens, heads = sizes.heads,
                n = sizes.state_size;
  const at::Tensor dt = at::softplus(in[3] + in[6]);
  const std::vector<at::Tensor> decay = at::exp(dt * -in[4].exp()).unbind(1);
  const auto spread = [&](const at::Tensor& rows, int64_t sources, int64_t width) {
    return rows.reshape({s, tokens, sources, width}).repeat_interleave(heads / sources, 2);
  };
  const at::Tensor x = spread(in[0], sizes.source_heads, sizes.width);
  const std::vector<at::Tensor> input = (x * dt.unsqueeze(-1)).unbind(1),
                                b = spread(in[1], sizes.source_groups, n).unbind(1),
                                c = spread(in[2], sizes.groups, n).unbind(1);
  at::Tensor state = at::zeros({s, heads, sizes.width, n});
  std::vector<at::Tensor> outputs;
  for (int64_t t = 0; t < tokens; ++t) {
    state =
        decay[t].unsqueeze(-1).unsqueeze(-1) * state + input[t].unsqueeze(-1) * b[t].unsqueeze(2);
    outputs.push_back(at::matmul(state, c[t].unsqueeze(-1)).squeeze(-1));
  }
  return (at::stack(outputs, 1) + in[5].unsqueeze(-1) * x)
      .reshape({s, tokens, heads * sizes.width});
}

void BenchMamba2(const Mamba2Sizes& sizes, int rounds, ThreadPool& pool) {
  const int64_t s = sizes.sequences, t = sizes.tokens, n = sizes.state_size;
  std::vector<at::Tensor> in = {Uniform({s, t, sizes.source_heads * sizes.width}, -1, 1),
                                Uniform({s, t, sizes.source_groups * n}, -1, 1),
                                Uniform({s, t, sizes.groups * n}, -1, 1),
                                Uniform({s, t, sizes.heads}, -5, 0),
                                Uniform({sizes.heads}, 0, 2.5),
                                Uniform({sizes.heads}, -1, 1),
                                Uniform({sizes.heads}, -1, 1)};
  const at::Tensor weight = Uniform({s, t, sizes.heads * sizes.width}, -1, 1);
  Mamba2Scan problem;
  problem.batch.sequences = s;
  problem.batch.tokens = t;
  problem.heads = sizes.heads;
  problem.source_heads = sizes.source_heads;
  problem.head_width = sizes.width;
  problem.state_size = n;
  problem.groups = sizes.groups;
  problem.source_groups = sizes.source_groups;
  problem.x = In(in[0]);
  problem.b = In(in[1]);
  problem.c = In(in[2]);
  problem.dt = In(in[3]);
  problem.a_log = in[4].data_ptr();
  problem.skip = in[5].data_ptr();
  problem.dt_bias = in[6].data_ptr();
  std::vector<at::Tensor> out;
  for (const at::Tensor& tensor : in) out.push_back(at::empty_like(tensor));
  const at::Tensor y = at::empty_like(weight);
  const Mamba2ScanGradient gradient{In(weight),        Out(out[0]),      Out(out[1]),
                                    Out(out[2]),       Out(out[3]),      out[4].data_ptr(),
                                    out[5].data_ptr(), out[6].data_ptr()};
  const Workspace workspace(cpu::WorkspaceBytes(problem, pool.threads()));
  void *checkpoints = workspace.checkpoints.data(), *scratch = workspace.scratch.data();
  Times ours;
  for (int round = 0; round < rounds; ++round) {
    ours.forward =
        std::min(ours.forward, Milliseconds([&] {
                   Check(cpu::Mamba2ScanForward(problem, Out(y), checkpoints, scratch, pool));
                 }));
    ours.backward =
        std::min(ours.backward, Milliseconds([&] {
                   Check(cpu::Mamba2ScanBackward(problem, gradient, checkpoints, scratch, pool));
                 }));
  }
  for (at::Tensor& tensor : in) tensor.set_requires_grad(true);
  at::Tensor their_y;
  const Times torch = TimeTorch([&] { return TorchMamba2(sizes, in); }, in, weight, their_y);
  Report(sizes.name, ours, torch, Difference(y, their_y), Difference(out[0], in[0].grad()));
}

// A convolution over the channels of a Mamba-1 layer; LibTorch has a fused operation of its own.
void BenchConvolution(int rounds, ThreadPool& pool) {
  const int64_t s = 1, t = 1024, channels = 1536;
  std::vector<at::Tensor> in = {Uniform({s, t, channels}, -1, 1), Uniform({channels, 4}, -1, 1),
                                Uniform({channels}, -1, 1)};
  const at::Tensor weight = Uniform({s, t, channels}, -1, 1);
  CausalConvolution problem;
  problem.batch.sequences = s;
  problem.batch.tokens = t;
  problem.channels = channels;
  problem.input = In(in[0]);
  problem.weight = in[1].data_ptr();
  problem.bias = in[2].data_ptr();
  std::vector<at::Tensor> out;
  for (const at::Tensor& tensor : in) out.push_back(at::empty_like(tensor));
  const at::Tensor y = at::empty_like(weight);
  const CausalConvolutionGradient gradient{In(weight), Out(out[0]), out[1].data_ptr(),
                                           out[2].data_ptr()};
  Times ours;
  for (int round = 0; round < rounds; ++round) {
    ours.forward = std::min(ours.forward, Milliseconds([&] {
                              Check(cpu::CausalConvolutionForward(problem, Out(y), pool));
                            }));
    ours.backward = std::min(ours.backward, Milliseconds([&] {
                               Check(cpu::CausalConvolutionBackward(problem, gradient, pool));
                             }));
  }
  for (at::Tensor& tensor : in) tensor.set_requires_grad(true);
  at::Tensor their_y;
  const Times torch = TimeTorch(
      [&] {
        const at::Tensor columns = at::constant_pad_nd(in[0].transpose(1, 2), {3, 0});
        return at::silu(at::conv1d(columns, in[1].unsqueeze(1), in[2], at::IntArrayRef{1},
                                   at::IntArrayRef{0}, at::IntArrayRef{1}, channels))
            .transpose(1, 2);
      },
      in, weight, their_y);
  Report("convolution, 1 x 1024 tokens, 1536 channels", ours, torch, Difference(y, their_y),
         Difference(out[0], in[0].grad()));
}

void Run(int rounds, int threads) {
  ThreadPool pool(threads);
  at::set_num_threads(pool.threads());
  std::printf("%d threads\n%-46s %8s %8s   %9s %9s   %6s   difference of y, dx\n", pool.threads(),
              "milliseconds", "forward", "backward", "LibTorch", "", "faster");
  BenchConvolution(rounds, pool);
  BenchSelective({"Mamba-1, 1 x 1024 tokens, 1536 channels, N 16", 1, 1024, 1536, 16, 1, 1}, rounds,
                 pool);
  BenchSelective({"Mamba-1, 2 x 512, 576 channels in 36 groups", 2, 512, 576, 16, 36, 12}, rounds,
                 pool);
  BenchMamba2({"Mamba-2, 1 x 1024, 9 heads of 64, N 64", 1, 1024, 9, 3, 9, 3, 64, 64}, rounds,
              pool);
  BenchMamba2({"Mamba-2, 1 x 1024, 24 heads of 64, N 128", 1, 1024, 24, 24, 1, 1, 64, 128}, rounds,
              pool);
}

}  // namespace
}  // namespace mambad::bench

int main(int argc, char** argv) {
  mambad::bench::Run(argc > 1 ? std::atoi(argv[1]) : 5, argc > 2 ? std::atoi(argv[2]) : 0);
  return 0;
}
