// Sampling settings of a model's files: nothing in them keeps a model from being served.

#include "engine/checkpoint/generation_defaults.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mambad::checkpoint {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

ModelConfig Read(const std::string& text) {
  ModelConfig config;
  config.vocabulary = 100;
  ReadGenerationDefaults("dir/generation_config.json", nlohmann::json::parse(text), config);
  return config;
}

TEST(GenerationDefaults, TakesWhatIsInRange) {
  const ModelConfig config = Read(R"({"do_sample": 1, "temperature": 1, "top_p": 1.0, "min_p": 0,
                                      "top_k": 50.0, "repetition_penalty": 1.1, "other": []})");
  EXPECT_EQ(config.sampling_defaults.do_sample, true);
  EXPECT_EQ(config.sampling_defaults.temperature, 1);
  EXPECT_EQ(config.sampling_defaults.top_p, 1);
  EXPECT_EQ(config.sampling_defaults.min_p, 0);
  EXPECT_EQ(config.sampling_defaults.top_k, 50);
  EXPECT_EQ(config.sampling_defaults.repetition_penalty, 1.1);
  EXPECT_THAT(config.warnings, IsEmpty());
}

TEST(GenerationDefaults, WordsForOffAreSilent) {
  for (const char* text : {R"({"top_k": -1})", R"({"top_k": 0})", R"({"top_k": -1.0})"}) {
    EXPECT_EQ(Read(text).sampling_defaults.top_k, 0) << text;
    EXPECT_THAT(Read(text).warnings, IsEmpty()) << text;
  }
  const ModelConfig nulls = Read(R"({"do_sample": false, "temperature": null, "top_p": null,
                                     "top_k": null, "min_p": null, "repetition_penalty": null})");
  EXPECT_EQ(nulls.sampling_defaults.temperature, std::nullopt);
  EXPECT_EQ(nulls.sampling_defaults.top_k, std::nullopt);
  EXPECT_THAT(nulls.warnings, IsEmpty());
  EXPECT_EQ(Read(R"({"top_k": 1000})").sampling_defaults.top_k, 100);  // of a hundred tokens
}

TEST(GenerationDefaults, TheRestIsLeftOutWithAWarning) {
  for (const char* text :
       {R"({"top_p": 0.0})", R"({"top_p": 1.5})", R"({"top_p": -1})", R"({"top_p": "0.9"})",
        R"({"temperature": -1})", R"({"temperature": 1e9})", R"({"temperature": true})",
        R"({"top_k": 2.5})", R"({"top_k": -2})", R"({"top_k": "all"})", R"({"min_p": 2})",
        R"({"min_p": []})", R"({"repetition_penalty": 0})", R"({"repetition_penalty": {}})",
        R"({"do_sample": "yes"})", R"({"do_sample": 7})"}) {
    const ModelConfig config = Read(text);
    EXPECT_EQ(config.sampling_defaults.do_sample, std::nullopt) << text;
    EXPECT_EQ(config.sampling_defaults.temperature, std::nullopt) << text;
    EXPECT_EQ(config.sampling_defaults.top_p, std::nullopt) << text;
    EXPECT_EQ(config.sampling_defaults.top_k, std::nullopt) << text;
    EXPECT_EQ(config.sampling_defaults.min_p, std::nullopt) << text;
    EXPECT_EQ(config.sampling_defaults.repetition_penalty, std::nullopt) << text;
    const std::string key = nlohmann::json::parse(text).begin().key();
    EXPECT_THAT(config.warnings, ElementsAre(AllOf(HasSubstr("dir/generation_config.json: " + key),
                                                   HasSubstr("left out"), HasSubstr("expected"))));
  }
}

TEST(GenerationDefaults, NoFileAndNoObject) {
  EXPECT_THAT(Read("null").warnings, IsEmpty());
  EXPECT_THAT(Read("[1]").warnings, IsEmpty());
}

}  // namespace
}  // namespace mambad::checkpoint
