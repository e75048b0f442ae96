// Drives one mixer (Mamba-1, Mamba-2 or attention) with ragged batches of verify-and-commit steps
// as an engine would, and keeps what each sequence gave. Memory that a step may not read holds NaN.

#ifndef MAMBAD_TESTS_KERNELS_MIXER_SIMULATION_H_
#define MAMBAD_TESTS_KERNELS_MIXER_SIMULATION_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/cpu/instruction_set.h"
#include "kernels/cpu/thread_pool.h"

namespace mambad::kernels {

inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

using Row = std::vector<float>;
using Rows = std::vector<Row>;

inline Row RandomRow(std::mt19937& random, int64_t count, float scale = 1) {
  std::normal_distribution<float> normal(0, scale);
  Row row(count);
  for (float& value : row) value = normal(random);
  return row;
}

inline Rows RandomRows(std::mt19937& random, int64_t rows, int64_t count, float scale = 1) {
  Rows result;
  for (int64_t r = 0; r < rows; ++r) result.push_back(RandomRow(random, count, scale));
  return result;
}

// sqrt(sum (a - b)^2 / sum b^2) over all rows; NaN or infinity anywhere gives NaN.
inline double RelativeError(const Rows& a, const std::vector<std::vector<double>>& b) {
  double difference = 0, size = 0;
  for (size_t r = 0; r < b.size(); ++r) {
    for (size_t i = 0; i < b[r].size(); ++i) {
      difference += (a[r][i] - b[r][i]) * (a[r][i] - b[r][i]);
      size += b[r][i] * b[r][i];
    }
  }
  return std::sqrt(difference / size);
}

// A mixer under test. A token's input is one row of numbers: all that the mixer's call takes for
// it.
class MixerUnderTest {
 public:
  virtual ~MixerUnderTest() = default;
  virtual int64_t input_width() const = 0;
  virtual int64_t output_width() const = 0;
  // floats 0: no recurrent state
  virtual RecurrentSlotLayout layout(int window_rows, bool keeps_working) const = 0;
  virtual int ring_channels() const { return 0; }
  virtual int convolution_width() const { return 1; }
  virtual KeyValueLayout page_layout() const { return {}; }  // keys take as much as values
  virtual int64_t key_value_heads() const { return 1; }
  // `inputs` may be changed. Rows of `inputs` and `outputs` lie `stride` apart.
  virtual void Run(ThreadPool& pool, const Batch& batch, const RecurrentState& state,
                   const KeyValueState& pages, float* inputs, int64_t input_stride, float* outputs,
                   int64_t output_stride) const = 0;
  // Outputs of a whole sequence in double.
  virtual std::vector<std::vector<double>> Reference(const Rows& inputs) const = 0;
};

// What one sequence does in one step: feed `commit` tokens of its own, then `drafts` more of which
// the first `kept` are its own and the rest strangers.
struct SimulatedStep {
  int sequence = 0;
  int commit = 0, drafts = 0, kept = 0;
};

struct SimulationOptions {
  int window_rows = kMaxWindowRows;
  // Rows that may wait in replay rows, whatever the mixer's own layout says, before a step folds;
  // of those that need not, a third do all the same where `folds_at_times`.
  int waiting_rows = 0;
  bool folds_at_times = false;
  bool keeps_working = false;
};

class Simulation {
 public:
  static constexpr int kPagesPerSequence = 16;
  static constexpr int64_t kBetweenSlots = 32;  // floats: where other layers' blocks would lie

