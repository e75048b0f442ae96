// The loop of all stages, on a model of two matrices.

#include "trainer/train_loop.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <limits>
#include <memory>

#include "nlohmann/json.hpp"
#include "tests/support/model_directory.h"
#include "tests/trainer/expect_error.h"
#include "tests/trainer/small_text.h"
#include "tests/trainer/two_processes.h"
#include "trainer/losses.h"
#include "trainer/train_state.h"

namespace mambad::trainer {
namespace {

using at::Tensor;
using testing::ErrorOf;
using ::testing::HasSubstr;

constexpr int64_t kVocabulary = 40, kWidth = 8;

TokenStore MakeStore(const std::string& folder) {
  TokenStoreWriter writer(folder, kVocabulary, 1 << 20);
  for (int d = 0; d < 60; ++d) {
    TokenizedDocument document;
    for (int t = 0; t < 5 + (d * 7) % 20; ++t) {
      document.tokens.push_back((d + 3 * t * t) % kVocabulary);
      document.trained.push_back(t % 4 != 1);
    }
    writer.Add({document});
  }
  writer.Finish({});
  return TokenStore::Open(folder);
}

// Predicts the next token from the current one.
class PairsWork : public StageWork {
 public:
  PairsWork(Tensor embedding, Tensor head) : embedding_(embedding), head_(head) {}
  std::vector<StageMetric> metrics() const override {
    return {{"loss"}, {"batches", StageMetric::Per::kMicroBatch}};
  }
  void Backward(const TokenBatch& batch, double token_weight, double batch_weight,
                Tensor sums) override {
    const Tensor hidden = embedding_.index_select(0, batch.token_ids.view({-1}));
    HeadLossOptions options;
    options.cross_entropy_weight = 1;
    const HeadLoss loss = HeadLossAndGradient(hidden, head_, {}, {}, batch.target_ids.view({-1}),
                                              batch.loss_mask.view({-1}) * token_weight, options);
    Tensor total = loss.loss;
    if (steps_ >= spoil_from && steps_ < spoil_to && (steps_ - spoil_from) % spoil_every == 0)
      total = total * spoil_by;
    total.backward();
    at::NoGradGuard no_grad;
    sums.select(0, 0).add_(total.detach(), 1.0 / token_weight);
    sums.select(0, 1).add_(batch_weight * 10);
  }
  void BeginStep(int64_t step) override { steps_ = step; }
  Metrics Evaluate() override {
    if (evaluation_fails) throw std::runtime_error("no room to evaluate");
    return {{"valid_sum", head_.sum().item<double>()}};
  }
  double negligible_loss() const override { return negligible; }

  bool evaluation_fails = false;
  double negligible = 0.01;
  int64_t spoil_from = 1 << 30, spoil_to = 1 << 30, spoil_every = 1;
  double spoil_by = 1;

 private:
  Tensor embedding_, head_;
  int64_t steps_ = 0;
};

// Rows of a dataset, in some of which no token counts.
class BlankedRows : public BatchSource {
 public:
  BlankedRows(BatchSource* source, int64_t blank_from, int64_t blank_to)
      : source_(source), blank_from_(blank_from), blank_to_(blank_to) {}
  bool Next(int64_t size, PackedBatch* batch) override {
    if (!source_->Next(size, batch)) return false;
    if (taken_ >= blank_from_ && taken_ < blank_to_) {
      std::fill(batch->loss_mask.begin(), batch->loss_mask.end(), 0);
      batch->trained_tokens = 0;
    }
    ++taken_;
    return true;
  }
  const DatasetCursor& cursor() const override { return source_->cursor(); }
  void Seek(const DatasetCursor& cursor) override { source_->Seek(cursor); }

