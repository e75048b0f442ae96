#include "tests/kernels/backend/mixer_checks.h"

#include <algorithm>
#include <random>
#include <string>

#include "gtest/gtest.h"

namespace mambad::kernels {

const MixerUnderTest& MixerChecks::Mixer(int threads) {
  std::unique_ptr<MixerUnderTest>& mixer = mixers_[threads];
  if (mixer == nullptr) mixer = make_(tested_.WithThreads(threads));
  return *mixer;
}

SimulationOptions MixerChecks::Options(bool as_draft, int index) {
  SimulationOptions options;
  options.keeps_working = as_draft;
  constexpr int kWaitingRows[] = {0, 5, 32, 12};
  if (!as_draft) options.waiting_rows = kWaitingRows[index % 4];
  options.folds_at_times = index % 3 == 0;
  return options;
}

void MixerChecks::AgreesWithReference(uint32_t seed, int length) {
  std::mt19937 random(seed);
  const Rows tokens = Mixer().RandomTokens(random, length);
  Simulation simulation(Mixer(), {tokens});
  simulation.Feed(0, length);
  std::vector<Numbers> added;
  for (int t = 0; t < length; ++t) {
    const Row& row = simulation.outputs(0)[t];
    added.emplace_back(row.begin(), row.end());
    for (size_t i = 0; i < row.size(); ++i) added.back()[i] -= tokens[t][i];
  }
  EXPECT_LE(RelativeError(added, Mixer().Reference(tokens)), Mixer().tolerance()) << length;
}

void MixerChecks::CommitEqualsOneByOne(uint32_t seed, bool as_draft) {
  std::mt19937 random(seed);
  const Rows tokens = Mixer().RandomTokens(random, 60);
  const Baseline baseline = OneByOne(Mixer(1), tokens);
  for (int rows = 1; rows <= 9; ++rows) {
    for (int n = 0; n < rows; ++n) {
      Simulation simulation(Mixer(1 + n % 3), {tokens}, Options(as_draft, rows + n));
      simulation.Feed(0, 1 + 7 * n % 5);
      for (int window = 0; window < 5; ++window) {
        const SimulatedStep step{0, 1 + (as_draft ? window % 2 : 0), rows - 1, (n + window) % rows};
        as_draft ? simulation.DraftStep({step}) : simulation.Step({step});
      }
      simulation.Fold();
      ExpectAsOneByOne(simulation, 0, baseline,
                       std::to_string(rows) + " rows, " + std::to_string(n) + " kept");
      simulation.Fold();  // nothing pending: nothing changes
      ExpectAsOneByOne(simulation, 0, baseline, "folded twice");
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
}

void MixerChecks::DraftsMayFillTheWindow(uint32_t seed, bool as_draft) {
  std::mt19937 random(seed);
  const Rows tokens = Mixer().RandomTokens(random, 80);
  const Baseline baseline = OneByOne(Mixer(1), tokens);
  for (int rows : {0, 1, 2, 4, 7, kMaxWindowRows}) {
    for (int first = 1; first <= 5; ++first) {
      SimulationOptions options = Options(as_draft, first);
      options.window_rows = rows;
      Simulation simulation(Mixer(1 + first % 2), {tokens}, options);
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

void MixerChecks::ChunksDoNotMatter(uint32_t seed, const std::vector<int>& lengths) {
  std::mt19937 random(seed);
  const Rows tokens = Mixer().RandomTokens(random, 136);
  const Baseline baseline = OneByOne(Mixer(1), tokens);
  for (int length : lengths) {
    for (int chunk : {1, 2, 3, 7, 15, 16, 17, 18, 19, 20, 31, 32, 33, 48, 49, 130}) {
      if (chunk > length && chunk != 130) continue;
      Simulation simulation(Mixer(1 + (length + chunk) % 3), {tokens}, Options(false, chunk));
      while (simulation.fed(0) < length) {
        simulation.Feed(0, std::min(chunk, length - simulation.fed(0)));
      }
      simulation.Step({{0, 1, 4, 2}});
      simulation.Fold();
      ExpectAsOneByOne(simulation, 0, baseline,
                       std::to_string(length) + " in chunks of " + std::to_string(chunk));
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
}

void MixerChecks::BatchDoesNotMatter(uint32_t seed, int sequences, bool as_draft) {
  std::mt19937 random(seed);
  std::vector<Rows> tokens;
  std::vector<Baseline> baselines;
  for (int s = 0; s < sequences; ++s) {
    tokens.push_back(Mixer().RandomTokens(random, 90 + 3 * s));
    baselines.push_back(OneByOne(Mixer(1), tokens.back()));
  }
  for (int threads = 1; threads <= 3; ++threads) {
    SimulationOptions options = Options(as_draft, threads);
    options.decode_rounds = threads != 2;
    Simulation simulation(Mixer(threads), tokens, options);
    for (int round = 0; round < 14; ++round) {
      std::vector<SimulatedStep> steps;
      for (int s = 0; s < sequences; ++s) {
        const int left = simulation.length(s) - simulation.fed(s);
        SimulatedStep step{s, 1, static_cast<int>(random() % 9), 0};
        if (random() % 4 == 0) step.commit = static_cast<int>(1 + random() % 50);
        if (random() % 7 == 0) step.commit = 0;
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
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
}

void MixerChecks::SlotsHoldWhatWindowsTake(int64_t state, int64_t replay_row) {
  // The parts of a block, each begin padded to a cache line.
  const auto padded = [](int64_t count) { return (count + 15) / 16 * 16; };
  for (int rows : {1, 4, 8, kMaxWindowRows}) {
    for (bool as_draft : {false, true}) {
      SCOPED_TRACE(::testing::Message() << rows << " rows" << (as_draft ? ", as draft" : ""));
      const RecurrentSlotLayout layout = Mixer().layout(rows, as_draft);
      EXPECT_EQ(layout.window_rows, rows);
      EXPECT_EQ(layout.replay_rows, std::max(rows, layout.waiting_rows));
      if (as_draft) {
        EXPECT_EQ(layout.waiting_rows, 0);
      }
      EXPECT_EQ(layout.ring_rows, std::max(1, Mixer().convolution_width() - 1 + rows));
      EXPECT_EQ(layout.working >= 0, as_draft);
      EXPECT_EQ(layout.floats % 16, 0);
      EXPECT_GE(layout.replay_row, replay_row);
      EXPECT_LE(layout.replay_row, padded(replay_row) + 48);  // of three parts

      std::vector<std::pair<int64_t, int64_t>> parts = {
          {layout.checkpoint, state},
          {layout.ring, int64_t{layout.ring_rows} * Mixer().ring_channels()},
          {layout.replay, layout.replay_rows * layout.replay_row}};
      if (as_draft) parts.push_back({layout.working, state});
      std::sort(parts.begin(), parts.end());
      int64_t end = 0, floats = 0;
      for (const auto& [at, count] : parts) {
        EXPECT_GE(at, end);
        end = at + count;
        floats += padded(count);
      }
      EXPECT_LE(end, layout.floats);
      EXPECT_EQ(floats, layout.floats);
    }
  }
}

}  // namespace mambad::kernels