  Simulation(const MixerUnderTest& mixer, std::vector<Rows> tokens, int threads,
             const SimulationOptions& options = {})
      : mixer_(mixer),
        tokens_(std::move(tokens)),
        pool_(threads),
        options_(options),
        layout_(Layout(mixer, options)),
        page_(mixer.page_layout()),
        slots_(static_cast<int>(tokens_.size()) + 1),
        slot_stride_(layout_.floats + kBetweenSlots),
        random_(99) {
    state_.assign(slots_ * slot_stride_ + 16, kNaN);
    const int pages = slots_ * kPagesPerSequence;
    keys_.assign(pages * page_.key_bytes + 64, std::byte{0xff});  // not a number of any type
    values_ = keys_;
    for (int i = 0; i < pages; ++i) table_.push_back(i);
    std::shuffle(table_.begin(), table_.end(), random_);
    outputs_.resize(tokens_.size());
    fed_.assign(tokens_.size(), 0);
    replay_.assign(tokens_.size(), 0);
    for (size_t s = 0; s < tokens_.size(); ++s) {  // as a slot changes hands; slot 0 stays poisoned
      std::fill_n(slot(s), layout_.floats, 0.0f);
      Poison(s, 0);
    }
  }

  // One call for all of `steps`, each of another sequence.
  void Step(const std::vector<SimulatedStep>& steps) {
    Call call;
    std::vector<int> waiting;
    for (const SimulatedStep& step : steps) {
      const int s = step.sequence;
      const bool fold = Folds(replay_[s] + step.commit + step.drafts);
      waiting.push_back(fold ? 0 : replay_[s] + step.commit);
      call.Begin(s + 1, fed_[s], replay_[s]);
      call.fold.back() = fold;
      call.keep_from.back() = fold ? step.commit : 0;
      call.keep_at.back() = fold ? 0 : replay_[s];
      for (int i = 0; i < step.commit + step.drafts; ++i) call.inputs.push_back(Token(s, step, i));
    }
    const Rows outputs = Run(call);
    for (size_t i = 0; i < steps.size(); ++i) {
      const SimulatedStep& step = steps[i];
      for (int r = 0; r < step.commit + step.kept; ++r) {
        outputs_[step.sequence].push_back(outputs[call.row_begin[i] + r]);
      }
      Advance(step, waiting[i]);
    }
  }

  // The same tokens as Step, as a draft model takes them: the committed rows first, then the others
  // one call each.
  void DraftStep(const std::vector<SimulatedStep>& steps) {
    int longest = 0;
    for (const SimulatedStep& step : steps) longest = std::max(longest, step.drafts);
    for (int round = 0; round <= longest; ++round) {
      Call call;
      std::vector<const SimulatedStep*> present;
      for (const SimulatedStep& step : steps) {
        const int s = step.sequence;
        if (round > step.drafts) continue;
        present.push_back(&step);
        if (round == 0) {
          call.Begin(s + 1, fed_[s], replay_[s]);
          call.keep_from.back() = step.commit;
          for (int i = 0; i < step.commit; ++i) call.inputs.push_back(Token(s, step, i));
        } else {
          call.Begin(s + 1, fed_[s] + step.commit + round - 1, 0);
          call.fold.back() = 0;
          call.keep_at.back() = round - 1;
          call.resume.back() = round > 1;
          call.inputs.push_back(Token(s, step, step.commit + round - 1));
        }
      }
      const Rows outputs = Run(call);
      for (size_t i = 0; i < present.size(); ++i) {
        if (round > present[i]->kept) continue;
        const int rows = round == 0 ? present[i]->commit : 1;
        for (int r = 0; r < rows; ++r)
          outputs_[present[i]->sequence].push_back(outputs[call.row_begin[i] + r]);
      }
    }
    for (const SimulatedStep& step : steps) Advance(step, 0);
  }

  // Folds the pending replay rows of all sequences into their checkpoints.
  void Fold() {
    Call call;
    for (size_t s = 0; s < tokens_.size(); ++s)
      call.Begin(static_cast<int>(s) + 1, fed_[s], replay_[s]);
    Run(call);
    for (size_t s = 0; s < tokens_.size(); ++s) {
      replay_[s] = 0;
      Poison(s, 0);
    }
  }

  void Feed(int sequence, int rows) { Step({{sequence, rows, 0, 0}}); }
  int fed(int sequence) const { return fed_[sequence]; }
  int length(int sequence) const { return static_cast<int>(tokens_[sequence].size()); }
  const Rows& outputs(int sequence) const { return outputs_[sequence]; }

