#include "server/vllm/metric_aliases.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/vllm/descriptions.h"

namespace mambad::server {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;

struct Alias {
  const char* ours;  // without "mambad_"
  const char* vllm;  // without "vllm:"
};
constexpr Alias kAliases[] = {
    {"requests_running", "num_requests_running"},
    {"requests_waiting", "num_requests_waiting"},
    {"prompt_tokens_total", "prompt_tokens_total"},
    {"generation_tokens_total", "generation_tokens_total"},
    {"request_success_total", "request_success_total"},
    {"time_to_first_token_seconds", "time_to_first_token_seconds"},
    {"inter_token_latency_seconds", "inter_token_latency_seconds"},
    // What the one above was called until vLLM 0.11.
    {"inter_token_latency_seconds", "time_per_output_token_seconds"},
    {"time_per_output_token_seconds", "request_time_per_output_token_seconds"},
    {"e2e_request_latency_seconds", "e2e_request_latency_seconds"},
    {"request_queue_time_seconds", "request_queue_time_seconds"},
    {"request_prefill_time_seconds", "request_prefill_time_seconds"},
    {"spec_decode_num_drafts_total", "spec_decode_num_drafts_total"},
    {"spec_decode_num_draft_tokens_total", "spec_decode_num_draft_tokens_total"},
    {"spec_decode_num_accepted_tokens_total", "spec_decode_num_accepted_tokens_total"},
    {"spec_decode_num_accepted_tokens_per_pos_total",
     "spec_decode_num_accepted_tokens_per_pos_total"},
};

MetricFamily Renamed(const MetricFamily& family, const Alias& alias,
                     const std::string& model_name) {
  MetricFamily renamed = family;
  renamed.name = absl::StrCat("vllm:", alias.vllm);
  renamed.help = absl::StrCat("As ", family.name);
  for (ClientMetric& metric : renamed.metric) {
    for (ClientMetric::Label& label : metric.label)
      if (label.name == "finish_reason") label.name = "finished_reason";
    metric.label.push_back({"model_name", model_name});
  }
  return renamed;
}

MetricFamily UsageFamily(const EngineStats& stats, const std::string& model_name) {
  MetricFamily family;
  family.name = "vllm:kv_cache_usage_perc";
  family.help = "Share of slots or pages in use, 0 to 1";
  family.type = prometheus::MetricType::Gauge;
  ClientMetric metric;
  metric.gauge.value = ShareInUse(stats);
  metric.label.push_back({"model_name", model_name});
  family.metric.push_back(std::move(metric));
  return family;
}

}  // namespace

void AddVllmAliases(const EngineStats& stats, const std::string& model_name,
                    std::vector<MetricFamily>* families) {
  std::vector<MetricFamily> added;
  for (const Alias& alias : kAliases) {
    for (const MetricFamily& family : *families) {
      if (family.name == absl::StrCat("mambad_", alias.ours))
        added.push_back(Renamed(family, alias, model_name));
    }
  }
  added.push_back(UsageFamily(stats, model_name));
  for (MetricFamily& family : added) families->push_back(std::move(family));
}

}  // namespace mambad::server
