// The trainer's scans on a CPU beside the same recurrences written in LibTorch operations, token by
// token. Usage: training_scan_bench [rounds] [threads]
//
// Prints milliseconds forward and backward, the best of the rounds (LibTorch: of two), how many
// times faster ours is in all, and the relative difference of y and of the gradient of x.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <vector>

#include "ATen/ATen.h"
#include "ATen/Parallel.h"
#include "absl/strings/numbers.h"
#include "trainer/scan_function.h"

namespace mambad::bench {
namespace {

using at::Tensor;
using Tensors = std::vector<Tensor>;
using Operation = std::function<Tensor(const Tensors& in)>;

double Milliseconds(const std::function<void()>& task) {
  const auto begin = std::chrono::steady_clock::now();
  task();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
      .count();
}

Tensor Uniform(at::IntArrayRef shape, double low, double high) {
  return at::rand(shape) * (high - low) + low;
}

double Difference(const Tensor& ours, const Tensor& theirs) {
  return ((ours - theirs).norm() / theirs.norm()).item<double>();
}

struct Measured {
  double forward = 1e30, backward = 1e30;
  Tensor y, x_gradient;
};

// `weight`: the gradient of y that the backward pass begins with.
Measured Measure(const Operation& operation, const Tensors& in, const Tensor& weight, int rounds) {
  Measured best;
  for (int round = 0; round < rounds; ++round) {
    for (const Tensor& tensor : in) tensor.mutable_grad().reset();
    best.forward = std::min(best.forward, Milliseconds([&] { best.y = operation(in); }));
    best.backward = std::min(best.backward, Milliseconds([&] { best.y.backward(weight); }));
  }
  best.x_gradient = in[0].grad();
  return best;
}

// in[0] is x.
void Compare(const char* name, int rounds, const Tensors& in, const Operation& ours,
             const Operation& theirs) {
  for (const Tensor& tensor : in) tensor.set_requires_grad(true);
  const Tensor weight = Uniform(ours(in).sizes(), -1, 1);
  const Measured mine = Measure(ours, in, weight, rounds), torch = Measure(theirs, in, weight, 2);
  std::printf("%-46s %8.1f %8.1f   %9.1f %9.1f   %6.1f   %.1e %.1e\n", name, mine.forward,
              mine.backward, torch.forward, torch.backward,
              (torch.forward + torch.backward) / (mine.forward + mine.backward),
              Difference(mine.y, torch.y), Difference(mine.x_gradient, torch.x_gradient));
}

// One document a sequence.
Tensor DocumentStart(int64_t sequences, int64_t tokens) {
  Tensor start = at::zeros({sequences, tokens}, at::kBool);
  start.select(1, 0).fill_(true);
  return start;
}

struct SelectiveSizes {
  int64_t sequences, tokens, channels, state_size, groups, source_groups;
};

Tensor TorchSelective(const SelectiveSizes& sizes, const Tensors& in) {
  const auto unflatten = [&](const Tensor& rows) {
    return rows.view({sizes.sequences, sizes.tokens, -1});
  };
  const Tensor a = -in[5].exp(), dt = at::softplus(unflatten(in[1]) + in[7]);
  const auto view = [&](const Tensor& rows, int64_t groups) {  // [B, T, I, N]
    if (sizes.groups == 1) return unflatten(rows).unsqueeze(2);
    return rows.reshape({sizes.sequences, sizes.tokens, groups, sizes.state_size})
        .repeat_interleave(sizes.channels / groups, 2);
  };
  const Tensors steps = dt.unbind(1), x = unflatten(in[0]).unbind(1),
                b = view(in[2], sizes.source_groups).unbind(1),
                c = view(in[3], sizes.groups).unbind(1);
  Tensor state = at::zeros({sizes.sequences, sizes.channels, sizes.state_size});
  Tensors outputs;
  for (int64_t t = 0; t < sizes.tokens; ++t) {
    const Tensor step = steps[t].unsqueeze(-1);
    state = at::exp(step * a) * state + step * x[t].unsqueeze(-1) * b[t];
    outputs.push_back((state * c[t]).sum(-1));
  }
  return (at::stack(outputs, 1).flatten(0, 1) + in[6] * in[0]) * at::silu(in[4]);
}

void CompareSelective(const char* name, const SelectiveSizes& sizes, int rounds) {
  const int64_t rows = sizes.sequences * sizes.tokens, channels = sizes.channels,
                n = sizes.state_size;
  const Tensors in = {Uniform({rows, channels}, -1, 1),
                      Uniform({rows, channels}, -5, 0),
                      Uniform({rows, sizes.source_groups * n}, -1, 1),
                      Uniform({rows, sizes.groups * n}, -1, 1),
                      Uniform({rows, channels}, -2, 2),
                      Uniform({channels, n}, 0, 2.5),
                      Uniform({channels}, -1, 1),
                      Uniform({channels}, -1, 1)};
  const Tensor start = DocumentStart(sizes.sequences, sizes.tokens);
  Compare(
      name, rounds, in,
      [&](const Tensors& all) {
        return trainer::SelectiveScan(
            {all[0], all[1], all[2], all[3], all[4], all[5], all[6], all[7]}, start);
      },
      [&](const Tensors& all) { return TorchSelective(sizes, all); });
}

struct Mamba2Sizes {
  int64_t sequences, tokens, heads, source_heads, groups, source_groups, width, state_size;
};

Tensor TorchMamba2(const Mamba2Sizes& sizes, const Tensors& in) {
  const int64_t heads = sizes.heads, n = sizes.state_size;
  const auto spread = [&](const Tensor& rows, int64_t sources, int64_t width) {
    return rows.reshape({sizes.sequences, sizes.tokens, sources, width})
        .repeat_interleave(heads / sources, 2);
  };
  const Tensor dt = at::softplus(in[3] + in[6]).view({sizes.sequences, sizes.tokens, heads});
  const Tensors decay = at::exp(dt * -in[4].exp()).unbind(1);
  const Tensor x = spread(in[0], sizes.source_heads, sizes.width);
  const Tensors input = (x * dt.unsqueeze(-1)).unbind(1),
                b = spread(in[1], sizes.source_groups, n).unbind(1),
                c = spread(in[2], sizes.groups, n).unbind(1);
  Tensor state = at::zeros({sizes.sequences, heads, sizes.width, n});
  Tensors outputs;
  for (int64_t t = 0; t < sizes.tokens; ++t) {
    state =
        decay[t].unsqueeze(-1).unsqueeze(-1) * state + input[t].unsqueeze(-1) * b[t].unsqueeze(2);
    outputs.push_back(at::matmul(state, c[t].unsqueeze(-1)).squeeze(-1));
  }
  return (at::stack(outputs, 1) + in[5].unsqueeze(-1) * x).reshape({-1, heads * sizes.width});
}

void CompareMamba2(const char* name, const Mamba2Sizes& sizes, int rounds) {
  const int64_t rows = sizes.sequences * sizes.tokens, n = sizes.state_size;
  const Tensors in = {Uniform({rows, sizes.source_heads * sizes.width}, -1, 1),
                      Uniform({rows, sizes.source_groups * n}, -1, 1),
                      Uniform({rows, sizes.groups * n}, -1, 1),
                      Uniform({rows, sizes.heads}, -5, 0),
                      Uniform({sizes.heads}, 0, 2.5),
                      Uniform({sizes.heads}, -1, 1),
                      Uniform({sizes.heads}, -1, 1)};
  const Tensor start = DocumentStart(sizes.sequences, sizes.tokens);
  Compare(
      name, rounds, in,
      [&](const Tensors& all) {
        return trainer::Mamba2Scan(
            {all[0], all[1], all[2], all[3], all[4], all[5], all[6], sizes.width, sizes.state_size},
            start);
      },
      [&](const Tensors& all) { return TorchMamba2(sizes, all); });
}

// A convolution over the channels of a Mamba-1 layer; LibTorch has a fused operation of its own.
void CompareConvolution(int rounds) {
  const int64_t tokens = 1024, channels = 1536, taps = 4;
  const Tensor start = DocumentStart(1, tokens);
  Compare(
      "convolution, 1 x 1024 tokens, 1536 channels", rounds,
      {Uniform({tokens, channels}, -1, 1), Uniform({channels, 1, taps}, -1, 1),
       Uniform({channels}, -1, 1)},
      [&](const Tensors& all) { return trainer::ConvolutionSilu(all[0], all[1], all[2], start); },
      [&](const Tensors& all) {
        const Tensor columns = at::constant_pad_nd(all[0].t().unsqueeze(0), {taps - 1, 0});
        return at::silu(at::conv1d(columns, all[1], all[2], at::IntArrayRef{1}, at::IntArrayRef{0},
                                   at::IntArrayRef{1}, channels))
            .squeeze(0)
            .t();
      });
}

// False unless `text` is a number from 1 on.
bool Count(const char* text, int* number) { return absl::SimpleAtoi(text, number) && *number > 0; }

void Run(int rounds, int threads) {
  if (threads > 0) at::set_num_threads(threads);
  std::printf("%d threads\n%-46s %8s %8s   %9s %9s   %6s   difference of y, dx\n",
              at::get_num_threads(), "milliseconds", "forward", "backward", "LibTorch", "",
              "faster");
  CompareConvolution(rounds);
  CompareSelective("Mamba-1, 1 x 1024 tokens, 1536 channels, N 16", {1, 1024, 1536, 16, 1, 1},
                   rounds);
  CompareSelective("Mamba-1, 2 x 512, 576 channels in 36 groups", {2, 512, 576, 16, 36, 12},
                   rounds);
  CompareMamba2("Mamba-2, 1 x 1024, 9 heads of 64, N 64", {1, 1024, 9, 3, 9, 3, 64, 64}, rounds);
  CompareMamba2("Mamba-2, 1 x 1024, 24 heads of 64, N 128", {1, 1024, 24, 24, 1, 1, 64, 128},
                rounds);
}

}  // namespace
}  // namespace mambad::bench

int main(int argc, char** argv) {
  int rounds = 5, threads = 0;  // as many as LibTorch takes
  const bool understood = argc <= 3 && (argc < 2 || mambad::bench::Count(argv[1], &rounds)) &&
                          (argc < 3 || mambad::bench::Count(argv[2], &threads));
  if (!understood) {
    std::fprintf(stderr, "usage: training_scan_bench [rounds] [threads], both 1 or more\n");
    return 2;
  }
  mambad::bench::Run(rounds, threads);
  return 0;
}
