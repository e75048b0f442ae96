#include "trainer/plan.h"

#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <string>

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
  // What may be anything else than an earlier plan is not written over.
  std::ifstream there(config.output, std::ios::binary);
  std::string first;
  if (!config.output.empty() && std::getline(there, first) && first != "# Plan" &&
      !config.overwrite) {
    throw std::runtime_error("output: " + config.output +
                             ": is a file that is no plan; give another output, or overwrite: true "
                             "(--overwrite) to replace it");
  }
  const std::string text = ExplainPlan(run, config);
  std::fputs(text.c_str(), stdout);
  if (!config.output.empty()) WriteText(config.output, text);
}

}  // namespace mambad::trainer
