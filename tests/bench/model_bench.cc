// A model's forward pass against what memory can deliver, all in one run:
//
//   model_bench MODEL... [--threads N] [--set avx2|avx512|best] [--activations auto|float32]
//               [--seconds S]
//
// For each model: one row (plain decoding at batch 1) as a share of the read-bandwidth probe
// measured in turn with it; five rows of one sequence (verifying four drafts) and sixteen sequences
// of one row, as multiples of one row; a prompt of 512 tokens. Head included, sampling not. Medians
// over repetitions; the probe's best. "products": the row's products alone, one after the other, as
// a share of the probe: what is missing from it to 100 % is lost inside and between products, what
// is missing from the model's share to it is the rest of the model. "with state":
// the share when states, keys and values that a row moves are counted beside the weights.
// --activations: as the daemon's setting; auto unless given.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/model/model.h"
#include "engine/speculation/step_batch.h"
#include "engine/state/state_pool.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/instruction_set.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/thread_pool.h"
#include "tests/bench/read_bandwidth_probe.h"

namespace mambad::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kSequences = 16, kPrompt = 512, kContext = 2048, kPosition = 256;

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// One model with everything a forward pass needs.
class Subject {
 public:
  Subject(const std::string& path, kernels::Backend& backend) : backend_(backend) {
    auto checkpoint = checkpoint::Checkpoint::Open(path);
    if (!checkpoint.ok()) Die(checkpoint.status().ToString());
    ModelLimits limits;
    limits.max_rows = kPrompt;
    limits.max_logit_rows = 64;
    limits.max_sequences = kSequences;
    limits.max_context = kContext;
    auto model = Model::Load(**checkpoint, ComputeType::kAuto, limits, backend);
    if (!model.ok()) Die(model.status().ToString());
    model_ = *std::move(model);
    state_ = std::make_unique<StatePool>(
        model_->weights().blocks(),
        StatePoolShape{kSequences, kContext, kSequences * int64_t{kContext},
                       EngineOptions().max_draft_length, false},
        backend);
    batch_.Reserve(arrays_, kSequences, kPrompt, 64);
    arrays_.Allocate(backend);
    for (int slot = 0; slot < kSequences; ++slot) state_->Acquire(slot, kContext);
  }

