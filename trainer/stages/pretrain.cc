#include <memory>
#include <stdexcept>
#include <utility>

#include "engine/text/tokenizer.h"
#include "trainer/initialize.h"
#include "trainer/layer_choice.h"
#include "trainer/stages/new_model.h"
#include "trainer/stages/stage.h"
#include "trainer/stages/stage_run.h"
#include "trainer/stages/text_training.h"

namespace mambad::trainer {
namespace {

checkpoint::ModelConfig ConfigurationOf(const PretrainConfig& config) {
  const auto words = text::OpenTokenizer(config.tokenizer);
  if (!words.ok()) throw std::runtime_error("tokenizer: " + std::string(words.status().message()));
  return NewModelConfiguration(config.model, (*words)->vocabulary_size(), config.tokenizer);
}

// Checks before it makes.
std::unique_ptr<LanguageModel> MakeModel(const PretrainConfig& config, const StageRun& run) {
  const checkpoint::ModelConfig begun = ConfigurationOf(config);
  InitializeOptions options;
  if (config.hybrid) {
    options =
        OptionsFrom(config.start, RecurrentLayers(config.layers, begun.layers), config.run.seed);
  }
  CheckTextTraining(run, config.hybrid ? HybridConfiguration(begun, options) : begun, config.data,
                    config.loop);
  auto model = LanguageModel::Create(begun, run.seed, run.device, run.compute);
  return config.hybrid ? InitializeHybrid(*model, options) : std::move(model);
}

}  // namespace

void RunPretrain(const PretrainConfig& config) {
  const StageRun run = OpenStageRun("pretrain", config.run, DescriptionOf(config));
  const auto model = MakeModel(config, run);
  const std::string text = TextSource(run, config.tokenizer, config.chat_template);
  TrainOnText(run, model.get(), text, config.data, config.loop, config.optimizer,
              config.optimizer.learning_rate);
}

}  // namespace mambad::trainer
