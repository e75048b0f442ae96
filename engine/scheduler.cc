#include "engine/scheduler.h"

#include <algorithm>

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

Scored ScoredRows(const Sequence& sequence, int feed) {
  const ActiveRequest& active = *sequence.request;
  int64_t first_row;  // the first row whose prediction is asked for
  if (active.scoring()) {
    first_row = *active.request.score_from - 1;
  } else if (active.request.output.prompt_logprobs >= 0 && sequence.index == 0) {
    first_row = 0;
  } else {
    return {};
  }
  // A preempted request reads its prompt again, but its scores have been told.
  const int64_t begin = std::max({sequence.target.fed, first_row, sequence.scored_to});
  const int64_t end = std::min(sequence.target.fed + feed, sequence.prompt_length - 1);
  return begin < end ? Scored{begin, end} : Scored{sequence.target.fed, sequence.target.fed};
}

// The longest prompt chunk of at most `feed` rows whose logits fit.
int FitLogits(const Sequence& sequence, int feed, int logit_rows) {
  while (feed > 0 && ScoredRows(sequence, feed).count() + 1 > logit_rows) {
    feed = std::min(feed - 1,
                    std::max(0, feed - (ScoredRows(sequence, feed).count() + 1 - logit_rows)));
  }
  return feed;
}

// Tokens that the target may read now: all, except that samples fork before the prompt's last
// token, and that scoring has no use for the last one.
int64_t ReadableBacklog(const Sequence& sequence) {
  const ActiveRequest& active = *sequence.request;
  const bool holds_last = active.scoring() || (active.samples() > 1 && !active.forked);
  return sequence.backlog() - (holds_last ? 1 : 0);
}

}  // namespace

void Scheduler::Plan(absl::Span<Sequence* const> running, absl::Span<const int> wished_drafts,
                     std::vector<StepEntry>* plan) {
  plan->clear();
  int decoding = 0, prompts = 0;
  for (const Sequence* sequence : running) {
    (ReadableBacklog(*sequence) == 1 && sequence->generated() > 0 ? decoding : prompts) += 1;
  }
  int rows = limits_.max_rows, logit_rows = limits_.max_logit_rows;
  const int kept_for_prompts = prompts > 0 ? std::max(1, limits_.max_rows / 4) : 0;

  // 1. The rows of decoding sequences, from where the last step ended when they do not all fit.
  const int fitting = std::min(decoding, std::max(1, rows - kept_for_prompts));
  if (fitting == decoding) first_decoding_ = 0;
  size_t seen = 0;
  for (int pass = 0; pass < 2;
       ++pass) {  // from first_decoding_ to the end, then from the beginning
    seen = 0;
    for (size_t i = 0; i < running.size(); ++i) {
      Sequence* sequence = running[i];
      if (ReadableBacklog(*sequence) != 1 || sequence->generated() == 0) continue;
      const bool mine = (seen++ >= first_decoding_) == (pass == 0);
      if (!mine || static_cast<int>(plan->size()) == fitting) continue;
      StepEntry& entry = plan->emplace_back();
      entry.sequence = sequence;
      entry.feed = 1;
      entry.draft_length = wished_drafts[i];
    }
  }
  if (decoding > 0) first_decoding_ = (first_decoding_ + fitting) % decoding;
  rows -= fitting;
  logit_rows -= fitting;

  // 2. Drafts: everyone's longest wish is cut until all fit.
  int wished = 0, longest = 0;
  for (const StepEntry& entry : *plan) {
    wished += entry.draft_length;
    longest = std::max(longest, entry.draft_length);
  }
  const int room =
      std::max(0, std::min(rows - kept_for_prompts, logit_rows - (prompts > 0 ? prompts : 0)));
  while (wished > room) {
    --longest;
    for (StepEntry& entry : *plan) {
      if (entry.draft_length > longest && wished > room) {
        wished -= entry.draft_length - longest;
        entry.draft_length = longest;
      }
    }
  }
  rows -= wished;
  logit_rows -= wished;

  // 3. Prompts.
  for (Sequence* sequence : running) {
    const int64_t readable = ReadableBacklog(*sequence);
    if (readable <= 0 || (readable == 1 && sequence->generated() > 0)) continue;
    const int feed =
        FitLogits(*sequence, static_cast<int>(std::min<int64_t>(readable, rows)), logit_rows);
    if (feed <= 0) continue;
    StepEntry& entry = plan->emplace_back();
    entry.sequence = sequence;
    entry.feed = feed;
    const Scored scored = ScoredRows(*sequence, feed);
    entry.score_begin = static_cast<int>(scored.begin - sequence->target.fed);
    entry.scored = scored.count();
    rows -= feed;
    logit_rows -= entry.scored + 1;
  }
}

}  // namespace mambad
