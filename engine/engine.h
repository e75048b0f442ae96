// START HERE. The thread-safe shell around the engine: requests go in from any thread, events come
// out on the one engine thread, which alone touches sequences, slots and the device.
//
//   auto engine = Engine::Open(options);          // loads, checks itself, starts the engine thread
//   auto id = (*engine)->Submit(std::move(request), sink);  // events until a `finish` for each
//   sample
//   (*engine)->Cancel(*id);                       // its samples end with kCancelled at the next
//   step

#ifndef MAMBAD_ENGINE_ENGINE_H_
#define MAMBAD_ENGINE_ENGINE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/memory_plan.h"
#include "engine/options.h"
#include "engine/request.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"

namespace mambad {

// A loaded model, as its callers need to know it. Immutable.
struct ModelInfo {
  std::string family;  // "llama", "mamba", "mamba2", "hybrid"
  std::string path;
  std::string weight_type;  // "float32", "bfloat16"
  std::string fingerprint;  // of configuration and weights: engine/checkpoint/model_fingerprint.h
  // By what rules it is computed (kernels::Backend::Numerics). With equal fingerprints and numerics
  // equal requests have equal answers, on every machine.
  std::string numerics;
  int64_t parameters = 0;
  int64_t weight_bytes = 0;
  int layers = 0, attention_layers = 0, width = 0, vocabulary = 0;
  int64_t context = 0;                   // tokens of prompt + answer that this engine serves
  int64_t state_bytes_per_sequence = 0;  // recurrent state, without keys and values
  // Every end of text that config.json, generation_config.json, the tokenizer or a GGUF file names.
  // An answer ends at each of them, unless it ignores them all.
  std::vector<TokenId> eos_ids;
  int most_stop_token_ids = 0;  // that a request may add to them
};

// A snapshot of counters and gauges; cheap, from any thread. Counters never fall.
struct EngineStats {
  int running = 0, waiting = 0, slots_used = 0, slots_total = 0;
  int64_t pages_used = 0, pages_total = 0;
  int64_t waiting_tokens = 0;
  int64_t state_bytes = 0;  // of slots and pages in use
  // prompt_tokens: read by the target, once a request, however many samples or readings it takes.
  int64_t prompt_tokens = 0, cached_prompt_tokens = 0, generation_tokens = 0;
  int64_t draft_rounds = 0, draft_tokens = 0, accepted_tokens = 0;
  std::vector<int64_t> accepted_per_position;
  // draft_seconds: the draft model's. The target's time goes to prefill and verify (decoding, plain
  // or not) by their rows in each step.
  double draft_seconds = 0, verify_seconds = 0, prefill_seconds = 0;
  int64_t preemptions = 0;                               // requests interrupted for want of pages
  int64_t steps = 0, step_rows = 0, step_sequences = 0;  // sums over steps
  double step_seconds = 0;
  // Over about the last 10 s before the call; 0 when nothing ran in them.
  double generation_tokens_per_second = 0;
  double acceptance_rate = 0;  // accepted / drafted; 0 without drafts
  bool speculation_enabled = false;
  int64_t self_check_failures = 0;
};

// Called on the engine thread after every step; must not block. For histograms.
struct StepReport {
  int sequences = 0, rows = 0, prefill_rows = 0,
      draft_length = 0;  // draft_length: longest of the step
  double draft_seconds = 0, verify_seconds = 0, total_seconds = 0;
};
class StepObserver {
 public:
  virtual ~StepObserver() = default;
  virtual void OnStep(const StepReport& report) = 0;
};

// The device is lost, in words: nothing that runs will come to an end. On the thread that opens the
// engine, or on the engine thread. Ends the process; should it return, the device's backend does.
using DeviceLostHandler = std::function<void(std::string_view words)>;

class Engine {
 public:
  // Opens the checkpoint(s), loads weights, decodes fixed prompts plain and speculatively (when
  // they differ, speculation is switched off, and self_check_failures and self_check say so),
  // starts the engine thread, which alone calls `observer`. Errors: what is wrong with which file
  // or option.
  static absl::StatusOr<std::unique_ptr<Engine>> Open(const EngineOptions& options,
                                                      StepObserver* observer = nullptr,
                                                      DeviceLostHandler lost = nullptr);

  // What Open refuses without reading weights: options, the heads of model files, tokenizer,
  // memory. OK: Open will only fail for what changes until then; with the warnings it will have.
  static absl::StatusOr<std::vector<std::string>> Check(const EngineOptions& options);

  // Cancels what runs, tells it, joins the engine's threads. Not from a sink or the observer: dies
  // with words.
  virtual ~Engine() = default;

  // Any thread. INVALID_ARGUMENT "field: what was given, what is allowed", where the field is a
  // path as in the wire contract (sampling.top_p, output.n; `prompt` for the tokens of any input);
  // RESOURCE_EXHAUSTED when a queue limit is reached, with RetryDelayOf(status) until the queue is
  // likely to have room (engine/retry_delay.h), 10 ms to 10 min; UNAVAILABLE while draining. After
  // OK, `sink` gets events until every sample has finished; it is kept alive until then.
  virtual absl::StatusOr<RequestId> Submit(Request request, std::shared_ptr<EventSink> sink) = 0;
  // Any thread, idempotent, unknown ids are ignored. The samples end with kCancelled.
  virtual void Cancel(RequestId id) = 0;
  // Any thread. The reader has caught up: once for each pause that its sink asked for.
  virtual void Resume(RequestId id) = 0;
  // Any thread. Refuses new requests from now on; running ones go on. Returns when none is left or
  // at `deadline` (steady time), after cancelling what then remains; all events have been told by
  // then. Not from a sink or the observer, which the engine's threads call: it would wait for
  // itself, so it dies with words instead.
  virtual void Drain(absl::Time deadline) = 0;

  virtual EngineStats Stats() const = 0;  // any thread
  // How long a new request would wait before its first step: what runs and what waits, at the pace
  // that was measured (engine/wait_forecast.h). To 10 min.
  virtual absl::Duration EstimatedWait() const = 0;
  // "CPU, AVX-512, 2 threads"
  virtual const std::string& device() const = 0;
  // What was taken of the device's memory, and what was free before.
  virtual const MemoryPlan& memory() const = 0;
  // Lines for the operator's log, in the order they were found while opening: what of the model's
  // files or the options was left out, cut down or looks like a mistake, with file and way out.
  virtual const std::vector<std::string>& warnings() const = 0;
  // What the check at Open found: OK, or what differed.
  virtual absl::Status self_check() const { return absl::OkStatus(); }
  virtual const ModelInfo& model() const = 0;
  virtual const ModelInfo* draft_model() const = 0;  // nullptr: none
  virtual const EngineOptions& options() const = 0;  // as resolved at Open
  virtual const SamplingParams& default_sampling()
      const = 0;  // generation_config.json's, else greedy
  virtual const text::Tokenizer* tokenizer()
      const = 0;  // nullptr: the model has none (token ids only)
  virtual const text::ChatTemplate* chat_template() const = 0;  // nullptr: none
  virtual text::ChatTemplate::Variables chat_variables() const = 0;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_ENGINE_H_
