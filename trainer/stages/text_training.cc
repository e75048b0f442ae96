#include "trainer/stages/text_training.h"

#include "trainer/stages/language_work.h"
#include "trainer/stages/run_threads.h"

namespace mambad::trainer {

void CheckTextTraining(const StageRun& run, const checkpoint::ModelConfig& model,
                       const DataConfig& data, const LoopConfig& loop) {
  RequireWarmup(loop, "loop.steps");
  PlannedRun plan = PlanOf(run, data, loop);
  plan.model = model;
  CheckMemory(run, plan);
}

void TrainOnText(const StageRun& run, LanguageModel* model, const std::string& text_source,
                 const DataConfig& data, const LoopConfig& loop, const OptimizerConfig& optimizer,
                 double rest_learning_rate) {
  model->SetTrained([](const checkpoint::Parameter&) { return true; });
  model->SetRecompute(loop.activation_checkpointing);
  const StageText text = OpenStageText(run, data, loop, text_source, model->config().vocabulary);
  ChooseThreads(run, *model, loop.micro_batch * data.row_tokens);
  PackedDataset rows(text.train.get(), TrainingOrder(run, data));
  Optimizer steps = OptimizerOf(run, *model, optimizer, rest_learning_rate);
  HeadLossOptions loss;
  loss.divergence_weight = 0;
  loss.cross_entropy_weight = 1;
  LanguageWork work(model, nullptr, loss, text.held_out.get());
  const TrainResult result = Train(LoopOptions(run, loop, run.command), run.device, &rows, &steps,
                                   run.processes.get(), &work);
  FinishStage(run, result, *model, text_source, loop.stored);
}

}  // namespace mambad::trainer
