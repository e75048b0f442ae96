// Are hints true? Whoever is refused is told when to come back, whoever is let in how long it will
// wait; both are to be within a factor of two of what then happens, in the median, whatever the
// load. What happens: of one that comes back as told (or asks all the time), when it is let in; of
// one that goes away, when it would have been let in first; of one that is let in, its first step.

#include <algorithm>
#include <cstdio>
#include <string>

#include "gtest/gtest.h"
#include "tests/engine/queue_simulation.h"

namespace mambad::testing {
namespace {

using Refused = QueueSimulation::Refused;

EngineOptions EightSlots() {
  EngineOptions options;
  options.max_sequences = 8;
  options.max_waiting = 16;
  return options;
}

class Hints : public ::testing::Test {
 protected:
  void Open(const EngineOptions& options = EightSlots(), const std::string& model = "mamba") {
    simulation_ = std::make_unique<QueueSimulation>(options, model);
  }

  // Eight ordinary answers, one after the other: the pace is known, nothing waits. 10 s.
  void WarmUp(int prompt = 10, int tokens = 60, bool named = true) {
    simulation_->MeasureFrom(10);
    for (int i = 0; i < 8; ++i)
      simulation_->Arrive(i, simulation_->Plain(prompt, tokens, named), Refused::kGoesAway);
  }

  // All within 50 ms.
  template <typename Make>
  void Burst(double when, int count, Refused refused, Make make) {
    for (int i = 0; i < count; ++i) simulation_->Arrive(when + 0.05 * i / count, make(), refused);
  }

  template <typename Make>
  void Poisson(double from, double to, double rate, Refused refused, Make make) {
    for (double when = from + simulation_->Exponential(1 / rate); when < to;
         when += simulation_->Exponential(1 / rate)) {
      simulation_->Arrive(when, make(), refused);
    }
  }

  void Expect() {
    simulation_->Run();
    const double hint = QueueSimulation::Median(simulation_->hints);
    const double wait = QueueSimulation::Median(simulation_->waits);
    std::printf("%zu refused, hint / truth %.2f; %zu waited, told / truth %.2f\n",
                simulation_->hints.size(), hint, simulation_->waits.size(), wait);
    EXPECT_GE(simulation_->hints.size(), 30);
    EXPECT_GE(hint, 0.5);
    EXPECT_LE(hint, 2);
    EXPECT_GE(simulation_->waits.size(), 20);
    EXPECT_GE(wait, 0.5);
    EXPECT_LE(wait, 2);
  }

  // Requests of 10 + 60 tokens: eight at a time take about 0.9 s, so nine a second can be served.
  auto Ordinary() {
    return [this] { return simulation_->Plain(10, 60); };
  }

