// Which chat template an engine takes, what it says of one that it cannot use, and what a GGUF
// file's template knows.

#include <fstream>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/engine_core.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/checked_calls.h"
#include "tests/engine/checkpoint/small_gguf.h"
#include "tests/support/formula_models.h"
#include "tests/support/model_directory.h"

namespace mambad::testing {
namespace {

using checkpoint::GgufWriter;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kTokenizer[] = R"({
  "added_tokens": [{"id": 2, "content": "<end>", "special": true}],
  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
  "decoder": {"type": "ByteLevel"},
  "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}})";

class EngineChat : public ::testing::Test {
 protected:
  // A model directory whose tokenizer_config.json has this chat template.
  void WriteModel(const std::string& chat_template) {
    ModelDirectory model = MakeFormulaModel("llama_tied").directory;
    model.AddFile("tokenizer.json", kTokenizer);
    model.AddFile(
        "tokenizer_config.json",
        absl::StrCat(R"({"eos_token": "<end>", "chat_template": ")", chat_template, "\"}"));
    model.Write(directory_.path(), StoredAs::kFloat32);
    options_.model = directory_.path();
  }
  // A file beside the model, not one of its own.
  std::string WriteFile(const std::string& name, const std::string& contents) {
    const std::string path = absl::StrCat(directory_.path(), "/", name);
    std::ofstream(path, std::ios::binary) << contents;
    return path;
  }
  absl::Status Open() {
    options_.threads = 1;
    absl::StatusOr<std::unique_ptr<EngineCore>> opened =
        EngineCore::Open(Checked(options_), nullptr);
    if (!opened.ok()) return opened.status();
    core_ = *std::move(opened);
    return absl::OkStatus();
  }
  absl::StatusOr<std::string> Render() {
    const EngineFacts& facts = core_->facts();
    if (!facts.chat_template.has_value()) return absl::NotFoundError("no chat template");
    return facts.chat_template->Render({{"user", "hi"}}, facts.chat_variables);
  }

  // The prompt, or why there is none.
  std::string Prompt() {
    const absl::StatusOr<std::string> rendered = Render();
    return rendered.ok() ? *rendered : rendered.status().ToString();
  }

  TemporaryDirectory directory_;
  EngineOptions options_;
  std::unique_ptr<EngineCore> core_;
};

TEST_F(EngineChat, TheOperatorsTemplateReplacesTheModels) {
  WriteModel("of the model");
  ASSERT_TRUE(Open().ok());
  EXPECT_EQ(Prompt(), "of the model");
  EXPECT_THAT(core_->facts().warnings, IsEmpty());
  options_.chat_template =
      WriteFile("own", "of the operator: {{ messages[0].content }}{{ eos_token }}");
  ASSERT_TRUE(Open().ok());
  EXPECT_EQ(Prompt(), "of the operator: hi<end>");
}

TEST_F(EngineChat, AFileThatTheOperatorNamesMustBeThere) {
  WriteModel("of the model");
  options_.chat_template = absl::StrCat(directory_.path(), "/none");
  const absl::Status status = Open();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr(absl::StrCat("chat_template: ", options_.chat_template)));
}

TEST_F(EngineChat, OneThatCannotBeUsedIsWarnedOfAndRefusesConversationsAlone) {
  const auto refuses = [&](const std::string& source) {
    ASSERT_TRUE(Open().ok());
    EXPECT_THAT(core_->facts().warnings,
                Contains(AllOf(HasSubstr(source), HasSubstr("conversations are refused"))));
    const absl::Status refused = Render().status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
    EXPECT_THAT(std::string(refused.message()), HasSubstr(source));
    EXPECT_TRUE(core_->facts().tokenizer->Encode("ab", {}).ok());
  };
  WriteModel("{% if %}");
  ASSERT_NO_FATAL_FAILURE(refuses("tokenizer_config.json"));
  options_.chat_template = WriteFile("own", "{{ 'a }}");
  ASSERT_NO_FATAL_FAILURE(refuses("/own"));
}

TEST_F(EngineChat, WhatIsNotKnownIsAnErrorOfTheConversationThatComesUponIt) {
  WriteModel("{% if messages[0].content == 'no' %}{{ 1 | nosuch }}{% endif %}fine");
  ASSERT_TRUE(Open().ok());
  EXPECT_THAT(core_->facts().warnings, IsEmpty());
  EXPECT_EQ(Prompt(), "fine");
  const EngineFacts& facts = core_->facts();
  const auto reached = facts.chat_template->Render({{"user", "no"}}, facts.chat_variables);
  EXPECT_EQ(reached.status().code(), absl::StatusCode::kUnimplemented);
}

TEST_F(EngineChat, AGgufFilesTemplateKnowsTheTokensThatItsKeysNumber) {
  GgufWriter writer;
  checkpoint::WriteSmallGgufMetadata(writer);
  writer.Numbers<uint8_t>("tokenizer.ggml.token_type", checkpoint::kGgufUint8, {2, 3, 3, 1, 1, 1});
  writer.Text("tokenizer.chat_template",
              "{{ bos_token }}{{ eos_token }}{{ unk_token }}|{{ pad_token }}{{ sep_token }}"
              "{{ cls_token }}{{ mask_token is defined }}");
  writer.Number("tokenizer.ggml.unknown_token_id", 0);
  writer.Number("tokenizer.ggml.padding_token_id", 3);
  writer.Number("tokenizer.ggml.seperator_token_id", 4);
  writer.Number("tokenizer.ggml.cls_token_id", 5);
  checkpoint::WriteSmallGgufTensors(writer);
  options_.model = WriteFile("model.gguf", writer.Finish());
  const absl::Status status = Open();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(Prompt(), "<s></s><unk>|abcFalse");
}

}  // namespace
}  // namespace mambad::testing
