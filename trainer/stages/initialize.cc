#include "trainer/initialize.h"

#include <cstdio>
#include <memory>
#include <stdexcept>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "trainer/layer_choice.h"
#include "trainer/stages/model_configuration.h"
#include "trainer/stages/run_folder.h"
#include "trainer/stages/stage.h"

namespace mambad::trainer {
namespace {

// The layers that give up attention, when all that `config` names fits together.
std::vector<int> CheckedLayers(const InitializeConfig& config) {
  const checkpoint::ModelConfig teacher = ReadConfiguration("teacher", config.teacher);
  std::vector<int> layers = RecurrentLayers(config.layers, teacher.layers);
  if (layers.empty()) throw std::runtime_error("attention_percent: no layer would be replaced");
  const checkpoint::ModelConfig student =
      HybridConfiguration(teacher, OptionsFrom(config.start, layers, config.seed));
  if (!config.start.trained_mixers.empty()) {
    RequireTrainedMixers(ReadConfiguration("start.trained_mixers", config.start.trained_mixers),
                         teacher, student);
  }
  return layers;
}

void Write(const InitializeConfig& config, const LanguageModel& student) {
  const auto type = config.stored == StoredType::kBFloat16 ? checkpoint::StorageType::kBFloat16
                                                           : checkpoint::StorageType::kFloat32;
  ReplaceDirectory(config.output, [&](const std::string& directory) {
    student.Save(directory, type, config.teacher);
    KeepSettings(directory, "initialize", DescriptionOf(config));
  });
}

}  // namespace

// On the CPU and in fp32: a matter of seconds, and no draw is rounded before it is stored.
void RunInitialize(const InitializeConfig& config) {
  RequireFreeOutput(config.output, "initialize", DescriptionOf(config), config.overwrite);
  const std::vector<int> layers = CheckedLayers(config);
  const auto teacher = LanguageModel::Load(config.teacher, at::Device(at::kCPU), at::kFloat);
  InitializeOptions options = OptionsFrom(config.start, layers, config.seed);
  std::unique_ptr<LanguageModel> trained;
  if (!config.start.trained_mixers.empty()) {
    trained = LanguageModel::Load(config.start.trained_mixers, at::Device(at::kCPU), at::kFloat);
    options.trained_mixers = trained.get();
  }
  Write(config, *InitializeHybrid(*teacher, options));
  std::fprintf(stderr, "initialize: wrote %s; of %d layers these gave up attention: %s\n",
               config.output.c_str(), teacher->config().layers, absl::StrJoin(layers, " ").c_str());
}

}  // namespace mambad::trainer
