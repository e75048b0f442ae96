#include <memory>
#include <stdexcept>

#include "absl/strings/str_format.h"
#include "trainer/layer_choice.h"
#include "trainer/stages/align_work.h"
#include "trainer/stages/model_configuration.h"
#include "trainer/stages/run_threads.h"
#include "trainer/stages/stage.h"
#include "trainer/stages/stage_run.h"

namespace mambad::trainer {
namespace {

void CheckSameShape(const checkpoint::ModelConfig& student,
                    const checkpoint::ModelConfig& teacher) {
  if (student.width != teacher.width || student.layers != teacher.layers) {
    throw std::runtime_error(absl::StrFormat(
        "student: expected %d layers of width %d as the teacher has, found %d of %d",
        teacher.layers, teacher.width, student.layers, student.width));
  }
  RequireRecurrentLayers(student);
}

PlannedRun PlanAlignment(const StageRun& run, const AlignConfig& config) {
  PlannedRun plan = PlanOf(run, config.data, config.loop);
  plan.teacher = ReadConfiguration("teacher", config.teacher);
  plan.model = ReadConfiguration("student", config.student);
  plan.trained = TrainedPart::kMixers;
  plan.aligned = true;
  plan.held_out = !config.data.valid.empty();
  CheckSameShape(plan.model, *plan.teacher);
  return plan;
}

}  // namespace

void RunAlign(const AlignConfig& config) {
  StageRun run = OpenStageRun("align", config.run, DescriptionOf(config));
  RequireWarmup(config.loop, "loop.steps");
  CheckMemory(run, PlanAlignment(run, config));
  const auto teacher = LoadModel(run, "teacher", config.teacher);
  const auto student = LoadModel(run, "student", config.student);
  CheckVocabularies("student", config.student, *student, "teacher", config.teacher, *teacher);
  student->SetTrained(
      [](const checkpoint::Parameter& parameter) { return IsRecurrentMixerRole(parameter.role); });
  const StageText text =
      OpenStageText(run, config.data, config.loop, config.teacher, teacher->config().vocabulary);
  ChooseThreads(run, *teacher, config.loop.micro_batch * config.data.row_tokens);
  PackedDataset data(text.train.get(), TrainingOrder(run, config.data));
  Optimizer optimizer =
      OptimizerOf(run, *student, config.optimizer, config.optimizer.learning_rate);
  AlignWork work(student.get(), teacher.get(),
                 config.loss == AlignConfig::Loss::kDistance ? AlignmentKind::kDistance
                                                             : AlignmentKind::kRelativeSquaredError,
                 text.held_out.get());
  const TrainResult result = Train(LoopOptions(run, config.loop, "align"), run.device, &data,
                                   &optimizer, run.processes.get(), &work);
  FinishStage(run, result, *student, config.student, config.loop.stored);
}

}  // namespace mambad::trainer
