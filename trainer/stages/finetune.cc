#include "trainer/modules/trained_parameters.h"
#include "trainer/stages/language_work.h"
#include "trainer/stages/stage.h"
#include "trainer/stages/stage_run.h"

namespace mambad::trainer {

void RunFinetune(const FinetuneConfig& config) {
  StageRun run = OpenStageRun("finetune", config.run, [&](Settings* settings) {
    FinetuneConfig copy = config;
    Describe(settings, &copy);
  });
  const auto student = LoadModel(run, "student", config.student);
  student->SetTrained([](const checkpoint::Parameter&) { return true; });
  student->SetRecompute(config.loop.activation_checkpointing);
  CheckMemory(run, *student, nullptr, TrainedPart::kAll, config.data, config.loop);
  const StageText text =
      OpenStageText(run, config.data, config.loop, config.student, student->config().vocabulary);
  PackedDataset data(text.train.get(), TrainingOrder(run, config.data));
  Optimizer optimizer(
      TrainedGroups(*student, {config.optimizer.learning_rate, config.rest_learning_rate,
                               config.optimizer.weight_decay}),
      AdamFrom(config.optimizer), run.processes.get());
  HeadLossOptions loss;
  loss.divergence_weight = 0;
  loss.cross_entropy_weight = 1;
  LanguageWork work(student.get(), nullptr, loss, text.held_out.get());
  const TrainResult result = Train(LoopOptions(run, config.loop, "finetune"), run.device, &data,
                                   &optimizer, run.processes.get(), &work);
  FinishStage(run, result, *student, config.student, config.loop.stored);
}

}  // namespace mambad::trainer
