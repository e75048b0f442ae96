// How many tokens to draft in the next step, and by which drafter: the choice that keeps most
// tokens a second by measured cost and measured acceptance. Drafting nothing is a choice. Choices
// can change the speed of an answer, never its tokens.
//
// NEVER MORE THAN 5 % SLOWER THAN PLAIN. The controller compares what speculative steps took with
// what their kept tokens would have taken plain (plain steps are measured too, at least every
// kPlainInterval steps, and once at each new batch size). Two accounts bound the loss:
//   debt    grows by every second that a speculative step lost, shrinks by what one gained and by
//           kDebtAllowance of all time. While it is above zero, nothing is drafted but probes.
//   probes  are drafts out of curiosity: they are paid from a budget that grows by kProbeAllowance
//           of all time, and only start when it covers their whole expected cost, as if nothing
//           were accepted.
// A draft model that has not read a sequence yet (a long prompt, a time without drafts) reads it
// before its first draft. That is an investment: it is chosen when drafts are expected to earn it
// back within as many tokens as the sequence has got so far (at least kInvestmentTokens), and it
// becomes debt bit by bit, over about kRepaySteps steps, so that its returns can come first. What
// is invested at a time is bounded by kCreditSteps plain steps.
//
// A device may have to record a round of a new shape first (recording_costs.h). That is an
// investment, too, to be earned back in as many steps as there were (at least kRecordingSteps):
// shapes that were run before are preferred to new ones that are hardly better, and new ones are
// tried one after the other.
//
// What choosing itself takes grows with the sequences and is no part of any plan: where there are
// many, a choice of no drafts holds for some steps, as long as nothing new is learned of drafts.
//
// The sum of both allowances is 3 %; beyond it goes at most one step's loss, the investments of the
// moment, and what the plain cost is misjudged by while it changes (noise, batch sizes not seen for
// long). Gains count up to kCreditSteps plain steps: after a change for the worse, no more than
// that is given back of what was gained before.
//
// Deterministic given what it was told. Owned by Drafting; engine thread. Allocates only when
// more sequences than ever run.

#ifndef MAMBAD_ENGINE_SPECULATION_DRAFT_LENGTH_H_
#define MAMBAD_ENGINE_SPECULATION_DRAFT_LENGTH_H_

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "engine/options.h"
#include "engine/speculation/cost_curve.h"
#include "engine/speculation/recording_costs.h"

namespace mambad {

// Decayed acceptance of one drafter: [i] counts rounds in which drafts 0 .. i - 1 stayed and draft
// i was judged.
struct AcceptanceCounts {
  std::array<float, kMaxDraftLength> judged = {}, accepted = {};

  void Observe(int drafted, int accepted_drafts, float decay);
};

// One sequence's own experience, one set of counts a drafter.
struct DraftStatistics {
  AcceptanceCounts draft_model, prompt_lookup;

  AcceptanceCounts& of(DrafterKind kind) {
    return kind == DrafterKind::kDraftModel ? draft_model : prompt_lookup;
  }
  const AcceptanceCounts& of(DrafterKind kind) const {
    return kind == DrafterKind::kDraftModel ? draft_model : prompt_lookup;
  }
};

// One sequence that will decode in the next step.
struct DraftChoice {
  // Asked:
  const DraftStatistics* statistics = nullptr;
  bool draft_model = false,
       prompt_lookup = false;       // may be used now; prompt lookup: it has a match
  int max_length = 0;               // 0 .. kMaxDraftLength; token limits counted in
  std::optional<int> fixed_length;  // the request's own; then max_length only caps it
  int64_t catch_up_rows = 0;  // that the draft model has to read before its first draft, beyond
                              // the one or two that every round brings
  int64_t generated = 0;      // tokens of the answer so far
  int64_t remaining = int64_t{1} << 40;  // tokens that its limit still allows
  // Answered:
  DrafterKind drafter = DrafterKind::kNone;
  int length = 0;
};

// What a step did and took. Sequences that drafted less than chosen are told as they were.
struct StepMeasurement {
  int sequences = 0;              // that decoded (were given a token)
  int rows = 0;                   // verified: sequences + drafts + other_rows
  int other_rows = 0;             // of prompts
  int drafts = 0;                 // tokens proposed, by any drafter
  int longest_draft = 0;          // of a sequence, by any drafter
  int model_draft_steps = 0;      // steps of the draft model
  int model_draft_sequences = 0;  // sequences that it drafted for
  std::array<int, kMaxDraftLength> model_drafting = {};  // of them, in each of its steps
  int first_draft_rows = 0;  // rows of its first step: their last tokens and what it was behind
  int kept = 0;              // tokens kept, of all sequences
  bool fixed = false;        // a request fixed its draft length: not held against the controller
  // Of the drafts; of all else, on the device and on the host, but for recording.
  double draft_seconds = 0, verify_seconds = 0;
  double recording_seconds = 0;  // for a round that the device did not know
};

class DraftLengthController {
 public:
  static constexpr int kPlainInterval = 128;
  static constexpr int kPlainMemory = 512;
  static constexpr double kDebtAllowance = 0.02, kProbeAllowance = 0.01, kCreditSteps = 16;
  static constexpr int kInvestmentTokens = 32, kRepaySteps = 32, kRecordingSteps = 64;

