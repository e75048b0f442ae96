// The mixers between their products: nanoseconds a token and layer, beside what their
// multiplications alone would take at the rate of a loop of fused multiply-adds in the same run.
// Usage: mixer_bench [rounds] [threads] [instruction set]
//
// Every layer of a model has states of its own, taken in turn as in decoding. Times are the best of
// the rounds.

#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/instruction_set.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/mixers.h"
#include "tests/bench/multiply_add_rate.h"

namespace mambad::bench {
namespace {

using namespace kernels;  // NOLINT: a program of one file

std::vector<float> Random(int64_t count, float low, float high) {
  static std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(low, high);
  std::vector<float> values(count);
  for (float& value : values) value = uniform(random);
  return values;
}

// How rows come: `sequences` of `rows` each, `feed` of them right, at `position`, after `replay`
// replayed; the state is stored or only read.
struct Load {
  const char* name;
  int sequences, rows, feed, replay, position;
  bool fold = true;
};
constexpr Load kLoads[] = {{"1 row", 1, 1, 1, 0, 256},
                           {"5 rows, 2 replayed", 1, 5, 1, 2, 256},
                           {"16 sequences", 16, 1, 1, 0, 256},
                           {"16, only read", 16, 1, 1, 0, 256, false},
                           {"16, only read, 4 wait", 16, 1, 1, 4, 256, false},
                           {"512 rows", 1, 512, 512, 0, 0}};
constexpr int kMaxSequences = 16, kMaxRows = 512, kPagesPerSequence = 64, kWindowRows = 8;

struct BatchOf {
  explicit BatchOf(const Load& load) {
    for (int s = 0; s < load.sequences; ++s) {
      row_begin.push_back((s + 1) * load.rows);
      slot.push_back(s);
      for (int p = 0; p < kPagesPerSequence; ++p) pages.push_back(s * kPagesPerSequence + p);
    }
    position.assign(load.sequences, load.position);
    replay.assign(load.sequences, load.replay);
    fold.assign(load.sequences, load.fold);
    keep_from.assign(load.sequences, load.fold ? load.feed : 0);
    keep_at.assign(load.sequences, load.fold ? 0 : load.replay);
    zero.assign(load.sequences, 0);
    batch.sequences = load.sequences;
    batch.rows = load.sequences * load.rows;
    batch.row_begin = row_begin.data();
    batch.slot = slot.data();
    batch.position = position.data();
    batch.replay = replay.data();
    batch.fold = fold.data();
    batch.keep_from = keep_from.data();
    batch.keep_at = keep_at.data();
    batch.resume = zero.data();
    batch.pages = pages.data();
    batch.pages_per_sequence = kPagesPerSequence;
  }
  std::vector<int32_t> row_begin{0}, slot, position, replay, fold, keep_from, keep_at, zero, pages;
  Batch batch;
};

// A model's mixers: states of all layers, and buffers that every layer uses again.
struct Mixer {
  const char* name;
  int layers = 1;
  RecurrentSlotLayout layout;
  std::vector<Buffer> states, values;  // one a layer; attention: keys and values
  Buffer input, scratch, output;
  std::function<void(ThreadPool&, const Batch&, int layer)> run;
  std::function<double(const Load&)> multiplications;  // a layer and call

