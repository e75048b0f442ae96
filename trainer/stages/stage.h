// The commands of `trainer`.

#ifndef MAMBAD_TRAINER_STAGES_STAGE_H_
#define MAMBAD_TRAINER_STAGES_STAGE_H_

#include <functional>
#include <string>
#include <vector>

#include "trainer/train_config.h"

namespace mambad::trainer {

// Each does the whole of its command and throws std::runtime_error. Those that train join the
// process group that the environment names (stage_run.h).
void RunTokenizer(const TokenizerConfig& config);
void RunPretrain(const PretrainConfig& config);
void RunInitialize(const InitializeConfig& config);
void RunLayers(const LayersConfig& config);
void RunAlign(const AlignConfig& config);
void RunDistill(const DistillConfig& config);
void RunFinetune(const FinetuneConfig& config);
void RunPreference(const PreferenceConfig& config);
void RunDraft(const DraftConfig& config);
void RunEvaluate(const EvaluateConfig& config);
void RunPlan(const PlanConfig& config);

struct Command {
  std::string name, purpose;
  std::function<std::string()> explain;  // its settings, a line each
  // Reads the file, then works. `overwrite`: as if the file said so; no matter where nothing is
  // overwritten.
  std::function<void(const std::string& config_path, bool overwrite)> run;
};

// In the order in which a model is made.
std::vector<Command> Commands();

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_STAGES_STAGE_H_
