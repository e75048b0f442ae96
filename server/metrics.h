// Prometheus families, all with the prefix `mambad_`. Counters of the engine are read at scrape
// time; histograms are fed by calls and by the engine's steps.

#ifndef MAMBAD_SERVER_METRICS_H_
#define MAMBAD_SERVER_METRICS_H_

#include <prometheus/collectable.h>
#include <prometheus/family.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <atomic>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/engine.h"

namespace mambad::server {

// Thread-safe. Recording never blocks for longer than another recording or a scrape takes to read a
// histogram.
class Metrics : public prometheus::Collectable, public StepObserver {
 public:
  explicit Metrics(bool vllm_names);

  // The engine whose counters are told; nullptr: none. It must live until another is set.
  void SetEngine(const Engine* engine) { engine_.store(engine); }

  void OnStep(const StepReport& report) override;  // engine thread

  // One message of a stream, `since_last` after the one before of the same sample.
  void RecordMessage(absl::Duration since_last);
  void RecordFirstToken(absl::Duration since_arrival);
  // The end of one sample.
  void RecordSample(FinishReason reason, const RequestStats& stats);
  // The end of a generating call, answered (`status` OK) or not.
  void RecordCall(const absl::Status& status, absl::Duration duration);

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  prometheus::Registry registry_;  // owns everything below
  prometheus::Family<prometheus::Counter>& successes_;
  prometheus::Family<prometheus::Counter>& failures_;
  prometheus::Histogram& first_token_;
  prometheus::Histogram& between_messages_;
  prometheus::Histogram& per_token_;
  prometheus::Histogram& end_to_end_;
  prometheus::Histogram& queue_;
  prometheus::Histogram& prefill_;
  prometheus::Histogram& step_batch_size_;
  prometheus::Histogram& draft_step_;
  prometheus::Histogram& verify_step_;
  prometheus::Histogram& whole_step_;
  std::atomic<const Engine*> engine_{nullptr};
  std::atomic<int> draft_length_{0};
  const bool vllm_names_;
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_METRICS_H_
