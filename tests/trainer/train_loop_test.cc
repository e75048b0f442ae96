// The loop of all stages, on a model of two matrices.

#include "trainer/train_loop.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <memory>
#include <thread>

#include "nlohmann/json.hpp"
#include "tests/support/model_directory.h"
#include "tests/trainer/expect_error.h"
#include "tests/trainer/small_text.h"
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
  Metrics Evaluate() override { return {{"valid_steps", static_cast<double>(steps_)}}; }

  int64_t spoil_from = 1 << 30, spoil_to = 1 << 30, spoil_every = 1;
  double spoil_by = 1;

 private:
  Tensor embedding_, head_;
  int64_t steps_ = 0;
};

// Everything one run needs; the same seeds every time.
struct Rehearsal {
  Rehearsal(const TokenStore* store, ProcessGroup* processes)
      : embedding(at::randn({kVocabulary, kWidth}, at::detail::createCPUGenerator(1))),
        head(at::randn({kVocabulary, kWidth}, at::detail::createCPUGenerator(2)) * 0.1),
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
  EXPECT_EQ(result.evaluations[1].second[0].second, 13);
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
  EXPECT_THAT(ErrorOf([&] { TrainAlone(&run, Rehearsal::Options(Folder("run"), 30)); }),
              HasSubstr("after a lowest of"));
  // Peaks that come and go are no divergence.
  Rehearsal other(&store_, alone_.get());
  other.work.spoil_from = 8;
  other.work.spoil_to = 24;
  other.work.spoil_every = 4;
  other.work.spoil_by = 50;
  EXPECT_TRUE(TrainAlone(&other, Rehearsal::Options(Folder("other"), 30)).finished);
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

TEST_F(TrainLoopTest, AFolderThatCannotBeWrittenIsNamed) {
  Rehearsal run(&store_, alone_.get());
  EXPECT_THAT(ErrorOf([&] { TrainAlone(&run, Rehearsal::Options("/proc/nowhere", 3)); }),
              HasSubstr("/proc/nowhere: cannot be made"));
}

// Two processes with Gloo give the curve of one with twice the accumulation.
TEST_F(TrainLoopTest, TwoProcessesGiveTheCurveOfOneWithTwiceTheAccumulation) {
  TrainLoopOptions options = Rehearsal::Options(Folder("one"), 20);
  options.accumulation = 4;
  Rehearsal one(&store_, alone_.get());
  TrainAlone(&one, options);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      Rendezvous rendezvous;
      rendezvous.rank = rank;
      rendezvous.size = 2;
      rendezvous.port = 29737;
      const auto processes = JoinProcessGroup(rendezvous, false, 30);
      Rehearsal run(&store_, processes.get());
      TrainLoopOptions half = Rehearsal::Options(Folder("two"), 20);
      Train(half, at::kCPU, &run.data, &run.optimizer, processes.get(), &run.work);
      EXPECT_TRUE(at::allclose(run.head.detach(), one.head.detach(), 1e-4, 1e-5)) << rank;
      processes->Barrier();
    });
  }
  for (std::thread& thread : threads) thread.join();
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
