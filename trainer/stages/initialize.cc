#include "trainer/initialize.h"

#include <cstdio>
#include <filesystem>
#include <memory>
#include <stdexcept>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "trainer/layer_choice.h"
#include "trainer/stages/model_configuration.h"
#include "trainer/stages/stage.h"

namespace mambad::trainer {
namespace {

namespace fs = std::filesystem;

// What is read must not be what is written, nor may files of others be in the way.
void CheckOutput(const InitializeConfig& config) {
  std::error_code error;
  for (const auto& [key, path] :
       {std::pair<const char*, const std::string&>{"teacher", config.teacher},
        {"start.trained_mixers", config.start.trained_mixers}}) {
    if (!fs::equivalent(path, config.output, error)) continue;
    throw std::runtime_error(
        absl::StrFormat("output: %s: is the %s too: name another directory", config.output, key));
  }
  if (!fs::exists(config.output, error) || fs::is_empty(config.output, error)) return;
  if (fs::exists(config.output + "/config.json", error)) return;
  throw std::runtime_error(absl::StrFormat(
      "output: %s: expected a new directory or a model to replace, found other files",
      config.output));
}

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

// Beside its place first, so that a failure leaves what was there.
void Write(const InitializeConfig& config, const LanguageModel& student) {
  fs::path finished = fs::path(config.output).lexically_normal();
  if (!finished.has_filename()) finished = finished.parent_path();
  const std::string unfinished = finished.string() + ".unfinished";
  std::error_code error;
  fs::remove_all(unfinished, error);
  student.Save(unfinished,
               config.stored == StoredType::kBFloat16 ? checkpoint::StorageType::kBFloat16
                                                      : checkpoint::StorageType::kFloat32,
               config.teacher);
  KeepSettings(unfinished, "initialize", DescriptionOf(config));
  fs::remove_all(finished, error);
  fs::rename(unfinished, finished, error);
  if (error) {
    throw std::runtime_error(config.output + ": cannot be written: " + error.message());
  }
}

}  // namespace

// On the CPU and in fp32: a matter of seconds, and no draw is rounded before it is stored.
void RunInitialize(const InitializeConfig& config) {
  CheckOutput(config);
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
