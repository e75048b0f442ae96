// Settings from YAML: defaults, echoes, and every kind of fault named with file, line and key.

#include "trainer/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/model_directory.h"
#include "tests/trainer/expect_error.h"
#include "tests/trainer/small_text.h"
#include "trainer/train_config.h"

namespace mambad::trainer {
namespace {

using ::testing::ElementsAre;
using testing::ErrorOf;
using ::testing::HasSubstr;

class SettingsTest : public ::testing::Test {
 protected:
  template <typename Config>
  Config Read(const std::string& yaml) {
    testing::WriteText(path(), yaml);
    Config config;
    ReadSettings(path(), [&](Settings* settings) { Describe(settings, &config); });
    return config;
  }
  std::string Error(const std::string& yaml) {
    return ErrorOf([&] { Read<DistillConfig>(yaml); });
  }
  std::string path() const { return folder_.path() + "/run.yaml"; }

  testing::TemporaryDirectory folder_;
};

constexpr char kSmallest[] = "output: o\nteacher: t\nstudent: s\ndata: {train: a.jsonl}\n";

TEST_F(SettingsTest, ReadsWhatIsGivenAndKeepsDefaultsElsewhere) {
  const auto config = Read<DistillConfig>(
      "output: run\nteacher: t\ntrained: all\ntemperature: 2.5\n"
      "phases:\n  - {attention_percent: 75, steps: 10}\n  - replaced: [0, 3]\n"
      "data:\n  train: [a, b]\n  loss_on: all\nloop: {steps: 7, stored: fp32}\n");
  EXPECT_EQ(config.run.output, "run");
  EXPECT_EQ(config.trained, TrainedPart::kAll);
  EXPECT_EQ(config.temperature, 2.5);
  ASSERT_EQ(config.phases.size(), 2u);
  EXPECT_EQ(config.phases[0].layers.attention_percent, 75);
  EXPECT_EQ(config.phases[0].steps, 10);
  EXPECT_THAT(config.phases[1].layers.replaced, ElementsAre(0, 3));
  EXPECT_THAT(config.data.train, ElementsAre("a", "b"));
  EXPECT_EQ(config.data.loss_on, TargetTokens::kAll);
  EXPECT_EQ(config.loop.steps, 7);
  EXPECT_EQ(config.loop.stored, StoredType::kFloat32);
  EXPECT_EQ(config.loop.warmup_steps, DistillConfig().loop.warmup_steps);
  EXPECT_THAT(Read<DistillConfig>(kSmallest).data.train, ElementsAre("a.jsonl"));
}

TEST_F(SettingsTest, UnknownAndRepeatedKeys) {
  EXPECT_THAT(Error(std::string(kSmallest) + "studant: x\n"),
              HasSubstr(path() + ":5: \"studant\": no such key; expected "));
  EXPECT_THAT(Error(std::string(kSmallest) + "loop:\n  steps: 3\n  step: 4\n"),
              HasSubstr(path() + ":7: \"loop.step\": no such key; expected one under \"loop\": "));
  EXPECT_THAT(Error(std::string(kSmallest) + "phases:\n  - steps: 3\n    layers: 4\n"),
              HasSubstr(path() + ":7: \"phases[0].layers\": no such key"));
  EXPECT_THAT(Error(std::string(kSmallest) + "teacher: u\n"),
              HasSubstr(path() + ":5: \"teacher\": given twice"));
}

TEST_F(SettingsTest, WrongTypesAndRanges) {
  const std::string start = kSmallest;
  const std::string five = path() + ":5: ";
  EXPECT_EQ(Error(start + "temperature: hot\n"),
            five + "\"temperature\": expected a number from 0.01 to 100, found \"hot\"");
  EXPECT_EQ(Error(start + "temperature: 1000\n"),
            five + "\"temperature\": expected a number from 0.01 to 100, found \"1000\"");
  EXPECT_THAT(Error(start + "temperature: .nan\n"), HasSubstr("expected a number"));
  EXPECT_EQ(Error(start + "seed: -1\n"),
            five + "\"seed\": expected a whole number of 0 or more, found \"-1\"");
  EXPECT_THAT(Error(start + "seed: 1.5\n"), HasSubstr("whole number"));
  EXPECT_THAT(Error(start + "seed: 99999999999999999999\n"), HasSubstr("whole number"));
  EXPECT_EQ(Error(start + "trained: half\n"),
            five + "\"trained\": expected one of mixers, all, found \"half\"");
  EXPECT_EQ(Error(start + "start: {identity_start: maybe}\n"),
            five + "\"start.identity_start\": expected true or false, found \"maybe\"");
  EXPECT_EQ(Error(start + "loop: 3\n"), five + "\"loop\": expected keys with values");
  EXPECT_EQ(Error(start + "phases: 3\n"), five + "\"phases\": expected a list, found \"3\"");
  EXPECT_EQ(Error(start + "rest_learning_rate: [1]\n"),
            five + "\"rest_learning_rate\": expected a number from 0 to 10, found a list");
}

TEST_F(SettingsTest, MissingKeysAndFiles) {
  EXPECT_THAT(Error("output: o\ndata: {train: x}\n"),
              HasSubstr("\"teacher\": expected a text, found nothing"));
  EXPECT_THAT(Error("output: o\nteacher: t\ndata: {valid: x}\n"),
              HasSubstr("\"data.train\": expected a list of texts, found nothing"));
  EXPECT_THAT(Error("output: o\nteacher: t\n"), HasSubstr("\"data.train\": expected"));
  EXPECT_THAT(Error(""), HasSubstr("expected keys with values"));
  EXPECT_THAT(Error("a: [1\n"), HasSubstr(path() + ":2: not valid YAML: "));
  EXPECT_EQ(ErrorOf([] { ReadSettings("/nowhere.yaml", [](Settings*) {}); }),
            "/nowhere.yaml: cannot be read: No such file or directory");
}

TEST_F(SettingsTest, AMisspeltKeyIsNamedBeforeTheOneThatIsMissingForIt) {
  EXPECT_THAT(Error("output: o\nteecher: t\ndata: {train: x}\n"),
              HasSubstr(path() + ":2: \"teecher\": no such key; expected "));
  EXPECT_THAT(Error("output: o\nteacher: t\ndata:\n  trane: x\n"),
              HasSubstr(path() + ":4: \"data.trane\": no such key; expected "));
}

TEST_F(SettingsTest, AFolderIsNoFile) {
  EXPECT_EQ(ErrorOf([&] { ReadSettings(folder_.path(), [](Settings*) {}); }),
            folder_.path() + ": a YAML file expected, found a directory");
}

// What a command does not do cannot be asked of it.
TEST_F(SettingsTest, CommandsHaveNoSettingsWithoutEffect) {
  EXPECT_THAT(ErrorOf([&] { Read<LayersConfig>("output: o\nteacher: t\nstudent: s\n"); }),
              HasSubstr("\"data.valid\": expected a list of texts, found nothing"));
  EXPECT_THAT(
      ErrorOf([&] {
        Read<LayersConfig>("output: o\nteacher: t\nstudent: s\ndata: {train: x, valid: y}\n");
      }),
      HasSubstr("\"data.train\": no such key"));
  EXPECT_THAT(ErrorOf([&] { Read<EvaluateConfig>("output: o\nmodel: m\ndata: {train: x}\n"); }),
              HasSubstr("\"data.train\": no such key"));
  EXPECT_THAT(Read<EvaluateConfig>("output: o\nmodel: m\nchoices: c\n").data.valid,
              ::testing::IsEmpty());
  EXPECT_THAT(
      ErrorOf([&] {
        Read<AlignConfig>(std::string(kSmallest) + "loop: {activation_checkpointing: true}\n");
      }),
      HasSubstr("\"loop.activation_checkpointing\": no such key"));
}

TEST_F(SettingsTest, KeepsTheFileThatMakesTheSameAgain) {
  const auto config = Read<DistillConfig>(kSmallest);
  KeepSettings(folder_.path(), "distill", DescriptionOf(config));
  const std::string kept = testing::ReadText(folder_.path() + "/config.yaml");
  EXPECT_THAT(kept, ::testing::StartsWith("# trainer distill\noutput: \"o\"\n"));
  Read<DistillConfig>(kept);
}

// What a run writes beside its results makes the same run.
template <typename Config>
void ExpectEchoed(const std::string& path, Config config) {
  const auto echo = [](Config* of) {
    return WriteSettings([&](Settings* settings) { Describe(settings, of); });
  };
  const std::string written = echo(&config);
  testing::WriteText(path, written);
  Config read;
  ReadSettings(path, [&](Settings* settings) { Describe(settings, &read); });
  EXPECT_EQ(echo(&read), written);
  EXPECT_NE(echo(&read), [&] {
    Config other;
    return echo(&other);
  }());
}

TEST_F(SettingsTest, EchoesReadBack) {
  DistillConfig distill;
  distill.run.output = "a \"quoted\": #path";
  distill.teacher = "true";
  distill.student = "12";
  distill.optimizer.learning_rate = 1.0 / 3.0;
  distill.data.train = {"x, y", "z"};
  distill.phases = {{{75, {}}, 5}, {{50, {1, 2}}, 6}};
  ExpectEchoed(path(), distill);
  DraftConfig draft;
  draft.run.output = draft.target = "t";
  draft.data.train = {"x"};
  draft.model.family = NewModelConfig::Family::kLlama;
  ExpectEchoed(path(), draft);
}

TEST_F(SettingsTest, ExplanationsNameKeysAndDefaults) {
  DistillConfig config;
  const std::string text =
      ExplainSettings([&](Settings* settings) { Describe(settings, &config); });
  EXPECT_THAT(text, HasSubstr("  teacher: REQUIRED"));
  EXPECT_THAT(text, HasSubstr("    learning_rate: 0.001 "));
  EXPECT_THAT(text, HasSubstr("(one of mamba, mamba2)"));
}

}  // namespace
}  // namespace mambad::trainer
