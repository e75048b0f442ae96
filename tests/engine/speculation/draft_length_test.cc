#include "engine/speculation/draft_length.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <random>
#include <set>
#include <tuple>
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
  // Once a shape: rounds of so many sequences with drafts of at most so many tokens, by the model.
  std::function<double(int longest, bool by_model)> recording = [](int, bool) { return 0.0; };
  int sequences = 1, max_length = 8;
  bool has_model = true, has_lookup = false;
  // Answers end after so many tokens; the next begins with a prompt of so many that the draft model
  // has not read. 0: one answer without end.
  int answer_tokens = 0, prompt_tokens = 0;
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
    int64_t read_rows = 0;  // by the draft model, to catch up
    int64_t steps = 0, lookup_sequences = 0, model_sequences = 0;
    double slowdown() const { return seconds / plain_seconds; }
    double rate() const { return tokens / seconds; }
  };

  Totals Run(const World& world, int steps, std::optional<int> fixed = std::nullopt) {
    statistics_.resize(std::max<size_t>(statistics_.size(), world.sequences));
    generated_.resize(statistics_.size(), 1);
    unread_.resize(statistics_.size(), world.prompt_tokens);
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
      choices[s].catch_up_rows = world.answer_tokens > 0 ? std::max(0, unread_[s] - 2) : 0;
      choices[s].generated = generated_[s];
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
      if (drafting == 0) break;
      int rows = drafting;
      if (k == 1) {
        for (int s = 0; s < world.sequences; ++s) {
          if (choices[s].drafter == DrafterKind::kDraftModel)
            rows += static_cast<int>(choices[s].catch_up_rows);
        }
        step.model_draft_sequences = drafting;
        step.first_draft_rows = rows;
        totals.read_rows += rows - drafting;
      }
      step.model_draft_steps = k;
      step.model_drafting[k - 1] = drafting;
      step.draft_seconds += world.draft(rows) * noise;
    }
    for (int s = 0; s < world.sequences; ++s) {
      const DraftChoice& choice = choices[s];
      const auto& rate = choice.drafter == DrafterKind::kDraftModel ? world.model : world.lookup;
      int accepted = 0;
      while (accepted < choice.length && Uniform() < rate(s, accepted)) ++accepted;
      step.rows += choice.length;
      step.drafts += choice.length;
      step.longest_draft = std::max(step.longest_draft, choice.length);
      step.kept += accepted + 1;
      totals.lookup_sequences += choice.drafter == DrafterKind::kPromptLookup;
      totals.model_sequences += choice.drafter == DrafterKind::kDraftModel;
      if (world.answer_tokens > 0) EndOrGoOn(world, choice, s, accepted + 1);
      if (choice.length > 0)
        controller.ObserveDrafts(choice.drafter, choice.length, accepted, statistics_[s]);
    }
    step.verify_seconds = world.verify(step.rows) * noise;
    const bool by_model = step.model_draft_steps > 0;
    if (recorded_.insert({world.sequences, step.longest_draft, by_model}).second)
      step.recording_seconds = world.recording(step.longest_draft, by_model);
    controller.ObserveStep(step);
    ++totals.steps;
    totals.tokens += step.kept;
    totals.drafts += step.drafts;
    totals.seconds += step.verify_seconds + step.draft_seconds;
    if (step.drafts > 0)
      totals.seconds += step.recording_seconds;  // plain rounds are always needed
    totals.plain_seconds +=
        world.verify(world.sequences) * Noise(world) * step.kept / world.sequences;
  }

  void EndOrGoOn(const World& world, const DraftChoice& choice, int s, int kept) {
    generated_[s] += kept;
    unread_[s] = choice.drafter == DrafterKind::kDraftModel ? 1 : unread_[s] + kept;
    if (generated_[s] < world.answer_tokens) return;
    generated_[s] = 1;
    unread_[s] = world.prompt_tokens;
    statistics_[s] = DraftStatistics();
  }

  double Uniform() { return std::uniform_real_distribution<double>()(random_); }

  std::mt19937 random_;
  std::vector<DraftStatistics> statistics_;
  std::vector<int> generated_, unread_;
  std::set<std::tuple<int, int, bool>> recorded_;
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