  // Whether the next step may have drafts other than those that requests fix, when so many
  // sequences decode and `other_rows` of prompts share it. If not, Choose need not know what could
  // be drafted.
  bool MayDraft(int sequences, int other_rows) const;
  // Chooses for all decoding sequences of the next step.
  void Choose(absl::Span<DraftChoice> sequences, int other_rows);

  // After the step that was chosen for: first every drafting sequence's outcome, then the step.
  void ObserveDrafts(DrafterKind drafter, int drafted, int accepted, DraftStatistics& statistics);
  void ObserveStep(const StepMeasurement& step);

  // Expected share of drafts at `position` (0 ..) that stay, given those before did.
  double Acceptance(const DraftStatistics& statistics, DrafterKind drafter, int position) const;

 private:
  // Acceptance of one sequence's drafts, position by position.
  class Chances {
   public:
    Chances(const AcceptanceCounts& own, const AcceptanceCounts& all);
    double Next();

   private:
    const AcceptanceCounts &own_, &all_;
    size_t position_ = 0;
    double common_, rate_;  // of the position before
  };
  Chances ChancesOf(const DraftStatistics& statistics, DrafterKind drafter) const {
    return {statistics.of(drafter), everyone_.of(drafter)};
  }

  // A next draft that could be added to the plan.
  struct Increment {
    float reach = 0;  // chance that it is kept
    int32_t sequence = 0, length = 0;
  };
  struct Plan {
    int sequences = 0, rows = 0;  // rows: verified
    int longest = 0;              // draft
    bool by_model = false;        // some drafts are the draft model's
    double tokens = 0, draft_seconds = 0;
    std::array<int, kMaxDraftLength> drafting =
        {};  // sequences that take draft step i of the draft model
  };

  bool PlainDue(int sequences, int other_rows) const;
  bool StaysPlain(int sequences, int other_rows) const;
  bool MayChoose(int sequences) const;
  bool MayProbe(int sequences, int other_rows) const;
  double PlainSeconds(int sequences, int other_rows) const;
  double Seconds(const Plan& plan) const;
  double RecordingSeconds(const Plan& plan) const;
  double RecordingSecondsPerStep(const Plan& plan) const;
  bool MayRecord(const Plan& plan, double plain_seconds) const;
  double CatchUpSeconds(const DraftChoice& choice) const;
  double CatchUpSecondsPerToken(const DraftChoice& choice) const;
  bool WorthCatchingUp(const DraftChoice& choice, int sequences, double plain_seconds,
                       double* invested) const;
  double ObserveDraftModel(const StepMeasurement& step);
  void ObserveDraftSteps(const StepMeasurement& step);
  void AddDraft(const DraftChoice& choice, int length, double reach, Plan& plan) const;
  double BestRate(const DraftChoice& choice, DrafterKind drafter, int sequences, int* length) const;
  void ChooseDrafter(DraftChoice& choice, int sequences) const;
  Plan ChooseLengths(absl::Span<DraftChoice> sequences, int other_rows, double plain_seconds,
                     bool may_draft);
  Plan BestPlan(absl::Span<DraftChoice> sequences, const Plan& least, double least_rate,
                double plain_seconds);
  bool Curious(const DraftChoice& choice, int sequences, DraftChoice* probe) const;
  void AddProbe(absl::Span<DraftChoice> sequences, const Plan& plan, double plain_seconds);

  CostCurve plain_, verify_, draft_;
  RecordingCosts recordings_;
  DraftStatistics everyone_;
  std::vector<Increment> increments_;
  std::vector<DraftChoice> probe_choices_;
  int64_t now_ = 0;  // steps observed
  int64_t plain_steps_ = 0, last_plain_ = 0;
  int64_t probes_ = 0, last_probe_ = 0;
  bool probing_ = false;                // the chosen step has a probe
  double probe_cost_ = 0;               // charged for it when the step speculates anyway
  bool probe_alone_ = false;            // nothing but the probe drafts
  double debt_ = 0, probe_budget_ = 0;  // seconds
  double invested_ = 0;       // seconds of catching up and recording that are not debt yet
  double wanted_budget_ = 0;  // what the probe costs that is waited for
  bool probe_waits_ = false;  // for that budget
  int last_count_ = 0;        // sequences of the last choice
  int64_t plain_until_ = 0;   // until this step drafts were found not to pay
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SPECULATION_DRAFT_LENGTH_H_
