#include "trainer/plan.h"

#include <cstdio>
#include <fstream>
#include <stdexcept>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/json_file.h"
#include "engine/checkpoint/model_config_reader.h"
#include "trainer/layer_choice.h"
#include "trainer/stages/stage.h"

namespace mambad::trainer {
namespace {

// Of a whole model, or of a directory with configuration files alone.
checkpoint::ModelConfig ReadConfiguration(const std::string& key, const std::string& path) {
  const auto refuse = [&](const absl::Status& status) {
    throw std::runtime_error(key + ": " + std::string(status.message()));
  };
  const auto whole = checkpoint::Checkpoint::Open(path);
  if (whole.ok()) return (*whole)->config();
  auto file = checkpoint::ReadJsonFile(path + "/config.json");
  if (!file.ok()) refuse(whole.status());
  checkpoint::ConfigFiles files;
  files.directory = path;
  files.config = *std::move(file);
  auto config = checkpoint::ReadModelConfig(files, {});
  if (!config.ok()) refuse(config.status());
  return *std::move(config);
}

}  // namespace

void RunPlan(const PlanConfig& config) {
  PlannedRun run;
  run.model = ReadConfiguration("model", config.model);
  if (!config.teacher.empty()) run.teacher = ReadConfiguration("teacher", config.teacher);
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
  if (config.output.empty()) return;
  std::ofstream out(config.output, std::ios::binary);
  out << text;
  out.close();
  if (!out) throw std::runtime_error(config.output + ": cannot be written");
}

}  // namespace mambad::trainer
