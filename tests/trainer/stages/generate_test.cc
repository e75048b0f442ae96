// The command on random models: what it writes, and that an interrupted run writes the same.

#include "trainer/stages/generate.h"

#include <ATen/Parallel.h>

#include <csignal>
#include <filesystem>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/checkpoint/test_directory.h"
#include "tests/support/checkpoint_writer.h"
#include "tests/trainer/expect_error.h"
#include "trainer/stop_signal.h"

namespace mambad::trainer {
namespace {

using checkpoint::TestDirectory;
using mambad::testing::ErrorOf;
using ::testing::HasSubstr;

class Generate : public ::testing::Test {
 protected:
  void SetUp() override {
    WriteModel(/*seed=*/1);
    config_.run.output = output_ / "run";
    config_.run.device = DeviceChoice::kCpu;
    config_.run.threads = 1;
    config_.model = model_.path();
    config_.records = 40;
    config_.sequences = 8;
    config_.shard_records = 16;
    config_.maximum_tokens = 60;
    config_.most_compression = 100;
  }

  void WriteModel(uint64_t seed) {
    support::RandomModelOptions options;
    options.vocabulary = 300;
    options.tied_head = true;
    options.family = checkpoint::Family::kHybrid;
    options.hybrid_mixer = checkpoint::MixerKind::kMamba2;
    options.logit_deviation = 1;
    options.seed = seed;
    // Many ends, so that many records come to one.
    options.eos_ids = {2};
    for (int id = 3; id < 30; ++id) options.eos_ids.push_back(id);
    ASSERT_TRUE(support::SaveRandomCheckpoint(model_.path(), options).ok());
    ASSERT_TRUE(support::SaveByteTokenizer(model_.path()).ok());
    model_.Write(
        "tokenizer_config.json",
        R"({"bos_token": "<s>", "eos_token": "</s>", "chat_template": )"
        R"("{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}</s>{% endfor %}[a]"})");
  }

  // Lines of generated.jsonl.
  std::vector<nlohmann::json> Lines() const {
    std::istringstream stream(output_.Read("run/generated.jsonl"));
    std::vector<nlohmann::json> lines;
    for (std::string line; std::getline(stream, line);) {
      lines.push_back(nlohmann::json::parse(line));
    }
    return lines;
  }

  // Metrics of all shards, and a report, agree with the records.
  void ExpectTold() const {
    std::istringstream stream(output_.Read("run/metrics.jsonl"));
    int64_t shards = 0, kept = 0, all = 0;
    for (std::string text; std::getline(stream, text);) {
      const nlohmann::json line = nlohmann::json::parse(text);
      EXPECT_EQ(line.at("step"), ++shards);
      kept += line.at("kept").get<int64_t>();
      for (const char* name : {"kept", "unfinished", "loops", "empty", "broken"}) {
        all += line.at(name).get<int64_t>();
      }
    }
    EXPECT_EQ(shards, 3);
    EXPECT_EQ(all, 40);
    EXPECT_EQ(kept, static_cast<int64_t>(Lines().size()));
    const std::string report = output_.Read("run/report.md");
    EXPECT_THAT(report, ::testing::ContainsRegex("kept +\\| +" + std::to_string(kept) + " "));
    EXPECT_THAT(report, HasSubstr("shard_records: 16\n"));
  }

