#include "trainer/stages/model_configuration.h"

#include <stdexcept>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/json_file.h"
#include "engine/checkpoint/model_config_reader.h"
#include "trainer/layer_choice.h"

namespace mambad::trainer {
namespace {

[[noreturn]] void Refuse(const std::string& key, const absl::Status& status) {
  throw std::runtime_error(key + ": " + std::string(status.message()));
}

}  // namespace

checkpoint::ModelConfig ReadConfiguration(const std::string& key, const std::string& path) {
  const auto model = checkpoint::Checkpoint::Open(path);
  if (!model.ok()) Refuse(key, model.status());
  return (*model)->config();
}

checkpoint::ModelConfig ReadConfigurationAlone(const std::string& key, const std::string& path) {
  const auto whole = checkpoint::Checkpoint::Open(path);
  if (whole.ok()) return (*whole)->config();
  auto file = checkpoint::ReadJsonFile(path + "/config.json");
  if (!file.ok()) Refuse(key, whole.status());
  checkpoint::ConfigFiles files;
  files.directory = path;
  files.config = *std::move(file);
  auto config = checkpoint::ReadModelConfig(files, {});
  if (!config.ok()) Refuse(key, config.status());
  return *std::move(config);
}

void RequireRecurrentLayers(const checkpoint::ModelConfig& student) {
  if (!RecurrentLayersOf(student).empty()) return;
  throw std::runtime_error(
      "student: no layer of it is recurrent, and only mixers are trained; was it made by "
      "initialize?");
}

}  // namespace mambad::trainer