  // Everything that a folded sequence is: checkpoint, the inputs of the last W - 1 positions, keys
  // and values.
  Row FoldedState(int s) {
    Row result(slot(s) + layout_.checkpoint,
               slot(s) + (layout_.working >= 0 ? layout_.working : layout_.ring));
    for (int p = std::max(0, fed_[s] - mixer_.convolution_width() + 1);
         p < fed_[s] && layout_.floats > 0; ++p) {
      const float* row = slot(s) + layout_.ring + p % layout_.ring_rows * mixer_.ring_channels();
      result.insert(result.end(), row, row + mixer_.ring_channels());
    }
    for (int p = 0; p < fed_[s]; ++p) {
      ForEachPageNumber(s, p, [&](const std::byte* number) {
        uint32_t bits = 0;
        std::memcpy(&bits, number, ElementBytes(page_.type));
        result.push_back(static_cast<float>(bits >> 16));
        result.push_back(static_cast<float>(bits & 0xffffu));
      });
    }
    return result;
  }

 private:
  struct Call {
    std::vector<int32_t> row_begin{0}, slot, position, replay, fold, keep_from, keep_at, resume;
    Rows inputs;

    // A sequence that folds and keeps all of its rows in replay rows 0 ..
    void Begin(int the_slot, int at, int replayed) {
      if (!slot.empty()) row_begin.push_back(static_cast<int32_t>(inputs.size()));
      slot.push_back(the_slot);
      position.push_back(at);
      replay.push_back(replayed);
      fold.push_back(1);
      keep_from.push_back(0);
      keep_at.push_back(0);
      resume.push_back(0);
    }
  };

  // Replay rows stand last in a block.
  static RecurrentSlotLayout Layout(const MixerUnderTest& mixer, const SimulationOptions& options) {
    RecurrentSlotLayout layout = mixer.layout(options.window_rows, options.keeps_working);
    const int more = std::max(0, options.waiting_rows - layout.replay_rows);
    layout.replay_rows += more;
    layout.floats += more * layout.replay_row;
    return layout;
  }

  bool Folds(int rows) {
    if (rows > options_.waiting_rows) return true;
    return options_.folds_at_times && random_() % 3 == 0;
  }

  float* slot(size_t s) { return state_.data() + (s + 1) * slot_stride_; }

  Row Token(int s, const SimulatedStep& step, int i) {
    if (i < step.commit + step.kept) return tokens_[s].at(fed_[s] + i);
    return RandomRow(random_, mixer_.input_width());
  }

  Rows Run(Call& call) {
    call.row_begin.push_back(static_cast<int32_t>(call.inputs.size()));
    const int64_t in = mixer_.input_width() + 3,
                  out = mixer_.output_width() + 5;  // rows need not be aligned
    Row inputs(call.inputs.size() * in + 16, kNaN), outputs(call.inputs.size() * out + 16, kNaN);
    for (size_t r = 0; r < call.inputs.size(); ++r)
      std::copy(call.inputs[r].begin(), call.inputs[r].end(), &inputs[r * in]);
    Batch batch;
    batch.sequences = static_cast<int>(call.slot.size());
    batch.rows = static_cast<int>(call.inputs.size());
    batch.row_begin = call.row_begin.data();
    batch.slot = call.slot.data();
    batch.position = call.position.data();
    batch.replay = call.replay.data();
    batch.fold = call.fold.data();
    batch.keep_from = call.keep_from.data();
    batch.keep_at = call.keep_at.data();
    batch.resume = call.resume.data();
    batch.pages = table_.data();
    batch.pages_per_sequence = kPagesPerSequence;
    batch.keeps_working = options_.keeps_working;
    mixer_.Run(pool_, batch, {state_.data(), slot_stride_, layout_},
               {keys_.data(), values_.data(), page_}, inputs.data(), in, outputs.data(), out);
    Rows result;
    for (size_t r = 0; r < call.inputs.size(); ++r) {
      result.emplace_back(&outputs[r * out], &outputs[r * out] + mixer_.output_width());
      for (int64_t i = mixer_.output_width(); i < out; ++i)
        EXPECT_TRUE(std::isnan(outputs[r * out + i])) << "beside a row";
    }
    for (int64_t i = 0; i < static_cast<int64_t>(state_.size()); ++i) {
      const bool used = i >= slot_stride_ && i % slot_stride_ < layout_.floats;
      if (!used && !std::isnan(state_[i])) ADD_FAILURE() << "no slot's memory was written";
    }
    return result;
  }

