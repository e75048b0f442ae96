// Where the writing of a shard of records stood: what a run that was stopped goes on from.

#ifndef MAMBAD_TRAINER_STAGES_GENERATOR_STATE_H_
#define MAMBAD_TRAINER_STAGES_GENERATOR_STATE_H_

#include <ATen/core/Tensor.h>

#include <map>
#include <optional>
#include <string>

#include "nlohmann/json.hpp"

namespace mambad::trainer {

struct GeneratorState {
  nlohmann::json words;                       // an object
  std::map<std::string, at::Tensor> tensors;  // fp32, flat, on the host
};

// Writes `stem`.safetensors and then `stem`.json, each whole or not at all, with a mark by which
// they know each other: without the right partner either is nothing. Throws std::runtime_error.
void SaveGeneratorState(const std::string& stem, nlohmann::json words,
                        const std::map<std::string, at::Tensor>& tensors);

// Nothing when there is none that is whole.
std::optional<GeneratorState> LoadGeneratorState(const std::string& stem);

void RemoveGeneratorState(const std::string& stem);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_STAGES_GENERATOR_STATE_H_
