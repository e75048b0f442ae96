#include "server/metrics.h"

#include <prometheus/text_serializer.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/status_details.h"
#include "server/version.h"
#include "server/vllm/descriptions.h"
#include "server/vllm/metric_aliases.h"

namespace mambad::server {
namespace {

using prometheus::Histogram;
using prometheus::MetricFamily;
using Buckets = Histogram::BucketBoundaries;

// Seconds. Between them no step is wider than 2.5 times, from what a small model needs to what a
// long queue makes of it.
const Buckets kShortTimes = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
                             0.05,   0.1,     0.25,   0.5,   1,      2.5,   10};
const Buckets kLongTimes = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
                            1,     2.5,    5,     10,   25,    60,   150, 600};
const Buckets kBatchSizes = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024};

Histogram& AddHistogram(prometheus::Registry& registry, const char* name, const char* help,
                        const Buckets& buckets) {
  return prometheus::BuildHistogram()
      .Name(absl::StrCat("mambad_", name))
      .Help(help)
      .Register(registry)
      .Add({}, buckets);
}

Histogram& AddStepHistogram(prometheus::Registry& registry, const char* phase) {
  return prometheus::BuildHistogram()
      .Name("mambad_step_seconds")
      .Help(
          "Time of one engine step: of the draft model and of the target model (prompts and "
          "answers) on the device, total")
      .Register(registry)
      .Add({{"phase", phase}}, kShortTimes);
}

Histogram& AddRestoreHistogram(prometheus::Registry& registry, const char* tier) {
  return prometheus::BuildHistogram()
      .Name("mambad_session_restore_seconds")
      .Help("From asking for a session's state to having it in a slot, by where it lay")
      .Register(registry)
      .Add({{"tier", tier}}, kShortTimes);
}

const char* ReasonLabel(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEos:
      return "eos";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    default:
      return nullptr;
  }
}

void AddEngineFamilies(const Engine& engine, const TextLoad& text, int draft_length,
                       MetricFamilies* list) {
  const EngineStats stats = engine.Stats();
  const ModelInfo& model = engine.model();
  list->Gauge("mambad_requests_running", "Requests that hold slots", stats.running);
  list->Gauge("mambad_requests_waiting", "Requests that wait: to be tokenized, or for slots",
              stats.waiting + text.waiting);
  list->Gauge("mambad_text_requests_waiting", "Calls with text that wait to be tokenized",
              text.waiting);
  list->Gauge("mambad_text_waiting_bytes", "Bytes of the calls with text that wait to be tokenized",
              static_cast<double>(text.waiting_bytes));
  list->Counter("mambad_prompt_tokens_total", "Prompt tokens taken", stats.prompt_tokens);
  list->Counter("mambad_cached_prompt_tokens_total", "Prompt tokens whose state was at hand",
                stats.cached_prompt_tokens);
  list->Counter("mambad_generation_tokens_total", "Tokens generated", stats.generation_tokens);
  list->Counter("mambad_spec_decode_num_drafts_total", "Verify rounds with a draft",
                stats.draft_rounds);
  list->Counter("mambad_spec_decode_num_draft_tokens_total", "Tokens drafted", stats.draft_tokens);
  list->Counter("mambad_spec_decode_num_accepted_tokens_total", "Drafted tokens accepted",
                stats.accepted_tokens);
  for (size_t i = 0; i < stats.accepted_per_position.size(); ++i) {
    list->Counter("mambad_spec_decode_num_accepted_tokens_per_pos_total",
                  "Rounds whose draft at this position was accepted",
                  stats.accepted_per_position[i], {{"position", absl::StrCat(i)}});
  }
  list->Gauge("mambad_spec_decode_draft_length", "Longest draft of the latest step, in tokens",
              draft_length);
  list->Counter("mambad_draft_seconds_total", "Draft model's time", stats.draft_seconds);
  list->Counter("mambad_prefill_seconds_total",
                "Target model's time that went to prompts, by their rows in each step",
                stats.prefill_seconds);
  list->Counter("mambad_verify_seconds_total",
                "Target model's time that went to answers (tokens, and drafts to be verified), by "
                "their rows in each step",
                stats.verify_seconds);
  list->Gauge("mambad_slots_used", "State slots in use", stats.slots_used);
  list->Gauge("mambad_slots", "State slots, used or not", stats.slots_total);
  list->Gauge("mambad_generation_tokens_per_second",
              "Tokens generated a second, over about the last 10 s",
              stats.generation_tokens_per_second);
  list->Gauge("mambad_acceptance_rate", "Accepted of drafted tokens over about the last 10 s",
              stats.acceptance_rate);
  list->Gauge("mambad_speculation_enabled", "1: drafts are made",
              stats.speculation_enabled ? 1 : 0);
  list->Counter("mambad_self_check_failures_total",
                "Start-up self-checks in which speculation changed the tokens",
                stats.self_check_failures);
  list->Gauge("mambad_model_info", "The served model", 1,
              {{"model", model.path},
               {"family", model.family},
               {"weight_type", model.weight_type},
               {"fingerprint", model.fingerprint}});
}

