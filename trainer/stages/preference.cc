#include <algorithm>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "trainer/stages/model_configuration.h"
#include "trainer/stages/preference_work.h"
#include "trainer/stages/run_threads.h"
#include "trainer/stages/stage.h"
#include "trainer/stages/stage_run.h"

namespace mambad::trainer {
namespace {

// Steps for the passes that are asked for; a tenth of them to warm up.
LoopConfig WithEpochs(const PreferenceConfig& config, int64_t count, int processes) {
  LoopConfig loop = config.loop;
  if (config.epochs <= 0) return loop;
  const double pairs_a_step = static_cast<double>(loop.micro_batch * loop.accumulation * processes);
  const double pairs = static_cast<double>(count) * config.epochs;
  loop.steps = std::max<int64_t>(1, std::llround(std::ceil(pairs / pairs_a_step)));
  loop.warmup_steps = loop.steps / 10;
  return loop;
}

void Check(const PreferenceConfig& config) {
  if (config.prompt_tokens >= config.data.row_tokens) {
    throw std::runtime_error(
        absl::StrFormat("prompt_tokens: expected less than data.row_tokens (%d), found %d",
                        config.data.row_tokens, config.prompt_tokens));
  }
  if (config.data.loss_on == TargetTokens::kAll) {
    throw std::runtime_error(
        "data.loss_on: expected answers: the prompt is the same on both sides of a pair");
  }
}

// Says what the rows cannot hold.
void SayPairs(const StageRun& run, const std::string& name, const PairCounts& counts) {
  Say(run, absl::StrFormat("preference: %s: %d pairs, with %d prompts and %d answers cut to fit a "
                           "row; %d more without an answer on both sides left out",
                           name, counts.pairs, counts.cut_prompts, counts.cut_answers,
                           counts.without_answer));
}

}  // namespace

void RunPreference(const PreferenceConfig& config) {
  Check(config);
  StageRun run = JoinStageRun("preference", config.run);
  if (config.epochs <= 0) RequireWarmup(config.loop, "loop.steps");
  PlannedRun plan = PlanOf(run, config.data, config.loop);
  plan.micro_batch *= 2;  // a pair is two rows
  plan.model = ReadConfiguration("student", config.student);
  plan.teacher = plan.model;
  CheckMemory(run, plan);
  const int64_t vocabulary = plan.model.vocabulary;
  const TokenStore train =
      OpenText(run, config.data, "train", config.data.train, config.student, vocabulary);
  PairDataset data(&train, TrainingOrder(run, config.data), config.prompt_tokens);
  SayPairs(run, "train", data.counts());
  std::unique_ptr<TokenStore> valid;
  if (!config.data.valid.empty()) {
    valid = std::make_unique<TokenStore>(
        OpenText(run, config.data, "valid", config.data.valid, config.student, vocabulary));
    const PairDataset held_out(valid.get(), TrainingOrder(run, config.data), config.prompt_tokens);
    SayPairs(run, "valid", held_out.counts());
  }
  const LoopConfig loop = WithEpochs(config, data.counts().pairs, run.processes->size());
  PreferenceConfig resolved = config;
  resolved.loop = loop;
  KeepSettings(&run, DescriptionOf(resolved));

  const auto student = LoadModel(run, "student", config.student);
  const auto reference = LoadModel(run, "student", config.student);
  ChooseThreads(run, *student, 2 * loop.micro_batch * config.data.row_tokens);
  student->SetTrained([](const checkpoint::Parameter&) { return true; });
  student->SetRecompute(config.loop.activation_checkpointing);
  Optimizer optimizer =
      OptimizerOf(run, *student, config.optimizer, config.optimizer.learning_rate);
  PreferenceWork work(student.get(), reference.get(), valid.get(),
                      {config.beta, config.data.row_tokens, config.prompt_tokens,
                       config.loop.evaluate_rows, config.loop.micro_batch},
                      run.processes.get());
  const TrainResult result = Train(LoopOptions(run, loop, "preference"), run.device, &data,
                                   &optimizer, run.processes.get(), &work);
  FinishStage(run, result, *student, config.student, config.loop.stored);
}

}  // namespace mambad::trainer