// A device: a draft takes as long for one sequence as for all, and rounds are recorded once a
// shape, which takes as long as many rounds. From the first step on.
TEST(DraftLengthTest, NeverLosesMoreThanFivePercentWhereRoundsAreRecorded) {
  for (int seed = 0; seed < 60; ++seed) {
    std::mt19937 random(seed);
    const auto uniform = [&](double low, double high) {
      return std::uniform_real_distribution<double>(low, high)(random);
    };
    World world;
    world.sequences = 1 << (random() % 7);
    const double acceptance = uniform(0.2, 0.9), decline = uniform(0.5, 1);
    const double row = uniform(0, 2e-6), draft = uniform(2e-5, 2e-4), record = uniform(5e-4, 4e-3);
    world.model = [=](int sequence, int position) {
      return acceptance * std::pow(decline, position + sequence % 3);
    };
    world.verify = [=](int rows) { return 2e-4 + row * rows; };
    world.draft = [=](int) { return draft; };
    world.recording = [=](int longest, bool) { return record * (1 + 0.5 * longest); };
    const auto totals = Simulation(seed).Run(world, 1000);
    EXPECT_LT(totals.slowdown(), 1.05)
        << "seed " << seed << ": " << world.sequences << " sequences, acceptance " << acceptance
        << ", a row " << row << ", a draft " << draft << ", recorded in " << record;
  }
}

TEST(DraftLengthTest, RecordsRoundsThatPay) {
  for (const double record : {2e-4, 1e-3, 2e-3}) {
    World world;
    world.model = [](int, int) { return 0.85; };
    world.verify = [](int rows) { return 1.6e-4 + 2e-6 * rows; };
    world.draft = [](int) { return 5e-5; };
    world.recording = [=](int longest, bool) { return record * (1 + 0.5 * longest); };
    Simulation simulation(14);
    simulation.Run(world, 1000);
    const auto totals = simulation.Run(world, 1000);
    int best_length = 0;
    EXPECT_GT(totals.rate(), 0.9 * BestFixedRate(world, true, &best_length)) << record;
  }
}

// Short answers to long prompts: reading the prompt would take the draft model longer than its
// drafts could save.
TEST(DraftLengthTest, DoesNotReadPromptsThatDraftsCannotEarnBack) {
  for (const int sequences : {1, 4}) {
    World world;
    world.sequences = sequences;
    world.answer_tokens = 12;
    world.prompt_tokens = 2000;
    world.draft = [](int rows) { return 0.0006 + 0.0002 * rows; };  // 0.4 s for a prompt
    Simulation simulation(11);
    simulation.Run(world, 500);
    const auto totals = simulation.Run(world, 3000);
    EXPECT_LT(totals.slowdown(), 1.05) << sequences;
  }
}

TEST(DraftLengthTest, ReadsPromptsThatDraftsEarnBack) {
  World world;
  world.answer_tokens = 300;
  world.prompt_tokens = 500;
  world.draft = [](int rows) { return 0.0006 + 0.00002 * rows; };  // 0.01 s: one plain step
  Simulation simulation(12);
  simulation.Run(world, 1000);
  const auto totals = simulation.Run(world, 3000);
  int best_length = 0;
  EXPECT_GT(totals.rate(), 0.85 * BestFixedRate(world, true, &best_length));
  EXPECT_GT(totals.read_rows, 0);
}

// As above, with prompts in between and from the first step on.
TEST(DraftLengthTest, NeverLosesMoreThanFivePercentWithPromptsToCatchUpOn) {
  for (int seed = 0; seed < 60; ++seed) {
    std::mt19937 random(seed);
    const auto uniform = [&](double low, double high) {
      return std::uniform_real_distribution<double>(low, high)(random);
    };
    World world;
    world.sequences = 1 + static_cast<int>(random() % 6);
    world.answer_tokens = 4 + static_cast<int>(random() % 400);
    world.prompt_tokens = 1 + static_cast<int>(random() % 3000);
    world.noise = uniform(0, 0.1);
    const double acceptance = uniform(0, 0.9), row = uniform(0.00005, 0.003);
    const double step = uniform(0.0002, 0.003), read = uniform(0.000005, 0.0003);
    world.model = [=](int, int) { return acceptance; };
    world.verify = [=](int rows) { return 0.010 + row * rows; };
    world.draft = [=](int rows) { return step + read * rows; };
    const auto totals = Simulation(seed).Run(world, 4000);
    EXPECT_LT(totals.slowdown(), 1.05)
        << "seed " << seed << ": " << world.sequences << " sequences, prompts of "
        << world.prompt_tokens << ", answers of " << world.answer_tokens << ", acceptance "
        << acceptance << ", a row read in " << read;
  }
}

TEST(DraftLengthTest, ComesBackWhenAcceptanceImprovesThoughPromptsAreLong) {
  World bad, good;
  for (World* world : {&bad, &good}) {
    world->answer_tokens = 400;
    world->prompt_tokens = 1500;
    world->draft = [](int rows) { return 0.0006 + 0.00004 * rows; };  // 6 plain steps
  }
  bad.model = [](int, int) { return 0.0; };
  good.model = [](int, int) { return 0.9; };
  Simulation simulation(13);
  simulation.Run(bad, 4000);
  simulation.Run(good, 4000);
  const auto totals = simulation.Run(good, 3000);
  EXPECT_GT(totals.rate(), 1.5 / 0.0108);  // plain: one token in 10.8 ms
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
