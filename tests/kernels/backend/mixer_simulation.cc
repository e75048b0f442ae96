#include "tests/kernels/backend/mixer_simulation.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <utility>

#include "gtest/gtest.h"

namespace mambad::kernels {
namespace {

constexpr int kStrangers = 61;
constexpr int kPositions = Simulation::kPagesPerSequence * kPageTokens;
// That a decode round's counts say, and that are not there.
constexpr int kMoreSequences = 2, kMoreRows = 7;
constexpr int kMostShapes = 4000;

}  // namespace

// ---- what there is at first ---------------------------------------------------------------------

Simulation::Simulation(const MixerUnderTest& mixer, std::vector<Rows> tokens,
                       const SimulationOptions& options)
    : mixer_(mixer),
      backend_(mixer.backend()),
      tokens_(std::move(tokens)),
      options_(options),
      layout_(Layout(mixer, options)),
      slots_(static_cast<int>(tokens_.size()) + 1),
      slot_stride_(layout_.floats + kBetweenSlots),
      random_(99),
      batches_(backend_),
      state_(backend_, Row(slots_ * slot_stride_, kNaN)),
      pages_(backend_, mixer.page_layout(), slots_, kPagesPerSequence, random_),
      outputs_(tokens_.size()),
      fed_(tokens_.size(), 0),
      replay_(tokens_.size(), 0) {
  Row embedded;
  const auto embed = [&](const Rows& rows) {
    first_id_.push_back(static_cast<int32_t>(embedded.size() / mixer.width()));
    for (const Row& row : rows) embedded.insert(embedded.end(), row.begin(), row.end());
  };
  for (const Rows& sequence : tokens_) embed(sequence);
  embed(mixer.RandomTokens(random_, kStrangers));
  const int64_t ids = static_cast<int64_t>(embedded.size()) / mixer.width();
  embedding_ = std::make_unique<TestMatrix>(backend_, ids, mixer.width(), mixer.weights(),
                                            std::move(embedded));

  WorkspaceShape shape = mixer.workspace();
  shape.width = mixer.width();
  shape.vocabulary = ids;
  shape.max_rows = std::min<int>(kMaxRows, static_cast<int>(ids)) + kMoreRows;
  shape.max_logit_rows = 1;
  shape.max_sequences = slots_ + kMoreSequences;
  shape.max_context = kPositions + kMostShapes;
  workspace_ = backend_.CreateWorkspace(shape);

  for (int s = 0; s + 1 < slots_; ++s) {  // as a slot changes hands; slot 0 stays poisoned
    state_.Write(Row(layout_.floats, 0), slot(s) * slot_stride_);
    Poison(s, 0);
  }
}

// More rows may wait than the backend asks for where replay rows stand last in a block.
RecurrentSlotLayout Simulation::Layout(const MixerUnderTest& mixer,
                                       const SimulationOptions& options) {
  RecurrentSlotLayout layout = mixer.layout(options.window_rows, options.keeps_working);
  if (layout.replay + layout.replay_rows * layout.replay_row == layout.floats) {
    const int more = std::max(0, options.waiting_rows - layout.replay_rows);
    layout.replay_rows += more;
    layout.floats += more * layout.replay_row;
  }
  return layout;
}

// ---- steps --------------------------------------------------------------------------------------

void Simulation::Step(const std::vector<SimulatedStep>& steps) {
  StepRows rows;
  std::vector<int> waiting;
  for (const SimulatedStep& step : steps) {
    const int s = step.sequence;
    const bool fold = Folds(replay_[s] + step.commit + step.drafts);
    waiting.push_back(fold ? 0 : replay_[s] + step.commit);
    rows.Add(slot(s), fed_[s], Ids(step, 0, step.commit + step.drafts), replay_[s], fold,
             fold ? step.commit : 0, fold ? 0 : replay_[s]);
  }
  const Rows outputs = Run(rows);
  for (size_t i = 0; i < steps.size(); ++i) {
    const SimulatedStep& step = steps[i];
    for (int r = 0; r < step.commit + step.kept; ++r) {
      outputs_[step.sequence].push_back(outputs[rows.row_begin[i] + r]);
    }
    Advance(step, waiting[i]);
  }
}

void Simulation::DraftStep(const std::vector<SimulatedStep>& steps) {
  int longest = 0;
  for (const SimulatedStep& step : steps) longest = std::max(longest, step.drafts);
  for (int round = 0; round <= longest; ++round) {
    StepRows rows;
    std::vector<const SimulatedStep*> present;
    for (const SimulatedStep& step : steps) {
      const int s = step.sequence, at = step.commit + round - 1;
      if (round > step.drafts) continue;
      present.push_back(&step);
      if (round == 0) {
        rows.Add(slot(s), fed_[s], Ids(step, 0, step.commit), replay_[s]);
      } else {
        rows.Add(slot(s), fed_[s] + at, Ids(step, at, at + 1), 0, /*folds=*/false, 0, round - 1,
                 /*resumes=*/round > 1);
      }
    }
    const Rows outputs = Run(rows);
    for (size_t i = 0; i < present.size(); ++i) {
      if (round > present[i]->kept) continue;
      for (int r = rows.row_begin[i]; r < rows.row_begin[i + 1]; ++r) {
        outputs_[present[i]->sequence].push_back(outputs[r]);
      }
    }
  }
  for (const SimulatedStep& step : steps) Advance(step, 0);
}

void Simulation::Fold() {
  StepRows rows;
  for (int s = 0; s + 1 < slots_; ++s) rows.Add(slot(s), fed_[s], {}, replay_[s]);
  Run(rows);
  for (int s = 0; s + 1 < slots_; ++s) {
    replay_[s] = 0;
    Poison(s, 0);
  }
}

bool Simulation::Folds(int rows) {
  if (rows > std::min(options_.waiting_rows, layout_.replay_rows)) return true;
  return options_.folds_at_times && random_() % 3 == 0;
}

std::vector<int32_t> Simulation::Ids(const SimulatedStep& step, int begin, int end) {
  const int s = step.sequence;
  std::vector<int32_t> ids;
  for (int i = begin; i < end; ++i) {
    const bool own = i < step.commit + step.kept;
    if (own) {
      EXPECT_LT(fed_[s] + i, length(s));
    }
    ids.push_back(own ? first_id_[s] + fed_[s] + i
                      : first_id_.back() + static_cast<int32_t>(random_() % kStrangers));
  }
  return ids;
}

Rows Simulation::Run(StepRows& rows) {
  if (rows.sequences() == 0) return {};
  rows.keeps_working = options_.keeps_working;
  BatchArrays::Bounds more;
  if (options_.decode_rounds) more = {kMoreSequences, kMoreRows, 0};
  const Batch batch = batches_.Write(rows, more, pages_.table(), pages_.pages_per_sequence());
  const auto describe = [&] {
    backend_.Embed(batch, embedding_->packed, *workspace_);
    mixer_.Run(batch, {state_.data(), slot_stride_, layout_}, pages_.state(), *workspace_);
  };
  if (options_.decode_rounds) {
    RunDecodeRound(backend_, mixer_.NewShape(batch.sequences, kPositions), describe);
  } else {
    RunRound(backend_, describe);
  }
  return ReadRows(backend_, workspace_->residual, rows.rows());
}

void Simulation::Advance(const SimulatedStep& step, int waiting) {
  fed_[step.sequence] += step.commit + step.kept;
  replay_[step.sequence] = waiting + step.kept;
  Poison(step.sequence, replay_[step.sequence]);
}

// ---- memory -------------------------------------------------------------------------------------

bool Simulation::NeedsRingRow(int s, int row) const {
  for (int p = std::max(0, fed_[s] - mixer_.convolution_width() + 1); p < fed_[s]; ++p) {
    if (p % layout_.ring_rows == row) return true;
  }
  return false;
}

void Simulation::Poison(int s, int kept) {
  pages_.Poison(slot(s), fed_[s]);
  if (layout_.floats == 0) return;
  Row block = state_.Read(slot(s) * slot_stride_, layout_.floats);
  const auto poison = [&](int64_t at, int64_t count) { std::fill_n(&block[at], count, kNaN); };
  poison(layout_.replay + kept * layout_.replay_row,
         (layout_.replay_rows - kept) * layout_.replay_row);
  if (layout_.working >= 0) poison(layout_.working, layout_.ring - layout_.working);
  for (int row = 0; row < layout_.ring_rows; ++row) {
    if (NeedsRingRow(s, row)) continue;
    poison(layout_.ring + row * mixer_.ring_channels(), mixer_.ring_channels());
  }
  state_.Write(block, slot(s) * slot_stride_);
}

Row Simulation::FoldedState(int s) const {
  Row result;
  if (layout_.floats > 0) {
    const Row block = state_.Read(slot(s) * slot_stride_, layout_.floats);
    const int64_t end = layout_.working >= 0 ? layout_.working : layout_.ring;
    result.assign(block.begin() + layout_.checkpoint, block.begin() + end);
    for (int p = std::max(0, fed_[s] - mixer_.convolution_width() + 1); p < fed_[s]; ++p) {
      const auto row =
          block.begin() + layout_.ring + p % layout_.ring_rows * mixer_.ring_channels();
      result.insert(result.end(), row, row + mixer_.ring_channels());
    }
  }
  const std::vector<std::byte> pages = pages_.FullPages(slot(s), fed_[s]);
  const size_t floats = result.size();
  result.resize(floats + pages.size() / sizeof(float));
  std::memcpy(result.data() + floats, pages.data(), pages.size());
  return result;
}

void Simulation::ExpectOthersUntouched() const {
  const Row all = state_.Read();
  for (int64_t i = 0; i < state_.size(); ++i) {
    const bool used = i >= slot_stride_ && i % slot_stride_ < layout_.floats;
    ASSERT_TRUE(used || std::isnan(all[i])) << "no slot's memory was written, float " << i;
  }
}

// ---- comparison ---------------------------------------------------------------------------------

Baseline OneByOne(const MixerUnderTest& mixer, const Rows& tokens) {
  Simulation simulation(mixer, {tokens});
  Baseline baseline;
  for (size_t t = 0; t < tokens.size(); ++t) {
    simulation.Feed(0, 1);
    baseline.folded.push_back(simulation.FoldedState(0));
  }
  baseline.outputs = simulation.outputs(0);
  return baseline;
}

void ExpectAsOneByOne(Simulation& simulation, int sequence, const Baseline& baseline,
                      const std::string& what) {
  for (const bool one_more : {false, true}) {  // whose output says what state cannot be looked at
    if (one_more && simulation.fed(sequence) == simulation.length(sequence)) return;
    if (one_more) simulation.Feed(sequence, 1);
    if (one_more) simulation.Fold();
    const Rows& outputs = simulation.outputs(sequence);
    ASSERT_EQ(outputs.size(), static_cast<size_t>(simulation.fed(sequence))) << what;
    for (size_t t = 0; t < outputs.size(); ++t) {
      ASSERT_TRUE(SameBits(outputs[t], baseline.outputs[t]))
          << what << ": output of position " << t;
    }
    simulation.ExpectOthersUntouched();
    if (outputs.empty()) continue;
    ASSERT_TRUE(SameBits(simulation.FoldedState(sequence), baseline.folded[outputs.size() - 1]))
        << what << ": state";
  }
}

}  // namespace mambad::kernels
