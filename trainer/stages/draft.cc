#include <ATen/ATen.h>

#include <memory>
#include <stdexcept>
#include <utility>

#include "absl/strings/str_format.h"
#include "trainer/layer_choice.h"
#include "trainer/stages/frequent_tokens.h"
#include "trainer/stages/language_work.h"
#include "trainer/stages/model_configuration.h"
#include "trainer/stages/new_model.h"
#include "trainer/stages/run_threads.h"
#include "trainer/stages/stage.h"
#include "trainer/stages/stage_run.h"

namespace mambad::trainer {
namespace {

// Of the target without its last layers.
checkpoint::ModelConfig FirstLayersConfiguration(checkpoint::ModelConfig config, int64_t count) {
  if (count > config.layers) {
    throw std::runtime_error(
        absl::StrFormat("copied_layers: expected at most %d, found %d", config.layers, count));
  }
  config.layers = static_cast<int>(count);
  config.mixers.resize(count);
  config.fused_attention.resize(count);
  config.fused_mamba.resize(count);
  if (config.family == checkpoint::Family::kHybrid && RecurrentLayersOf(config).empty()) {
    config.family = checkpoint::Family::kLlama;
    config.layout = checkpoint::Layout::kHuggingFace;
  }
  return config;
}

checkpoint::ModelConfig DraftConfiguration(const DraftConfig& config,
                                           const checkpoint::ModelConfig& target) {
  if (!config.draft.empty()) return ReadConfiguration("draft", config.draft);
  if (config.copied_layers > 0) return FirstLayersConfiguration(target, config.copied_layers);
  checkpoint::ModelConfig numbers =
      NewModelConfiguration(config.model, target.vocabulary, config.target);
  // The same ids end a text, whatever the tokenizer's files say.
  numbers.padded_vocabulary = target.padded_vocabulary;
  numbers.bos_id = target.bos_id;
  numbers.eos_ids = target.eos_ids;
  return numbers;
}

std::unique_ptr<LanguageModel> FirstLayers(const LanguageModel& target, int64_t count) {
  const checkpoint::ModelConfig config = FirstLayersConfiguration(target.config(), count);
  auto draft = std::make_unique<LanguageModel>(config, target.device(), target.compute_type());
  at::NoGradGuard no_grad;
  for (const ModelParameter& parameter : draft->parameters()) {
    at::Tensor value = parameter.value;
    value.copy_(target.Find(parameter.description.role, parameter.description.layer));
  }
  return draft;
}

std::unique_ptr<LanguageModel> MakeDraft(const DraftConfig& config, const StageRun& run,
                                         const LanguageModel& target) {
  if (!config.draft.empty()) return LoadModel(run, "draft", config.draft);
  if (config.copied_layers > 0) return FirstLayers(target, config.copied_layers);
  auto draft = LanguageModel::Create(DraftConfiguration(config, target.config()), run.seed,
                                     run.device, run.compute);
  if (config.projected_embedding) draft->FactoriseEmbedding(target.Embedding(), run.seed);
  return draft;
}

// Of the second part.
LoopConfig AcceptanceLoop(const DraftConfig& config) {
  LoopConfig loop = config.loop;
  loop.steps = config.acceptance_steps;
  return loop;
}

struct Drafting {
  const DraftConfig& config;
  const StageRun& run;
  const LanguageModel& target;
  const StageText& text;
};

// Which tokens the draft proposes once it is served: the rows of its head that the engine reads for
// every one. Training goes over all of them.
void ChooseProposedTokens(const Drafting& all, LanguageModel* draft) {
  const int64_t count = all.config.proposed_tokens, vocabulary = draft->config().vocabulary;
  draft->SetProposedTokens({});
  if (count == 0 || count >= vocabulary) return;
  FrequentTokens frequent =
      MostFrequentTokens(*all.text.train, count, vocabulary, all.target.config().eos_ids);
  if (static_cast<int64_t>(frequent.ids.size()) == vocabulary) return;
  Say(all.run, absl::StrFormat("draft: proposes %d tokens, %.2f %% of those in the text",
                               frequent.ids.size(), 100 * frequent.share));
  draft->SetProposedTokens(std::move(frequent.ids));
}

TrainResult TrainPart(const Drafting& all, LanguageModel* draft, bool acceptance) {
  const DraftConfig& config = all.config;
  const LoopConfig loop = acceptance ? AcceptanceLoop(config) : config.loop;
  draft->SetTrained([](const checkpoint::Parameter&) { return true; });
  draft->SetRecompute(loop.activation_checkpointing);
  PackedDataset data(all.text.train.get(), TrainingOrder(all.run, config.data, acceptance));
  OptimizerConfig adam = config.optimizer;
  if (acceptance) adam.learning_rate = config.acceptance_learning_rate;
  Optimizer optimizer = OptimizerOf(all.run, *draft, adam, adam.learning_rate);
  HeadLossOptions loss;
  loss.acceptance = acceptance;
  LanguageWork work(draft, &all.target, loss, all.text.held_out.get());
  const char* part = acceptance ? "acceptance" : "divergence";
  TrainLoopOptions options = LoopOptions(all.run, loop, std::string("draft ") + part, part);
  if (!acceptance) options.later_steps = config.acceptance_steps;
  return Train(options, all.run.device, &data, &optimizer, all.run.processes.get(), &work);
}

}  // namespace

void RunDraft(const DraftConfig& config) {
  StageRun run = OpenStageRun("draft", config.run, DescriptionOf(config));
  RequireWarmup(config.loop, "loop.steps");
  if (config.acceptance_steps > 0) RequireWarmup(AcceptanceLoop(config), "acceptance_steps");
  PlannedRun plan = PlanOf(run, config.data, config.loop);
  plan.teacher = ReadConfiguration("target", config.target);
  plan.model = DraftConfiguration(config, *plan.teacher);
  CheckMemory(run, plan);
  const auto target = LoadModel(run, "target", config.target);
  const auto draft = MakeDraft(config, run, *target);
  const std::string text_source = config.draft.empty() ? config.target : config.draft;
  CheckVocabularies("draft", text_source, *draft, "target", config.target, *target);
  Say(run, absl::StrFormat("draft: %d parameters for a target of %d", draft->ParameterCount(),
                           target->ParameterCount()));
  const StageText text =
      OpenStageText(run, config.data, config.loop, config.target, target->config().vocabulary);
  if (config.acceptance_steps > 0) {
    Say(run,
        absl::StrFormat("draft: %d steps in two parts: %d on the divergence (loop.steps), then "
                        "%d on the acceptance (acceptance_steps)",
                        config.loop.steps + config.acceptance_steps, config.loop.steps,
                        config.acceptance_steps));
  }
  ChooseThreads(run, *target, config.loop.micro_batch * config.data.row_tokens);
  const Drafting all = {config, run, *target, text};
  ChooseProposedTokens(all, draft.get());
  TrainResult result = TrainPart(all, draft.get(), false);
  if (config.acceptance_steps > 0) {
    if (!FinishPart(run, result, *draft, text_source, config.loop.stored, "divergence")) return;
    result = TrainPart(all, draft.get(), true);
  }
  FinishStage(run, result, *draft, text_source, config.loop.stored);
}

}  // namespace mambad::trainer