  std::unique_ptr<QueueSimulation> simulation_;
};

// Callers that come back: as told, where a hint that is too long comes true by itself; and such as
// stand in line, by whom it is seen to be too long.
class HintsInTheLine : public Hints, public ::testing::WithParamInterface<Refused> {};

INSTANTIATE_TEST_SUITE_P(, HintsInTheLine,
                         ::testing::Values(Refused::kReturns, Refused::kStandsInLine),
                         [](const auto& info) {
                           return info.param == Refused::kReturns ? "AsTold" : "InOrder";
                         });

TEST_F(Hints, OfAThreefoldLoadWhoseCallersGoAway) {
  Open();
  WarmUp();
  Poisson(10, 40, 27, Refused::kGoesAway, Ordinary());
  Expect();
}

TEST_P(HintsInTheLine, OfAThreefoldLoadWhoseCallersReturn) {
  Open();
  WarmUp();
  Poisson(10, 20, 27, GetParam(), Ordinary());
  Expect();
}

// Thousands are refused at once and never seen again: whoever comes a little later is not told to
// wait for them, and none of them is sent away for minutes.
TEST_F(Hints, AfterThousandsWhoNeverComeBack) {
  Open();
  WarmUp();
  simulation_->MeasureFrom(13);
  Burst(10, 5000, Refused::kGoesAway, Ordinary());
  Poisson(13, 20, 27, Refused::kStandsInLine, Ordinary());
  Expect();
  std::printf("longest hint %.1f s\n", simulation_->longest_hint);
  EXPECT_LE(simulation_->longest_hint, 40);  // 20 s, and twice the queue
}

// Three times as many as there are places, each of whom asks anew when it has been answered. Who
// keeps to its hint is let in by it, and none is passed over for those who have just been answered.
TEST_F(Hints, OfCallersWhoAskAgainWhenTheyAreAnswered) {
  Open();
  WarmUp();
  Burst(10, 72, Refused::kReturns, Ordinary());
  simulation_->AskAgainUntil(40);
  Expect();
  std::printf("%lld of %lld hints led in\n", static_cast<long long>(simulation_->hints_true),
              static_cast<long long>(simulation_->hints_kept));
  EXPECT_GE(simulation_->hints_true, 0.8 * static_cast<double>(simulation_->hints_kept));
  const auto answers = simulation_->Answers();
  const auto [fewest, most] = std::minmax_element(answers.begin(), answers.end());
  EXPECT_GE(*fewest, 3);
  EXPECT_LE(*most, *fewest + 1);
}

TEST_F(Hints, OfAThreefoldLoadWhoseCallersAskAllTheTime) {
  Open();
  WarmUp();
  Poisson(10, 20, 27, Refused::kAsksOften, Ordinary());
  Expect();
}

TEST_F(Hints, OfAThreefoldLoadWhoseCallersAskWithoutPause) {
  Open();
  simulation_->asking_seconds = 0.005;
  WarmUp();
  Poisson(10, 20, 27, Refused::kAsksOften, Ordinary());
  Expect();
}

TEST_P(HintsInTheLine, OfABurst) {
  Open();
  WarmUp();
  Burst(10, 120, GetParam(), Ordinary());
  Expect();
}

TEST_P(HintsInTheLine, OfABurstOfOneAndTheSameRequest) {
  Open();
  WarmUp();
  const Request request = simulation_->Plain(10, 60);
  Burst(10, 120, GetParam(), [&] { return request; });
  Expect();
}

TEST_F(Hints, OfABurstWhoseCallersAskAllTheTime) {
  Open();
  WarmUp();
  Burst(10, 120, Refused::kAsksOften, Ordinary());
  Expect();
}

TEST_P(HintsInTheLine, OfAVeryLargeBurst) {
  Open();
  WarmUp();
  Burst(10, 600, GetParam(), Ordinary());
  Expect();
}

TEST_P(HintsInTheLine, OfBurstAfterBurst) {
  Open();
  WarmUp();
  for (int i = 0; i < 6; ++i) Burst(10 + 8 * i, 60, GetParam(), Ordinary());
  Expect();
}

TEST_F(Hints, OfBurstAfterBurstWhoseCallersGoAway) {
  Open();
  WarmUp();
  for (int i = 0; i < 12; ++i) Burst(10 + 5 * i, 60, Refused::kGoesAway, Ordinary());
  Expect();
}

TEST_P(HintsInTheLine, OfABurstUponColdStart) {
  Open();
  simulation_->CheckItself();
  Burst(0, 120, GetParam(), Ordinary());
  Expect();
}

TEST_P(HintsInTheLine, OfABurstUponAColdAndSlowMachine) {
  Open();
  simulation_->step_seconds = 0.2;
  simulation_->CheckItself();
  Burst(0, 120, GetParam(), Ordinary());
  Expect();
}

TEST_P(HintsInTheLine, WhenAnswersBecomeLonger) {
  Open();
  WarmUp(10, 20);
  Poisson(10, 20, 80, GetParam(), [&] { return simulation_->Plain(10, 20); });
  Poisson(20, 30, 9, GetParam(), [&] { return simulation_->Plain(10, 200); });
  Expect();
}

TEST_P(HintsInTheLine, WhenAnswersThatTheModelEndsBecomeLonger) {
  Open();
  WarmUp(10, 20, false);
  Poisson(10, 15, 80, GetParam(), [&] { return simulation_->Plain(10, 20, false); });
  simulation_->MeasureFrom(40);
  Poisson(40, 70, 9, GetParam(), [&] { return simulation_->Plain(10, 200, false); });
  Expect();
}

TEST_P(HintsInTheLine, WhenAnswersThatTheModelEndsBecomeShorter) {
  Open();
  WarmUp(10, 200, false);
  Poisson(10, 25, 9, GetParam(), [&] { return simulation_->Plain(10, 200, false); });
  simulation_->MeasureFrom(80);
  Poisson(80, 90, 80, GetParam(), [&] { return simulation_->Plain(10, 20, false); });
  Expect();
}

TEST_P(HintsInTheLine, OfAnswersThatTheModelEnds) {
  Open();
  WarmUp(10, 60, false);
  Poisson(10, 30, 20, GetParam(), [&] {
    return simulation_->Plain(10, 2 + static_cast<int>(simulation_->Exponential(80)), false);
  });
  Expect();
}

TEST_P(HintsInTheLine, OfABurstOfAnswersThatTheModelEnds) {
  Open();
  WarmUp(10, 60, false);
  Burst(10, 120, GetParam(), [&] {
    return simulation_->Plain(10, 2 + static_cast<int>(simulation_->Exponential(80)), false);
  });
  Expect();
}

TEST_P(HintsInTheLine, OfAnswersThatEndBeforeTheirLimit) {
  Open();
  WarmUp();
  Poisson(10, 40, 20, GetParam(), [&] {
    Request request =
        simulation_->Plain(10, 2 + static_cast<int>(simulation_->Exponential(60)), false);
    request.stopping.max_tokens = 1000;
    return request;
  });
  Expect();
}

TEST_P(HintsInTheLine, OfABurstOfLargePrompts) {
  Open();
  WarmUp(1000, 20);
  Burst(10, 100, GetParam(), [&] { return simulation_->Plain(1000, 20); });
  Expect();
}

TEST_P(HintsInTheLine, OfLargePromptsAmongOthers) {
  Open();
  WarmUp();
  Poisson(10, 30, 10, GetParam(), [&] {
    return simulation_->Uniform() < 0.3 ? simulation_->Plain(1500, 10) : simulation_->Plain(20, 60);
  });
  Expect();
}

TEST_P(HintsInTheLine, OfRequestsThatAreScored) {
  Open();
  WarmUp(600, 1);
  Burst(10, 100, GetParam(), [&] {
    Request request = simulation_->Plain(600, 0);
    request.score_from = 1;
    request.output.prompt_logprobs = 0;
    return request;
  });
  Expect();
}

TEST_P(HintsInTheLine, OfSeveralSamples) {
  Open();
  WarmUp();
  Burst(10, 80, GetParam(), [&] {
    Request request = simulation_->Plain(10, 60);
    request.output.samples = simulation_->Uniform() < 0.5 ? 4 : 1;
    return request;
  });
  Expect();
}

// Eight slots, but keys and values for two such requests.
TEST_P(HintsInTheLine, WherePagesAreShort) {
  EngineOptions options = EightSlots();
  options.kv_cache_tokens = 256;
  Open(options, "hybrid_mamba");
  WarmUp();
  Burst(10, 80, GetParam(), [&] { return simulation_->Plain(20, 100); });
  Expect();
}

// The queue's limit is that of prompt tokens: one large prompt needs the places of many.
TEST_P(HintsInTheLine, WhereTheQueueIsFullOfTokens) {
  EngineOptions options = EightSlots();
  options.max_waiting = 100;
  options.max_waiting_tokens = 2000;
  Open(options);
  WarmUp(300, 30);
  Burst(10, 80, GetParam(), [&] {
    return simulation_->Uniform() < 0.2 ? simulation_->Plain(1000, 30)
                                        : simulation_->Plain(100, 30);
  });
  Expect();
}

}  // namespace
}  // namespace mambad::testing