  // `waiting`: rows in replay rows before those of the drafts.
  void Advance(const SimulatedStep& step, int waiting) {
    fed_[step.sequence] += step.commit + step.kept;
    replay_[step.sequence] = waiting + step.kept;
    Poison(step.sequence, replay_[step.sequence]);
  }

  template <typename Visit>
  void ForEachPageNumber(int s, int position, const Visit& visit) {
    const int page = table_[(s + 1) * kPagesPerSequence + position / kPageTokens],
              token = position % kPageTokens;
    const auto bytes = static_cast<int64_t>(ElementBytes(page_.type));
    const int64_t columns = page_.key_bytes / kPageTokens / bytes;
    std::byte* const keys = keys_.data() + page * page_.key_bytes;
    for (int64_t i = 0; i < columns; ++i) visit(keys + (i * kPageTokens + token) * bytes);
    const int64_t heads = mixer_.key_value_heads(), width = columns / heads;
    std::byte* const values = values_.data() + page * page_.value_bytes;
    for (int64_t head = 0; head < heads; ++head) {
      for (int64_t i = 0; i < width; ++i)
        visit(values + ((head * kPageTokens + token) * width + i) * bytes);
    }
  }

  // Everything of a sequence that its next step may not read becomes NaN: replay rows that were not
  // kept, the working state, ring rows of positions not fed or older than the taps, keys and values
  // not fed.
  void Poison(size_t s, int kept) {
    if (layout_.floats > 0) {
      std::fill(slot(s) + layout_.replay + kept * layout_.replay_row, slot(s) + layout_.floats,
                kNaN);
      if (layout_.working >= 0) std::fill(slot(s) + layout_.working, slot(s) + layout_.ring, kNaN);
      for (int row = 0; row < layout_.ring_rows; ++row) {
        bool needed = false;
        for (int p = std::max(0, fed_[s] - mixer_.convolution_width() + 1); p < fed_[s]; ++p) {
          needed = needed || p % layout_.ring_rows == row;
        }
        if (!needed)
          std::fill_n(slot(s) + layout_.ring + row * mixer_.ring_channels(), mixer_.ring_channels(),
                      kNaN);
      }
    }
    if (page_.key_bytes == 0) return;
    for (int p = fed_[s]; p < fed_[s] + 2 * kMaxWindowRows && p < kPagesPerSequence * kPageTokens;
         ++p) {
      ForEachPageNumber(static_cast<int>(s), p, [this](std::byte* number) {
        std::fill_n(number, ElementBytes(page_.type), std::byte{0xff});
      });
    }
  }

