#include "engine/draft_length.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace mambad {
namespace {

// A machine and its models, simulated: what steps cost and how often drafts stay.
struct World {
  std::function<double(int rows)> verify = [](int rows) { return 0.010 + 0.0008 * rows; };
  std::function<double(int sequences)> draft = [](int) { return 0.0006; };
  std::function<double(int sequence, int position)> model = [](int, int) { return 0.7; };
  std::function<double(int sequence, int position)> lookup = [](int, int) { return 0.0; };
  int sequences = 1, max_length = 8;
  bool has_model = true, has_lookup = false;
  double noise = 0;  // standard deviation of a step's time, as a share; every 50th step takes three
                     // times as long
};

class Simulation {
 public:
  explicit Simulation(int seed) : random_(seed) {}

  struct Totals {
    double seconds = 0,
           plain_seconds = 0;  // plain: the same tokens without drafts, noise of the same kind
    double tokens = 0, drafts = 0;
    int64_t steps = 0, lookup_sequences = 0, model_sequences = 0;
    double slowdown() const { return seconds / plain_seconds; }
    double rate() const { return tokens / seconds; }
  };

  Totals Run(const World& world, int steps, std::optional<int> fixed = std::nullopt) {
    statistics_.resize(std::max<size_t>(statistics_.size(), world.sequences));
    Totals totals;
    for (int i = 0; i < steps; ++i) Step(world, fixed, totals);
    return totals;
  }

  DraftLengthController controller;

 private:
  double Noise(const World& world) {
    if (world.noise == 0) return 1;
    const double factor = std::max(0.5, std::normal_distribution<double>(1, world.noise)(random_));
    return random_() % 50 == 0 ? 3 * factor : factor;
  }

  void Step(const World& world, std::optional<int> fixed, Totals& totals) {
    std::vector<DraftChoice> choices(world.sequences);
    for (int s = 0; s < world.sequences; ++s) {
      choices[s].statistics = &statistics_[s];
      choices[s].draft_model = world.has_model;
      choices[s].prompt_lookup = world.has_lookup;
      choices[s].max_length = world.max_length;
      choices[s].fixed_length = fixed;
    }
    controller.Choose(absl::MakeSpan(choices), 0);
    StepMeasurement step;
    step.sequences = world.sequences;
    step.rows = world.sequences;
    step.fixed = fixed.has_value();
    const double noise = Noise(world);
    for (int k = 1; k <= kMaxDraftLength; ++k) {
      int drafting = 0;
      for (const DraftChoice& choice : choices) {
        drafting += choice.drafter == DrafterKind::kDraftModel && choice.length >= k;
      }
      if (k == 1) step.model_draft_sequences = drafting;
      if (drafting == 0) break;
      step.model_draft_steps = k;
      step.draft_seconds += world.draft(drafting) * noise;
    }
    for (int s = 0; s < world.sequences; ++s) {
      const DraftChoice& choice = choices[s];
      const auto& rate = choice.drafter == DrafterKind::kDraftModel ? world.model : world.lookup;
      int accepted = 0;
      while (accepted < choice.length && Uniform() < rate(s, accepted)) ++accepted;
      step.rows += choice.length;
      step.drafts += choice.length;
      step.kept += accepted + 1;
      totals.lookup_sequences += choice.drafter == DrafterKind::kPromptLookup;
      totals.model_sequences += choice.drafter == DrafterKind::kDraftModel;
      if (choice.length > 0)
        controller.ObserveDrafts(choice.drafter, choice.length, accepted, statistics_[s]);
    }
    step.verify_seconds = world.verify(step.rows) * noise;
    controller.ObserveStep(step);
    ++totals.steps;
    totals.tokens += step.kept;
    totals.drafts += step.drafts;
    totals.seconds += step.verify_seconds + step.draft_seconds;
    totals.plain_seconds +=
        world.verify(world.sequences) * Noise(world) * step.kept / world.sequences;
  }

  double Uniform() { return std::uniform_real_distribution<double>()(random_); }

