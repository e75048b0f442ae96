#include <algorithm>
#include <memory>
#include <stdexcept>
#include <utility>

#include "absl/strings/str_format.h"
#include "trainer/initialize.h"
#include "trainer/layer_choice.h"
#include "trainer/modules/trained_parameters.h"
#include "trainer/stages/language_work.h"
#include "trainer/stages/stage.h"
#include "trainer/stages/stage_run.h"

namespace mambad::trainer {
namespace {

// What the phases share.
struct Distillation {
  const DistillConfig& config;
  const StageRun& run;
  const LanguageModel& teacher;
  const StageText& text;
  const LanguageModel* trained_mixers;  // null: none
};

// `phase` from 1; 0: the whole stage is one.
TrainResult TrainPhase(const Distillation& all, LanguageModel* student, const LoopConfig& loop,
                       int64_t phase, const std::string& folder) {
  const DistillConfig& config = all.config;
  const bool mixers_only = config.trained == TrainedPart::kMixers;
  student->SetTrained([&](const checkpoint::Parameter& parameter) {
    return !mixers_only || IsRecurrentMixerRole(parameter.role);
  });
  student->SetRecompute(loop.activation_checkpointing);
  CheckMemory(all.run, *student, &all.teacher, config.trained, config.data, loop);
  PackedDataset data(all.text.train.get(), TrainingOrder(all.run, config.data, phase));
  Optimizer optimizer(
      TrainedGroups(*student, {config.optimizer.learning_rate, config.rest_learning_rate,
                               config.optimizer.weight_decay}),
      AdamFrom(config.optimizer), all.run.processes.get());
  HeadLossOptions loss;
  loss.divergence_weight = config.divergence_weight;
  loss.cross_entropy_weight = config.cross_entropy_weight;
  loss.temperature = config.temperature;
  LanguageWork work(student, &all.teacher, loss, all.text.held_out.get());
  const std::string title =
      phase == 0 ? "distill" : absl::StrFormat("distill %d/%d", phase, config.phases.size());
  return Train(LoopOptions(all.run, loop, title, folder), all.run.device, &data, &optimizer,
               all.run.processes.get(), &work);
}

// The student with the phase's layers replaced; those replaced before keep what they learned.
std::unique_ptr<LanguageModel> Replace(const Distillation& all, const LanguageModel& before,
                                       const ReplacementPhase& phase, size_t number) {
  try {
    InitializeOptions options =
        OptionsFrom(all.config.start, RecurrentLayers(phase.layers, before.config().layers),
                    all.config.run.seed);
    options.trained_mixers = all.trained_mixers;
    return InitializeHybrid(before, options);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(absl::StrFormat("phases[%d]: %s", number, error.what()));
  }
}

void Progressive(const Distillation& all, const LanguageModel* before) {
  std::unique_ptr<LanguageModel> student;
  const std::vector<ReplacementPhase>& phases = all.config.phases;
  for (size_t number = 0; number < phases.size(); ++number) {
    student = Replace(all, student ? *student : *before, phases[number], number);
    LoopConfig loop = all.config.loop;
    loop.steps = phases[number].steps;
    const std::string folder = absl::StrFormat("phase-%d", number + 1);
    const TrainResult result =
        TrainPhase(all, student.get(), loop, static_cast<int64_t>(number) + 1, folder);
    if (number + 1 == phases.size()) {
      FinishStage(all.run, result, *student, all.config.teacher, loop.stored);
    } else if (!FinishPart(all.run, result, *student, all.config.teacher, loop.stored, folder)) {
      return;
    }
  }
}

}  // namespace

void RunDistill(const DistillConfig& config) {
  StageRun run = OpenStageRun("distill", config.run, [&](Settings* settings) {
    DistillConfig copy = config;
    Describe(settings, &copy);
  });
  if (config.student.empty() && config.phases.empty()) {
    throw std::runtime_error("student: expected a model directory, or phases that make a student");
  }
  const auto teacher = LoadModel(run, "teacher", config.teacher);
  std::unique_ptr<LanguageModel> student;
  if (!config.student.empty()) {
    student = LoadModel(run, "student", config.student);
    CheckVocabularies("student", config.student, *student, "teacher", config.teacher, *teacher);
  }
  const StageText text =
      OpenStageText(run, config.data, config.loop, config.teacher, teacher->config().vocabulary);
  std::unique_ptr<LanguageModel> trained;
  if (!config.start.trained_mixers.empty())
    trained = LoadModel(run, "start.trained_mixers", config.start.trained_mixers);
  const Distillation all = {config, run, *teacher, text, trained.get()};
  if (!config.phases.empty()) {
    Progressive(all, student ? student.get() : teacher.get());
    return;
  }
  const TrainResult result = TrainPhase(all, student.get(), config.loop, 0, "");
  FinishStage(run, result, *student, config.student, config.loop.stored);
}

}  // namespace mambad::trainer
