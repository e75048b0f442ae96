// Drives one mixer with ragged batches of verify-and-commit steps as an engine would, and keeps
// what each sequence gave. Memory that a step may not read holds NaN.

#ifndef MAMBAD_TESTS_KERNELS_BACKEND_MIXER_SIMULATION_H_
#define MAMBAD_TESTS_KERNELS_BACKEND_MIXER_SIMULATION_H_

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "tests/kernels/backend/device_array.h"
#include "tests/kernels/backend/key_value_pages.h"
#include "tests/kernels/backend/mixer_under_test.h"
#include "tests/kernels/backend/reference.h"
#include "tests/kernels/backend/step_rows.h"

namespace mambad::kernels {

// What one sequence does in one step: feed `commit` tokens of its own, then `drafts` more of which
// the first `kept` are its own and the rest strangers.
struct SimulatedStep {
  int sequence = 0;
  int commit = 0, drafts = 0, kept = 0;
};

struct SimulationOptions {
  int window_rows = kMaxWindowRows;
  // Rows that may wait in replay rows, whatever the backend's own layout says, before a step folds;
  // of those that need not, a third do all the same where `folds_at_times`.
  int waiting_rows = 0;
  bool folds_at_times = false;
  bool keeps_working = false;
  bool decode_rounds = false;  // whose counts say more than there is
};

class Simulation {
 public:
  static constexpr int kPagesPerSequence = 16;
  static constexpr int kMaxRows = 320;
  static constexpr int64_t kBetweenSlots = 32;  // floats: where other layers' blocks would lie

  Simulation(const MixerUnderTest& mixer, std::vector<Rows> tokens,
             const SimulationOptions& options = {});

  // One call for all of `steps`, each of another sequence.
  void Step(const std::vector<SimulatedStep>& steps);
  // The same tokens as Step, as a draft model takes them: the committed rows first, then the others
  // one call each.
  void DraftStep(const std::vector<SimulatedStep>& steps);
  // Folds the pending replay rows of all sequences into their checkpoints.
  void Fold();
  void Feed(int sequence, int rows) { Step({{sequence, rows, 0, 0}}); }

  int fed(int sequence) const { return fed_[sequence]; }
  int length(int sequence) const { return static_cast<int>(tokens_[sequence].size()); }
  // The rows of the residual stream with what the mixer added.
  const Rows& outputs(int sequence) const { return outputs_[sequence]; }
  // Everything that can be looked at of a folded sequence: checkpoint, the inputs of the last W - 1
  // positions, full pages of keys and values.
  Row FoldedState(int sequence) const;
  // Nothing beside the sequences' slots was written.
  void ExpectOthersUntouched() const;

 private:
  static RecurrentSlotLayout Layout(const MixerUnderTest& mixer, const SimulationOptions& options);

  int slot(int sequence) const { return sequence + 1; }  // slot 0 is nobody's
  bool Folds(int rows);
  // Ids of the step's tokens [begin, end).
  std::vector<int32_t> Ids(const SimulatedStep& step, int begin, int end);
  Rows Run(StepRows& rows);
  // `waiting`: rows in replay rows before those of the drafts.
  void Advance(const SimulatedStep& step, int waiting);
  bool NeedsRingRow(int sequence, int row) const;
  // Everything of a sequence that its next step may not read becomes NaN: replay rows that were not
  // kept, the working state, ring rows of positions not fed or older than the taps, pages that hold
  // nothing that was fed.
  void Poison(int sequence, int kept);

  const MixerUnderTest& mixer_;
  Backend& backend_;
  const std::vector<Rows> tokens_;
  std::vector<int32_t> first_id_;  // of each sequence's tokens, in the embedding; then of strangers
  const SimulationOptions options_;
  const RecurrentSlotLayout layout_;
  const int slots_;
  const int64_t slot_stride_;
  std::mt19937 random_;
  std::unique_ptr<TestMatrix> embedding_;
  std::unique_ptr<Workspace> workspace_;
  BatchArrays batches_;
  DeviceArray<float> state_;
  KeyValuePages pages_;
  std::vector<Rows> outputs_;
  std::vector<int> fed_, replay_;
};

// What a sequence gives alone, one token a call: the truth of every bit-exactness test.
struct Baseline {
  Rows outputs;
  std::vector<Row> folded;  // after 1, 2, ... tokens
};

Baseline OneByOne(const MixerUnderTest& mixer, const Rows& tokens);

// Of a folded sequence, which is fed one more token.
void ExpectAsOneByOne(Simulation& simulation, int sequence, const Baseline& baseline,
                      const std::string& what);

}  // namespace mambad::kernels

#endif  // MAMBAD_TESTS_KERNELS_BACKEND_MIXER_SIMULATION_H_
