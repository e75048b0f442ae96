// Stages are given what they cannot learn from, or something else than they were begun with.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/support/model_directory.h"
#include "tests/trainer/expect_error.h"
#include "tests/trainer/small_text.h"
#include "tests/trainer/stages/small_model.h"
#include "trainer/stages/stage.h"

namespace mambad::trainer {
namespace {

using testing::ErrorOf;
using ::testing::HasSubstr;
using testing::WriteText;

class StageInputs : public ::testing::Test {
 protected:
  StageInputs() {
    WriteModel(1);
    finetune_.student = preference_.student = folder_.path();
    Prepare("finetune", &finetune_.run, &finetune_.data, &finetune_.loop);
    Prepare("preference", &preference_.run, &preference_.data, &preference_.loop);
  }

  void WriteModel(uint64_t seed) {
    testing::WriteSmallTokenizer(folder_.path(), false);
    testing::WriteSmallModel(folder_.path(), seed);
  }

  void Prepare(const std::string& name, RunConfig* run, DataConfig* data, LoopConfig* loop) {
    run->output = folder_.path() + "/" + name;
    run->device = DeviceChoice::kCpu;
    run->threads = 1;
    data->train = {folder_.path() + "/train.jsonl"};
    data->row_tokens = 32;
    loop->steps = 2;
    loop->micro_batch = 2;
  }

  void WriteTrain(const std::string& lines) { WriteText(folder_.path() + "/train.jsonl", lines); }

  // What the metrics say of `name`, in order. Throws when they say nothing.
  std::vector<double> Told(const std::string& run, const std::string& name) const {
    std::istringstream in(testing::ReadText(folder_.path() + "/" + run + "/metrics.jsonl"));
    std::vector<double> values;
    for (std::string line; std::getline(in, line);) {
      const auto record = nlohmann::json::parse(line);
      if (record.contains(name)) values.push_back(record[name].get<double>());
    }
    if (values.empty()) throw std::runtime_error("no metric " + name);
    return values;
  }

  testing::TemporaryDirectory folder_;
  FinetuneConfig finetune_;
  PreferenceConfig preference_;
};

TEST_F(StageInputs, ARunGoesOnWithTheTextItWasBegunWith) {
  const std::string begun = "{\"text\": \"abcdef\"}\n";
  WriteTrain(begun);
  RunFinetune(finetune_);
  WriteTrain("{\"text\": \"abcdeg\"}\n");
  EXPECT_THAT(ErrorOf([&] { RunFinetune(finetune_); }),
              HasSubstr("train: what it names has changed since the run was begun (" +
                        finetune_.run.output + "/inputs.json)"));
  WriteTrain(begun);
  EXPECT_EQ(ErrorOf([&] { RunFinetune(finetune_); }), "nothing was thrown");
}

TEST_F(StageInputs, ARunGoesOnWithTheModelItWasBegunWith) {
  WriteTrain("{\"text\": \"abcdef\"}\n");
  RunFinetune(finetune_);
  WriteModel(2);
  EXPECT_THAT(ErrorOf([&] { RunFinetune(finetune_); }),
              HasSubstr("student: what it names has changed since the run was begun"));
}

// A run that came to no state was not begun.
TEST_F(StageInputs, NothingTrainsOnWhatDoesNotCount) {
  WriteTrain("{\"prompt\": \"abc\", \"completion\": \"\"}\n");
  finetune_.data.append_end_of_text = false;
  EXPECT_THAT(ErrorOf([&] { RunFinetune(finetune_); }),
              HasSubstr("/tokens/train: not one of 3 tokens counts in the loss"));
  WriteTrain("{\"text\": \"a\"}\n{\"text\": \"b\"}\n");
  EXPECT_THAT(ErrorOf([&] { RunFinetune(finetune_); }),
              HasSubstr("/tokens/train: not one of 2 tokens counts in the loss"));
  WriteTrain("{\"prompt\": \"abc\", \"chosen\": \"d\", \"rejected\": \"e\"}\n");
  EXPECT_THAT(ErrorOf([&] { RunFinetune(finetune_); }),
              HasSubstr("/tokens/train: preference pairs, which only preference learns from"));
  WriteTrain("{\"prompt\": \"abc\", \"completion\": \"d\"}\n");
  EXPECT_EQ(ErrorOf([&] { RunFinetune(finetune_); }), "nothing was thrown");
}

// Prompts longer than a row leave room for the answers, which are learned from.
TEST_F(StageInputs, PreferenceLearnsBehindLongPrompts) {
  const std::string prompt(100, 'p');
  WriteTrain("{\"prompt\": \"" + prompt + "\", \"chosen\": \"yes\", \"rejected\": \"no\"}\n");
  preference_.data.valid = preference_.data.train;
  preference_.optimizer.learning_rate = 1e-2;
  preference_.epochs = 20;
  RunPreference(preference_);
  EXPECT_NEAR(Told("preference", "loss").front(), 0.6931, 1e-3);
  EXPECT_LT(Told("preference", "loss").back(), 0.6);
  EXPECT_EQ(Told("preference", "valid_preference_accuracy").back(), 1);
  // A step takes two pairs, of which there is one.
  EXPECT_EQ(Told("preference", "tokens").back(), 10 * 4 * 32);
}

TEST_F(StageInputs, PreferenceRefusesWhatPairsCannotHave) {
  WriteTrain("{\"prompt\": \"abc\", \"chosen\": \"d\", \"rejected\": \"e\"}\n");
  preference_.prompt_tokens = 32;
  EXPECT_EQ(ErrorOf([&] { RunPreference(preference_); }),
            "prompt_tokens: expected less than data.row_tokens (32), found 32");
  preference_.prompt_tokens = 31;
  preference_.data.loss_on = TargetTokens::kAll;
  EXPECT_THAT(ErrorOf([&] { RunPreference(preference_); }),
              HasSubstr("data.loss_on: expected answers"));
  preference_.data.loss_on = TargetTokens::kAnswers;
  // Held-out text is looked at before the first step.
  preference_.data.valid = {folder_.path() + "/valid.jsonl"};
  WriteText(preference_.data.valid[0], "{\"text\": \"abc\"}\n");
  EXPECT_THAT(ErrorOf([&] { RunPreference(preference_); }),
              HasSubstr("/tokens/valid: no preference pairs"));
}

TEST(StageDefaults, AlignmentLearnsFromEveryToken) {
  EXPECT_EQ(AlignConfig().data.loss_on, TargetTokens::kAll);
}

}  // namespace
}  // namespace mambad::trainer