  // Seconds of one pass: `sequences` windows of `rows` rows, of which the first `feed` are right,
  // logits for the last `logits` rows of each.
  double Pass(int sequences, int rows, int feed, int logits) {
    batch_.Clear();
    for (int s = 0; s < sequences; ++s) {
      StepBatch::Window window{s, kPosition, rows, replay_[s]};
      window.fold = state_->Folds(replay_[s], feed, rows - feed);
      window.keep_from = window.fold ? feed : 0;
      window.keep_at = window.fold ? 0 : replay_[s];
      replay_[s] = window.fold ? 0 : replay_[s] + feed;
      const int first = batch_.AddSequence(window);
      for (int r = 0; r < rows; ++r)
        batch_.token(first + r) = (17 * r + 31 * s + 7 * ++calls_) % model_->config().vocabulary;
      for (int r = rows - logits; r < rows; ++r) batch_.AddLogits(first + r);
    }
    const Clock::time_point start = Clock::now();
    arrays_.Upload(backend_);
    state_->Upload();
    model_->Forward(batch_.View(*state_, false), *state_);
    backend_.Synchronize();
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  // Seconds of one row's products, with no other work between them.
  double Products(kernels::ThreadPool& pool) {
    const Clock::time_point start = Clock::now();
    for (const kernels::WeightMatrix* matrix : Matrices()) {
      const kernels::RowsView x{input_.data(), 1, matrix->columns, matrix->columns};
      const kernels::RowsView y{output_.data(), 1, matrix->rows, matrix->rows};
      kernels::Linear(pool, *matrix, x, nullptr, y, kernels::LinearOutput::kStore, {}, scratch_);
    }
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  // Bytes of one sequence's memory that a step moves: checkpoint states, read, and written where no
  // more rows may wait, and the keys and values before its position, read.
  double StateBytes() const {
    double floats = 0;
    for (size_t i = 0; i < model_->weights().blocks().size(); ++i) {
      const Block& block = model_->weights().blocks()[i];
      const double times = 1 + 1.0 / (1 + state_->recurrent(i).layout.waiting_rows);
      if (block.mixer == checkpoint::MixerKind::kMamba)
        floats += times * block.mamba.inner_width * block.mamba.state_size;
      if (block.mixer == checkpoint::MixerKind::kMamba2)
        floats += times * block.mamba2.inner_width * block.mamba2.state_size;
      if (block.mixer == checkpoint::MixerKind::kAttention)
        floats += 2.0 * kPosition * block.attention.key_value_heads * block.attention.head_width;
    }
    return 4 * floats;
  }

  // All matrices that one row of one sequence must read, in the order it reads them.
  std::vector<Span> MatricesOfARow() const {
    std::vector<Span> spans;
    for (const kernels::WeightMatrix* matrix : Matrices()) spans.push_back(SpanOf(*matrix));
    return spans;
  }

 private:
  std::vector<const kernels::WeightMatrix*> Matrices() const {
    std::vector<const kernels::WeightMatrix*> matrices;
    const auto add = [&matrices](const kernels::WeightMatrix* matrix) {
      if (matrix != nullptr) matrices.push_back(matrix);
    };
    for (const Block& block : model_->weights().blocks()) {
      add(block.attention.in), add(block.attention.out);
      add(block.mamba.in), add(block.mamba.select), add(block.mamba.dt), add(block.mamba.out);
      add(block.mamba2.in), add(block.mamba2.out);
      add(block.mlp.in), add(block.mlp.out);
    }
    add(&model_->weights().head());
    return matrices;
  }

  [[noreturn]] static void Die(const std::string& words) {
    std::fprintf(stderr, "model_bench: %s\n", words.c_str());
    std::exit(2);
  }

  kernels::Backend& backend_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<StatePool> state_;
  StagingArea arrays_;
  StepBatch batch_;
  unsigned calls_ = 0;
  int replay_[kSequences] = {};
  std::vector<float> input_ = std::vector<float>(1 << 16, 0.5f),
                     output_ = std::vector<float>(1 << 18);
  kernels::LinearScratch scratch_ = kernels::CreateLinearScratch(1, 1 << 16);
};

void Measure(const std::string& path, kernels::Backend& backend, kernels::ThreadPool& pool,
             double seconds) {
  Subject subject(path, backend);
  ReadBandwidthProbe probe(pool, subject.MatricesOfARow());
  std::vector<double> one, five, sixteen, prompt, products;
  // Memory that is touched first is cleared first, a huge page at a time.
  subject.Pass(kSequences, 1, 1, 1);
  subject.Pass(1, kPrompt, kPrompt, 1);
  const Clock::time_point start = Clock::now();
  while (one.size() < 3 || std::chrono::duration<double>(Clock::now() - start).count() < seconds) {
    probe.Measure();
    for (int i = 0; i < 4; ++i) one.push_back(subject.Pass(1, 1, 1, 1));
    for (int i = 0; i < 2; ++i) products.push_back(subject.Products(pool));
    for (int i = 0; i < 2; ++i) five.push_back(subject.Pass(1, 5, 1, 5));
    sixteen.push_back(subject.Pass(kSequences, 1, 1, 1));
    if (prompt.size() < one.size() / 16 + 1) prompt.push_back(subject.Pass(1, kPrompt, kPrompt, 1));
  }
  const double row = Median(one), share = probe.BestSeconds() / row;
  const std::string name = path.substr(path.find_last_of('/', path.size() - 2) + 1);
  std::printf(
      "%-32s probe %5.1f GB/s | %8.1f tok/s %5.1f %% of probe (with state %5.1f %%, products %5.1f "
      "%%) | 5 rows %5.2f x "
      "| 16 sequences "
      "%8.1f tok/s %5.2f x | "
      "prompt %8.1f tok/s | "
      "weights %6.1f MB, state %5.1f MB\n",
      name.c_str(), probe.BestBytesPerSecond() / 1e9, 1 / row, 100 * share,
      100 * share * (probe.bytes() + subject.StateBytes()) / probe.bytes(),
      100 * probe.BestSeconds() / Median(products), Median(five) / row,
      kSequences / Median(sixteen), kSequences * row / Median(sixteen), kPrompt / Median(prompt),
      probe.bytes() / 1e6, subject.StateBytes() / 1e6);
  std::fflush(stdout);
}

int Main(int argc, char** argv) {
  kernels::CpuBackendOptions options{.activations = kernels::ElementType::kBFloat16};
  double seconds = 6;
  std::vector<std::string> models;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : "";
    if (argument == "--threads")
      options.threads = std::atoi(value), ++i;
    else if (argument == "--seconds")
      seconds = std::atof(value), ++i;
    else if (argument == "--activations") {
      if (std::strcmp(value, "float32") == 0) options.activations = kernels::ElementType::kFloat32;
      ++i;
    } else if (argument == "--set") {
      if (std::strcmp(value, "avx2") == 0)
        kernels::LimitInstructionSet(kernels::InstructionSet::kAvx2);
      if (std::strcmp(value, "avx512") == 0)
        kernels::LimitInstructionSet(kernels::InstructionSet::kAvx512);
      ++i;
    } else {
      models.push_back(argument);
    }
  }
  if (models.empty()) {
    std::fprintf(stderr,
                 "usage: model_bench MODEL... [--threads N] [--set avx2|avx512|best] "
                 "[--activations auto|float32] [--seconds S]\n");
    return 2;
  }
  const std::unique_ptr<kernels::Backend> backend = kernels::CreateCpuBackend(options);
  kernels::ThreadPool pool(options.threads);
  std::printf(
      "%s; bf16 weights: %s\n", backend->Description().c_str(),
      backend->Numerics(kernels::ElementType::kBFloat16, kernels::ElementType::kFloat32).c_str());
  for (const std::string& model : models) Measure(model, *backend, pool, seconds);
  return 0;
}

}  // namespace
}  // namespace mambad::bench

int main(int argc, char** argv) { return mambad::bench::Main(argc, argv); }
