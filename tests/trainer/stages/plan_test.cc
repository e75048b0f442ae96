// The plan against what models count, do and hold.

#include "trainer/plan.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>
#include <c10/core/CPUAllocator.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_format.h"
#include "engine/checkpoint/parameter_table.h"
#include "tests/support/model_directory.h"
#include "tests/trainer/expect_error.h"
#include "tests/trainer/small_text.h"
#include "tests/trainer/two_processes.h"
#include "trainer/layer_choice.h"
#include "trainer/losses.h"
#include "trainer/modules/trained_parameters.h"
#include "trainer/stages/align_work.h"
#include "trainer/stages/language_work.h"
#include "trainer/stages/new_model.h"

namespace mambad::trainer {
namespace {

using at::Tensor;
using ::testing::HasSubstr;
using ::testing::Not;

// Bytes that tensors hold now and held at most.
std::atomic<int64_t> held_bytes{0}, most_bytes{0};

class CountingAllocator final : public at::Allocator {
 public:
  at::DataPtr allocate(size_t size) override {
    auto* block = static_cast<char*>(std::aligned_alloc(64, (size + 127) / 64 * 64));
    std::memcpy(block, &size, sizeof(size));
    const int64_t now = held_bytes += static_cast<int64_t>(size);
    int64_t most = most_bytes;
    while (now > most && !most_bytes.compare_exchange_weak(most, now)) {
    }
    return {block + 64, block, &Free, at::Device(at::kCPU)};
  }
  at::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t count) const override {
    std::memcpy(to, from, count);
  }

 private:
  static void Free(void* block) {
    size_t size = 0;
    std::memcpy(&size, block, sizeof(size));
    held_bytes -= static_cast<int64_t>(size);
    std::free(block);
  }
};

// While it lives, tensors on the CPU are counted.
class CountedTensors {
 public:
  CountedTensors() {
    static CountingAllocator allocator;
    c10::SetCPUAllocator(&allocator, 100);
    most_bytes = start_ = held_bytes;
  }
  ~CountedTensors() { c10::SetCPUAllocator(before_, 100); }
  // Since then.
  int64_t held() const { return held_bytes - start_; }
  int64_t most() const { return most_bytes - start_; }

 private:
  at::Allocator* const before_ = c10::GetCPUAllocator();
  int64_t start_ = 0;
};

// Operations of matrix products while it lives, from the shapes that LibTorch tells.
class ProductCounter {
 public:
  ProductCounter() {
    operations = 0;
    handle_ = at::addGlobalCallback(
        at::RecordFunctionCallback(&Count).needsInputs(true).scopes({at::RecordScope::FUNCTION}));
  }
  ~ProductCounter() { at::removeCallback(handle_); }
  static std::atomic<int64_t> operations;

 private:
  static std::unique_ptr<at::ObserverContext> Count(const at::RecordFunction& function) {
    if (std::string(function.name()) == "aten::mm") {
      const Tensor& left = function.inputs()[0].toTensor();
      operations += 2 * left.size(0) * left.size(1) * function.inputs()[1].toTensor().size(1);
    }
    return nullptr;
  }
  at::CallbackHandle handle_;
};
std::atomic<int64_t> ProductCounter::operations{0};

struct Subject {
  std::string name;
  checkpoint::ModelConfig config;
};

class PlanTest : public ::testing::Test {
 protected:
  PlanTest() : alone_(JoinProcessGroup({}, false)) {
    testing::WriteSmallTokenizer(folder_.path(), false);
    NewModelConfig numbers;
    numbers.width = 128;
    numbers.layers = 4;
    numbers.query_heads = 4;
    numbers.key_value_heads = 2;
    numbers.heads = 4;
    for (const auto family : {NewModelConfig::Family::kLlama, NewModelConfig::Family::kMamba,
                              NewModelConfig::Family::kMamba2}) {
      numbers.family = family;
      subjects_.push_back(
          {"family " + std::to_string(static_cast<int>(family)),
           NewModelConfiguration(numbers, testing::kSmallVocabulary, folder_.path())});
    }
    for (const MixerChoice mixer : {MixerChoice::kMamba, MixerChoice::kMamba2}) {
      MixerStartConfig start;
      start.mixer = mixer;
      subjects_.push_back(
          {"hybrid " + std::to_string(static_cast<int>(mixer)),
           HybridConfiguration(subjects_[0].config, OptionsFrom(start, {0, 2}, 1))});
    }
  }
  static PlannedRun Planned(const Subject& subject) {
    PlannedRun run;
    run.model = subject.config;
    run.half_precision = false;
    run.row_tokens = 256;
    run.micro_batch = 4;
    return run;
  }
  // Rows of one document each.
  static TokenBatch Batch(const PlannedRun& run) {
    PackedBatch batch;
    batch.Resize(run.micro_batch, run.row_tokens);
    for (int64_t at = 0; at < batch.rows * batch.row_tokens; ++at) {
      batch.token_ids[at] = batch.target_ids[at] = (at * 31) % testing::kSmallVocabulary;
      batch.positions[at] = at % batch.row_tokens;
      batch.document_start[at] = at % batch.row_tokens == 0;
      batch.loss_mask[at] = 1;
    }
    return MoveToDevice(batch, at::kCPU);
  }

