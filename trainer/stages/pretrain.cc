#include <memory>
#include <stdexcept>

#include "engine/text/tokenizer.h"
#include "trainer/initialize.h"
#include "trainer/layer_choice.h"
#include "trainer/modules/trained_parameters.h"
#include "trainer/stages/language_work.h"
#include "trainer/stages/new_model.h"
#include "trainer/stages/stage.h"
#include "trainer/stages/stage_run.h"

namespace mambad::trainer {
namespace {

std::unique_ptr<LanguageModel> MakeModel(const PretrainConfig& config, const StageRun& run) {
  const auto words = text::OpenTokenizer(config.tokenizer);
  if (!words.ok()) throw std::runtime_error("tokenizer: " + std::string(words.status().message()));
  auto model = LanguageModel::Create(
      NewModelConfiguration(config.model, (*words)->vocabulary_size(), config.tokenizer), run.seed,
      run.device, run.compute);
  if (!config.hybrid) return model;
  const std::vector<int> layers = RecurrentLayers(config.layers, model->config().layers);
  return InitializeHybrid(*model, OptionsFrom(config.start, layers, config.run.seed));
}

}  // namespace

void RunPretrain(const PretrainConfig& config) {
  StageRun run = OpenStageRun("pretrain", config.run, [&](Settings* settings) {
    PretrainConfig copy = config;
    Describe(settings, &copy);
  });
  const auto model = MakeModel(config, run);
  model->SetTrained([](const checkpoint::Parameter&) { return true; });
  model->SetRecompute(config.loop.activation_checkpointing);
  CheckMemory(run, *model, nullptr, TrainedPart::kAll, config.data, config.loop);
  const StageText text =
      OpenStageText(run, config.data, config.loop, config.tokenizer, model->config().vocabulary);
  PackedDataset data(text.train.get(), TrainingOrder(run, config.data));
  Optimizer optimizer(
      TrainedGroups(*model, {config.optimizer.learning_rate, config.optimizer.learning_rate,
                             config.optimizer.weight_decay}),
      AdamFrom(config.optimizer), run.processes.get());
  HeadLossOptions loss;
  loss.divergence_weight = 0;
  loss.cross_entropy_weight = 1;
  LanguageWork work(model.get(), nullptr, loss, text.held_out.get());
  const TrainResult result = Train(LoopOptions(run, config.loop, "pretrain"), run.device, &data,
                                   &optimizer, run.processes.get(), &work);
  FinishStage(run, result, *model, config.tokenizer, config.loop.stored);
}

}  // namespace mambad::trainer
