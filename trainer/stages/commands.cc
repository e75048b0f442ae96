#include <utility>

#include "trainer/stages/convert.h"
#include "trainer/stages/generate.h"
#include "trainer/stages/stage.h"

namespace mambad::trainer {
namespace {

template <typename Config>
void SetOverwrite(Config* config) {
  if constexpr (requires { config->run.overwrite; }) {
    config->run.overwrite = true;
  } else {
    config->overwrite = true;
  }
}

template <typename Config>
Command Make(std::string name, std::string purpose, void (*run)(const Config&)) {
  Command command;
  command.name = std::move(name);
  command.purpose = std::move(purpose);
  command.explain = [] {
    Config config;
    return ExplainSettings([&](Settings* settings) { Describe(settings, &config); });
  };
  command.run = [run](const std::string& path, bool overwrite) {
    Config config;
    ReadSettings(path, [&](Settings* settings) { Describe(settings, &config); });
    if (overwrite) SetOverwrite(&config);
    run(config);
  };
  return command;
}

}  // namespace

std::vector<Command> Commands() {
  return {
      Make("tokenizer", "SentencePiece BPE from text", RunTokenizer),
      Make("convert", "models of other programs to the Hugging Face layout", RunConvert),
      Make("pretrain", "a Llama, Mamba, Mamba-2 or hybrid from nothing but text", RunPretrain),
      Make("initialize", "a hybrid student from a teacher's attention matrices", RunInitialize),
      Make("generate", "a teacher's answers to prompts, or whole conversations out of nothing",
           RunGenerate),
      Make("align", "replaced layers learn their attention layers' outputs, all at once", RunAlign),
      Make("layers", "where attention is missed most: an order in which layers should keep it",
           RunLayers),
      Make("distill", "the student learns the teacher's distribution, token by token", RunDistill),
      Make("finetune", "supervised fine-tuning on chats and completions", RunFinetune),
      Make("preference", "direct preference optimisation on chosen and rejected answers",
           RunPreference),
      Make("draft", "a small model that proposes tokens to a target", RunDraft),
      Make("evaluate",
           "perplexity, divergence from a teacher, acceptance of a draft, choices, preference",
           RunEvaluate),
      Make("plan", "memory, operations, days and cost of a run, before it is paid for", RunPlan),
  };
}

}  // namespace mambad::trainer
