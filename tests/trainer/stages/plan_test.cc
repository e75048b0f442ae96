// The plan against what models count, do and hold.

#include "trainer/plan.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>
#include <c10/core/CPUAllocator.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "tests/support/model_directory.h"
#include "tests/trainer/expect_error.h"
#include "tests/trainer/small_text.h"
#include "trainer/layer_choice.h"
#include "trainer/losses.h"
#include "trainer/modules/trained_parameters.h"
#include "trainer/stages/language_work.h"
#include "trainer/stages/new_model.h"

namespace mambad::trainer {
namespace {

using at::Tensor;
using ::testing::HasSubstr;

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
  static CountingAllocator allocator;
  at::Allocator* const before = c10::GetCPUAllocator();
  c10::SetCPUAllocator(&allocator, 100);
  for (const Subject& subject : subjects_) {
    for (const bool recompute : {false, true}) {
      PlannedRun run = Planned(subject);
      run.recompute = recompute;
      run.teacher = subjects_[0].config;
      const int64_t start = held_bytes;
      most_bytes = start;
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
      const double found = static_cast<double>(most_bytes - start);
      const double planned = PlanMemory(run).total();
      EXPECT_GT(planned, 0.8 * found) << subject.name << (recompute ? " recomputed" : "");
      EXPECT_LT(planned, 1.4 * found) << subject.name << (recompute ? " recomputed" : "");
    }
  }
  c10::SetCPUAllocator(before, 100);
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

TEST_F(PlanTest, ExplainsTimeAndCost) {
  PlannedRun run = Planned(subjects_[0]);
  run.processes = 4;
  PlanConfig config;
  config.tokens = 1e9;
  const double rate = 4 * config.peak_teraflops * 1e12 * config.utilisation / PlanWork(run).total();
  const std::string text = ExplainPlan(run, config);
  EXPECT_THAT(text, HasSubstr("4 GPUs of 80 GiB"));
  EXPECT_THAT(text, ::testing::ContainsRegex("tokens a second +\\| +[0-9,]+ "));
  EXPECT_GT(rate, 1e6);
  config.memory_gib = 0.001;
  EXPECT_THAT(ExplainPlan(run, config), HasSubstr("It does not fit"));
}

}  // namespace
}  // namespace mambad::trainer