// What computes, and its memory as it says itself and as it was planned.
void AddDeviceFamilies(const Engine& engine, MetricFamilies* list) {
  list->Gauge("mambad_device_info", "What computes", 1, {{"device", engine.device()}});
  const MemoryUse memory = engine.DeviceMemory();
  if (memory.total >= 0 && memory.free >= 0) {
    const auto add = [list](const char* state, int64_t bytes) {
      list->Gauge("mambad_device_memory_bytes",
                  "The device's memory by state, which adds up to all that it has",
                  static_cast<double>(bytes), {{"state", state}});
    };
    add("used", std::max<int64_t>(memory.total - memory.free, 0));
    add("free", memory.free);
  }
  const MemoryPlan& plan = engine.memory();
  for (const auto& [part, bytes] :
       {std::pair("weights", plan.weights), std::pair("states", plan.states),
        std::pair("keys_and_values", plan.keys_and_values), std::pair("tables", plan.tables),
        std::pair("workspace", plan.workspace)}) {
    list->Gauge("mambad_planned_memory_bytes",
                "Device memory as it was planned at the start, by its use",
                static_cast<double>(bytes), {{"part", part}});
  }
  const EngineStats stats = engine.Stats();
  list->Gauge("mambad_recorded_rounds",
              "Decode rounds that the device keeps recorded, to start them as a whole",
              stats.recorded_rounds);
  list->Counter("mambad_round_recordings_total", "Recordings of decode rounds made",
                static_cast<double>(stats.round_recordings));
}

// What is kept between calls: sessions, and states at the beginnings of prompts.
void AddKeptFamilies(const Engine& engine, MetricFamilies* list) {
  const EngineStats stats = engine.Stats();
  const SessionCounters& counters = stats.sessions;
  const SessionTotals totals =
      engine.sessions() == nullptr ? SessionTotals() : engine.sessions()->Totals();
  for (const auto& [tier, bytes] :
       {std::pair("slot", stats.state_bytes), std::pair("host", totals.host_bytes),
        std::pair("disk", totals.file_bytes), std::pair("prefix", counters.prefix_bytes)}) {
    list->Gauge("mambad_state_bytes",
                "State by where it lies: in slots and pages in use, of sessions in host memory and "
                "in files, of beginnings of prompts",
                static_cast<double>(bytes), {{"tier", tier}});
  }
  for (const auto& [tier, name] :
       {std::pair(SessionTier::kText, "text"), std::pair(SessionTier::kSlot, "slot"),
        std::pair(SessionTier::kHost, "host"), std::pair(SessionTier::kDisk, "disk")}) {
    list->Gauge("mambad_sessions", "Sessions by where the state lies that they would go on with",
                static_cast<double>(totals.sessions[static_cast<size_t>(tier)]), {{"tier", name}});
  }
  const auto count = [list](const char* name, const char* help, int64_t value) {
    list->Counter(name, help, static_cast<double>(value));
  };
  count("mambad_session_parks_total", "States of sessions that left their slots", counters.parks);
  count("mambad_session_restores_total", "States of sessions that came back into slots",
        counters.restores);
  count("mambad_session_evictions_total",
        "States of sessions given up for want of host memory: their texts are read again",
        counters.evictions);
  count("mambad_snapshot_bytes_total", "Bytes of sessions' states copied out of slots",
        counters.snapshot_bytes);
  count("mambad_prefix_cache_lookups_total",
        "Prompts that might go on from the beginning of another", counters.prefix_lookups);
  count("mambad_prefix_cache_hits_total", "Prompts that went on from the beginning of another",
        counters.prefix_hits);
  count("mambad_prefix_cache_tokens_total",
        "Tokens of prompts that were not read again: the prefix cache had them",
        counters.prefix_tokens);
}

}  // namespace

