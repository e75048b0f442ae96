// The one door for a request's parameters: all that can be said of them without its prompt. The
// server asks before it reads any text, the engine again of everything that is submitted.

#ifndef MAMBAD_ENGINE_PARAMETER_CHECKS_H_
#define MAMBAD_ENGINE_PARAMETER_CHECKS_H_

#include "engine/field_errors.h"
#include "engine/model_info.h"
#include "engine/options.h"
#include "engine/request.h"

namespace mambad {

// What a request is held to.
struct ParameterBounds {
  const ModelInfo& model;
  const EngineOptions& options;
  bool tokenizer = false, draft_model = false;  // whether there is one
};

// Adds an error for each parameter that the engine would refuse. The prompt is not looked at.
void CheckParameters(const Request& request, const ParameterBounds& bounds, FieldErrors* errors);

}  // namespace mambad

#endif  // MAMBAD_ENGINE_PARAMETER_CHECKS_H_
