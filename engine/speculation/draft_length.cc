#include "engine/speculation/draft_length.h"

#include <algorithm>
#include <cmath>

namespace mambad {
namespace {

constexpr float kSequenceDecay = 0.95f;  // about the last 20 judgements
constexpr float kEveryoneDecay = 0.995f;
constexpr double kPriorWeight = 3;   // judgements that the engine-wide rate is worth to a sequence
constexpr double kFirstGuess = 0.6;  // acceptance before anything was judged
// Before rows were measured: a step costs as if eight rows' arithmetic came on top of its own.
constexpr double kFixedRows = 8;
constexpr double kLeastReach = 0.01;     // chance of being kept below which no draft pays
constexpr int kManySequences = 8;        // from which on it counts what choosing takes
constexpr size_t kComparedPlans = 64;    // at most, in one choice
constexpr double kLeastGain = 1.02;      // predicted, before drafting replaces plain decoding
constexpr int64_t kProbeInterval = 8;    // steps between probes, however cheap
constexpr double kProbeBudgetSteps = 4;  // plain steps that the probe budget holds

}  // namespace

void AcceptanceCounts::Observe(int drafted, int accepted_drafts, float decay) {
  for (int i = 0; i < std::min({drafted, accepted_drafts + 1, kMaxDraftLength}); ++i) {
    judged[i] = judged[i] * decay + 1;
    accepted[i] = accepted[i] * decay + (i < accepted_drafts ? 1 : 0);
  }
}

// ---- costs --------------------------------------------------------------------------------------

bool DraftLengthController::PlainDue(int sequences, int other_rows) const {
  if (plain_steps_ < 2 || now_ - last_plain_ >= kPlainInterval) return true;
  return other_rows == 0 && !plain_.Fresh(sequences, kPlainMemory, now_);
}

double DraftLengthController::PlainSeconds(int sequences, int other_rows) const {
  if (other_rows > 0 && verify_.measured()) return verify_.At(sequences + other_rows, now_);
  return plain_.measured() ? plain_.At(sequences, now_) : verify_.At(sequences, now_);
}

double DraftLengthController::Seconds(const Plan& plan) const {
  const double verify =
      verify_.measured() ? verify_.At(plan.rows, now_) : plain_.At(plan.rows, now_);
  return verify + plan.draft_seconds + RecordingSecondsPerStep(plan);
}

// What the device takes, once, before it can run a round of the plan's shape.
double DraftLengthController::RecordingSeconds(const Plan& plan) const {
  return recordings_.Expected(plan.sequences, plan.longest, plan.by_model);
}

// The same, spread over the steps in which it is to be earned back: rounds are expected to go on
// for as long as they have been going.
double DraftLengthController::RecordingSecondsPerStep(const Plan& plan) const {
  return RecordingSeconds(plan) / static_cast<double>(std::max<int64_t>(kRecordingSteps, now_));
}

// Whether that is not too much to have invested at a time. What was gained before may be spent; and
// where nothing is invested, one shape is recorded whatever it takes.
bool DraftLengthController::MayRecord(const Plan& plan, double plain_seconds) const {
  const double price = RecordingSeconds(plan);
  return price <= 0 || invested_ <= plain_seconds ||
         debt_ + invested_ + price <= kCreditSteps * plain_seconds;
}

// What the draft model takes to read what it is behind, once. Its cost curve goes by rows.
double DraftLengthController::CatchUpSeconds(const DraftChoice& choice) const {
  if (choice.catch_up_rows <= 0 || !draft_.measured()) return 0;
  const auto rows = static_cast<int>(std::min<int64_t>(choice.catch_up_rows, 1 << 20));
  return std::max(0.0, draft_.At(1 + rows, now_) - draft_.At(1, now_));
}

// The same, spread over the tokens in which it is to be earned back: answers are expected to go on
// for as long as they have been going.
double DraftLengthController::CatchUpSecondsPerToken(const DraftChoice& choice) const {
  const int64_t tokens = std::min(std::max<int64_t>(kInvestmentTokens, choice.generated),
                                  std::max<int64_t>(1, choice.remaining));
  return CatchUpSeconds(choice) / static_cast<double>(tokens);
}

// Whether drafting would still be faster than plain with the price of catching up in it, and is not
// too much to have invested at a time. Adds that price to `invested`.
bool DraftLengthController::WorthCatchingUp(const DraftChoice& choice, int sequences,
                                            double plain_seconds, double* invested) const {
  const double price = CatchUpSeconds(choice);
  if (price <= 0) return true;
  if (*invested + price > kCreditSteps * plain_seconds) return false;
  int length = 0;
  if (BestRate(choice, DrafterKind::kDraftModel, sequences, &length) * plain_seconds <= kLeastGain)
    return false;
  *invested += price;
  return true;
}

// ---- acceptance ---------------------------------------------------------------------------------

DraftLengthController::Chances::Chances(const AcceptanceCounts& own, const AcceptanceCounts& all)
    : own_(own), all_(all), common_(kFirstGuess), rate_(kFirstGuess) {}

// A position's own record, leaning on everyone's; that leans on the position before it.
double DraftLengthController::Chances::Next() {
  const size_t i = position_++;
  common_ = (all_.accepted[i] + kPriorWeight * common_) / (all_.judged[i] + kPriorWeight);
  const double prior = i == 0 ? common_ : 0.5 * (common_ + rate_);
  rate_ = (own_.accepted[i] + kPriorWeight * prior) / (own_.judged[i] + kPriorWeight);
  return rate_;
}

double DraftLengthController::Acceptance(const DraftStatistics& statistics, DrafterKind drafter,
                                         int position) const {
  Chances chances = ChancesOf(statistics, drafter);
  double chance = 0;
  for (int i = 0; i <= position; ++i) chance = chances.Next();
  return chance;
}

void DraftLengthController::ObserveDrafts(DrafterKind drafter, int drafted, int accepted,
                                          DraftStatistics& statistics) {
  if (drafter == DrafterKind::kNone) return;
  statistics.of(drafter).Observe(drafted, accepted, kSequenceDecay);
  everyone_.of(drafter).Observe(drafted, accepted, kEveryoneDecay);
  plain_until_ = 0;
}

// ---- choosing -----------------------------------------------------------------------------------

// Tokens a second when `sequences` sequences like this one all draft by `drafter`, at the best
// length >= 1.
double DraftLengthController::BestRate(const DraftChoice& choice, DrafterKind drafter,
                                       int sequences, int* length) const {
  double best = 0, reach = 1, tokens = 1;
  const bool model = drafter == DrafterKind::kDraftModel;
  const double draft = model ? draft_.At(sequences, now_) : 0;
  const double catch_up = model ? CatchUpSecondsPerToken(choice) : 0;
  Chances chances = ChancesOf(*choice.statistics, drafter);
  *length = 1;
  for (int k = 1; k <= choice.max_length; ++k) {
    reach *= chances.Next();
    tokens += reach;
    Plan plan;
    plan.sequences = sequences;
    plan.rows = sequences * (k + 1);
    plan.longest = k;
    plan.by_model = model;
    if (model) plan.draft_seconds = k * draft + sequences * tokens * catch_up;
    const double rate = tokens / Seconds(plan);
    if (rate <= best) continue;
    best = rate;
    *length = k;
  }
  return best;
}

void DraftLengthController::ChooseDrafter(DraftChoice& choice, int sequences) const {
  choice.drafter = choice.draft_model     ? DrafterKind::kDraftModel
                   : choice.prompt_lookup ? DrafterKind::kPromptLookup
                                          : DrafterKind::kNone;
  if (!choice.draft_model || !choice.prompt_lookup || !(plain_.measured() || verify_.measured()))
    return;
  int length = 0;
  if (BestRate(choice, DrafterKind::kPromptLookup, sequences, &length) >
      BestRate(choice, DrafterKind::kDraftModel, sequences, &length)) {
    choice.drafter = DrafterKind::kPromptLookup;
  }
}

// The choice's draft number `length` (1 ..) joins the plan.
void DraftLengthController::AddDraft(const DraftChoice& choice, int length, double reach,
                                     Plan& plan) const {
  ++plan.rows;
  plan.tokens += reach;
  plan.longest = std::max(plan.longest, length);
  if (choice.drafter != DrafterKind::kDraftModel) return;
  plan.by_model = true;
  plan.draft_seconds += CatchUpSecondsPerToken(choice) * (length == 1 ? 1 + reach : reach);
  int& drafting = plan.drafting[length - 1];
  plan.draft_seconds -= drafting > 0 ? draft_.At(drafting, now_) : 0;
  plan.draft_seconds += draft_.At(++drafting, now_);
}

// The lengths that requests fix, and where `may_draft` the best ones of the others.
DraftLengthController::Plan DraftLengthController::ChooseLengths(absl::Span<DraftChoice> sequences,
                                                                 int other_rows,
                                                                 double plain_seconds,
                                                                 bool may_draft) {
  Plan plan;
  plan.sequences = static_cast<int>(sequences.size());
  plan.rows = plan.sequences + other_rows;
  plan.tokens = static_cast<double>(sequences.size());
  increments_.clear();
  bool forced = false;
  double invested = invested_;
  for (size_t s = 0; s < sequences.size(); ++s) {
    DraftChoice& choice = sequences[s];
    const bool fixed = choice.fixed_length.has_value();
    if (choice.drafter == DrafterKind::kNone || (!fixed && !may_draft)) continue;
    if (choice.drafter == DrafterKind::kDraftModel && !fixed &&
        !WorthCatchingUp(choice, plan.sequences, plain_seconds, &invested)) {
      continue;
    }
    double reach = 1;
    const int most = fixed ? std::min(*choice.fixed_length, choice.max_length) : choice.max_length;
    Chances chances = ChancesOf(*choice.statistics, choice.drafter);
    for (int k = 1; k <= most; ++k) {
      reach *= chances.Next();
      if (fixed) {
        AddDraft(choice, k, reach, plan);
        choice.length = k;
        forced = true;
      } else if (reach >= kLeastReach) {
        increments_.push_back({static_cast<float>(reach), static_cast<int32_t>(s), k});
      }
    }
  }
  if (!may_draft) return plan;
  const double least_rate = kLeastGain * plan.tokens / (forced ? Seconds(plan) : plain_seconds);
  const Plan best = BestPlan(sequences, plan, least_rate, plain_seconds);
  const bool nothing_pays = !increments_.empty() && best.rows == plan.rows;
  if (nothing_pays && plan.sequences >= kManySequences) plain_until_ = now_ + kProbeInterval;
  return best;
}

// Adds drafts in the order of their chance to be kept and stops where tokens a second were highest.
// Chances fall along a sequence, so that order takes each sequence's drafts in theirs. Of very many
// drafts not every number is looked at.
DraftLengthController::Plan DraftLengthController::BestPlan(absl::Span<DraftChoice> sequences,
                                                            const Plan& least, double least_rate,
                                                            double plain_seconds) {
  std::sort(increments_.begin(), increments_.end(), [](const Increment& a, const Increment& b) {
    if (a.reach != b.reach) return a.reach > b.reach;
    return a.length != b.length ? a.length < b.length : a.sequence < b.sequence;
  });
  Plan plan = least, best = least;
  double best_rate = least_rate;
  size_t taken = 0;
  const size_t stride = 1 + increments_.size() / kComparedPlans;
  for (size_t i = 0; i < increments_.size(); ++i) {
    AddDraft(sequences[increments_[i].sequence], increments_[i].length, increments_[i].reach, plan);
    if ((i + 1) % stride != 0 && i + 1 < increments_.size()) continue;
    const double rate = plan.tokens / Seconds(plan);
    if (rate <= best_rate || !MayRecord(plan, plain_seconds)) continue;
    best_rate = rate;
    best = plan;
    taken = i + 1;
  }
  for (size_t i = 0; i < taken; ++i)
    sequences[increments_[i].sequence].length = increments_[i].length;
  return best;
}

// What this sequence would draft to learn something, or false: one that drafts nothing drafts, one
// that drafts little drafts twice as much, one with two drafters now and then uses the other.
bool DraftLengthController::Curious(const DraftChoice& choice, int sequences,
                                    DraftChoice* probe) const {
  *probe = choice;
  if (choice.drafter == DrafterKind::kNone || choice.fixed_length.has_value() ||
      choice.max_length < 1)
    return false;
  const bool other = choice.draft_model && choice.prompt_lookup && probes_ % 4 >= 2;
  if (other) {
    probe->drafter = choice.drafter == DrafterKind::kDraftModel ? DrafterKind::kPromptLookup
                                                                : DrafterKind::kDraftModel;
  }
  if (other || choice.length == 0) {
    BestRate(*probe, probe->drafter, sequences, &probe->length);
  } else {
    probe->length = std::min(2 * choice.length + 1, choice.max_length);
  }
  return other || probe->length != choice.length;
}

// Now and then all sequences (to learn what that costs) or one (to learn whether its drafts stay)
// draft what the choice would not have them draft. Paid from the probe budget.
void DraftLengthController::AddProbe(absl::Span<DraftChoice> sequences, const Plan& plan,
                                     double plain_seconds) {
  const int count = static_cast<int>(sequences.size());
  const bool everyone = probes_ % 2 == 0;
  const bool alone = plan.rows == count;
  probe_choices_.assign(sequences.begin(), sequences.end());
  Plan extended = plan;
  int curious = 0;
  double replaced = 0;  // drafts given up for another drafter's
  double catch_up = 0;
  for (int i = 0; i < count && (everyone || curious == 0); ++i) {
    const size_t s = static_cast<size_t>((probes_ / 2 + i) % count);
    DraftChoice probe;
    if (!Curious(sequences[s], count, &probe)) continue;
    ++curious;
    const bool other = probe.drafter != sequences[s].drafter;
    if (other) replaced += sequences[s].length * plain_seconds / count;
    // A probe may not last: it pays for catching up at once.
    if (probe.drafter == DrafterKind::kDraftModel && (other || sequences[s].length == 0))
      catch_up += CatchUpSeconds(probe);
    for (int k = other ? 1 : sequences[s].length + 1; k <= probe.length; ++k)
      AddDraft(probe, k, 0, extended);
    probe_choices_[s] = probe;
  }
  if (curious == 0) {
    ++probes_;  // of another kind next time
    return;
  }
  const double cost = Seconds(extended) - (alone ? plain_seconds : Seconds(plan)) + replaced +
                      catch_up + RecordingSeconds(extended);
  if (cost > probe_budget_) {
    // What the budget would never hold is not waited for by all: one sequence's probe is, and the
    // budget grows until it can be paid.
    if (everyone && cost > kProbeBudgetSteps * plain_seconds) {
      ++probes_;
    } else {
      wanted_budget_ = cost;
      probe_waits_ = true;
    }
    return;
  }
  wanted_budget_ = 0;
  probe_waits_ = false;
  probe_cost_ = std::max(cost, 0.0);
  probe_alone_ = alone;
  probing_ = true;
  std::copy(probe_choices_.begin(), probe_choices_.end(), sequences.begin());
  last_probe_ = now_;
  ++probes_;
}

bool DraftLengthController::StaysPlain(int sequences, int other_rows) const {
  return sequences == 0 || !(PlainSeconds(sequences, other_rows) > 0) ||
         PlainDue(sequences, other_rows);
}

bool DraftLengthController::MayChoose(int sequences) const {
  return debt_ <= 0 && (sequences != last_count_ || now_ >= plain_until_);
}

bool DraftLengthController::MayProbe(int sequences, int other_rows) const {
  const bool waits = probe_waits_ && probe_budget_ < wanted_budget_;
  return other_rows == 0 && now_ - last_probe_ >= kProbeInterval &&
         (sequences != last_count_ || !waits);
}

bool DraftLengthController::MayDraft(int sequences, int other_rows) const {
  return !StaysPlain(sequences, other_rows) &&
         (MayChoose(sequences) || MayProbe(sequences, other_rows));
}

void DraftLengthController::Choose(absl::Span<DraftChoice> sequences, int other_rows) {
  const int count = static_cast<int>(sequences.size());
  probing_ = probe_alone_ = false;
  const double plain_seconds = PlainSeconds(count, other_rows);
  const bool plain = StaysPlain(count, other_rows);
  const bool may_draft = !plain && MayChoose(count),
             may_probe = !plain && MayProbe(count, other_rows);
  if (count != last_count_) {
    plain_until_ = 0;
    probe_waits_ = false;
  }
  last_count_ = count;
  for (DraftChoice& choice : sequences) {
    choice.length = 0;
    choice.drafter = DrafterKind::kNone;
    choice.max_length = std::clamp(choice.max_length, 0, kMaxDraftLength);
    if (may_draft || may_probe || choice.fixed_length.has_value()) ChooseDrafter(choice, count);
  }
  const Plan plan = ChooseLengths(sequences, other_rows, plain_seconds, may_draft);
  if (may_probe) AddProbe(sequences, plan, plain_seconds);
  for (DraftChoice& choice : sequences) {
    if (choice.length == 0) choice.drafter = DrafterKind::kNone;
  }
}

// ---- accounts -----------------------------------------------------------------------------------

// Learns what the draft model costs. Returns the seconds in which it read what it was behind.
double DraftLengthController::ObserveDraftModel(const StepMeasurement& step) {
  const int sequences = step.model_draft_sequences, steps = step.model_draft_steps;
  if (steps > 0 && step.first_draft_rows <= 2 * sequences) {
    ObserveDraftSteps(step);
    return 0;
  }
  if (step.first_draft_rows == 0) return 0;
  // One long call and `steps` - 1 usual ones, of which only the sum was measured.
  double usual = 0;
  if (steps > 0 && draft_.measured()) {
    usual = draft_.At(sequences, now_);
  } else if (steps > 0) {
    const double weight = kFixedRows + sequences;
    usual =
        step.draft_seconds * weight / (kFixedRows + step.first_draft_rows + (steps - 1) * weight);
  }
  const double first = step.draft_seconds - std::max(0, steps - 1) * usual;
  draft_.Add(step.first_draft_rows, first, now_);
  return std::max(0.0, first - usual);
}

// Only the sum of the steps was measured; each gets the part that it was expected to take. So the
// cost of few sequences is learned where it is seldom measured alone: the longer the drafts, the
// fewer sequences are left, and on a device they may take as long as many.
void DraftLengthController::ObserveDraftSteps(const StepMeasurement& step) {
  const auto drafting = absl::MakeConstSpan(step.model_drafting)
                            .first(std::min(step.model_draft_steps, kMaxDraftLength));
  const bool measured = draft_.measured();
  std::array<double, kMaxDraftLength> expected;
  double sum = 0;
  for (size_t k = 0; k < drafting.size(); ++k) {
    expected[k] = measured ? draft_.At(drafting[k], now_) : 1;
    sum += expected[k];
  }
  for (size_t k = 0; k < drafting.size(); ++k) {
    if (k > 0 && drafting[k] == drafting[k - 1]) continue;
    draft_.Add(drafting[k], step.draft_seconds * expected[k] / sum, now_);
  }
}

void DraftLengthController::ObserveStep(const StepMeasurement& step) {
  ++now_;
  if (step.sequences == 0) {
    if (step.rows > 0) verify_.Add(step.rows, step.verify_seconds, now_);
    return;
  }
  const double total = step.draft_seconds + step.verify_seconds;
  verify_.Add(step.rows, step.verify_seconds, now_);
  if (step.drafts == 0) {
    if (step.other_rows == 0) plain_.Add(step.sequences, step.verify_seconds, now_);
    ++plain_steps_;
    last_plain_ = now_;
  }
  const double catch_up = ObserveDraftModel(step);
  // A round in which prompts or backlogs are read is recorded by nobody.
  if (step.other_rows == 0 && catch_up == 0) {
    recordings_.Observe(step.sequences, step.longest_draft, step.model_draft_steps > 0,
                        step.recording_seconds);
  }
  const double plain = PlainSeconds(step.sequences, step.other_rows);
  debt_ -= kDebtAllowance * total;
  probe_budget_ += kProbeAllowance * total;
  if ((step.drafts > 0 || catch_up > 0) && !step.fixed) {
    const double lost = total - plain * step.kept / step.sequences;
    if (probing_ && probe_alone_) {
      probe_budget_ -= lost + step.recording_seconds;
    } else {
      debt_ += lost - catch_up;
      invested_ += catch_up + step.recording_seconds;
      if (probing_) probe_budget_ -= probe_cost_;
    }
  }
  const double due = invested_ / kRepaySteps;
  invested_ -= due;
  debt_ += due;
  debt_ = std::max(debt_, -kCreditSteps * plain);
  probe_budget_ = std::min(probe_budget_, std::max(kProbeBudgetSteps * plain, wanted_budget_));
}

}  // namespace mambad
