// START HERE. The thread-safe shell around the engine: requests go in from any thread, events come
// out on its delivery threads; the one engine thread alone touches sequences, slots and the device.
//
//   auto engine = Engine::Open(options);          // loads, checks itself, starts the engine thread
//   auto id = (*engine)->Submit(std::move(request), sink);  // events, until each sample has ended
//   (*engine)->Cancel(*id);                       // its samples end with kCancelled, a step later

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
#include "engine/engine_stats.h"
#include "engine/memory_plan.h"
#include "engine/model_info.h"
#include "engine/options.h"
#include "engine/request.h"
#include "engine/session.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"

namespace mambad {

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

  // Texts that outlive calls; null: they are not served here.
  virtual Sessions* sessions() const { return nullptr; }

  virtual EngineStats Stats() const = 0;  // any thread
  // Any thread. How long the step that is under way has lasted so far; zero: the engine waits for
  // something to do.
  virtual absl::Duration CurrentStep() const = 0;
  // How long a new request would wait before its first step: what runs and what waits, at the pace
  // that was measured (engine/wait_forecast.h). To 10 min.
  virtual absl::Duration EstimatedWait() const = 0;
  // "CPU, AVX-512, 2 threads"
  virtual const std::string& device() const = 0;
  // What the device says of its memory now. Any thread; it is asked each time.
  virtual MemoryUse DeviceMemory() const = 0;
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