Metrics::Metrics(bool vllm_names, std::string model_name)
    : successes_(prometheus::BuildCounter()
                     .Name("mambad_request_success_total")
                     .Help("Samples that ended well, by reason")
                     .Register(registry_)),
      failures_(prometheus::BuildCounter()
                    .Name("mambad_request_failure_total")
                    .Help("Calls that ended otherwise, by gRPC code")
                    .Register(registry_)),
      calls_(prometheus::BuildCounter()
                 .Name("mambad_grpc_calls_total")
                 .Help("Calls of our services that ended, by method and gRPC code")
                 .Register(registry_)),
      first_token_(AddHistogram(registry_, "time_to_first_token_seconds",
                                "From arrival to the first token", kLongTimes)),
      between_messages_(AddHistogram(registry_, "inter_token_latency_seconds",
                                     "Between two messages of a sample", kShortTimes)),
      per_token_(AddHistogram(registry_, "time_per_output_token_seconds",
                              "Mean time of a token after the first, one value a sample",
                              kShortTimes)),
      end_to_end_(AddHistogram(registry_, "e2e_request_latency_seconds",
                               "From arrival to the end, of calls that "
                               "the engine has taken up",
                               kLongTimes)),
      queue_(AddHistogram(registry_, "request_queue_time_seconds", "From arrival to the first step",
                          kLongTimes)),
      prefill_(AddHistogram(registry_, "request_prefill_time_seconds", "Reading the prompt",
                            kLongTimes)),
      text_queue_(AddHistogram(registry_, "text_queue_time_seconds",
                               "From arrival of a text to its tokenizing", kLongTimes)),
      step_batch_size_(
          AddHistogram(registry_, "step_batch_size", "Sequences in one engine step", kBatchSizes)),
      draft_step_(AddStepHistogram(registry_, "draft")),
      target_step_(AddStepHistogram(registry_, "target")),
      whole_step_(AddStepHistogram(registry_, "total")),
      restore_from_host_(AddRestoreHistogram(registry_, "host")),
      restore_from_disk_(AddRestoreHistogram(registry_, "disk")),
      vllm_names_(vllm_names),
      model_name_(std::move(model_name)) {}

void Metrics::OnStep(const StepReport& report) {
  step_batch_size_.Observe(report.sequences);
  if (report.draft_length > 0) draft_step_.Observe(report.draft_seconds);
  target_step_.Observe(report.verify_seconds);
  whole_step_.Observe(report.total_seconds);
  draft_length_.store(report.draft_length, std::memory_order_relaxed);
}

void Metrics::OnSessionRestored(const SessionRestore& restore) {
  (restore.from_file ? restore_from_disk_ : restore_from_host_).Observe(restore.seconds);
}

void Metrics::RecordMessage(absl::Duration since_last) {
  between_messages_.Observe(absl::ToDoubleSeconds(since_last));
}

void Metrics::RecordFirstToken(absl::Duration since_arrival) {
  first_token_.Observe(absl::ToDoubleSeconds(since_arrival));
}

void Metrics::RecordTextQueue(absl::Duration waited) {
  text_queue_.Observe(absl::ToDoubleSeconds(waited));
}

void Metrics::RecordSample(FinishReason reason, const RequestStats& stats) {
  const char* label = ReasonLabel(reason);
  if (label == nullptr) return;
  successes_.Add({{"finish_reason", label}}).Increment();
  queue_.Observe(static_cast<double>(stats.queue_microseconds) * 1e-6);
  prefill_.Observe(static_cast<double>(stats.prefill_microseconds) * 1e-6);
  if (stats.completion_tokens > 1) {
    per_token_.Observe(static_cast<double>(stats.decode_microseconds) * 1e-6 /
                       static_cast<double>(stats.completion_tokens - 1));
  }
}

void Metrics::RecordCall(absl::string_view method, const absl::Status& status,
                         absl::Duration duration, bool taken_up) {
  const std::string code(CodeName(status.code()));
  calls_.Add({{"method", std::string(method)}, {"code", code}}).Increment();
  if (!status.ok()) failures_.Add({{"code", code}}).Increment();
  if (taken_up) end_to_end_.Observe(absl::ToDoubleSeconds(duration));
}

void Metrics::SetEngine(const Engine* engine, const TextWorker* text_worker) {
  MutexLock lock(&mutex_);
  engine_ = engine;
  text_worker_ = text_worker;
}

void Metrics::AddSource(std::function<void(MetricFamilies*)> source) {
  sources_.push_back(std::move(source));
}

std::string Metrics::Scrape() const {
  MetricFamilies list;
  list.Gauge("mambad_build_info", "The running program", 1, {{"version", kVersion}});
  for (const auto& source : sources_) source(&list);
  EngineStats stats;
  std::string served;  // the model's name for clients; empty: none is served yet
  {
    MutexLock lock(&mutex_);
    if (engine_ != nullptr) {
      const TextLoad text = text_worker_ != nullptr ? text_worker_->Load() : TextLoad();
      AddEngineFamilies(*engine_, text, draft_length_.load(std::memory_order_relaxed), &list);
      AddKeptFamilies(*engine_, &list);
      AddDeviceFamilies(*engine_, &list);
      stats = engine_->Stats();
      served = ServedName(model_name_, engine_->model());
    }
  }
  std::vector<MetricFamily> families = registry_.Collect();
  for (MetricFamily& family : list.families()) families.push_back(std::move(family));
  if (vllm_names_ && !served.empty()) AddVllmAliases(stats, served, &families);
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace mambad::server
