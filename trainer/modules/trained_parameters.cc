#include "trainer/modules/trained_parameters.h"

#include <utility>

namespace mambad::trainer {

std::vector<ParameterGroup> TrainedGroups(const LanguageModel& model, const GroupOptions& options) {
  std::vector<ParameterGroup> groups;
  for (const bool mixers : {true, false}) {
    for (const bool decays : {true, false}) {
      ParameterGroup group;
      group.name = std::string(mixers ? "mixers" : "rest") + (decays ? "" : "_undecayed");
      group.learning_rate = mixers ? options.mixer_learning_rate : options.rest_learning_rate;
      group.weight_decay = decays ? options.weight_decay : 0.0;
      for (const ModelParameter& parameter : model.parameters()) {
        const checkpoint::Parameter& description = parameter.description;
        if (!parameter.value.requires_grad()) continue;
        if (IsRecurrentMixerRole(description.role) != mixers) continue;
        if (WantsWeightDecay(description.name, parameter.value.dim()) != decays) continue;
        group.parameters.emplace_back(description.name, parameter.value);
      }
      if (!group.parameters.empty()) groups.push_back(std::move(group));
    }
  }
  return groups;
}

}  // namespace mambad::trainer
