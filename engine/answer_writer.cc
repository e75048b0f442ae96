#include "engine/answer_writer.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/sessions/session_format.h"

namespace mambad {
namespace {

int64_t Microseconds(absl::Duration duration) { return absl::ToInt64Microseconds(duration); }

void FillLogprob(TokenId id, const LogprobView& view, int alternatives, TokenLogprob& out) {
  out.id = id;
  out.logprob = view.logprob;
  out.alternatives.clear();
  for (int i = 0; i < alternatives; ++i)
    out.alternatives.emplace_back(view.ids[i], view.logprobs[i]);
}

void AddPosition(std::vector<int64_t>& histogram, size_t at) {
  if (histogram.size() <= at) histogram.resize(at + 1);
  ++histogram[at];
}

void CountDrafts(const StepEntry& entry, int64_t kept) {
  SpeculationReport& report = entry.answer->stats.speculation;
  if (entry.draft_length > 0) {
    ++report.rounds;
    report.drafted += entry.draft_length;
    report.accepted += entry.accepted;
    for (int i = 0; i < entry.accepted; ++i) AddPosition(report.accepted_per_position, i);
  }
  AddPosition(report.tokens_per_round, kept);
}

}  // namespace

RequestStats StatsOfUnstarted(int64_t prompt_tokens, absl::Duration waited) {
  RequestStats stats;
  stats.prompt_tokens = prompt_tokens;
  stats.queue_microseconds = stats.total_microseconds = Microseconds(waited);
  return stats;
}

AnswerWriter::AnswerWriter(const EngineFacts& facts, const SpeculativeDecoder& decoder)
    : facts_(facts), decoder_(decoder) {
  events_.Reserve(facts.options.max_sequences);
}

void AnswerWriter::Begin(Answer& answer) const {
  answer.stats.prompt_tokens = answer.prompt_length;
  answer.stats.speculation.accepted_per_position.reserve(kMaxDraftLength);
  answer.stats.speculation.tokens_per_round.reserve(kMaxDraftLength + 2);
  if (facts_.tokenizer == nullptr) return;
  const StoppingParams& stopping = answer.request->request.stopping;
  text::Detokenizer::Options options;
  options.stop_strings = stopping.stop_strings;
  options.include_stop = stopping.include_stop;
  options.at_start_of_text = false;  // the answer goes on where the prompt ends
  absl::StatusOr<text::Detokenizer> detokenizer =
      text::Detokenizer::Create(facts_.tokenizer.get(), std::move(options));
  if (!detokenizer.ok()) return;  // Validate has seen to it
  answer.detokenizer = *std::move(detokenizer);
  answer.detokenizer->GoOnFrom(answer.sequence.tokens);
}

AnswerWriter::Written AnswerWriter::Write(const StepEntry& entry, absl::Time now) {
  Answer& answer = *entry.answer;
  ActiveRequest& active = *answer.request;
  Written written;
  if (entry.scored > 0) CollectPromptLogprobs(entry);
  if (active.scoring()) {
    if (answer.sequence.backlog() != 1) return written;
    written.finish = FinishReason::kLength;
    End(answer, written.finish, now);
    return written;
  }
  if (!entry.sampled) return written;

  TokenEvent& event = events_.Add(active, answer.index);
  const int64_t kept = written.kept = ReadText(entry, event);
  if (answer.generated() == 0) {
    answer.stats.prefill_microseconds = Microseconds(now - active.admitted);
    answer.stats.first_token_microseconds = Microseconds(now - active.submitted);
  }
  answer.sequence.Append(absl::MakeConstSpan(entry.tokens, kept));
  if (kept < entry.kept) answer.sequence.Trim();
  event.tokens.assign(entry.tokens, entry.tokens + kept);
  AddLogprobs(entry, kept, event);
  CountDrafts(entry, kept);
  written.finish = ReasonToFinish(entry, kept, event);
  if (written.finish != FinishReason::kNone) MakeLast(answer, written.finish, now, event);
  return written;
}

// Makes the text of the kept tokens the event's; returns how many of them stay after a stop
// string's cut, which it then names.
int64_t AnswerWriter::ReadText(const StepEntry& entry, TokenEvent& event) const {
  Answer& answer = *entry.answer;
  const Request& request = answer.request->request;
  if (answer.generated() == 0 && request.echo_text.has_value()) event.text = *request.echo_text;
  if (!answer.detokenizer.has_value()) return entry.kept;
  // The token that ends the text is no part of it, unless asked for. Special ones are never shown,
  // but a stop string may spell them.
  const bool hide_last = entry.stopped && !request.stopping.include_stop &&
                         !facts_.tokenizer->IsSpecial(entry.tokens[entry.kept - 1]);
  const int visible = entry.kept - (hide_last ? 1 : 0);
  const text::Detokenizer::Output output =
      answer.detokenizer->Push(absl::MakeConstSpan(entry.tokens, visible));
  event.text.append(output.text);
  if (output.stop == text::Detokenizer::kNoStop) return entry.kept;
  event.matched_stop = request.stopping.stop_strings[output.stop];
  return static_cast<int64_t>(output.kept_tokens);
}

void AnswerWriter::AddLogprobs(const StepEntry& entry, int64_t kept, TokenEvent& event) {
  const int alternatives = entry.answer->request->request.output.logprobs;
  if (alternatives < 0) return;
  TokenLogprob* logprobs = events_.AddLogprobs(event, kept);
  for (int i = 0; i < kept; ++i)
    FillLogprob(entry.tokens[i], decoder_.KeptLogprob(entry, i), alternatives, logprobs[i]);
}

void AnswerWriter::CollectPromptLogprobs(const StepEntry& entry) const {
  Answer& answer = *entry.answer;
  ActiveRequest& active = *answer.request;
  const int alternatives = std::max(0, active.request.output.prompt_logprobs);
  const int64_t first = entry.position + entry.score_begin;
  for (int i = 0; i < entry.scored; ++i) {
    TokenLogprob& logprob = active.prompt_logprobs.emplace_back();
    logprob.alternatives.reserve(alternatives);
    FillLogprob(answer.sequence.tokens[first + i + 1], decoder_.ScoredLogprob(entry, i),
                alternatives, logprob);
  }
  answer.scored_to = first + entry.scored;
}

// Of an answer whose kept tokens are in its sequence. Names the stop id that ended it.
FinishReason AnswerWriter::ReasonToFinish(const StepEntry& entry, int64_t kept,
                                          TokenEvent& event) const {
  const Answer& answer = *entry.answer;
  if (!event.matched_stop.empty()) return FinishReason::kStop;
  if (entry.stopped && kept == entry.kept) {
    const TokenId last = entry.tokens[kept - 1];
    event.matched_stop_id = last;
    const std::vector<TokenId>& eos = facts_.model.eos_ids;
    const bool ends_text = !answer.request->request.stopping.ignore_eos &&
                           std::find(eos.begin(), eos.end(), last) != eos.end();
    return ends_text ? FinishReason::kEos : FinishReason::kStop;
  }
  return answer.sequence.size() >= answer.token_limit ? FinishReason::kLength : FinishReason::kNone;
}

// Makes the event, which may hold the last tokens, the answer's last, with the rest of its text and
// its statistics.
void AnswerWriter::MakeLast(Answer& answer, FinishReason reason, absl::Time now,
                            TokenEvent& event) const {
  const ActiveRequest& active = *answer.request;
  if (answer.detokenizer.has_value() && event.matched_stop.empty())
    event.text.append(answer.detokenizer->Finish().text);
  event.finish = reason;
  RequestStats& stats = answer.stats;
  stats.completion_tokens = answer.generated();
  stats.queue_microseconds = Microseconds(active.admitted - active.submitted);
  stats.total_microseconds = Microseconds(now - active.submitted);
  stats.decode_microseconds =
      answer.generated() > 0 ? stats.total_microseconds - stats.first_token_microseconds : 0;
  event.stats = stats;
  if (!active.KeepsSession(reason)) return;
  answer.session_digest = SessionDigest(facts_.session_format->names, answer.sequence.tokens);
  event.session =
      SessionFacts{active.request.session->id(), answer.sequence.size(), answer.session_digest};
}

void AnswerWriter::End(Answer& answer, FinishReason reason, absl::Time now) {
  MakeLast(answer, reason, now, events_.Add(*answer.request, answer.index));
}

void AnswerWriter::EndUnstarted(ActiveRequest& active, FinishReason reason, absl::Time now) {
  const auto prompt = static_cast<int64_t>(active.request.prompt.size());
  for (int sample = 0; sample < active.samples(); ++sample) {
    TokenEvent& event = events_.Add(active, sample);
    event.finish = reason;
    event.stats = StatsOfUnstarted(prompt, now - active.submitted);
  }
}

}  // namespace mambad
