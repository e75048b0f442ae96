// What every stage begins with.

#include "trainer/stages/stage_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/support/model_directory.h"
#include "tests/trainer/expect_error.h"
#include "tests/trainer/small_text.h"
#include "tests/trainer/stages/small_model.h"
#include "trainer/modules/language_model.h"
#include "trainer/stages/stage.h"
#include "trainer/token_store.h"

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
  // The settings tell since when.
  EXPECT_THAT(testing::ReadText(folder_.path() + "/run/config.yaml"),
              ::testing::AllOf(::testing::StartsWith("# trainer finetune\n"),
                               HasSubstr("\n# from step 1: clip_norm: 1 -> 0.1\n"),
                               HasSubstr("\n# from step 1: learning_rate: 0.0001 -> 1e-05\n"),
                               HasSubstr("clip_norm: 0.1")));
  // Back to what it was begun with, but no higher.
  config_.optimizer.learning_rate = 1e-4;
  EXPECT_NO_THROW(Open());
  EXPECT_THAT(testing::ReadText(folder_.path() + "/run/config.yaml"),
              HasSubstr("\n# from step 1: learning_rate: 1e-05 -> 0.0001\n"));
  config_.optimizer.learning_rate = 2e-4;
  EXPECT_THAT(
      ErrorOf([&] { Open(); }),
      HasSubstr("may lower learning_rate, not raise it: expected at most 0.0001, with which "
                "it was begun, found 0.0002"));
  config_.optimizer.learning_rate = 1e-4;
  config_.optimizer.clip_norm = 0;  // none at all
  EXPECT_THAT(ErrorOf([&] { Open(); }), HasSubstr("may lower clip_norm, not raise it"));
  config_.optimizer.clip_norm = 0.1;
  config_.optimizer.beta2 = 0.9;
  EXPECT_THAT(ErrorOf([&] { Open(); }),
              HasSubstr("a run of other settings was begun here: expected \"beta2: 0.95\", found "
                        "\"beta2: 0.9\""));
}

TEST_F(StageRunTest, WarmUpIsAShareOfTheStepsUnlessAskedFor) {
  const StageRun run = Open();
  const auto warmup = [&](int64_t steps, int64_t asked_for) {
    config_.loop.steps = steps;
    config_.loop.warmup_steps = asked_for;
    return LoopOptions(run, config_.loop, "train").schedule.warmup_steps;
  };
  EXPECT_EQ(warmup(150, LoopConfig::kShareOfSteps), 15);
  EXPECT_EQ(warmup(5, LoopConfig::kShareOfSteps), 0);
  EXPECT_EQ(warmup(5000, LoopConfig::kShareOfSteps), 50);
  EXPECT_EQ(warmup(150, 100), 100);
  EXPECT_EQ(warmup(150, 0), 0);
  EXPECT_EQ(PretrainConfig().loop.most_warmup_steps, 200);
}

// The model learns with the template, and it goes with the model.
TEST_F(StageRunTest, AChatTemplateTakesThePlaceOfTheOldOne) {
  const StageRun run = Open();
  EXPECT_EQ(TextSource(run, folder_.path(), ""), folder_.path());
  const std::string file = folder_.path() + "/turns.jinja";
  testing::WriteText(file, "{% for m in messages %}({{ m['content'] }}){% endfor %}");
  const std::string source = TextSource(run, folder_.path(), file);
  EXPECT_EQ(testing::ReadText(source + "/chat_template.jinja"), testing::ReadText(file));
  EXPECT_EQ(testing::ReadText(source + "/tokenizer.json"),
            testing::ReadText(folder_.path() + "/tokenizer.json"));
  testing::WriteText(folder_.path() + "/text.jsonl",
                     R"({"messages": [{"role": "user", "content": "a"}]})"
                     "\n");
  config_.data.loss_on = TargetTokens::kAll;
  const TokenStore store = OpenText(run, config_.data, "train", {folder_.path() + "/text.jsonl"},
                                    source, testing::kSmallVocabulary);
  EXPECT_EQ(store.index().tokens, 3);  // a byte a token
  testing::WriteText(file, "{% for m in messages %}");
  EXPECT_THAT(ErrorOf([&] { TextSource(run, folder_.path(), file); }),
              HasSubstr("chat_template: " + file + ": "));
  EXPECT_THAT(ErrorOf([&] { TextSource(run, folder_.path(), folder_.path() + "/none"); }),
              HasSubstr("/none: cannot be read"));
}

// A template may lie in the folder of templates alone: what is learned with it is served with it.
TEST_F(StageRunTest, TemplatesBesideTheUsualOneComeAlong) {
  const std::string templates = "/additional_chat_templates";
  std::filesystem::create_directory(folder_.path() + templates);
  testing::WriteText(folder_.path() + templates + "/default.jinja", "{{ messages[0].content }}");
  const std::string before = TokenizerFingerprint(folder_.path());
  const std::string copy = folder_.path() + "/copy";
  std::filesystem::create_directory(copy);
  CopyTextFiles(folder_.path(), copy);
  EXPECT_EQ(testing::ReadText(copy + templates + "/default.jinja"), "{{ messages[0].content }}");
  EXPECT_EQ(TokenizerFingerprint(copy), before);
  testing::WriteText(copy + templates + "/default.jinja", "other");
  EXPECT_NE(TokenizerFingerprint(copy), before);
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
