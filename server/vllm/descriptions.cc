#include "server/vllm/descriptions.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <system_error>

#include "absl/strings/strip.h"
#include "server/version.h"

namespace mambad::server {

namespace vllm = ::vllm::grpc::engine;

namespace {

double Share(int64_t used, int64_t total) {
  return total > 0 ? static_cast<double>(used) / static_cast<double>(total) : 0;
}

std::string AbsolutePath(const std::string& path) {
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  return error ? path : absolute.lexically_normal().string();
}

std::string SamplingJson(const SamplingParams& sampling) {
  const nlohmann::json json = {{"temperature", sampling.temperature},
                               {"top_p", sampling.top_p},
                               {"top_k", sampling.top_k},
                               {"min_p", sampling.min_p},
                               {"repetition_penalty", sampling.repetition_penalty}};
  return json.dump();
}

}  // namespace

std::string ServedName(const std::string& name, const ModelInfo& model) {
  if (!name.empty()) return name;
  const std::filesystem::path path(AbsolutePath(model.path));
  const std::string last = (path.has_filename() ? path : path.parent_path()).filename().string();
  return std::string(absl::StripSuffix(last, ".gguf"));
}

double ShareInUse(const EngineStats& stats) {
  return std::max(Share(stats.pages_used, stats.pages_total),
                  Share(stats.slots_used, stats.slots_total));
}

vllm::GetModelInfoResponse DescribeForVllm(const Engine& engine, const v1::Limits& limits,
                                           const std::string& served_name) {
  const ModelInfo& model = engine.model();
  vllm::GetModelInfoResponse response;
  response.set_model_path(AbsolutePath(model.path));
  response.set_is_generation(true);
  response.set_max_context_length(static_cast<uint32_t>(limits.context()));
  response.set_vocab_size(static_cast<uint32_t>(model.vocabulary));
  response.set_served_model_name(served_name);
  if (engine.tokenizer() != nullptr) response.set_tokenizer_path(response.model_path());
  response.set_model_type(model.family);
  response.mutable_eos_token_ids()->Add(model.eos_ids.begin(), model.eos_ids.end());
  if (engine.tokenizer() != nullptr)
    response.set_bos_token_id(engine.tokenizer()->bos_id().value_or(0));
  response.set_max_req_input_len(static_cast<int32_t>(limits.prompt_tokens()));
  response.set_default_sampling_params_json(SamplingJson(engine.default_sampling()));
  return response;
}

vllm::GetServerInfoResponse DescribeServerForVllm(const Engine& engine, const TextLoad& text,
                                                  bool draining, absl::Duration uptime) {
  const EngineStats stats = engine.Stats();
  vllm::GetServerInfoResponse response;
  response.set_active_requests(static_cast<uint32_t>(stats.running + stats.waiting + text.waiting));
  response.set_is_paused(draining);
  response.set_uptime_seconds(absl::ToDoubleSeconds(uptime));
  response.set_server_type("mambad");
  response.set_data_parallel_size(1);
  response.set_model_dtype(engine.model().weight_type);
  response.set_max_num_seqs(engine.options().max_sequences);
  return response;
}

vllm::GetLoadsResponse DescribeLoadsForVllm(const vllm::GetLoadsRequest& request,
                                            const Engine& engine, const TextLoad& text,
                                            absl::Time now) {
  vllm::GetLoadsResponse response;
  response.set_timestamp(absl::FormatTime(absl::RFC3339_full, now, absl::UTCTimeZone()));
  response.set_version(kVersion);
  response.set_dp_rank_count(1);
  if (request.dp_rank() != 0) return response;
  const EngineStats stats = engine.Stats();
  vllm::SchedulerLoad& load = *response.add_loads();
  load.set_num_running_reqs(stats.running);
  load.set_num_waiting_reqs(stats.waiting + text.waiting);
  load.set_num_total_reqs(stats.running + stats.waiting + text.waiting);
  load.set_token_usage(ShareInUse(stats));
  load.set_gen_throughput(stats.generation_tokens_per_second);
  load.set_cache_hit_rate(
      Share(stats.cached_prompt_tokens, stats.cached_prompt_tokens + stats.prompt_tokens));
  load.set_utilization(Share(stats.slots_used, stats.slots_total));
  load.set_max_running_requests(stats.slots_total);
  load.set_num_waiting_uncached_tokens(static_cast<int32_t>(
      std::min<int64_t>(stats.waiting_tokens, std::numeric_limits<int32_t>::max())));
  return response;
}

}  // namespace mambad::server
