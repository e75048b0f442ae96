// What every stage begins with.

#include "trainer/stages/stage_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/support/model_directory.h"
#include "tests/trainer/expect_error.h"
#include "tests/trainer/small_text.h"
#include "tests/trainer/stages/small_model.h"
#include "trainer/stages/stage.h"

namespace mambad::trainer {
namespace {

using testing::ErrorOf;
using ::testing::HasSubstr;

class StageRunTest : public ::testing::Test {
 protected:
  StageRunTest() {
    testing::WriteSmallTokenizer(folder_.path(), false);
    config_.run.output = folder_.path() + "/run";
    config_.run.device = DeviceChoice::kCpu;
    config_.student = folder_.path();
    config_.data.train = {"text.txt"};
  }
  StageRun Open() { return OpenStageRun("finetune", config_.run, DescriptionOf(config_)); }
  void HoldAState() {
    std::filesystem::create_directories(folder_.path() + "/run/states/step-000000001");
  }

  testing::TemporaryDirectory folder_;
  FinetuneConfig config_;
};

// A run that diverged is led on from its last good state; any other change makes another run.
TEST_F(StageRunTest, ARunGoesOnWithOtherRates) {
  Open();
  HoldAState();
  config_.optimizer.learning_rate /= 10;
  config_.rest_learning_rate /= 10;
  config_.optimizer.clip_norm = 0.1;
  config_.loop.divergence_factor = 5;
  EXPECT_NO_THROW(Open());
  EXPECT_THAT(testing::ReadText(folder_.path() + "/run/config.yaml"), HasSubstr("clip_norm: 0.1"));
  config_.optimizer.beta2 = 0.9;
  EXPECT_THAT(ErrorOf([&] { Open(); }),
              HasSubstr("a run of other settings was begun here: expected \"beta2: 0.95\", found "
                        "\"beta2: 0.9\""));
}

TEST_F(StageRunTest, AllPartsOfAStageShareOneClock) {
  const StageRun run = Open();
  EXPECT_EQ(LoopOptions(run, config_.loop, "one").started, run.started);
  EXPECT_EQ(LoopOptions(run, config_.loop, "two", "part").started, run.started);
}

TEST_F(StageRunTest, MastersAreWantedWhereTheModelIsStoredAsFinely) {
  const StageRun run = Open();
  config_.loop.stored = StoredType::kFloat32;
  EXPECT_TRUE(LoopOptions(run, config_.loop, "train").wants_masters);
  config_.loop.stored = StoredType::kBFloat16;
  EXPECT_FALSE(LoopOptions(run, config_.loop, "train").wants_masters);
}

// Before anything is trained, not at the end of it.
TEST_F(StageRunTest, HeldOutTextInWhichNothingCountsIsRefused) {
  const StageRun run = Open();
  const std::string train = folder_.path() + "/text.txt", valid = folder_.path() + "/silent.jsonl";
  testing::WriteText(train, "abc\n");
  testing::WriteText(valid, "{\"prompt\": \"ab\", \"completion\": \"\"}\n");
  config_.data.prompts_are_chat = false;
  config_.data.append_end_of_text = false;
  config_.data.train = {train};
  config_.data.valid = {valid};
  EXPECT_THAT(ErrorOf([&] {
                OpenStageText(run, config_.data, config_.loop, folder_.path(),
                              testing::kSmallVocabulary);
              }),
              HasSubstr("/tokens/valid: not one of 2 tokens counts in the loss"));
}

// Questions that nobody can read are told of before the text is gone through, which takes hours;
// the text's own fault shows here that its turn had not come.
TEST_F(StageRunTest, EvaluateOpensEverythingBeforeItMeasures) {
  testing::WriteSmallModel(folder_.path(), 1);
  EvaluateConfig config;
  config.run = config_.run;
  config.model = folder_.path();
  config.data.valid = {folder_.path() + "/a.txt"};
  config.data.append_end_of_text = false;
  testing::WriteText(config.data.valid[0], "a");
  EXPECT_THAT(ErrorOf([&] { RunEvaluate(config); }), HasSubstr("not one of 1 tokens counts"));
  config.choices = folder_.path() + "/choices.jsonl";
  testing::WriteText(config.choices, "{\"prompt\": 7}\n");
  EXPECT_THAT(ErrorOf([&] { RunEvaluate(config); }), HasSubstr("/choices.jsonl:1: expected "));
}

}  // namespace
}  // namespace mambad::trainer
