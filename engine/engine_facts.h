// What opening an engine finds out. Immutable afterwards, readable from any thread.

#ifndef MAMBAD_ENGINE_ENGINE_FACTS_H_
#define MAMBAD_ENGINE_ENGINE_FACTS_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/memory_plan.h"
#include "engine/model_info.h"
#include "engine/options.h"
#include "engine/sessions/session_format.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"

namespace mambad {

struct EngineFacts {
  EngineOptions options;  // resolved: no zeros that mean "choose"
  ModelInfo model;
  std::optional<ModelInfo> draft_model;
  std::string device;  // and instruction set and threads
  MemoryPlan memory;
  SamplingParams default_sampling;
  std::unique_ptr<const text::Tokenizer> tokenizer;  // null: none
  std::optional<text::ChatTemplate> chat_template;
  text::ChatTemplate::Variables chat_variables;
  std::shared_ptr<const SessionFormat> session_format;
  std::vector<std::string> warnings;  // engine.h's: whoever opens a part adds its own
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_ENGINE_FACTS_H_
