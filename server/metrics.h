// Prometheus families: the daemon's with the prefix `mambad_`, the process's with `process_`.
// Counters of the engine are read at scrape time; histograms are fed by calls and by the engine's
// steps.

#ifndef MAMBAD_SERVER_METRICS_H_
#define MAMBAD_SERVER_METRICS_H_

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "engine/mutex.h"
#include "server/metric_families.h"
#include "server/text_worker.h"

namespace mambad::server {

// Thread-safe. Recording never blocks for longer than another recording or a scrape takes to read a
// histogram.
class Metrics : public StepObserver {
 public:
  // `vllm_names`: all that routers know is told under their names too, of a model called
  // `model_name` (ServedName).
  Metrics(bool vllm_names, std::string model_name);

  // The engine and the text worker whose counters are told; nullptr: none. Once this returns, no
  // scrape uses those before.
  void SetEngine(const Engine* engine, const TextWorker* text_worker);
  // What others count, asked at every scrape. Before the first one.
  void AddSource(std::function<void(MetricFamilies*)> source);

  // Engine thread.
  void OnStep(const StepReport& report) override;
  void OnSessionRestored(const SessionRestore& restore) override;

  // One message of a stream, `since_last` after the one before of the same sample.
  void RecordMessage(absl::Duration since_last);
  void RecordFirstToken(absl::Duration since_arrival);
  // Text work began, `waited` after it was handed over.
  void RecordTextQueue(absl::Duration waited);
  // The end of one sample.
  void RecordSample(FinishReason reason, const RequestStats& stats);
  // The end of a call, answered (`status` OK) or not. Its time counts as a latency only when the
  // engine has taken it up: refusals are quick, and would make the latencies look good.
  void RecordCall(absl::string_view method, const absl::Status& status, absl::Duration duration,
                  bool taken_up);

  // All families in Prometheus' text format.
  std::string Scrape() const;

 private:
  prometheus::Registry registry_;  // owns everything below
  prometheus::Family<prometheus::Counter>& successes_;
  prometheus::Family<prometheus::Counter>& failures_;
  prometheus::Family<prometheus::Counter>& calls_;
  prometheus::Histogram& first_token_;
  prometheus::Histogram& between_messages_;
  prometheus::Histogram& per_token_;
  prometheus::Histogram& end_to_end_;
  prometheus::Histogram& queue_;
  prometheus::Histogram& prefill_;
  prometheus::Histogram& text_queue_;
  prometheus::Histogram& step_batch_size_;
  prometheus::Histogram& draft_step_;
  prometheus::Histogram& target_step_;
  prometheus::Histogram& whole_step_;
  prometheus::Histogram& restore_from_host_;
  prometheus::Histogram& restore_from_disk_;
  std::vector<std::function<void(MetricFamilies*)>> sources_;
  mutable Mutex mutex_;
  const Engine* engine_ ABSL_GUARDED_BY(mutex_) = nullptr;
  const TextWorker* text_worker_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::atomic<int> draft_length_{0};
  const bool vllm_names_;
  const std::string model_name_;
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_METRICS_H_
