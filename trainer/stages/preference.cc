#include <algorithm>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <utility>

#include "trainer/modules/trained_parameters.h"
#include "trainer/stages/preference_work.h"
#include "trainer/stages/stage.h"
#include "trainer/stages/stage_run.h"

namespace mambad::trainer {
namespace {

// Steps for the passes that are asked for; a tenth of them to warm up.
LoopConfig WithEpochs(const PreferenceConfig& config, const TokenStore& store, int processes) {
  LoopConfig loop = config.loop;
  if (config.epochs <= 0) return loop;
  const double pairs_a_step = static_cast<double>(loop.micro_batch * loop.accumulation * processes);
  const double pairs = static_cast<double>(store.documents() / 2) * config.epochs;
  loop.steps = std::max<int64_t>(1, std::llround(std::ceil(pairs / pairs_a_step)));
  loop.warmup_steps = loop.steps / 10;
  return loop;
}

}  // namespace

void RunPreference(const PreferenceConfig& config) {
  StageRun run = OpenStageRun("preference", config.run, [&](Settings* settings) {
    PreferenceConfig copy = config;
    Describe(settings, &copy);
  });
  const auto student = LoadModel(run, "student", config.student);
  const auto reference = LoadModel(run, "student", config.student);
  student->SetTrained([](const checkpoint::Parameter&) { return true; });
  student->SetRecompute(config.loop.activation_checkpointing);
  LoopConfig rows = config.loop;
  rows.micro_batch *= 2;  // a pair is two of them
  CheckMemory(run, *student, reference.get(), TrainedPart::kAll, config.data, rows);
  const int64_t vocabulary = student->config().vocabulary;
  const TokenStore train =
      OpenText(run, config.data, "train", config.data.train, config.student, vocabulary);
  std::unique_ptr<TokenStore> valid;
  if (!config.data.valid.empty()) {
    valid = std::make_unique<TokenStore>(
        OpenText(run, config.data, "valid", config.data.valid, config.student, vocabulary));
  }
  PairDataset data(&train, TrainingOrder(run, config.data));
  Optimizer optimizer(
      TrainedGroups(*student, {config.optimizer.learning_rate, config.optimizer.learning_rate,
                               config.optimizer.weight_decay}),
      AdamFrom(config.optimizer), run.processes.get());
  const LoopConfig loop = WithEpochs(config, train, run.processes->size());
  PreferenceWork work(
      student.get(), reference.get(), valid.get(),
      {config.beta, config.data.row_tokens, config.loop.evaluate_rows, config.loop.micro_batch},
      run.processes.get());
  const TrainResult result = Train(LoopOptions(run, loop, "preference"), run.device, &data,
                                   &optimizer, run.processes.get(), &work);
  FinishStage(run, result, *student, config.student, config.loop.stored);
}

}  // namespace mambad::trainer