  TestDirectory model_, output_;
  GenerateConfig config_;
};

TEST_F(Generate, InterruptedRunsWriteTheSame) {
  RunGenerate(config_);
  const std::string whole = output_.Read("run/generated.jsonl");
  ASSERT_GT(Lines().size(), 5u);
  ExpectTold();
  for (const nlohmann::json& line : Lines()) {
    ASSERT_EQ(line.at("messages").size(), 2u);
    EXPECT_EQ(line.at("messages")[0].at("role"), "user");
    EXPECT_EQ(line.at("messages")[1].at("role"), "assistant");
  }
  // Killed in the second shard: its lines may be there, its counts are not.
  std::filesystem::remove(output_ / "run/generated.jsonl");
  std::filesystem::remove(output_ / "run/shards/00001.json");
  output_.Write("run/shards/00001.jsonl", "{\"half");
  std::filesystem::remove(output_ / "run/shards/00002.json");
  const std::string first = output_.Read("run/shards/00000.json");
  RunGenerate(config_);
  EXPECT_EQ(output_.Read("run/generated.jsonl"), whole);
  EXPECT_EQ(output_.Read("run/shards/00000.json"), first);

  // More of the same: what was there stays.
  config_.records = 60;
  RunGenerate(config_);
  EXPECT_THAT(output_.Read("run/generated.jsonl"), ::testing::StartsWith(whole));
  EXPECT_GT(output_.Read("run/generated.jsonl").size(), whole.size());
}

// Of four, three would not be measured.
TEST_F(Generate, InterruptedRunsKeepTheirNumberOfThreads) {
  config_.run.threads = 3;
  RunGenerate(config_);
  std::filesystem::remove(output_ / "run/shards/00002.json");
  config_.run.threads = 0;
  at::set_num_threads(4);
  RunGenerate(config_);
  EXPECT_EQ(at::get_num_threads(), 3);
  at::set_num_threads(1);
}

// A signal behind every single step: what comes out does not know of it.
TEST_F(Generate, StoppedRunsGoOnFromWhereTheyWere) {
  config_.records = 30;
  config_.sequences = 4;
  config_.shard_records = 16;
  config_.maximum_tokens = 24;
  RunGenerate(config_);
  const std::string whole = output_.Read("run/generated.jsonl");
  ASSERT_GT(Lines().size(), 2u);
  config_.run.output = output_ / "stopped";
  int stops = 0;
  for (bool finished = false; !finished; finished = finished || stops > 1000) {
    const StopSignals signals(false);
    std::raise(SIGTERM);
    try {
      RunGenerate(config_);
      finished = true;
    } catch (const Stopped& stopped) {
      EXPECT_EQ(stopped.signal(), SIGTERM);
      ++stops;
    }
  }
  EXPECT_GT(stops, 10);
  EXPECT_LT(stops, 1000);
  EXPECT_EQ(output_.Read("stopped/generated.jsonl"), whole);
  EXPECT_FALSE(std::filesystem::exists(output_ / "stopped/shards/00000-unfinished.json"));
}

TEST_F(Generate, OverwritingBeginsAnew) {
  RunGenerate(config_);
  const std::string before = output_.Read("run/generated.jsonl");
  config_.top_p = 0.5;
  config_.run.overwrite = true;
  RunGenerate(config_);
  EXPECT_NE(output_.Read("run/generated.jsonl"), before);
}

TEST_F(Generate, OtherSettingsNeedAnotherFolder) {
  RunGenerate(config_);
  config_.top_p = 0.5;
  EXPECT_THAT(ErrorOf([&] { RunGenerate(config_); }), HasSubstr("give another output"));
}

TEST_F(Generate, OtherWeightsNeedAnotherFolder) {
  RunGenerate(config_);
  WriteModel(/*seed=*/2);
  EXPECT_THAT(ErrorOf([&] { RunGenerate(config_); }), HasSubstr("give another output"));
}

TEST_F(Generate, PromptsAreAnsweredInOrder) {
  output_.Write("prompts.jsonl", "{\"prompt\": \"one\"}\n{\"prompt\": \"two\"}\n");
  config_.prompts = {output_ / "prompts.jsonl"};
  config_.samples_per_prompt = 20;
  RunGenerate(config_);
  const auto lines = Lines();
  ASSERT_GT(lines.size(), 5u);
  std::set<std::string> answers;
  int turns = 0;
  std::string before = "one";
  for (const nlohmann::json& line : lines) {
    const std::string user = line.at("messages")[0].at("content");
    turns += user != before;
    before = user;
    answers.insert(line.at("messages")[1].at("content"));
  }
  EXPECT_EQ(turns, 1);
  EXPECT_EQ(before, "two");
  EXPECT_GT(answers.size(), lines.size() / 2);  // samples differ
}

TEST_F(Generate, FaultsAreNamed) {
  config_.prompts = {"none", "file"};
  EXPECT_THAT(ErrorOf([&] { RunGenerate(config_); }), HasSubstr("the word none alone"));
  config_.prompts = {output_ / "absent"};
  EXPECT_THAT(ErrorOf([&] { RunGenerate(config_); }), HasSubstr("absent"));
  config_.prompts = {"none"};
  config_.lowest_temperature = 2;
  EXPECT_THAT(ErrorOf([&] { RunGenerate(config_); }), HasSubstr("highest_temperature"));
}

}  // namespace
}  // namespace mambad::trainer