 private:
  BatchSource* source_;
  int64_t blank_from_, blank_to_, taken_ = 0;  // batches
};

// Everything one run needs; the same seeds every time.
struct Rehearsal {
  Rehearsal(const TokenStore* store, ProcessGroup* processes, at::ScalarType type = at::kFloat)
      : embedding(at::randn({kVocabulary, kWidth}, at::detail::createCPUGenerator(1)).to(type)),
        head((at::randn({kVocabulary, kWidth}, at::detail::createCPUGenerator(2)) * 0.1).to(type)),
        data(store, DataOptions()),
        optimizer({{"a", 0.03, 0.01, {{"embedding", embedding}, {"head", head}}}}, {}, processes),
        work(embedding, head) {}
  static DatasetOptions DataOptions() {
    DatasetOptions options;
    options.row_tokens = 16;
    return options;
  }
  static TrainLoopOptions Options(const std::string& directory, int64_t steps) {
    TrainLoopOptions options;
    options.directory = directory;
    options.steps = steps;
    options.micro_batch = 2;
    options.accumulation = 2;
    options.schedule = {30, 3, 0.1};
    options.log_every = 4;
    options.save_every = 5;
    options.evaluate_every = 7;
    options.progress = nullptr;
    return options;
  }
  Tensor embedding, head;
  PackedDataset data;
  Optimizer optimizer;
  PairsWork work;
};

class TrainLoopTest : public ::testing::Test {
 protected:
  TrainLoopTest()
      : store_(MakeStore(folder_.path() + "/tokens")), alone_(JoinProcessGroup({}, false)) {}
  std::string Folder(const std::string& name) const { return folder_.path() + "/" + name; }
  TrainResult TrainAlone(Rehearsal* run, const TrainLoopOptions& options) {
    return Train(options, at::kCPU, &run->data, &run->optimizer, alone_.get(), &run->work);
  }

