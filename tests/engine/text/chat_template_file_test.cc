// Where a model directory may keep its chat template, which of several places wins, and the special
// tokens that its files name.
#include "engine/text/chat_template_file.h"

#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mambad::text {
namespace {

using ::testing::HasSubstr;

class ChatTemplateFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = std::filesystem::path(::testing::TempDir()) /
                 ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_ / "additional_chat_templates");
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  void Write(const std::string& name, const std::string& text) {
    std::ofstream(directory_ / name) << text;
  }
  void Remove(const std::string& name) { std::filesystem::remove(directory_ / name); }

  absl::StatusOr<ChatTemplate> Open() { return OpenChatTemplate(directory_.string()); }
  // The text that the directory's template makes.
  std::string Render() {
    const absl::StatusOr<ChatTemplate> opened = Open();
    if (!opened.ok()) return std::string(opened.status().message());
    return opened->Render({}, {}).value_or("fails");
  }

  std::filesystem::path directory_;
};

TEST_F(ChatTemplateFileTest, TheFirstOfItsPlacesWins) {
  EXPECT_EQ(Open().status().code(), absl::StatusCode::kNotFound);
  Write("processor_config.json", R"({"chat_template": "of the processor's configuration"})");
  EXPECT_EQ(Render(), "of the processor's configuration");
  Write("chat_template.json", R"({"chat_template": "of the processor"})");
  EXPECT_EQ(Render(), "of the processor");
  Write("tokenizer_config.json", R"({"eos_token": "a"})");
  EXPECT_EQ(Render(), "of the processor");
  Write("tokenizer_config.json", R"({"chat_template": "of the configuration"})");
  EXPECT_EQ(Render(), "of the configuration");
  Write("additional_chat_templates/readme.txt", "none");
  EXPECT_EQ(Render(), "of the configuration");
  Write("additional_chat_templates/default.jinja", "of the folder");
  Write("additional_chat_templates/tool_use.jinja", "with tools");
  EXPECT_EQ(Render(), "of the folder");
  Write("chat_template.jinja", "of the file");
  EXPECT_EQ(Render(), "of the file");
}

TEST_F(ChatTemplateFileTest, TakesTheDefaultOfSeveral) {
  Write("tokenizer_config.json", R"({"chat_template": {"default": "d", "tool_use": "t"}})");
  EXPECT_EQ(Render(), "d");
  Write(
      "tokenizer_config.json",
      R"({"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]})");
  EXPECT_EQ(Render(), "d");
}

TEST_F(ChatTemplateFileTest, NamesTheFileThatHasNoDefault) {
  Write("tokenizer_config.json", R"({"chat_template": {"tool_use": "t"}})");
  EXPECT_EQ(Open().status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Render(), HasSubstr("tokenizer_config.json: no chat_template is named 'default'"));
  Write("additional_chat_templates/rag.jinja", "r");
  EXPECT_EQ(Open().status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Render(), HasSubstr("additional_chat_templates: no template is named 'default'"));
}

TEST_F(ChatTemplateFileTest, NamesTheFileThatIsBroken) {
  Write("tokenizer_config.json", R"({"chat_template": "{% if %}"})");
  EXPECT_THAT(Render(), HasSubstr("tokenizer_config.json: chat template, line 1, column 7"));
  Write("tokenizer_config.json", R"({"chat_template": 5})");
  EXPECT_THAT(Render(), HasSubstr("tokenizer_config.json: chat_template is a number"));
  Write("chat_template.jinja", "{{ 'a }}");
  EXPECT_THAT(Render(), HasSubstr("chat_template.jinja: chat template, line 1"));
  Remove("chat_template.jinja");
  std::filesystem::create_directory(directory_ / "chat_template.jinja");
  EXPECT_THAT(Render(), HasSubstr("chat_template.jinja: not a regular file"));
}

TEST_F(ChatTemplateFileTest, ReadsAFileThatIsNamed) {
  Write("own", "{{ 1 }}");
  EXPECT_EQ(*ReadChatTemplateFile((directory_ / "own").string()), "{{ 1 }}");
  EXPECT_EQ(ReadChatTemplateFile((directory_ / "none").string()).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(ReadChatTemplateFile(directory_.string()).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(ChatTemplateFileTest, KnowsEverySpecialTokenThatTheFilesName) {
  Write("tokenizer.json", R"({"added_tokens": [
      {"id": 1, "content": "<bos>", "special": true}, {"id": 2, "content": "<eos>", "special": true}],
    "normalizer": null, "post_processor": null, "decoder": {"type": "ByteLevel"},
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
    "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}})");
  Write("tokenizer_config.json", R"({"eos_token": {"content": "<eos>"}, "pad_token": "<pad>",
    "unk_token": null, "image_token": "<image>", "add_bos_token": false,
    "extra_special_tokens": {"boi_token": "<boi>", "marker": "<m>"},
    "additional_special_tokens": ["<x>", {"content": "<y>"}]})");
  Write("special_tokens_map.json",
        R"({"pad_token": "<pad>", "sep_token": "<sep>", "bos_token": "<bos>"})");
  const auto tokenizer = OpenTokenizer(directory_.string());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const ChatTemplate::Variables variables = ReadChatVariables(directory_.string(), **tokenizer);
  const absl::StatusOr<ChatTemplate> parsed = ChatTemplate::Parse(
      "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ sep_token }}{{ unk_token is defined }}"
      "{{ image_token }}{{ boi_token }}{{ marker }}{{ additional_special_tokens | join }}");
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(*parsed->Render({}, variables), "<bos><eos><pad><sep>False<image><boi><m><x><y>");
  // Where the two differ, the configuration's word counts if it lists the tokens, else the map's.
  const absl::StatusOr<ChatTemplate> both = ChatTemplate::Parse(
      "{{ bos_token }}{{ pad_token }}{{ marker }}{{ additional_special_tokens | join }}");
  ASSERT_TRUE(both.ok());
  const std::string config =
      R"({"bos_token": "<bos>", "pad_token": "<pad>", "extra_special_tokens": {"marker": "<m>"},
        "additional_special_tokens": ["<x>"])";
  Write("special_tokens_map.json", R"({"bos_token": "<eos>", "pad_token": "<other>",
    "additional_special_tokens": ["<z>"]})");
  const auto rendered = [&] {
    return *both->Render({}, ReadChatVariables(directory_.string(), **tokenizer));
  };
  Write("tokenizer_config.json", config + "}");
  EXPECT_EQ(rendered(), "<eos><other><m><z>");
  Write("tokenizer_config.json", config + R"(, "added_tokens_decoder": {}})");
  EXPECT_EQ(rendered(), "<bos><pad><m><x>");
  // Where no file names them, the tokenizer's are the begin and the end.
  const absl::StatusOr<ChatTemplate> ends = ChatTemplate::Parse("{{ bos_token }}{{ eos_token }}");
  ASSERT_TRUE(ends.ok());
  const std::string nowhere = (directory_ / "additional_chat_templates").string();
  EXPECT_EQ(*ends->Render({}, ReadChatVariables(nowhere, **tokenizer)), "<bos><eos>");
}

}  // namespace
}  // namespace mambad::text
