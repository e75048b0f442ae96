#include "engine/scheduler.h"

#include <algorithm>
#include <utility>

#include "engine/active_request.h"

namespace mambad {
namespace {

// Positions [begin, end) of a prompt chunk whose next token is to be scored, given that the chunk
// reads `feed` tokens from the target's position on: row i predicts token i + 1, which must stand
// in the prompt.
struct Scored {
  int64_t begin = 0, end = 0;
  int count() const { return static_cast<int>(end - begin); }
};

Scored ScoredRows(const Answer& answer, int feed) {
  const ActiveRequest& active = *answer.request;
  const int64_t fed = answer.sequence.target.fed;
  int64_t first_row;  // the first row whose prediction is asked for
  if (active.scoring()) {
    first_row = *active.request.score_from - 1;
  } else if (active.request.output.prompt_logprobs >= 0 && answer.index == 0) {
    first_row = 0;
  } else {
    return {};
  }
  // A preempted request reads its prompt again, but its scores have been told.
  const int64_t begin = std::max({fed, first_row, answer.scored_to});
  const int64_t end = std::min(fed + feed, answer.prompt_length - 1);
  return begin < end ? Scored{begin, end} : Scored{fed, fed};
}

// The longest prompt chunk of at most `feed` rows whose logits fit.
int FitLogits(const Answer& answer, int feed, int logit_rows) {
  while (feed > 0 && ScoredRows(answer, feed).count() + 1 > logit_rows) {
    feed =
        std::min(feed - 1, std::max(0, feed - (ScoredRows(answer, feed).count() + 1 - logit_rows)));
  }
  return feed;
}

// Tokens that the target may read now: all, except that samples fork before the prompt's last
// token, and that scoring has no use for the last one.
int64_t Readable(const Answer& answer) {
  const ActiveRequest& active = *answer.request;
  const bool holds_last = active.scoring() || (active.samples() > 1 && !active.forked);
  return answer.sequence.backlog() - (holds_last ? 1 : 0);
}

bool Decodes(const Answer& answer) { return Readable(answer) == 1 && answer.generated() > 0; }

bool ReadsPrompt(const Answer& answer) { return Readable(answer) > 0 && !Decodes(answer); }

int64_t RowsToBorder(const Answer& answer, int64_t grid) {
  return std::min(Readable(answer), grid - answer.sequence.target.fed % grid);
}

// The rows of a prompt's next chunk, at most `rows`: not beyond the next border of the grid, which
// is reached in equal steps where one is not enough.
int64_t ChunkRows(const Answer& answer, int64_t rows, int64_t grid) {
  const int64_t wanted = RowsToBorder(answer, grid);
  if (wanted <= rows) return wanted;
  if (rows <= 0 || wanted == Readable(answer)) return rows;
  const int64_t steps = (wanted + rows - 1) / rows;
  return (wanted + steps - 1) / steps;
}

}  // namespace

void Scheduler::Plan(absl::Span<Answer* const> running, absl::Span<const int> wished_drafts,
                     std::vector<StepEntry>* plan) {
  plan->clear();
  prompts_.clear();
  int decoding = 0;
  for (Answer* answer : running) {
    if (Decodes(*answer)) ++decoding;
    if (ReadsPrompt(*answer)) prompts_.push_back(answer);
  }
  Room room{limits_.max_rows, limits_.max_logit_rows};
  const int kept_for_prompts = prompts_.empty() ? 0 : std::max(1, limits_.max_rows / 4);
  PlanDecoding(running, wished_drafts, decoding, kept_for_prompts, &room, plan);
  CutDrafts(kept_for_prompts, &room, plan);
  PlanPrompts(&room, plan);
}

// The rows of decoding sequences, from where the last step ended when they do not all fit.
void Scheduler::PlanDecoding(absl::Span<Answer* const> running, absl::Span<const int> wished_drafts,
                             int decoding, int kept_for_prompts, Room* room,
                             std::vector<StepEntry>* plan) {
  const int fitting = std::min(decoding, std::max(1, room->rows - kept_for_prompts));
  if (fitting == decoding) first_decoding_ = 0;
  // From first_decoding_ to the end, then from the beginning.
  for (int pass = 0; pass < 2; ++pass) {
    size_t seen = 0;
    for (size_t i = 0; i < running.size(); ++i) {
      Answer* answer = running[i];
      if (!Decodes(*answer)) continue;
      const bool mine = (seen++ >= first_decoding_) == (pass == 0);
      if (!mine || static_cast<int>(plan->size()) == fitting) continue;
      StepEntry& entry = plan->emplace_back();
      entry.answer = answer;
      entry.sequence = &answer->sequence;
      entry.feed = 1;
      entry.draft_length = wished_drafts[i];
    }
  }
  if (decoding > 0) first_decoding_ = (first_decoding_ + fitting) % decoding;
  room->rows -= fitting;
  room->logit_rows -= fitting;
}

// Everyone's longest wish is cut until all fit.
void Scheduler::CutDrafts(int kept_for_prompts, Room* room, std::vector<StepEntry>* plan) const {
  int wished = 0, longest = 0;
  for (const StepEntry& entry : *plan) {
    wished += entry.draft_length;
    longest = std::max(longest, entry.draft_length);
  }
  const int fitting = std::max(0, std::min(room->rows - kept_for_prompts,
                                           room->logit_rows - static_cast<int>(prompts_.size())));
  while (wished > fitting) {
    --longest;
    for (StepEntry& entry : *plan) {
      if (entry.draft_length > longest && wished > fitting) {
        wished -= entry.draft_length - longest;
        entry.draft_length = longest;
      }
    }
  }
  room->rows -= wished;
  room->logit_rows -= wished;
}

// The oldest prompt gets half of the rows, and what the others do not need: they follow, the
// shortest first.
void Scheduler::PlanPrompts(Room* room, std::vector<StepEntry>* plan) {
  if (prompts_.empty()) return;
  int64_t wanted_by_others = 0;
  for (size_t i = 1; i < prompts_.size(); ++i) {
    wanted_by_others += RowsToBorder(*prompts_[i], limits_.prompt_grid);
    for (size_t k = i; k > 1 && Readable(*prompts_[k]) < Readable(*prompts_[k - 1]); --k)
      std::swap(prompts_[k], prompts_[k - 1]);
  }
  const int64_t of_others = std::min<int64_t>(room->rows / 2, wanted_by_others);
  for (size_t i = 0; i < prompts_.size(); ++i) {
    Answer& answer = *prompts_[i];
    const int64_t rows =
        ChunkRows(answer, room->rows - (i == 0 ? of_others : 0), limits_.prompt_grid);
    const int feed = FitLogits(answer, static_cast<int>(rows), room->logit_rows);
    if (feed <= 0) continue;
    StepEntry& entry = plan->emplace_back();
    entry.answer = &answer;
    entry.sequence = &answer.sequence;
    entry.feed = feed;
    const Scored scored = ScoredRows(answer, feed);
    entry.score_begin = static_cast<int>(scored.begin - answer.sequence.target.fed);
    entry.scored = scored.count();
    room->rows -= feed;
    room->logit_rows -= entry.scored + 1;
  }
}

}  // namespace mambad
