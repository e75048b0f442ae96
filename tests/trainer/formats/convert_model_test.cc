// Conversion: every input becomes a directory that is the same model to the engine.

#include "trainer/formats/convert_model.h"

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/text/tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/checkpoint/test_directory.h"
#include "tests/engine/engine_driver.h"
#include "tests/engine/model_runner.h"
#include "tests/support/checkpoint_writer.h"
#include "tests/support/stories260k.h"
#include "tests/trainer/expect_error.h"
#include "tests/trainer/formats/random_models.h"

namespace mambad::trainer {
namespace {

using checkpoint::Checkpoint;
using checkpoint::Layout;
using checkpoint::StorageType;
using checkpoint::TestDirectory;
using mambad::testing::ErrorOf;
using ::testing::HasSubstr;

ConvertedModel Convert(const std::string& input, const std::string& output,
                       std::optional<StorageType> type = {}) {
  ConvertOptions options;
  options.input = input;
  options.output = output;
  options.type = type;
  return ConvertModel(options);
}

// Logits of a formula's tokens; columns beyond the vocabulary cut off.
std::vector<testing::LogitRow> Logits(const std::string& model, absl::Span<const int32_t> tokens) {
  testing::RunnerOptions options;
  options.slots = 1;
  auto runner = testing::ModelRunner::Open(model, options);
  EXPECT_TRUE(runner.ok()) << runner.status();
  std::vector<testing::LogitRow> rows = (*runner)->Read(0, tokens, 16);
  for (testing::LogitRow& row : rows) row.resize((*runner)->config().vocabulary);
  return rows;
}

// Every family, layout and variant through PyTorch's files.
TEST(ConvertModel, KeepsEveryModelTheSame) {
  for (auto [name, options] : support::AllVariants()) {
    SCOPED_TRACE(name);
    TestDirectory input, output;
    SavePytorchCheckpoint(input, options, 2);
    const ConvertedModel converted = Convert(input.path(), output.path());
    EXPECT_EQ(converted.kind, SourceKind::kPytorchDirectory);
    EXPECT_NE(converted.config.layout, Layout::kStateSpaces);
    EXPECT_EQ(converted.config.padded_vocabulary, converted.config.vocabulary);
    const ModelSource source = OpenModelSource(input.path());
    const auto found = Checkpoint::Open(output.path());
    ASSERT_TRUE(found.ok()) << found.status();
    ExpectSameNumbers(*source.checkpoint, **found);
    EXPECT_EQ((*found)->config().eos_ids, source.checkpoint->config().eos_ids);

    TestDirectory original;
    ASSERT_TRUE(support::SaveRandomCheckpoint(original.path(), options).ok());
    const auto tokens = testing::FormulaTokens(24, converted.config.vocabulary);
    EXPECT_EQ(Logits(output.path(), tokens), Logits(original.path(), tokens));
  }
}

TEST(ConvertModel, TypesAreChosen) {
  support::RandomModelOptions options;
  options.family = checkpoint::Family::kMamba;
  TestDirectory input, output;
  SavePytorchCheckpoint(input, options, 1);
  const ModelSource source = OpenModelSource(input.path());
  const auto stored = [&](std::optional<StorageType> type) {
    EXPECT_EQ(Convert(input.path(), output.path(), type).type,
              type.value_or(StorageType::kFloat32));
    auto opened = Checkpoint::Open(output.path());
    EXPECT_TRUE(opened.ok()) << opened.status();
    return *std::move(opened);
  };
  EXPECT_EQ(stored({})->native_type(), StorageType::kFloat32);
  const auto narrow = stored(StorageType::kBFloat16);
  EXPECT_EQ(narrow->native_type(), StorageType::kBFloat16);
  ExpectSameNumbers(*source.checkpoint, *narrow, /*rounded=*/true);  // norms, A_log, ... exact
  EXPECT_EQ(stored(StorageType::kFloat16)->native_type(), StorageType::kFloat16);
}

TEST(ConvertModel, HalvesAreRoundedToNearestEven) {
  support::RandomModelOptions options;
  options.type = StorageType::kFloat32;
  TestDirectory input, output, expected;
  SavePytorchCheckpoint(input, options, 1);
  Convert(input.path(), output.path(), StorageType::kFloat16);
  const auto found = Checkpoint::Open(output.path());
  ASSERT_TRUE(found.ok()) << found.status();
  const ModelSource source = OpenModelSource(input.path());
  const checkpoint::Parameter& parameter =
      *(*found)->table().Find(checkpoint::Role::kEmbedding, -1);
  std::vector<float> wide(parameter.shape[0] * parameter.shape[1]), half(wide.size());
  source.checkpoint->Read(parameter, 0, parameter.shape[0], absl::MakeSpan(wide));
  (*found)->Read(parameter, 0, parameter.shape[0], absl::MakeSpan(half));
  for (size_t i = 0; i < wide.size(); ++i) {
    const uint16_t bits = support::RoundToFloat16(wide[i]);
    EXPECT_EQ(support::RoundToFloat16(half[i]), bits) << wide[i];
  }
}

TEST(ConvertModel, TextFilesComeAlong) {
  support::RandomModelOptions options;
  options.vocabulary = 300;
  TestDirectory input, output;
  SavePytorchCheckpoint(input, options, 1);
  ASSERT_TRUE(support::SaveByteTokenizer(input.path()).ok());
  input.Write("chat_template.jinja", "{{ 1 }}");
  std::filesystem::create_directory(input / "additional_chat_templates");
  input.Write("additional_chat_templates/rag.jinja", "{{ 2 }}");
  input.Write("processor_config.json", "{}");
  output.Write("tokenizer.model", "of an earlier model");
  std::filesystem::create_directory(output / "additional_chat_templates");
  output.Write("additional_chat_templates/default.jinja", "of an earlier model");
  EXPECT_TRUE(Convert(input.path(), output.path()).has_tokenizer);
  EXPECT_EQ(output.Read("tokenizer.json"), input.Read("tokenizer.json"));
  EXPECT_EQ(output.Read("chat_template.jinja"), "{{ 1 }}");
  EXPECT_EQ(output.Read("additional_chat_templates/rag.jinja"), "{{ 2 }}");
  EXPECT_EQ(output.Read("processor_config.json"), "{}");
  EXPECT_FALSE(std::filesystem::exists(output / "tokenizer.model"));
  EXPECT_FALSE(std::filesystem::exists(output / "additional_chat_templates/default.jinja"));
}

TEST(ConvertModel, FaultsAreNamedBeforeAnythingIsWritten) {
  support::RandomModelOptions options;
  TestDirectory input, output;
  SavePytorchCheckpoint(input, options, 1);
  EXPECT_THAT(ErrorOf([&] { Convert(input / "none", output.path()); }),
              HasSubstr("none: does not exist"));
  EXPECT_THAT(ErrorOf([&] { Convert(input.path(), input.path()); }),
              HasSubstr("the output is the input"));
  EXPECT_THAT(ErrorOf([&] { Convert(input.path(), input / "config.json/x"); }),
              HasSubstr("cannot be made a directory"));
  input.Write("config.json", "{}");
  EXPECT_THAT(ErrorOf([&] { Convert(input.path(), output / "new"); }), HasSubstr("config.json"));
  EXPECT_FALSE(std::filesystem::exists(output / "new"));
  ConvertOptions with_tokenizer;
  SavePytorchCheckpoint(input, options, 1);
  with_tokenizer.input = input.path();
  with_tokenizer.output = output / "new";
  with_tokenizer.tokenizer = output.path();
  EXPECT_THAT(ErrorOf([&] { ConvertModel(with_tokenizer); }),
              HasSubstr("tokenizer.json or tokenizer.model expected"));
  EXPECT_FALSE(std::filesystem::exists(output / "new"));
}

// ---- real models -------------------------------------------------------------------------------

testing::Answer AnswerTo(EngineCore& core, Request request) {
  auto sink = std::make_shared<testing::CollectingSink>();
  const absl::Status admitted = core.Admit(1, std::move(request), sink, absl::Now());
  EXPECT_TRUE(admitted.ok()) << admitted;
  while (core.Step(absl::Now)) {
  }
  return sink->answers[0];
}

TEST(Stories260K, WritesTheCardsText) {
  const std::string folder = testing::FindStories260K();
  if (folder.empty()) GTEST_SKIP() << "MAMBAD_SHARED_DATA has no weights/stories260K";
  TestDirectory output, expected;
  EXPECT_EQ(Convert(folder + "/stories260K.bin", output.path()).kind, SourceKind::kLlama2c);
  EngineOptions options;
  options.model = output.path();
  options.threads = 1;
  auto core = EngineCore::Open(options, nullptr);
  ASSERT_TRUE(core.ok()) << core.status();
  Request request;
  request.prompt = {1};
  request.stopping.max_tokens = 256;
  request.stopping.ignore_eos = true;
  request.speculation.mode = SpeculationMode::kOff;
  const testing::Answer answer = AnswerTo(**core, std::move(request));
  const auto card = testing::ReadStories260KCardText(folder);
  ASSERT_TRUE(card.ok()) << card.status();
  EXPECT_EQ(answer.text, " " + *card);

  // The tests' own conversion, written without this one, gives the same tokenizer.
  ASSERT_TRUE(testing::WriteStories260K(folder, expected.path()).ok());
  EXPECT_EQ(output.Read("tokenizer.model"), expected.Read("tokenizer.model"));
}

TEST(SmolLM2, IsTheSameModelConverted) {
  const char* gguf = std::getenv("MAMBAD_SMOLLM2_GGUF");
  const char* shared = std::getenv("MAMBAD_SHARED_DATA");
  if (gguf == nullptr) GTEST_SKIP() << "MAMBAD_SMOLLM2_GGUF names no SmolLM2-135M-Instruct file";
  TestDirectory output;
  const ConvertedModel converted = Convert(gguf, output.path());
  EXPECT_EQ(converted.kind, SourceKind::kGguf);
  EXPECT_EQ(converted.type, StorageType::kBFloat16);
  EXPECT_EQ(converted.parameters, 134515008);
  const auto original = Checkpoint::Open(gguf), found = Checkpoint::Open(output.path());
  ASSERT_TRUE(original.ok() && found.ok());
  ExpectSameNumbers(**original, **found, /*rounded=*/true);
  const auto tokens = testing::FormulaTokens(12, converted.config.vocabulary);
  EXPECT_EQ(Logits(output.path(), tokens), Logits(gguf, tokens));

  if (shared == nullptr) GTEST_SKIP() << "MAMBAD_SHARED_DATA is not set";
  std::ifstream stream(std::string(shared) + "/smollm2/expected.json");
  if (!stream) GTEST_SKIP() << "MAMBAD_SHARED_DATA has no smollm2/expected.json";
  EngineOptions options;
  options.model = output.path();
  options.activations = ComputeType::kFloat32;  // as where the answers were computed
  options.max_context = 512;
  auto core = EngineCore::Open(options, nullptr);
  ASSERT_TRUE(core.ok()) << core.status();
  ASSERT_TRUE((*core)->facts().chat_template.has_value());
  for (const nlohmann::json& chat : nlohmann::json::parse(stream)) {
    const std::string user = chat["user"];
    SCOPED_TRACE(user);
    const auto prompt =
        (*core)->facts().chat_template->Render({{"user", user}}, (*core)->facts().chat_variables);
    ASSERT_TRUE(prompt.ok()) << prompt.status();
    EXPECT_EQ(*prompt, chat["prompt"].get<std::string>());
    const auto ids = (*core)->facts().tokenizer->Encode(
        *prompt, {.add_special_tokens = false, .parse_special = true});
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, chat["prompt_ids"].get<std::vector<text::TokenId>>());
    Request request;
    request.prompt = *ids;
    request.stopping.max_tokens = 64;
    EXPECT_EQ(AnswerTo(**core, std::move(request)).tokens,
              chat["greedy_ids"].get<std::vector<text::TokenId>>());
  }
}

}  // namespace
}  // namespace mambad::trainer
