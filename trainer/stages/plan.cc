#include "trainer/plan.h"

#include <cstdio>

#include "trainer/layer_choice.h"
#include "trainer/stages/model_configuration.h"
#include "trainer/stages/stage.h"
#include "trainer/text_file.h"

namespace mambad::trainer {

void RunPlan(const PlanConfig& config) {
  PlannedRun run;
  run.model = ReadConfigurationAlone("model", config.model);
  if (!config.teacher.empty()) run.teacher = ReadConfigurationAlone("teacher", config.teacher);
  if (config.hybrid && run.model.family == checkpoint::Family::kLlama) {
    run.model = HybridConfiguration(
        run.model, OptionsFrom(config.start, RecurrentLayers(config.layers, run.model.layers), 1));
  }
  run.trained = config.trained;
  run.processes = config.accelerators;
  run.row_tokens = config.row_tokens;
  run.micro_batch = config.micro_batch;
  run.recompute = config.activation_checkpointing;
  const std::string text = ExplainPlan(run, config);
  std::fputs(text.c_str(), stdout);
  if (!config.output.empty()) WriteText(config.output, text);
}

}  // namespace mambad::trainer
