#include "engine/speculation/speculative_decoder.h"

#include <algorithm>

namespace mambad {
namespace {

// What is drafted fits a window.
static_assert(kMaxDraftLength <= kernels::kMaxWindowRows);

constexpr int kKept = kernels::kMaxWindowRows + 1;  // tokens a sequence may keep in one step

// Rows that a draft model has to read before its first draft, when it drafted in the last round:
// the last kept token, and after a round that kept all drafts the last of them, which it proposed
// and did not read.
constexpr int kUsualBacklog = 2;

constexpr int64_t kLeastContext = 256;

// The power of two of `least` that reaches `count`, or `most` before it.
int64_t Bucket(int64_t count, int64_t least, int64_t most) {
  int64_t bucket = least;
  while (bucket < count) bucket *= 2;
  return std::min(bucket, most);
}

// A right row of each sequence and its drafts, and nothing that the draft model has to catch up
// with.
bool OnlyDecodes(absl::Span<const StepEntry> entries) {
  return std::all_of(entries.begin(), entries.end(), [](const StepEntry& entry) {
    const bool catches_up = entry.draft_rows > (entry.draft_length > 0 ? kUsualBacklog : 0);
    return entry.feed == 1 && entry.samples() && entry.scored == 0 && !catches_up;
  });
}

bool DraftsByModel(const StepEntry& entry) {
  return entry.drafter == DrafterKind::kDraftModel && entry.draft_length > 0;
}

}  // namespace

SpeculativeDecoder::SpeculativeDecoder(const Shape& shape, kernels::Backend& backend, Model& target,
                                       StatePool& target_state, Model* draft,
                                       StatePool* draft_state, Sampler& sampler)
    : shape_(shape),
      backend_(backend),
      target_(target),
      target_state_(target_state),
      draft_(draft),
      draft_state_(draft_state),
      sampler_(sampler),
      draft_calls_(draft == nullptr ? 0 : shape.max_draft_length) {
  const int sequences = shape.max_sequences;
  verify_.Reserve(inputs_, sequences, shape.max_rows, shape.max_logit_rows);
  for (size_t call = 0; call < draft_calls_.size(); ++call) {
    DraftCall& c = draft_calls_[call];
    c.batch.Reserve(inputs_, sequences, call == 0 ? draft->limits().max_rows : sequences,
                    sequences);
    for (auto* array : {&c.logit_row, &c.position, &c.token_row, &c.next_row})
      inputs_.Add(array, sequences);
  }
  for (auto* array :
       {&accept_slot_, &logit_begin_, &draft_length_, &token_row_, &accept_position_, &limit_}) {
    inputs_.Add(array, sequences);
  }
  inputs_.Add(&score_logit_row_, shape.max_logit_rows);
  inputs_.Add(&score_token_, shape.max_logit_rows);
  inputs_.Allocate(backend);

  for (auto* array : {&accepted_, &kept_, &stopped_}) results_.Add(array, sequences);
  results_.Add(&tokens_, sequences * kKept);
  kept_end_ = results_.bytes();
  results_.Add(&kept_logprobs_, sequences * kKept);
  results_.Add(&score_logprobs_, shape.max_logit_rows);
  logprobs_end_ = results_.bytes();
  results_.Add(&kept_ids_, sequences * kKept * kernels::kMaxAlternatives);
  results_.Add(&kept_alternatives_, sequences * kKept * kernels::kMaxAlternatives);
  alternatives_end_ = results_.bytes();
  results_.Add(&score_ids_, shape.max_logit_rows * kernels::kMaxAlternatives);
  results_.Add(&score_alternatives_, shape.max_logit_rows * kernels::kMaxAlternatives);
  scores_end_ = results_.bytes();
  results_.Allocate(backend);

  waiting_.resize(sequences);
  verify_row_.resize(sequences);
  accept_index_.resize(sequences);
  draft_read_.resize(sequences);
  draft_row_.resize(sequences);
}

void SpeculativeDecoder::Launch(absl::Span<StepEntry> entries, int alternatives,
                                int score_alternatives) {
  entries_ = entries;
  verify_.Clear();
  draft_call_count_ = accept_count_ = score_count_ = 0;

  PlanDraftModel(entries);
  PlanVerify(entries);
  const kernels::RoundShape shape = ShapeOf(entries, alternatives >= 0);
  PlanDraftCalls(entries, shape);
  if (shape.kind == kernels::RoundKind::kDecode) Bound(shape);
  Upload();
  recordings_ = backend_.Recorded().recordings;
  if (backend_.BeginRound(shape)) {
    if (draft_call_count_ > 0) {
      RunDrafts();
      backend_.BeginVerify();
    }
    RunVerify(alternatives >= 0, score_alternatives);
  }
  backend_.EndRound();
  Download(alternatives, score_alternatives);
}

StepTimes SpeculativeDecoder::Finish() {
  backend_.Synchronize();
  Collect();
  return Times();
}

// All that the host has to say goes over in one stretch, in order with the round.
void SpeculativeDecoder::Upload() {
  target_state_.Upload();
  if (draft_state_ != nullptr) draft_state_->Upload();
  sampler_.Upload();
  inputs_.Upload(backend_);
}

void SpeculativeDecoder::Download(int alternatives, int score_alternatives) {
  int64_t end = kept_end_;
  if (alternatives >= 0 || score_count_ > 0) end = logprobs_end_;
  if (alternatives > 0) end = alternatives_end_;
  if (score_alternatives > 0) end = scores_end_;
  results_.Download(backend_, end);
}

StepTimes SpeculativeDecoder::Times() {
  const kernels::RoundTimes taken = backend_.TakeRoundTimes();
  StepTimes times;
  times.draft_seconds = taken.draft;
  times.verify_seconds = taken.verify;
  times.total_seconds = taken.whole;
  times.recorded = backend_.Recorded().recordings > recordings_;
  for (int call = 0; call < draft_call_count_; ++call)
    times.draft_rows += draft_calls_[call].batch.rows();
  if (draft_call_count_ > 0) times.first_draft_rows = draft_calls_[0].batch.rows();
  return times;
}

// After PlanDraftModel and PlanVerify.
kernels::RoundShape SpeculativeDecoder::ShapeOf(absl::Span<const StepEntry> entries,
                                                bool logprobs) const {
  kernels::RoundShape shape;
  if (!OnlyDecodes(entries)) return shape;
  shape.kind = kernels::RoundKind::kDecode;
  shape.logprobs = logprobs;
  shape.sequences = static_cast<int>(Bucket(verify_.sequences(), 1, shape_.max_sequences));
  for (const StepEntry& entry : entries) {
    shape.draft_length = std::max(shape.draft_length, entry.draft_length);
    shape.draft_model |= DraftsByModel(entry);
  }
  const int64_t most = target_.limits().max_context;
  const bool has_pages = target_state_.cache_size().has_attention ||
                         (draft_state_ != nullptr && draft_state_->cache_size().has_attention);
  shape.context = has_pages ? Bucket(verify_.max_position() + 1, kLeastContext, most) : most;
  return shape;
}

// Makes the passes of a decode round as large as its shape says.
void SpeculativeDecoder::Bound(const kernels::RoundShape& shape) {
  StepBatch::Bounds bounds;
  bounds.sequences = shape.sequences;
  bounds.context = shape.context;
  const int rows = shape.sequences * (shape.draft_length + 1);
  bounds.rows = std::min(rows, shape_.max_rows);
  bounds.logits = std::min(rows, shape_.max_logit_rows);
  verify_.Bound(bounds);
  bounds.logits = shape.sequences;
  for (int call = 0; call < draft_call_count_; ++call) {
    bounds.rows = call == 0 ? std::min(kUsualBacklog * shape.sequences, draft_->limits().max_rows)
                            : shape.sequences;
    draft_calls_[call].batch.Bound(bounds);
  }
  std::fill(accept_slot_.host + accept_count_, accept_slot_.host + shape.sequences, -1);
  accept_count_ = shape.sequences;
}

// A draft model that has not read up to the end of a sequence reads as much as fits this step; when
// that is not all, the sequence goes without drafts. Call 0 of the draft model.
void SpeculativeDecoder::PlanDraftModel(absl::Span<StepEntry> entries) {
  for (DraftCall& call : draft_calls_) call.batch.Clear();
  std::fill_n(draft_read_.begin(), entries.size(), 0);
  if (draft_ == nullptr) return;
  int rows_left = draft_->limits().max_rows;
  int waiting = 0;  // sequences still to come
  for (const StepEntry& entry : entries) waiting += DraftsByModel(entry);
  for (StepEntry& entry : entries) {
    if (!DraftsByModel(entry)) continue;
    --waiting;
    Sequence& sequence = *entry.sequence;
    const int64_t backlog = static_cast<int64_t>(sequence.tokens.size()) - sequence.draft.fed;
    const int rows = static_cast<int>(
        std::min<int64_t>(backlog, std::max(0, rows_left - kUsualBacklog * waiting)));
    if (rows < backlog) entry.draft_length = 0;
    if (rows == 0) continue;
    rows_left -= rows;
    entry.draft_rows = rows;
    StepBatch& batch = draft_calls_[0].batch;
    StepBatch::Window window{sequence.slot, sequence.draft.fed, rows, sequence.draft.replay};
    window.keep_from = rows;
    const int first = batch.AddSequence(window);
    for (int i = 0; i < rows; ++i) batch.token(first + i) = sequence.tokens[sequence.draft.fed + i];
    const int64_t e = &entry - entries.data();
    draft_read_[e] = rows;
    draft_row_[e] = first + rows - 1;
  }
  if (draft_calls_[0].batch.rows() > 0) draft_call_count_ = 1;
}

// The target's rows: each entry's part of the backlog, then room for its drafts.
void SpeculativeDecoder::PlanVerify(absl::Span<StepEntry> entries) {
  for (size_t e = 0; e < entries.size(); ++e) {
    StepEntry& entry = entries[e];
    Sequence& sequence = *entry.sequence;
    const bool sampled = entry.samples();
    const int drafts = sampled ? entry.draft_length : 0;
    const int64_t position = sequence.target.fed;
    const int replay = sequence.target.replay;
    StepBatch::Window window{sequence.slot, position, entry.feed + drafts, replay};
    window.fold = entry.feed == 0 || target_state_.Folds(replay, entry.feed, drafts);
    window.keep_from = window.fold ? entry.feed : 0;
    window.keep_at = window.fold ? 0 : replay;
    waiting_[e] = window.fold ? 0 : replay + entry.feed;
    const int first = verify_.AddSequence(window);
    for (int i = 0; i < entry.feed; ++i) verify_.token(first + i) = sequence.tokens[position + i];
    if (entry.drafter == DrafterKind::kPromptLookup) {
      for (int i = 0; i < drafts; ++i) verify_.token(first + entry.feed + i) = entry.lookup[i];
    }
    entry.first_score = score_count_;
    entry.position = position;
    for (int i = entry.score_begin; i < entry.score_begin + entry.scored; ++i) {
      score_logit_row_.host[score_count_] = verify_.AddLogits(first + i);
      score_token_.host[score_count_++] = sequence.tokens[position + i + 1];
    }
    verify_row_[e] = first + entry.feed - 1;
    accept_index_[e] = -1;
    if (!sampled) continue;
    const int a = accept_count_++;
    accept_index_[e] = a;
    accept_slot_.host[a] = sequence.slot;
    logit_begin_.host[a] = verify_.AddLogits(verify_row_[e]);
    for (int i = 0; i < drafts; ++i) verify_.AddLogits(verify_row_[e] + 1 + i);
    draft_length_.host[a] = drafts;
    token_row_.host[a] = verify_row_[e];
    accept_position_.host[a] = static_cast<int32_t>(sequence.tokens.size());
    limit_.host[a] = entry.limit;
  }
}

// Call j of the draft model reads draft j-1 of every sequence that wants more than j drafts (call
// 0: its backlog) and draws draft j. Calls' rows follow the order of the entries. In a decode round
// there are as many calls as the shape has drafts, whoever makes them.
void SpeculativeDecoder::PlanDraftCalls(absl::Span<StepEntry> entries,
                                        const kernels::RoundShape& shape) {
  int longest = shape.draft_model ? shape.draft_length : 0;
  for (const StepEntry& entry : entries) {
    if (DraftsByModel(entry)) longest = std::max(longest, entry.draft_length);
  }
  for (int j = 0; j < longest; ++j) {
    DraftCall& call = draft_calls_[j];
    std::fill_n(call.logit_row.host, std::max(accept_count_, shape.sequences), -1);
    int next_rows = 0;  // rows that call j+1 will have
    for (size_t e = 0; e < entries.size(); ++e) {
      StepEntry& entry = entries[e];
      const int a = accept_index_[e];
      if (entry.drafter != DrafterKind::kDraftModel || entry.draft_length <= j || a < 0) continue;
      const Sequence& sequence = *entry.sequence;
      entry.draft_rows += j > 0;
      const int64_t read = sequence.draft.fed + draft_read_[e];
      StepBatch::Window window{sequence.slot, read + j - 1, /*rows=*/1};
      window.fold = false;
      window.keep_at = j - 1;
      window.resume = j > 1;
      const int row = j == 0 ? draft_row_[e] : call.batch.AddSequence(window);
      call.logit_row.host[a] = call.batch.AddLogits(row);
      call.position.host[a] = accept_position_.host[a] + j;
      call.token_row.host[a] = verify_row_[e] + 1 + j;
      call.next_row.host[a] = entry.draft_length > j + 1 ? next_rows++ : -1;
    }
  }
  draft_call_count_ = std::max(draft_call_count_, longest);
}

void SpeculativeDecoder::RunDrafts() {
  for (int j = 0; j < draft_call_count_; ++j) {
    DraftCall& call = draft_calls_[j];
    const kernels::Batch batch = call.batch.View(*draft_state_, /*keeps_working=*/true);
    draft_->Forward(batch, *draft_state_);
    if (batch.logit_count == 0) continue;  // only catching up
    kernels::DraftSampling sampling;
    sampling.sequences = accept_count_;
    sampling.slot = accept_slot_.device;
    sampling.logit_row = call.logit_row.device;
    sampling.position = call.position.device;
    sampling.step = j;
    sampling.tokens = verify_.device_tokens();
    sampling.token_row = call.token_row.device;
    if (j + 1 < draft_call_count_) sampling.next_tokens = draft_calls_[j + 1].batch.device_tokens();
    sampling.next_row = call.next_row.device;
    backend_.SampleDrafts(sampling, sampler_.tables(), draft_->workspace());
  }
}

void SpeculativeDecoder::RunVerify(bool logprobs, int score_alternatives) {
  target_.Forward(verify_.View(target_state_, /*keeps_working=*/false), target_state_);
  if (score_count_ > 0) {
    kernels::TokenScoring scoring;
    scoring.count = score_count_;
    scoring.logit_row = score_logit_row_.device;
    scoring.token = score_token_.device;
    scoring.alternatives = std::max(0, score_alternatives);
    scoring.logprobs = score_logprobs_.device;
    scoring.alternative_ids = score_ids_.device;
    scoring.alternative_logprobs = score_alternatives_.device;
    backend_.Score(scoring, sampler_.tables(), target_.workspace());
  }
  if (accept_count_ == 0) return;
  kernels::Acceptance acceptance;
  acceptance.sequences = accept_count_;
  acceptance.slot = accept_slot_.device;
  acceptance.logit_begin = logit_begin_.device;
  acceptance.draft_length = draft_length_.device;
  acceptance.token_row = token_row_.device;
  acceptance.tokens = verify_.device_tokens();
  acceptance.position = accept_position_.device;
  acceptance.limit = limit_.device;
  acceptance.logprobs = logprobs;
  backend_.Accept(acceptance, sampler_.tables(), target_.workspace(),
                  {accepted_.device, kept_.device, tokens_.device, stopped_.device,
                   kept_logprobs_.device, kept_ids_.device, kept_alternatives_.device});
}

// Hands the results to the entries and moves the read positions: the target has read the backlog
// and the kept drafts (which wait in its replay rows, the backlog with them where it did not fold),
// the draft model all of those that it proposed but the last.
void SpeculativeDecoder::Collect() {
  for (size_t e = 0; e < entries_.size(); ++e) {
    StepEntry& entry = entries_[e];
    Sequence& sequence = *entry.sequence;
    const int a = accept_index_[e];
    sequence.target = {sequence.target.fed + entry.feed, waiting_[e]};
    if (draft_read_[e] > 0) sequence.draft = {sequence.draft.fed + draft_read_[e], 0};
    entry.sampled = a >= 0;
    if (!entry.sampled) continue;
    entry.accepted = accepted_.host[a];
    entry.kept = kept_.host[a];
    entry.tokens = tokens_.host + a * kKept;
    entry.stopped = stopped_.host[a] != 0;
    entry.first_result = a * kKept;
    const int kept_drafts = std::min(entry.kept - 1, entry.draft_length);
    sequence.target = {sequence.target.fed + kept_drafts, waiting_[e] + kept_drafts};
    if (DraftsByModel(entry)) {
      const int read = std::min(kept_drafts, entry.draft_length - 1);
      sequence.draft = {sequence.draft.fed + read, read};
    }
  }
}

LogprobView SpeculativeDecoder::KeptLogprob(const StepEntry& entry, int token) const {
  const int row = entry.first_result + token;
  return {kept_logprobs_.host[row], kept_ids_.host + row * kernels::kMaxAlternatives,
          kept_alternatives_.host + row * kernels::kMaxAlternatives};
}

LogprobView SpeculativeDecoder::ScoredLogprob(const StepEntry& entry, int row) const {
  const int at = entry.first_score + row;
  return {score_logprobs_.host[at], score_ids_.host + at * kernels::kMaxAlternatives,
          score_alternatives_.host + at * kernels::kMaxAlternatives};
}

}  // namespace mambad