  void Allocate(int64_t state_floats, int64_t value_floats) {
    for (int layer = 0; layer < layers; ++layer) {
      states.push_back(AllocateMemory(state_floats * 4));
      std::fill_n(states.back().as<float>(), state_floats, 0.01f);
      if (value_floats == 0) continue;
      values.push_back(AllocateMemory(value_floats * 4));
      std::fill_n(values.back().as<float>(), value_floats, 0.01f);
    }
  }
};

RowsView View(const Buffer& data, const Batch& batch, int64_t stride, int64_t begin,
              int64_t columns) {
  return {data.as<float>() + begin, batch.rows, columns, stride};
}

// As the backend's workspaces: aligned, on huge pages where the system gives them.
Buffer Activations(int64_t floats, bool random) {
  Buffer buffer = AllocateMemory(floats * 4);
  if (random) {
    const std::vector<float> values = Random(floats, -1, 1);
    std::copy(values.begin(), values.end(), buffer.as<float>());
  }
  return buffer;
}

struct MambaWeights {
  std::vector<float> convolution, bias, dt_bias, a, skip, norm;
};

// Mamba-130M: the recurrence multiplies ten times a state number (six for the exponential's
// polynomial).
std::unique_ptr<Mixer> Mamba(MambaWeights& weights, MambaLayer& layer) {
  const int inner = 1536, size = 16;
  weights = {Random(inner * 4, -1, 1),      Random(inner, -1, 1), Random(inner, -6, -2),
             Random(inner * size, -16, -1), Random(inner, 0, 1),  {}};
  layer.inner_width = inner;
  layer.state_size = size;
  layer.convolution = weights.convolution.data();
  layer.convolution_bias = weights.bias.data();
  layer.dt_bias = weights.dt_bias.data();
  layer.a = weights.a.data();
  layer.skip = weights.skip.data();
  auto mixer = std::make_unique<Mixer>();
  mixer->name = "Mamba-130M";
  mixer->layers = 24;
  mixer->layout = MambaSlotLayout(layer, kWindowRows, false);
  mixer->Allocate(mixer->layout.floats * kMaxSequences, 0);
  const int64_t width = 3 * inner + 2 * size;
  mixer->input = Activations(kMaxRows * width, true);
  mixer->output = Activations(kMaxRows * inner, false);
  mixer->run = [m = mixer.get(), &layer, width](ThreadPool& pool, const Batch& batch, int index) {
    const int64_t inner = layer.inner_width, size = layer.state_size;
    const RecurrentState state{m->states[index].as<float>(), m->layout.floats, m->layout};
    const RowsView out = View(m->output, batch, inner, 0, inner);
    MambaConvolution(pool, batch, layer, state, View(m->input, batch, width, 0, 2 * inner), out);
    MambaScan(pool, batch, layer, state, out, View(m->input, batch, width, 2 * inner, inner),
              View(m->input, batch, width, 3 * inner, size),
              View(m->input, batch, width, 3 * inner + size, size),
              View(m->input, batch, width, inner, inner), out);
  };
  mixer->multiplications = [=](const Load& load) {
    return load.sequences * (10.0 * load.rows + 9.0 * load.replay) * inner * size;
  };
  return mixer;
}

// Mamba2-130M: three multiplications a state number.
std::unique_ptr<Mixer> Mamba2(MambaWeights& weights, Mamba2Layer& layer) {
  const int inner = 1536, size = 128, heads = 24, channels = inner + 2 * size;
  weights = {Random(channels * 4, -1, 1), Random(channels, -1, 1), Random(heads, -6, -2),
             Random(heads, -16, -1),      Random(heads, 0, 1),     Random(inner, 0, 1)};
  layer.inner_width = inner;
  layer.state_size = size;
  layer.heads = heads;
  layer.dt_maximum = std::numeric_limits<float>::infinity();
  layer.convolution = weights.convolution.data();
  layer.convolution_bias = weights.bias.data();
  layer.dt_bias = weights.dt_bias.data();
  layer.a = weights.a.data();
  layer.skip = weights.skip.data();
  layer.gated_norm = {weights.norm.data(), 1e-5f};
  auto mixer = std::make_unique<Mixer>();
  mixer->name = "Mamba2-130M";
  mixer->layers = 24;
  mixer->layout = Mamba2SlotLayout(layer, kWindowRows, false);
  mixer->Allocate(mixer->layout.floats * kMaxSequences, 0);
  const int64_t width = 2 * inner + 2 * size + heads;
  mixer->input = Activations(kMaxRows * width, true);
  mixer->scratch = Activations(kMaxRows * channels, false);
  mixer->output = Activations(kMaxRows * inner, false);
  mixer->run = [m = mixer.get(), &layer, width, channels](ThreadPool& pool, const Batch& batch,
                                                          int index) {
    Mamba2Mix(pool, batch, layer, {m->states[index].as<float>(), m->layout.floats, m->layout},
              View(m->input, batch, width, 0, width),
              View(m->scratch, batch, channels, 0, channels),
              View(m->output, batch, layer.inner_width, 0, layer.inner_width));
  };
  mixer->multiplications = [=](const Load& load) {
    return load.sequences * (3.0 * load.rows + 2.0 * load.replay) * inner * size;
  };
  return mixer;
}

// SmolLM2-135M: two multiplications for each key a row sees, head and column.
std::unique_ptr<Mixer> Attention(MambaWeights& weights, AttentionLayer& layer) {
  const int queries = 9, keys = 3, head = 64, width = (queries + 2 * keys) * head;
  for (int i = 0; i < head / 2; ++i)
    weights.a.push_back(static_cast<float>(std::pow(1e5, -2.0 * i / head)));
  layer.query_heads = queries;
  layer.key_value_heads = keys;
  layer.head_width = head;
  layer.inverse_frequency = weights.a.data();
  auto mixer = std::make_unique<Mixer>();
  mixer->name = "SmolLM2-135M attention";
  mixer->layers = 30;
  const int64_t page = keys * head * kPageTokens;
  mixer->Allocate(page * kPagesPerSequence * kMaxSequences,
                  page * kPagesPerSequence * kMaxSequences);
  mixer->input = Activations(kMaxRows * width, true);
  mixer->output = Activations(kMaxRows * queries * head, false);
  mixer->run = [m = mixer.get(), &layer, width](ThreadPool& pool, const Batch& batch, int index) {
    const int64_t out = int64_t{layer.query_heads} * layer.head_width;
    PagedAttention(pool, batch, layer,
                   {m->states[index].as<std::byte>(), m->values[index].as<std::byte>(),
                    AttentionPageLayout(layer, ElementType::kFloat32)},
                   View(m->input, batch, width, 0, width), View(m->output, batch, out, 0, out));
  };
  mixer->multiplications = [=](const Load& load) {
    double seen = 0;
    for (int r = 0; r < load.rows; ++r) seen += load.position + r + 1;
    return 2.0 * load.sequences * seen * queries * head;
  };
  return mixer;
}

// Seconds of an arbitrary beginning. A single thread's own time leaves out what neighbours on the
// machine take.
double Now(const ThreadPool& pool) {
  timespec time;
  clock_gettime(pool.threads() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

void Measure(ThreadPool& pool, Mixer& mixer, double rate, int rounds) {
  for (const Load& load : kLoads) {
    const BatchOf rows(load);
    double best = 1e9;
    for (int round = 0; round < rounds; ++round) {
      const double start = Now(pool);
      for (int layer = 0; layer < mixer.layers; ++layer) mixer.run(pool, rows.batch, layer);
      best = std::min(best, (Now(pool) - start) / mixer.layers);
    }
    const double tokens = load.sequences * load.rows, bound = mixer.multiplications(load) / rate;
    std::printf(
        "  %-24s %-20s %9.0f ns a token and layer; multiplications alone %8.0f (%3.0f %%)\n",
        mixer.name, load.name, best / tokens * 1e9, bound / tokens * 1e9, 100 * bound / best);
  }
}

}  // namespace
}  // namespace mambad::bench

int main(int argc, char** argv) {
  using namespace mambad;
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 20;
  kernels::ThreadPool pool(argc > 2 ? std::atoi(argv[2]) : 0);
  const std::string only = argc > 3 ? argv[3] : "";
  bench::MambaWeights weights[3];
  kernels::MambaLayer mamba_layer;
  kernels::Mamba2Layer mamba2_layer;
  kernels::AttentionLayer attention_layer;
  const auto mamba = bench::Mamba(weights[0], mamba_layer);
  const auto mamba2 = bench::Mamba2(weights[1], mamba2_layer);
  const auto attention = bench::Attention(weights[2], attention_layer);
  for (kernels::InstructionSet set : kernels::AvailableInstructionSets()) {
    if (set == kernels::InstructionSet::kBaseline ||
        set >= kernels::InstructionSet::kAvx512Bfloat16)
      continue;
    if (!only.empty() && only != kernels::Name(set)) continue;
    kernels::LimitInstructionSet(set);
    const double rate = bench::MultiplyAddRate(pool);
    std::printf("%s, %d threads, %.0f GFMA/s\n", kernels::Name(set), pool.threads(), rate * 1e-9);
    for (bench::Mixer* mixer : {mamba.get(), mamba2.get(), attention.get()})
      bench::Measure(pool, *mixer, rate, rounds);
  }
}
