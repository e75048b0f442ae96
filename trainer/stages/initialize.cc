#include "trainer/initialize.h"

#include <cstdio>
#include <memory>
#include <stdexcept>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "trainer/layer_choice.h"
#include "trainer/stages/stage.h"

namespace mambad::trainer {

// On the CPU and in fp32: a matter of seconds, and no draw is rounded before it is stored.
void RunInitialize(const InitializeConfig& config) {
  const auto teacher =
      LanguageModel::Load(config.teacher, at::Device(at::kCPU), at::kFloat);
  const std::vector<int> layers = RecurrentLayers(config.layers, teacher->config().layers);
  if (layers.empty()) throw std::runtime_error("attention_percent: no layer would be replaced");
  InitializeOptions options = OptionsFrom(config.start, layers, config.seed);
  std::unique_ptr<LanguageModel> trained;
  if (!config.start.trained_mixers.empty()) {
    trained = LanguageModel::Load(config.start.trained_mixers, at::Device(at::kCPU), at::kFloat);
    options.trained_mixers = trained.get();
  }
  const auto student = InitializeHybrid(*teacher, options);
  student->Save(config.output,
                config.stored == StoredType::kBFloat16 ? checkpoint::StorageType::kBFloat16
                                                       : checkpoint::StorageType::kFloat32,
                config.teacher);
  std::fprintf(stderr, "initialize: wrote %s; of %d layers these gave up attention: %s\n",
               config.output.c_str(), teacher->config().layers,
               absl::StrJoin(layers, " ").c_str());
}

}  // namespace mambad::trainer