  std::mt19937 random_;
  std::vector<DraftStatistics> statistics_;
};

// Tokens a second of the best fixed length for sequences that are all alike.
double BestFixedRate(const World& world, bool model, int* best_length) {
  double best = 0;
  for (int k = 0; k <= world.max_length; ++k) {
    double tokens = 1, reach = 1, seconds = world.verify(world.sequences * (k + 1));
    for (int i = 0; i < k; ++i) {
      reach *= model ? world.model(0, i) : world.lookup(0, i);
      tokens += reach;
      if (model) seconds += world.draft(world.sequences);
    }
    const double rate = world.sequences * tokens / seconds;
    if (rate > best) {
      best = rate;
      *best_length = k;
    }
  }
  return best;
}

TEST(DraftLengthTest, ReachesTheBestFixedLength) {
  for (const int sequences : {1, 4, 16}) {
    for (const double acceptance : {0.3, 0.5, 0.7, 0.85, 0.95}) {
      for (const double row_cost : {0.0001, 0.0008, 0.003}) {
        World world;
        world.sequences = sequences;
        world.model = [=](int, int) { return acceptance; };
        world.verify = [=](int rows) { return 0.010 + row_cost * rows; };
        Simulation simulation(1);
        simulation.Run(world, 1000);
        const auto totals = simulation.Run(world, 4000);
        int best_length = 0;
        const double best = BestFixedRate(world, true, &best_length);
        EXPECT_GT(totals.rate(), 0.93 * best)
            << sequences << " sequences, acceptance " << acceptance << ", a row " << row_cost
            << " s, best length " << best_length << ", mean length "
            << totals.drafts / totals.steps / sequences;
      }
    }
  }
}

TEST(DraftLengthTest, DraftsAlmostNothingWhenDraftsAreBad) {
  for (const double noise : {0.0, 0.05}) {
    World world;
    world.model = [](int, int) { return 0.02; };
    world.noise = noise;
    Simulation simulation(2);
    simulation.Run(world, 500);
    const auto totals = simulation.Run(world, 5000);
    EXPECT_LT(totals.drafts / totals.steps, 0.5);
    EXPECT_GT(totals.drafts, 0) << "never looks again";
    EXPECT_LT(totals.slowdown(), 1.05);
  }
}

TEST(DraftLengthTest, DraftsAlmostNothingWhenVerifyingIsExpensive) {
  World world;
  world.verify = [](int rows) { return 0.010 * rows; };
  Simulation simulation(3);
  simulation.Run(world, 500);
  const auto totals = simulation.Run(world, 5000);
  EXPECT_LT(totals.drafts / totals.steps, 0.3);
  EXPECT_LT(totals.slowdown(), 1.05);
}

TEST(DraftLengthTest, ComesBackWhenAcceptanceImproves) {
  World bad, good;
  bad.model = [](int, int) { return 0.0; };
  good.model = [](int, int) { return 0.9; };
  Simulation simulation(4);
  simulation.Run(bad, 3000);
  simulation.Run(good, 1500);
  const auto totals = simulation.Run(good, 2000);
  int best_length = 0;
  EXPECT_GT(totals.rate(), 0.9 * BestFixedRate(good, true, &best_length));
}

// The whole run counts, from the first step, learning included.
TEST(DraftLengthTest, NeverLosesMoreThanFivePercentAgainstPlain) {
  for (int seed = 0; seed < 80; ++seed) {
    std::mt19937 random(seed);
    const auto uniform = [&](double low, double high) {
      return std::uniform_real_distribution<double>(low, high)(random);
    };
    Simulation simulation(seed);
    Simulation::Totals all;
    for (int phase = 0; phase < 6; ++phase) {  // the world changes under it
      World world;
      world.sequences = 1 + static_cast<int>(random() % 12);
      world.noise = uniform(0, 0.15);
      world.has_lookup = random() % 2 == 0;
      const double first = uniform(0, 0.8), decline = uniform(0.5, 1), lookup = uniform(0, 0.8);
      const double row = uniform(0.00005, 0.006), step = uniform(0.0002, 0.006);
      world.model = [=](int sequence, int position) {
        return first * std::pow(decline, position + sequence % 3);
      };
      world.lookup = [=](int sequence, int) { return lookup * (sequence % 2); };
      world.verify = [=](int rows) { return 0.010 + row * rows; };
      world.draft = [=](int sequences) { return step * (1 + 0.05 * sequences); };
      const auto totals = simulation.Run(world, 600);
      all.seconds += totals.seconds;
      all.plain_seconds += totals.plain_seconds;
    }
    EXPECT_LT(all.slowdown(), 1.05) << "seed " << seed;
  }
}

TEST(DraftLengthTest, UsesTheBetterDrafterOfEachSequence) {
  World world;
  world.sequences = 2;
  world.has_lookup = true;
  world.draft = [](int) { return 0.0003; };
  world.model = [](int sequence, int) { return sequence == 0 ? 0.9 : 0.2; };
  world.lookup = [](int sequence, int) { return sequence == 0 ? 0.05 : 0.9; };
  Simulation simulation(6);
  simulation.Run(world, 3000);
  const auto totals = simulation.Run(world, 2000);
  EXPECT_GT(totals.model_sequences, 0.8 * totals.steps);
  EXPECT_GT(totals.lookup_sequences, 0.8 * totals.steps);
}

TEST(DraftLengthTest, DraftsMoreForSequencesWhoseDraftsStay) {
  World world;
  world.sequences = 8;
  world.verify = [](int rows) { return 0.008 + 0.0003 * rows; };
  world.model = [](int sequence, int) { return sequence < 4 ? 0.95 : 0.05; };
  Simulation simulation(7);
  simulation.Run(world, 2000);
  const auto totals = simulation.Run(world, 1000);
  const double share = static_cast<double>(totals.model_sequences) / (8.0 * totals.steps);
  EXPECT_NEAR(share, 0.5, 0.1);
}

TEST(DraftLengthTest, FixedLengthsAreKept) {
  World world;
  world.model = [](int, int) { return 0.0; };
  Simulation simulation(8);
  EXPECT_EQ(simulation.Run(world, 200, 5).drafts, 1000);
  EXPECT_EQ(simulation.Run(world, 200, 0).drafts, 0);
  world.max_length = 3;  // what limits leave
  EXPECT_EQ(simulation.Run(world, 200, 5).drafts, 600);
}

TEST(DraftLengthTest, NothingToDraftWithMeansNothingDrafted) {
  World world;
  world.has_model = false;
  Simulation simulation(9);
  EXPECT_EQ(simulation.Run(world, 300).drafts, 0);
  world.has_model = true;
  world.max_length = 0;
  EXPECT_EQ(simulation.Run(world, 300).drafts, 0);
}

TEST(DraftLengthTest, IsDeterministic) {
  World world;
  world.noise = 0.1;
  world.sequences = 3;
  Simulation a(10), b(10);
  const auto first = a.Run(world, 1500), second = b.Run(world, 1500);
  EXPECT_EQ(first.seconds, second.seconds);
  EXPECT_EQ(first.drafts, second.drafts);
}

TEST(DraftLengthTest, OddMeasurementsDoNoHarm) {
  DraftLengthController controller;
  DraftStatistics statistics;
  controller.Choose({}, 0);
  controller.ObserveStep({});
  controller.ObserveDrafts(DrafterKind::kDraftModel, 100, 100, statistics);
  controller.ObserveDrafts(DrafterKind::kNone, 3, 1, statistics);
  for (const double seconds : {0.0, -1.0, std::numeric_limits<double>::infinity(),
                               std::numeric_limits<double>::quiet_NaN(), 1e-9}) {
    StepMeasurement step;
    step.sequences = 1;
    step.rows = 1000000;
    step.kept = 1;
    step.verify_seconds = seconds;
    controller.ObserveStep(step);
  }
  DraftChoice choice;
  choice.statistics = &statistics;
  choice.draft_model = true;
  choice.max_length = 1000;
  controller.Choose(absl::MakeSpan(&choice, 1), 300);
  EXPECT_GE(choice.length, 0);
  EXPECT_LE(choice.length, kMaxDraftLength);
}

}  // namespace
}  // namespace mambad
