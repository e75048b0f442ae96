// Metrics under the names that LLM routers and autoscalers know from vLLM.

#ifndef MAMBAD_SERVER_VLLM_METRIC_ALIASES_H_
#define MAMBAD_SERVER_VLLM_METRIC_ALIASES_H_

#include <prometheus/metric_family.h>

#include <string>
#include <vector>

#include "engine/engine.h"

namespace mambad::server {

// Adds to `families`, which are all of ours, what they say under vLLM's names, with the label
// `model_name`; and the share of slots or pages in use, which has no name here.
void AddVllmAliases(const EngineStats& stats, const std::string& model_name,
                    std::vector<prometheus::MetricFamily>* families);

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_VLLM_METRIC_ALIASES_H_
