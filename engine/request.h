// What goes into the engine and what comes out. Plain data; moved, never shared.

#ifndef MAMBAD_ENGINE_REQUEST_H_
#define MAMBAD_ENGINE_REQUEST_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/options.h"
#include "engine/session.h"

namespace mambad {

using RequestId = uint64_t;

inline constexpr int kHighestPriority = 100;

struct Request {
  std::vector<TokenId> prompt;  // not empty; ids in [0, vocabulary)
  SamplingParams sampling;
  StoppingParams stopping;
  OutputParams output;
  SpeculationParams speculation;
  // Whose it is: principals take turns (engine/request_queue.h). Any name; empty: nobody's in
  // particular.
  std::string principal;
  // Higher starts earlier, and what waits rises: a point is worth kPriorityWorth of waiting.
  // [-kHighestPriority, kHighestPriority].
  int priority = 0;
  // Both are steady time (engine/steady_time.h). arrival: when its caller came, what its waits are
  // counted from and its place in the queue by; absent: when it is submitted.
  absl::Time deadline = absl::InfiniteFuture();
  std::optional<absl::Time> arrival;
  // What output.echo puts before the answer; absent: the prompt is decoded when it is admitted.
  std::optional<std::string> echo_text;
  // Score instead of generate: no token is sampled; log-probabilities of prompt[score_from ..) are
  // returned as prompt_logprobs of one final event. score_from >= 1.
  std::optional<int64_t> score_from;
  // States of earlier prompts of the principal's that begin alike may be gone on from.
  bool prefix_cache = true;
  // Goes on with this session, with whose text `prompt` begins (GoOnWith): what models have read of
  // it is not read again. One sample, no log-probabilities of the prompt. Null: none.
  std::shared_ptr<SessionLease> session;
  // What the request makes of the session, however it ends once it has begun, takes its place; a
  // new one is there when the answer has ended by itself, or the engine is draining. Else the
  // session stays as it was.
  bool keep_session = false;

  // Tokens of the session's text that the prompt begins with: all, or those before a checkpoint.
  int64_t session_position = 0;

  // Puts the session's text before the prompt: all of it, or that before a checkpoint.
  void GoOnWith(std::shared_ptr<SessionLease> lease) {
    const auto position = static_cast<int64_t>(lease->tokens().size());
    GoOnWith(std::move(lease), position);
  }
  void GoOnWith(std::shared_ptr<SessionLease> lease, int64_t position) {
    const std::vector<TokenId>& text = lease->tokens();
    prompt.insert(prompt.begin(), text.begin(), text.begin() + position);
    session = std::move(lease);
    session_position = position;
  }
};

struct TokenLogprob {
  TokenId id = 0;
  float logprob = 0;  // natural log, under the model's distribution before sampling
                      // parameters, normalised over the real vocabulary
  std::vector<std::pair<TokenId, float>> alternatives;  // most likely first
};

enum class FinishReason { kNone, kEos, kStop, kLength, kCancelled, kDeadline, kError };

struct SpeculationReport {
  int64_t rounds = 0;                          // verify rounds with at least one draft
  int64_t drafted = 0, accepted = 0;           // tokens
  std::vector<int64_t> accepted_per_position;  // [i]: rounds whose draft i was accepted
  std::vector<int64_t> tokens_per_round;       // [t]: rounds (plain ones too) that kept t tokens
  // This sequence's share of its batches' time, by rows: of the draft model's and of the target's.
  int64_t draft_microseconds = 0, verify_microseconds = 0;
};

struct RequestStats {
  int64_t prompt_tokens = 0, cached_tokens = 0, completion_tokens = 0;
  int64_t queue_microseconds = 0, prefill_microseconds = 0,
          first_token_microseconds = 0;                     // since Submit, except
  int64_t decode_microseconds = 0, total_microseconds = 0;  // prefill and decode: spans
  SpeculationReport speculation;
};

// One step's news of one sample of one request. Text is valid UTF-8; concatenated over events it is
// the whole answer. Every sample ends with exactly one event whose `finish` is not kNone.
struct TokenEvent {
  RequestId request = 0;
  int index = 0;  // which of the `samples`
  std::string text;
  std::vector<TokenId> tokens;
  std::vector<TokenLogprob> logprobs;         // one a token, when asked for
  std::vector<TokenLogprob> prompt_logprobs;  // once, in the first event of index 0; entry i is
                                              // prompt[i + 1] (scoring: prompt[score_from + i])
  FinishReason finish = FinishReason::kNone;
  std::string matched_stop;                // stop string, when one ended the answer
  std::optional<TokenId> matched_stop_id;  // eos or stop id, likewise
  absl::Status error;                      // why, when finish is kError
  std::optional<RequestStats> stats;       // with the final event
  std::optional<SessionFacts> session;     // likewise, when a session is kept
};

// Where a request's events go, one after another, on a thread of the engine's that tells readers
// (engine/delivery.h): must not block, as others' news wait. The event is the engine's own and
// reused after the call (a step allocates nothing): copy what is to be kept. Returning false means
// that the reader has fallen behind: the request pauses (its slots stay) until Engine::Resume. The
// events of a step or two may come all the same: false once for each pause.
class EventSink {
 public:
  virtual ~EventSink() = default;
  virtual bool OnEvent(const TokenEvent& event) = 0;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_REQUEST_H_