  const MixerUnderTest& mixer_;
  const std::vector<Rows> tokens_;
  ThreadPool pool_;
  const SimulationOptions options_;
  const RecurrentSlotLayout layout_;
  const KeyValueLayout page_;
  const int slots_;
  const int64_t slot_stride_;
  std::mt19937 random_;
  std::vector<float> state_;
  std::vector<std::byte> keys_, values_;
  std::vector<int32_t> table_;
  std::vector<Rows> outputs_;
  std::vector<int> fed_, replay_;
};

inline bool SameBits(const Row& a, const Row& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// What a sequence gives alone, one token a call, on one thread: the truth of every bit-exactness
// test.
struct Baseline {
  Rows outputs;
  std::vector<Row> folded;  // after 1, 2, ... tokens
};

inline Baseline OneByOne(const MixerUnderTest& mixer, const Rows& tokens) {
  Simulation simulation(mixer, {tokens}, 1);
  Baseline baseline;
  for (size_t t = 0; t < tokens.size(); ++t) {
    simulation.Feed(0, 1);
    baseline.folded.push_back(simulation.FoldedState(0));
  }
  baseline.outputs = simulation.outputs(0);
  return baseline;
}

inline void ExpectAsOneByOne(Simulation& simulation, int sequence, const Baseline& baseline,
                             const std::string& what) {
  const Rows& outputs = simulation.outputs(sequence);
  ASSERT_EQ(outputs.size(), static_cast<size_t>(simulation.fed(sequence))) << what;
  for (size_t t = 0; t < outputs.size(); ++t) {
    ASSERT_TRUE(SameBits(outputs[t], baseline.outputs[t])) << what << ": output of position " << t;
  }
  if (outputs.empty()) return;
  ASSERT_TRUE(SameBits(simulation.FoldedState(sequence), baseline.folded[outputs.size() - 1]))
      << what << ": state";
}

// ---- the checks that every mixer passes ----

struct MixerChecks {
  const MixerUnderTest& mixer;
  double tolerance = 1e-5;

  // Of case `index`: rows wait in none, some, as many as there can be and in between. A draft
  // model's never do.
  static SimulationOptions Options(bool as_draft, int index) {
    SimulationOptions options;
    options.keeps_working = as_draft;
    constexpr int kWaitingRows[] = {0, 5, 32, 12};
    if (!as_draft) options.waiting_rows = kWaitingRows[index % 4];
    options.folds_at_times = index % 3 == 0;
    return options;
  }

  // Runs `check` on every instruction set that this machine has.
  template <typename Check>
  void OnEveryInstructionSet(const Check& check) const {
    for (InstructionSet set : AvailableInstructionSets()) {
      SCOPED_TRACE(Name(set));
      LimitInstructionSet(set);
      check();
    }
    LimitInstructionSet(InstructionSet::kAvx512Bfloat16);
  }

  void AgreesWithReference(uint32_t seed, int length) const {
    std::mt19937 random(seed);
    const Rows tokens = RandomRows(random, length, mixer.input_width());
    Simulation simulation(mixer, {tokens}, 2);
    simulation.Feed(0, length);
    EXPECT_LE(RelativeError(simulation.outputs(0), mixer.Reference(tokens)), tolerance);
  }

  // Invariant 1: windows of T rows, every T and every n of them kept, several in a row.
  void CommitEqualsOneByOne(uint32_t seed, bool as_draft) const {
    std::mt19937 random(seed);
    const Rows tokens = RandomRows(random, 60, mixer.input_width());
    const Baseline baseline = OneByOne(mixer, tokens);
    for (int rows = 1; rows <= 9; ++rows) {
      for (int n = 0; n < rows; ++n) {
        Simulation simulation(mixer, {tokens}, 1 + n % 3, Options(as_draft, rows + n));
        simulation.Feed(0, 1 + 7 * n % 5);
        for (int window = 0; window < 5; ++window) {
          const SimulatedStep step{0, 1 + (as_draft ? window % 2 : 0), rows - 1,
                                   (n + window) % rows};
          as_draft ? simulation.DraftStep({step}) : simulation.Step({step});
        }
        simulation.Fold();
        ExpectAsOneByOne(simulation, 0, baseline,
                         std::to_string(rows) + " rows, " + std::to_string(n) + " kept");
        simulation.Fold();  // nothing pending: nothing changes
        ExpectAsOneByOne(simulation, 0, baseline, "folded twice");
      }
    }
  }

  // Invariant 1: drafts as long as the window, from slots that hold no more than that takes, at
  // every place of the ring.
  void DraftsMayFillTheWindow(uint32_t seed, bool as_draft) const {
    std::mt19937 random(seed);
    const Rows tokens = RandomRows(random, 80, mixer.input_width());
    const Baseline baseline = OneByOne(mixer, tokens);
    for (int rows : {0, 1, 2, 4, 7, kMaxWindowRows}) {
      for (int first = 1; first <= 5; ++first) {
        SimulationOptions options = Options(as_draft, first);
        options.window_rows = rows;
        Simulation simulation(mixer, {tokens}, 1 + first % 2, options);
        simulation.Feed(0, first);
        while (simulation.fed(0) + 1 + rows <= simulation.length(0)) {
          const SimulatedStep step{0, 1, rows, static_cast<int>(random() % (rows + 1))};
          as_draft ? simulation.DraftStep({step}) : simulation.Step({step});
        }
        simulation.Fold();
        ExpectAsOneByOne(simulation, 0, baseline, "windows of " + std::to_string(rows));
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
  }

  // A slot holds the state, once more where a window is extended row by row, the taps before a
  // window, each of its uncommitted rows as an input of the convolution, and as one of the
  // recurrence, if not more of these may wait.
  void SlotsHoldWhatWindowsTake(int64_t state, int64_t replay_row, int waiting_rows = 0) const {
    const auto padded = [](int64_t count) { return (count + 15) / 16 * 16; };
    for (int rows : {1, 4, 8, kMaxWindowRows}) {
      for (bool as_draft : {false, true}) {
        const int replay_rows = as_draft ? rows : std::max(rows, waiting_rows);
        const int64_t ring = int64_t{mixer.convolution_width() - 1 + rows} * mixer.ring_channels();
        EXPECT_EQ(
            mixer.layout(rows, as_draft).floats,
            padded(state) * (as_draft ? 2 : 1) + padded(ring) + replay_rows * padded(replay_row))
            << rows << " rows";
      }
    }
  }

  // Invariant 3: how a prompt is cut into chunks does not matter, nor the number of threads.
  void ChunksDoNotMatter(uint32_t seed, const std::vector<int>& lengths) const {
    std::mt19937 random(seed);
    const Rows tokens = RandomRows(random, 136, mixer.input_width());
    const Baseline baseline = OneByOne(mixer, tokens);
    for (int length : lengths) {
      for (int chunk : {1, 2, 3, 7, 15, 16, 17, 18, 19, 20, 31, 32, 33, 48, 49, 130}) {
        if (chunk > length && chunk != 130) continue;
        Simulation simulation(mixer, {tokens}, 1 + (length + chunk) % 3, Options(false, chunk));
        while (simulation.fed(0) < length)
          simulation.Feed(0, std::min(chunk, length - simulation.fed(0)));
        simulation.Step({{0, 1, 4, 2}});
        simulation.Fold();
        ExpectAsOneByOne(simulation, 0, baseline,
                         std::to_string(length) + " in chunks of " + std::to_string(chunk));
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
  }

  // Invariants 1 and 3: a random ragged batch of prompts, windows, folds and idle sequences.
  void BatchDoesNotMatter(uint32_t seed, int sequences, bool as_draft) const {
    std::mt19937 random(seed);
    std::vector<Rows> tokens;
    std::vector<Baseline> baselines;
    for (int s = 0; s < sequences; ++s) {
      tokens.push_back(RandomRows(random, 90 + 3 * s, mixer.input_width()));
      baselines.push_back(OneByOne(mixer, tokens.back()));
    }
    for (int threads = 1; threads <= 3; ++threads) {
      Simulation simulation(mixer, tokens, threads, Options(as_draft, threads));
      for (int round = 0; round < 14; ++round) {
        std::vector<SimulatedStep> steps;
        for (int s = 0; s < sequences; ++s) {
          const int left = simulation.length(s) - simulation.fed(s);
          SimulatedStep step{s, 1, static_cast<int>(random() % 9), 0};
          if (random() % 4 == 0) step.commit = static_cast<int>(1 + random() % 50);
          step.kept = static_cast<int>(random() % (step.drafts + 1));
          if (random() % 5 == 0 || left < step.commit + step.kept) continue;
          steps.push_back(step);
        }
        std::shuffle(steps.begin(), steps.end(), random);
        as_draft ? simulation.DraftStep(steps) : simulation.Step(steps);
        if (round % 5 == 4) simulation.Fold();
      }
      simulation.Fold();
      for (int s = 0; s < sequences; ++s) {
        ExpectAsOneByOne(simulation, s, baselines[s],
                         "sequence " + std::to_string(s) + ", threads " + std::to_string(threads));
      }
    }
  }
};

}  // namespace mambad::kernels

#endif  // MAMBAD_TESTS_KERNELS_MIXER_SIMULATION_H_
