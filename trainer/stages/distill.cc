#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "trainer/initialize.h"
#include "trainer/layer_choice.h"
#include "trainer/stages/language_work.h"
#include "trainer/stages/model_configuration.h"
#include "trainer/stages/run_threads.h"
#include "trainer/stages/stage.h"
#include "trainer/stages/stage_run.h"

namespace mambad::trainer {
namespace {

// One training after another: the student that each begins with and how long it takes.
struct Part {
  checkpoint::ModelConfig model;
  LoopConfig loop;
};

InitializeOptions OptionsOf(const DistillConfig& config, const ReplacementPhase& phase,
                            const checkpoint::ModelConfig& before) {
  return OptionsFrom(config.start, RecurrentLayers(phase.layers, before.layers), config.run.seed);
}

// Of all phases, one after the other, before the first begins.
std::vector<Part> PlanPhases(const DistillConfig& config, checkpoint::ModelConfig before) {
  std::vector<Part> parts;
  std::optional<checkpoint::ModelConfig> trained;
  if (!config.start.trained_mixers.empty()) {
    trained = ReadConfiguration("start.trained_mixers", config.start.trained_mixers);
  }
  for (size_t number = 0; number < config.phases.size(); ++number) {
    const ReplacementPhase& phase = config.phases[number];
    try {
      Part part = {HybridConfiguration(before, OptionsOf(config, phase, before)), config.loop};
      if (trained) RequireTrainedMixers(*trained, before, part.model);
      part.loop.steps = phase.steps;
      RequireWarmup(part.loop, "its steps");
      before = part.model;
      parts.push_back(std::move(part));
    } catch (const std::runtime_error& error) {
      throw std::runtime_error(absl::StrFormat("phases[%d]: %s", number, error.what()));
    }
  }
  return parts;
}

// All trainings of the stage, each known to be possible and to fit into memory.
std::vector<Part> CheckedParts(const DistillConfig& config, const StageRun& run) {
  if (config.student.empty() && config.phases.empty()) {
    throw std::runtime_error("student: expected a model directory, or phases that make a student");
  }
  PlannedRun plan = PlanOf(run, config.data, config.loop);
  plan.teacher = ReadConfiguration("teacher", config.teacher);
  plan.trained = config.trained;
  const checkpoint::ModelConfig first =
      config.student.empty() ? *plan.teacher : ReadConfiguration("student", config.student);
  std::vector<Part> parts =
      config.phases.empty() ? std::vector<Part>{{first, config.loop}} : PlanPhases(config, first);
  if (config.phases.empty()) RequireWarmup(config.loop, "loop.steps");
  if (config.trained == TrainedPart::kMixers) RequireRecurrentLayers(parts.front().model);
  for (const Part& part : parts) {
    plan.model = part.model;
    CheckMemory(run, plan);
  }
  return parts;
}

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
                       int64_t phase, const std::string& folder, int64_t later_steps) {
  const DistillConfig& config = all.config;
  const bool mixers_only = config.trained == TrainedPart::kMixers;
  student->SetTrained([&](const checkpoint::Parameter& parameter) {
    return !mixers_only || IsRecurrentMixerRole(parameter.role);
  });
  student->SetRecompute(loop.activation_checkpointing);
  PackedDataset data(all.text.train.get(), TrainingOrder(all.run, config.data, phase));
  Optimizer optimizer = OptimizerOf(all.run, *student, config.optimizer, config.rest_learning_rate);
  HeadLossOptions loss;
  loss.divergence_weight = config.divergence_weight;
  loss.cross_entropy_weight = config.cross_entropy_weight;
  loss.temperature = config.temperature;
  LanguageWork work(student, &all.teacher, loss, all.text.held_out.get());
  const std::string title =
      phase == 0 ? "distill" : absl::StrFormat("distill %d/%d", phase, config.phases.size());
  TrainLoopOptions options = LoopOptions(all.run, loop, title, folder);
  options.later_steps = later_steps;
  return Train(options, all.run.device, &data, &optimizer, all.run.processes.get(), &work);
}

// The student with the phase's layers replaced; those replaced before keep what they learned.
std::unique_ptr<LanguageModel> Replace(const Distillation& all, const LanguageModel& before,
                                       const ReplacementPhase& phase) {
  InitializeOptions options = OptionsOf(all.config, phase, before.config());
  options.trained_mixers = all.trained_mixers;
  return InitializeHybrid(before, options);
}

void Progressive(const Distillation& all, const std::vector<Part>& parts,
                 const LanguageModel* before) {
  std::unique_ptr<LanguageModel> student;
  const std::vector<ReplacementPhase>& phases = all.config.phases;
  int64_t later_steps = 0;
  for (const Part& part : parts) later_steps += part.loop.steps;
  for (size_t number = 0; number < phases.size(); ++number) {
    student = Replace(all, student ? *student : *before, phases[number]);
    const LoopConfig& loop = parts[number].loop;
    const std::string folder = absl::StrFormat("phase-%d", number + 1);
    later_steps -= loop.steps;
    const TrainResult result =
        TrainPhase(all, student.get(), loop, static_cast<int64_t>(number) + 1, folder, later_steps);
    if (number + 1 == phases.size()) {
      FinishStage(all.run, result, *student, all.config.teacher, loop.stored);
    } else if (!FinishPart(all.run, result, *student, all.config.teacher, loop.stored, folder)) {
      return;
    }
  }
}

}  // namespace

void RunDistill(const DistillConfig& config) {
  StageRun run = OpenStageRun("distill", config.run, DescriptionOf(config));
  const std::vector<Part> parts = CheckedParts(config, run);
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
  ChooseThreads(run, *teacher, config.loop.micro_batch * config.data.row_tokens);
  const Distillation all = {config, run, *teacher, text, trained.get()};
  if (!config.phases.empty()) {
    Progressive(all, parts, student ? student.get() : teacher.get());
    return;
  }
  const TrainResult result = TrainPhase(all, student.get(), config.loop, 0, "", 0);
  FinishStage(run, result, *student, config.student, config.loop.stored);
}

}  // namespace mambad::trainer