  testing::TemporaryDirectory folder_;
  const TokenStore store_;
  std::unique_ptr<ProcessGroup> alone_;
};

std::vector<nlohmann::json> Lines(const std::string& path) {
  std::vector<nlohmann::json> lines;
  std::istringstream in(testing::ReadText(path));
  for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

TEST_F(TrainLoopTest, TellsSavesAndEvaluatesWhenItShould) {
  Rehearsal run(&store_, alone_.get());
  const TrainResult result = TrainAlone(&run, Rehearsal::Options(Folder("run"), 16));
  EXPECT_TRUE(result.finished);
  EXPECT_EQ(result.steps, 16);
  EXPECT_EQ(result.tokens, 16 * 2 * 2 * 16);
  ASSERT_EQ(result.evaluations.size(), 3u);  // 7, 14 and the last
  EXPECT_EQ(result.evaluations[1].first, 14);
  std::vector<int64_t> told;
  for (const auto& line : Lines(Folder("run") + "/metrics.jsonl")) {
    if (line.contains("loss")) {
      told.push_back(line["step"].get<int64_t>());
      EXPECT_NEAR(line["batches"].get<double>(), 5.0, 1e-4);  // 10 times a weight of a half
      EXPECT_NEAR(line["learning_rate_factor"].get<double>(),
                  Schedule({30, 3, 0.1}).At(told.back() - 1), 1e-6);
    }
  }
  EXPECT_THAT(told, ::testing::ElementsAre(1, 4, 5, 7, 8, 10, 12, 14, 15, 16));
  EXPECT_EQ(LoadNewestTrainState(Folder("run") + "/states", *alone_)->step, 16);
}

// Invariant 7: training interrupted and resumed equals training uninterrupted, bit for bit.
TEST_F(TrainLoopTest, Invariant7ResumedEqualsUninterrupted) {
  Rehearsal whole(&store_, alone_.get());
  TrainAlone(&whole, Rehearsal::Options(Folder("whole"), 30));
  // Stopped after 1, 6, 11 ... steps, each time behind a saved state, and begun anew by a process
  // that knows only the folder.
  for (const int64_t stop : {1, 6, 11, 19, 30}) {
    Rehearsal part(&store_, alone_.get());
    // A step later than what is saved, as a kill would leave it.
    TrainLoopOptions options = Rehearsal::Options(Folder("parts"), 30);
    PairsWork& work = part.work;
    work.spoil_from = stop;
    work.spoil_to = stop + 1;
    work.spoil_by = std::numeric_limits<double>::quiet_NaN();
    if (stop < 30) {
      EXPECT_THROW(TrainAlone(&part, options), TrainingDiverged) << stop;
    } else {
      TrainAlone(&part, options);
      EXPECT_TRUE(at::equal(part.embedding.detach(), whole.embedding.detach()));
      EXPECT_TRUE(at::equal(part.head.detach(), whole.head.detach()));
    }
  }
  // And so do the metrics that were told, but for rates.
  auto expected = Lines(Folder("whole") + "/metrics.jsonl");
  auto found = Lines(Folder("parts") + "/metrics.jsonl");
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    expected[i].erase("tokens_per_second");
    found[i].erase("tokens_per_second");
    EXPECT_EQ(found[i], expected[i]) << i;
  }
}

// Lines of metrics without what the clock tells.
std::vector<nlohmann::json> Curve(const std::string& folder) {
  auto lines = Lines(folder + "/metrics.jsonl");
  for (auto& line : lines) line.erase("tokens_per_second");
  return lines;
}

// Invariant 7, of a run that signals stop between any two steps: neither the model nor the metrics
// know of it.
TEST_F(TrainLoopTest, Invariant7StoppedBySignalsEqualsUninterrupted) {
  Rehearsal whole(&store_, alone_.get());
  TrainAlone(&whole, Rehearsal::Options(Folder("whole"), 30));
  int64_t before = 0;
  for (const int64_t stop : {1, 2, 6, 7, 11, 14, 19, 29, 30, 0}) {
    Rehearsal part(&store_, alone_.get());
    TrainLoopOptions options = Rehearsal::Options(Folder("parts"), 30);
    int64_t steps = before;
    const int signal = stop % 2 == 0 ? SIGINT : SIGTERM;
    options.stop_signal = [&] { return ++steps == stop ? signal : 0; };
    const TrainResult result = TrainAlone(&part, options);
    if (stop != 0) {
      EXPECT_FALSE(result.finished) << stop;
      EXPECT_EQ(result.stop_signal, signal) << stop;
      EXPECT_EQ(result.steps, stop);
      EXPECT_EQ(result.saved_step, stop);
      EXPECT_EQ(LoadNewestTrainState(Folder("parts") + "/states", *alone_)->step, stop);
      before = stop;
    } else {
      EXPECT_TRUE(result.finished);
      EXPECT_EQ(result.stop_signal, 0);
      EXPECT_TRUE(at::equal(part.embedding.detach(), whole.embedding.detach()));
      EXPECT_TRUE(at::equal(part.head.detach(), whole.head.detach()));
    }
  }
  EXPECT_EQ(Curve(Folder("parts")), Curve(Folder("whole")));
}

// When a state was saved by the clock is nothing that the results could know.
TEST_F(TrainLoopTest, StatesSavedByTimeChangeNothing) {
  TrainLoopOptions options = Rehearsal::Options(Folder("whole"), 12);
  options.save_every = 0;
  Rehearsal whole(&store_, alone_.get());
  TrainAlone(&whole, options);
  options.directory = Folder("timed");
  options.save_seconds = 1e-9;
  options.keep_states = 100;
  Rehearsal timed(&store_, alone_.get());
  TrainAlone(&timed, options);
  EXPECT_EQ(Curve(Folder("timed")), Curve(Folder("whole")));
  EXPECT_TRUE(at::equal(timed.head.detach(), whole.head.detach()));
  int64_t states = 0;
  for (const auto& entry : std::filesystem::directory_iterator(Folder("timed") + "/states")) {
    states += entry.is_directory();
  }
  EXPECT_EQ(states, 12);
}

// Nobody waits for a loss to come down while the machine is taken away.
TEST_F(TrainLoopTest, ASignalStopsAtOnceWithoutAStateWhoseLossIsHigh) {
  Rehearsal run(&store_, alone_.get());
  run.work.spoil_from = 6;
  run.work.spoil_by = 50;
  TrainLoopOptions options = Rehearsal::Options(Folder("run"), 30);
  int64_t steps = 0;
  options.stop_signal = [&] { return ++steps == 7 ? SIGTERM : 0; };
  const TrainResult result = TrainAlone(&run, options);
  EXPECT_EQ(result.steps, 7);
  EXPECT_EQ(result.saved_step, 5);
  EXPECT_EQ(LoadNewestTrainState(Folder("run") + "/states", *alone_)->step, 5);
}

TEST_F(TrainLoopTest, ALossThatIsNoNumberStopsWithTheLastStateKept) {
  Rehearsal run(&store_, alone_.get());
  run.work.spoil_from = 12;
  run.work.spoil_by = std::numeric_limits<double>::quiet_NaN();
  const std::string error =
      ErrorOf([&] { TrainAlone(&run, Rehearsal::Options(Folder("run"), 30)); });
  EXPECT_THAT(error, HasSubstr("stopped at step 14: the loss is nan"));
  EXPECT_THAT(error, HasSubstr("the state of step 10 is kept in " + Folder("run") + "/states"));
  const auto state = LoadNewestTrainState(Folder("run") + "/states", *alone_);
  EXPECT_EQ(state->step, 10);
  for (const auto& [name, tensor] : state->tensors) {
    EXPECT_TRUE(at::isfinite(tensor).all().item<bool>()) << name;
  }
}

TEST_F(TrainLoopTest, ALossThatStaysHighStops) {
  Rehearsal run(&store_, alone_.get());
  run.work.spoil_from = 8;
  run.work.spoil_by = 50;
  const std::string error =
      ErrorOf([&] { TrainAlone(&run, Rehearsal::Options(Folder("run"), 30)); });
  EXPECT_THAT(error, HasSubstr("stopped at step 14: the loss is "));
  EXPECT_THAT(error, HasSubstr(" after a lowest of "));
  // At step 10 the loss was high already: a state of it would go on as badly.
  EXPECT_THAT(error, HasSubstr("the state of step 5 is kept in " + Folder("run") + "/states"));
  EXPECT_EQ(LoadNewestTrainState(Folder("run") + "/states", *alone_)->step, 5);
  Rehearsal again(&store_, alone_.get());
  EXPECT_TRUE(TrainAlone(&again, Rehearsal::Options(Folder("run"), 30)).finished);
  // Peaks that come and go are no divergence.
  Rehearsal other(&store_, alone_.get());
  other.work.spoil_from = 8;
  other.work.spoil_to = 24;
  other.work.spoil_every = 4;
  other.work.spoil_by = 50;
  EXPECT_TRUE(TrainAlone(&other, Rehearsal::Options(Folder("other"), 30)).finished);
  // Nor is anything below what the stage calls negligible.
  Rehearsal small(&store_, alone_.get());
  small.work.spoil_from = 8;
  small.work.spoil_by = 50;
  small.work.negligible = 1e6;
  EXPECT_TRUE(TrainAlone(&small, Rehearsal::Options(Folder("small"), 30)).finished);
}

// No loss is told of steps in which no token counts, and the watch goes on behind them.
TEST_F(TrainLoopTest, StepsInWhichNothingCountsTellNoLoss) {
  Rehearsal run(&store_, alone_.get());
  BlankedRows rows(&run.data, 8, 16);  // steps 5 to 8
  run.work.spoil_from = 12;
  run.work.spoil_by = 50;
  TrainLoopOptions options = Rehearsal::Options(Folder("run"), 30);
  options.log_every = 1;
  EXPECT_THAT(
      ErrorOf([&] { Train(options, at::kCPU, &rows, &run.optimizer, alone_.get(), &run.work); }),
      HasSubstr("stopped at step 15: the loss is "));
  int lines = 0;
  for (const auto& line : Lines(Folder("run") + "/metrics.jsonl")) {
    if (!line.contains("tokens")) continue;
    const int64_t step = line["step"].get<int64_t>();
    EXPECT_EQ(line.contains("loss"), step < 5 || step > 8) << step;
    ++lines;
  }
  EXPECT_EQ(lines, 15);
}

// What goes wrong in the last evaluation costs no step, and the next start makes up for it.
TEST_F(TrainLoopTest, AnEvaluationThatFailsLosesNothing) {
  TrainLoopOptions options = Rehearsal::Options(Folder("run"), 16);
  options.save_every = 0;
  options.evaluate_every = 0;
  Rehearsal first(&store_, alone_.get());
  first.work.evaluation_fails = true;
  EXPECT_THAT(ErrorOf([&] { TrainAlone(&first, options); }), HasSubstr("no room to evaluate"));
  EXPECT_EQ(LoadNewestTrainState(Folder("run") + "/states", *alone_)->step, 16);
  // The third start finds the evaluation made.
  for (const size_t expected : {1, 0}) {
    Rehearsal next(&store_, alone_.get());
    const TrainResult result = TrainAlone(&next, options);
    EXPECT_TRUE(result.finished);
    EXPECT_EQ(result.evaluations.size(), expected);
    EXPECT_TRUE(at::equal(next.head.detach(), first.head.detach()));
  }
  options.directory = Folder("whole");
  Rehearsal whole(&store_, alone_.get());
  TrainAlone(&whole, options);
  EXPECT_EQ(Lines(Folder("run") + "/metrics.jsonl").back(),
            Lines(Folder("whole") + "/metrics.jsonl").back());
}

TEST_F(TrainLoopTest, StopsInTimeAndGoesOn) {
  TrainLoopOptions options = Rehearsal::Options(Folder("run"), 20);
  options.most_seconds = 1e-9;
  Rehearsal first(&store_, alone_.get());
  const TrainResult result = TrainAlone(&first, options);
  EXPECT_FALSE(result.finished);
  EXPECT_EQ(result.steps, 1);
  options.most_seconds = 0;
  Rehearsal second(&store_, alone_.get());
  EXPECT_TRUE(TrainAlone(&second, options).finished);
  Rehearsal whole(&store_, alone_.get());
  TrainAlone(&whole, Rehearsal::Options(Folder("whole"), 20));
  EXPECT_TRUE(at::equal(second.head.detach(), whole.head.detach()));
}

// Time that went by before the loop began counts as well.
TEST_F(TrainLoopTest, TimeCountsFromTheMomentThatIsGiven) {
  TrainLoopOptions options = Rehearsal::Options(Folder("run"), 6);
  options.most_seconds = 3600;
  Rehearsal punctual(&store_, alone_.get());
  EXPECT_TRUE(TrainAlone(&punctual, options).finished);
  options.directory = Folder("late");
  options.started -= std::chrono::hours(2);
  Rehearsal late(&store_, alone_.get());
  EXPECT_EQ(TrainAlone(&late, options).steps, 1);
}

// Out of time while the loss is high: a few steps more tell whether there is anything to save.
TEST_F(TrainLoopTest, ALateRunSavesNoStateWhoseLossIsHigh) {
  TrainLoopOptions options = Rehearsal::Options(Folder("run"), 30);
  options.most_seconds = 1e-9;
  const auto start = [&](int64_t spoil_to) {
    Rehearsal run(&store_, alone_.get());
    run.work.spoil_from = 1;
    run.work.spoil_to = spoil_to;
    run.work.spoil_by = 50;
    return TrainAlone(&run, options).steps;
  };
  EXPECT_EQ(start(30), 1);
  EXPECT_THAT(ErrorOf([&] { start(30); }), HasSubstr("stopped at step 5: "));
  EXPECT_EQ(LoadNewestTrainState(Folder("run") + "/states", *alone_)->step, 1);
  EXPECT_EQ(start(4), 5);
  EXPECT_EQ(LoadNewestTrainState(Folder("run") + "/states", *alone_)->step, 5);
}

TEST_F(TrainLoopTest, GivesTheMastersOfAFinishedRun) {
  Rehearsal run(&store_, alone_.get(), at::kBFloat16);
  TrainLoopOptions options = Rehearsal::Options(Folder("run"), 4);
  EXPECT_TRUE(TrainAlone(&run, options).masters.empty());
  options.wants_masters = true;
  const TrainResult result = TrainAlone(&run, options);
  ASSERT_EQ(result.masters.count("head"), 1u);
  EXPECT_TRUE(at::equal(result.masters.at("head").to(at::kBFloat16), run.head.detach()));
}

TEST_F(TrainLoopTest, AFolderThatCannotBeWrittenIsNamed) {
  Rehearsal run(&store_, alone_.get());
  EXPECT_THAT(ErrorOf([&] { TrainAlone(&run, Rehearsal::Options("/proc/nowhere", 3)); }),
              HasSubstr("/proc/nowhere: cannot be made"));
}

// A signal that one process gets stops both, behind the same step; and they go on from there.
TEST_F(TrainLoopTest, OneProcessThatIsSignalledStopsAll) {
  TrainLoopOptions options = Rehearsal::Options(Folder("one"), 20);
  options.accumulation = 4;
  Rehearsal one(&store_, alone_.get());
  TrainAlone(&one, options);
  for (const bool stops : {true, false}) {
    testing::AsTwoProcesses(testing::FreePort(), [&](ProcessGroup* processes) {
      Rehearsal run(&store_, processes);
      TrainLoopOptions half = Rehearsal::Options(Folder("two"), 20);
      int64_t steps = 0;
      half.stop_signal = [&, rank = processes->rank()] {
        return stops && rank == 1 && ++steps >= 6 ? SIGTERM : 0;
      };
      const TrainResult result =
          Train(half, at::kCPU, &run.data, &run.optimizer, processes, &run.work);
      if (stops) {
        EXPECT_EQ(result.stop_signal, SIGTERM) << processes->rank();
        // The question is asked every log_every steps at the latest.
        EXPECT_GE(result.steps, 6);
        EXPECT_LE(result.steps, 6 + half.log_every);
        EXPECT_EQ(result.saved_step, result.steps);
      } else {
        EXPECT_TRUE(result.finished);
        EXPECT_TRUE(at::allclose(run.head.detach(), one.head.detach(), 1e-4, 1e-5))
            << processes->rank();
      }
    });
  }
}

// Two processes with Gloo give the curve of one with twice the accumulation.
TEST_F(TrainLoopTest, TwoProcessesGiveTheCurveOfOneWithTwiceTheAccumulation) {
  TrainLoopOptions options = Rehearsal::Options(Folder("one"), 20);
  options.accumulation = 4;
  Rehearsal one(&store_, alone_.get());
  TrainAlone(&one, options);
  testing::AsTwoProcesses(29737, [&](ProcessGroup* processes) {
    Rehearsal run(&store_, processes);
    TrainLoopOptions half = Rehearsal::Options(Folder("two"), 20);
    Train(half, at::kCPU, &run.data, &run.optimizer, processes, &run.work);
    EXPECT_TRUE(at::allclose(run.head.detach(), one.head.detach(), 1e-4, 1e-5))
        << processes->rank();
  });
  const auto expected = Lines(Folder("one") + "/metrics.jsonl");
  const auto found = Lines(Folder("two") + "/metrics.jsonl");
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    if (!found[i].contains("loss")) continue;
    EXPECT_NEAR(found[i]["loss"].get<double>(), expected[i]["loss"].get<double>(), 1e-5) << i;
    EXPECT_EQ(found[i]["tokens"], expected[i]["tokens"]);
  }
}

}  // namespace
}  // namespace mambad::trainer