  testing::TemporaryDirectory folder_;
  std::unique_ptr<ProcessGroup> alone_;
  std::vector<Subject> subjects_;
};

TEST_F(PlanTest, CountsParametersAsModelsDo) {
  for (const Subject& subject : subjects_) {
    PlannedRun run = Planned(subject);
    const auto model = LanguageModel::Create(subject.config, 1, at::kCPU, at::kFloat);
    EXPECT_EQ(PlanWork(run).parameters, model->ParameterCount()) << subject.name;
    EXPECT_EQ(PlanWork(run).trained_parameters, model->ParameterCount()) << subject.name;
    run.trained = TrainedPart::kMixers;
    int64_t mixers = 0;
    for (const ModelParameter& parameter : model->parameters()) {
      if (IsRecurrentMixerRole(parameter.description.role)) mixers += parameter.value.numel();
    }
    EXPECT_EQ(PlanWork(run).trained_parameters, mixers) << subject.name;
  }
}

// Products forward and backward, counted while they run; scans and attention come on top.
TEST_F(PlanTest, CountsOperationsAsRunsDo) {
  for (const Subject& subject : subjects_) {
    for (const TrainedPart trained : {TrainedPart::kAll, TrainedPart::kMixers}) {
      PlannedRun run = Planned(subject);
      run.trained = trained;
      run.teacher = subjects_[0].config;
      const auto model = LanguageModel::Create(subject.config, 1, at::kCPU, at::kFloat);
      const auto teacher = LanguageModel::Create(*run.teacher, 2, at::kCPU, at::kFloat);
      model->SetTrained([&](const checkpoint::Parameter& parameter) {
        return trained == TrainedPart::kAll || IsRecurrentMixerRole(parameter.role);
      });
      if (PlanWork(run).trained_parameters == 0) continue;
      LanguageWork work(model.get(), teacher.get(), {}, nullptr);
      const TokenBatch batch = Batch(run);
      Tensor sums = at::zeros({5});
      int64_t counted = 0;
      {
        ProductCounter counter;
        work.Backward(batch, 1.0 / 1024, 1, sums);
        counted = ProductCounter::operations;
      }
      const double found = static_cast<double>(counted) / 1024;
      const PlannedWork planned = PlanWork(run);
      EXPECT_NEAR(planned.products / found, 1, 0.01) << subject.name << static_cast<int>(trained);
      EXPECT_GT(planned.total(), planned.products) << subject.name;
      EXPECT_DOUBLE_EQ(planned.total(), planned.forward + planned.backward + planned.teacher);
    }
  }
}

TEST_F(PlanTest, HoldsTheMemoryThatRunsHold) {
  for (const Subject& subject : subjects_) {
    for (const bool recompute : {false, true}) {
      PlannedRun run = Planned(subject);
      run.recompute = recompute;
      run.teacher = subjects_[0].config;
      const CountedTensors counted;
      {
        const auto model = LanguageModel::Create(subject.config, 1, at::kCPU, at::kFloat);
        const auto teacher = LanguageModel::Create(*run.teacher, 2, at::kCPU, at::kFloat);
        model->SetTrained([](const checkpoint::Parameter&) { return true; });
        model->SetRecompute(recompute);
        Optimizer optimizer(TrainedGroups(*model, {}), {}, alone_.get());
        LanguageWork work(model.get(), teacher.get(), {}, nullptr);
        const TokenBatch batch = Batch(run);
        Tensor sums = at::zeros({5});
        for (int step = 0; step < 2; ++step) {
          work.Backward(batch, 1.0 / 1024, 1, sums);
          optimizer.Step(1);
        }
      }
      const double found = static_cast<double>(counted.most());
      const double planned = PlanMemory(run).total();
      EXPECT_GT(planned, 0.8 * found) << subject.name << (recompute ? " recomputed" : "");
      EXPECT_LT(planned, 1.4 * found) << subject.name << (recompute ? " recomputed" : "");
    }
  }
}

// A leaf for each parameter, in the types of a GPU or of a CPU.
std::vector<std::pair<std::string, Tensor>> Leaves(const PlannedRun& run) {
  std::vector<std::pair<std::string, Tensor>> leaves;
  const checkpoint::ParameterTable table(run.model);
  for (const checkpoint::Parameter& parameter : table.parameters()) {
    if (parameter.optional) continue;
    const bool narrow = run.half_precision && !parameter.keep_float32;
    leaves.emplace_back(parameter.name,
                        at::zeros(parameter.shape, narrow ? at::kBFloat16 : at::kFloat));
  }
  return leaves;
}

// Weights, gradients, masters and moments, all there before the first step: of one process that has
// all of them and of two that share.
TEST_F(PlanTest, HoldsWhatProcessesShare) {
  for (const bool half_precision : {false, true}) {
    for (const int processes : {1, 2}) {
      PlannedRun run = Planned(subjects_.back());
      run.half_precision = half_precision;
      run.processes = processes;
      const CountedTensors counted;
      double found = 0;
      const auto work = [&](ProcessGroup* group) {
        ParameterGroup all = {"all", 1e-4, 0, Leaves(run)};
        const Optimizer optimizer({all}, {}, group);
        group->Barrier();
        if (group->rank() == 0) found = static_cast<double>(counted.held()) / processes;
        group->Barrier();
      };
      if (processes == 1)
        work(alone_.get());
      else
        mambad::testing::AsTwoProcesses(29743, work);
      const PlannedMemory planned = PlanMemory(run);
      EXPECT_NEAR((planned.weights + planned.gradients + planned.optimizer) / found, 1, 0.03)
          << processes << (half_precision ? " bf16" : " fp32");
    }
  }
}

// Mixers alone: through the whole model, and layer by layer beside the teacher.
TEST_F(PlanTest, PlansMixersAndAlignmentAsTheyRun) {
  for (const Subject& subject : {subjects_[3], subjects_[4]}) {
    for (const bool aligned : {false, true}) {
      PlannedRun run = Planned(subject);
      run.trained = TrainedPart::kMixers;
      run.teacher = subjects_[0].config;
      run.aligned = aligned;
      const CountedTensors tensors;
      int64_t counted = 0;
      {
        const auto model = LanguageModel::Create(subject.config, 1, at::kCPU, at::kFloat);
        const auto teacher = LanguageModel::Create(*run.teacher, 2, at::kCPU, at::kFloat);
        model->SetTrained([](const checkpoint::Parameter& parameter) {
          return IsRecurrentMixerRole(parameter.role);
        });
        Optimizer optimizer(TrainedGroups(*model, {}), {}, alone_.get());
        std::unique_ptr<StageWork> work =
            std::make_unique<LanguageWork>(model.get(), teacher.get(), HeadLossOptions(), nullptr);
        if (aligned) {
          work = std::make_unique<AlignWork>(model.get(), teacher.get(),
                                             AlignmentKind::kRelativeSquaredError, nullptr);
        }
        const TokenBatch batch = Batch(run);
        Tensor sums = at::zeros({5});
        for (int step = 0; step < 2; ++step) {
          ProductCounter counter;
          work->Backward(batch, 1.0 / 1024, 1, sums);
          counted = ProductCounter::operations;
          optimizer.Step(1);
        }
      }
      const std::string name = subject.name + (aligned ? " aligned" : " distilled");
      const double found = static_cast<double>(tensors.most());
      EXPECT_GT(PlanMemory(run).total(), 0.8 * found) << name;
      EXPECT_LT(PlanMemory(run).total(), 1.4 * found) << name;
      EXPECT_NEAR(PlanWork(run).products / (static_cast<double>(counted) / 1024), 1, 0.01) << name;
    }
  }
}

TEST_F(PlanTest, AlignmentIsAdvisedOnWhatItHas) {
  PlannedRun run = Planned(subjects_[3]);
  run.trained = TrainedPart::kMixers;
  run.teacher = subjects_[0].config;
  const double whole = PlanMemory(run).total();
  run.aligned = true;
  EXPECT_LT(PlanMemory(run).total(), 0.7 * whole);
  EXPECT_THAT(
      testing::ErrorOf([&] { RequireMemory(run, 1, "cpu"); }),
      ::testing::EndsWith("try a smaller loop.micro_batch or data.row_tokens, or more processes"));
  // A comparison on held-out text takes the heads of both, which a large vocabulary makes large.
  run.model.vocabulary = run.teacher->vocabulary = 50000;
  const double alone = PlanMemory(run).total();
  run.held_out = true;
  EXPECT_GT(PlanMemory(run).total(), alone);
}

TEST_F(PlanTest, TooLittleMemoryIsSaidWithWhatToChange) {
  PlannedRun run = Planned(subjects_[0]);
  const double needed = PlanMemory(run).total();
  RequireMemory(run, needed, "cpu");
  const std::string error = testing::ErrorOf([&] { RequireMemory(run, needed / 2, "cuda:3"); });
  EXPECT_THAT(error, HasSubstr("too little memory on cuda:3: about 0."));
  EXPECT_THAT(error, HasSubstr("loop.activation_checkpointing: true"));
  run.recompute = true;
  EXPECT_LT(PlanMemory(run).activations, needed);
}

// The number in the row of a table that begins with `name`, to four digits.
double Reported(const std::string& text, const std::string& name) {
  const size_t row = text.find("\n| " + name + " ");
  if (row == std::string::npos) return -1;
  std::string rest = text.substr(text.find('|', row + 2) + 1, 40);
  rest.erase(std::remove(rest.begin(), rest.end(), ','), rest.end());
  return std::strtod(rest.c_str(), nullptr);
}

TEST_F(PlanTest, ExplainsTimeAndCost) {
  PlannedRun run = Planned(subjects_[0]);
  run.processes = 4;
  PlanConfig config;
  config.peak_teraflops = 500;
  config.utilisation = 0.25;
  config.price_per_hour = 3;
  // Four of 125 TFLOP/s, for just a day and a half.
  const double tokens_a_second = 4 * 125e12 / PlanWork(run).total();
  config.tokens = tokens_a_second * 1.5 * 86400;
  const std::string text = ExplainPlan(run, config);
  EXPECT_THAT(text, HasSubstr("4 GPUs of 80 GiB"));
  const auto expect = [&](const std::string& name, double value) {
    EXPECT_NEAR(Reported(text, name) / value, 1, 1e-3) << name;
  };
  expect("tokens a second", tokens_a_second);
  EXPECT_THAT(text, HasSubstr("1.500 days"));
  expect("GPU-hours", 144);
  EXPECT_THAT(text, ::testing::ContainsRegex("cost at \\$3.00 a GPU-hour +\\| +\\$432\\.0 "));
  expect("GFLOP a token, forward", PlanWork(run).forward / 1e9);
  // In the unit that fits: a tiny model's 0.0018 GiB say nothing to anybody.
  EXPECT_THAT(text, HasSubstr(absl::StrFormat("%.1f MB", PlanMemory(run).total() / 1e6)));
  run.processes = config.accelerators = 1;
  EXPECT_THAT(ExplainPlan(run, config), HasSubstr("1 GPU of 80 GiB"));
  EXPECT_THAT(text, Not(HasSubstr("It does not fit")));
  config.memory_gib = 0.001;
  EXPECT_THAT(ExplainPlan(run, config), HasSubstr("It does not fit"));
}

}  // namespace
}  // namespace mambad::trainer
