// Writes answers: what a round has kept becomes events with tokens, text, log-probabilities, a
// reason to finish and the last statistics; they wait here until the sinks are told. What an answer
// held while it ran is given back by others, before that. Engine thread; writing a round allocates
// nothing once warm.

#ifndef MAMBAD_ENGINE_ANSWER_WRITER_H_
#define MAMBAD_ENGINE_ANSWER_WRITER_H_

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/time/time.h"
#include "engine/active_request.h"
#include "engine/engine_facts.h"
#include "engine/event_list.h"
#include "engine/request.h"
#include "engine/speculation/speculative_decoder.h"
#include "engine/speculation/step_plan.h"

namespace mambad {

// What the final event of a request says that never ran.
RequestStats StatsOfUnstarted(int64_t prompt_tokens, absl::Duration waited);

class AnswerWriter {
 public:
  // Both outlive it. `decoder`: where the log-probabilities of a round are read.
  AnswerWriter(const EngineFacts& facts, const SpeculativeDecoder& decoder);

  // Gives an answer that begins its detokenizer, and room for its statistics.
  void Begin(Answer& answer) const;

  // What of a round is written.
  struct Written {
    int64_t kept = 0;  // tokens that stay after a stop string's cut
    FinishReason finish = FinishReason::kNone;
  };
  // Appends what a finished round kept to its sequence, and to the events. With a reason to finish,
  // the event is the answer's last.
  Written Write(const StepEntry& entry, absl::Time now);
  // The last event of an answer that ends without new tokens.
  void End(Answer& answer, FinishReason reason, absl::Time now);
  // The last events, one a sample, of a request that has no answers yet.
  void EndUnstarted(ActiveRequest& active, FinishReason reason, absl::Time now);

  // Tells the sinks all of it, in order, and `pause` of those that have had enough.
  void Tell(absl::FunctionRef<void(RequestId)> pause) { events_.Tell(pause); }

 private:
  int64_t ReadText(const StepEntry& entry, TokenEvent& event) const;
  void AddLogprobs(const StepEntry& entry, int64_t kept, TokenEvent& event);
  void CollectPromptLogprobs(const StepEntry& entry) const;
  void MakeLast(Answer& answer, FinishReason reason, absl::Time now, TokenEvent& event) const;
  FinishReason ReasonToFinish(const StepEntry& entry, int64_t kept, TokenEvent& event) const;

  const EngineFacts& facts_;
  const SpeculativeDecoder& decoder_;
  EventList events_;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_ANSWER_WRITER_H_
