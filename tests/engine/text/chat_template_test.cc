// Chat templates of released models against the prompts that Jinja2 makes of them
// (testdata/chat_templates.json).
#include "engine/text/chat_template.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace mambad::text {
namespace {

using ::nlohmann::json;
using ::testing::HasSubstr;

json ReadTestData() {
  const auto path =
      std::filesystem::path(__FILE__).parent_path() / "testdata" / "chat_templates.json";
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  return json::parse(file, nullptr, false);
}

std::vector<ChatMessage> MessagesOf(const json& list) {
  std::vector<ChatMessage> messages;
  for (const json& message : list) messages.push_back({message["role"], message["content"]});
  return messages;
}

TEST(ChatTemplateTest, RendersTheTemplatesOfReleasedModels) {
  const json data = ReadTestData();
  ASSERT_TRUE(data.is_object());
  size_t prompts = 0;
  size_t exceptions = 0;
  for (const json& example : data["cases"]) {
    const std::string name = example["template"];
    SCOPED_TRACE(example.dump());
    const absl::StatusOr<ChatTemplate> parsed =
        ChatTemplate::Parse(data["templates"][name].get<std::string>());
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    ChatTemplate::Variables variables;
    variables.bos_token = "<s>";
    variables.eos_token = "</s>";
    variables.add_generation_prompt = example["add_generation_prompt"];
    if (example.contains("variables")) {
      for (const auto& [key, value] : example["variables"].items()) {
        variables.text_variables.emplace_back(key, value);
      }
    }
    const absl::StatusOr<std::string> prompt =
        parsed->Render(MessagesOf(example["messages"]), variables);
    if (example.contains("prompt")) {
      ASSERT_TRUE(prompt.ok()) << prompt.status();
      EXPECT_EQ(*prompt, example["prompt"].get<std::string>());
      ++prompts;
      continue;
    }
    EXPECT_EQ(prompt.status().code(), absl::StatusCode::kInvalidArgument);
    if (example.contains("exception")) {
      EXPECT_EQ(std::string(prompt.status().message()), example["exception"].get<std::string>());
      ++exceptions;
    }
  }
  EXPECT_EQ(data["templates"].size(), 10u);
  EXPECT_GT(prompts, 80u);
  EXPECT_GT(exceptions, 5u);
}

TEST(ChatTemplateTest, RendersThePromptsThatSmolLm2WasAskedWith) {
  const char* shared = std::getenv("MAMBAD_SHARED_DATA");
  const std::string path = std::string(shared == nullptr ? "" : shared) + "/smollm2/expected.json";
  std::ifstream file(path);
  if (shared == nullptr || !file.good()) {
    GTEST_SKIP() << "optional data is absent: MAMBAD_SHARED_DATA/smollm2/expected.json";
  }
  const json expected = json::parse(file, nullptr, false);
  ASSERT_TRUE(expected.is_array());
  const json data = ReadTestData();
  const absl::StatusOr<ChatTemplate> parsed =
      ChatTemplate::Parse(data["templates"]["smollm2"].get<std::string>());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(expected.size(), 4u);
  for (const json& chat : expected) {
    const absl::StatusOr<std::string> prompt = parsed->Render({{"user", chat["user"]}}, {});
    ASSERT_TRUE(prompt.ok()) << prompt.status();
    EXPECT_EQ(*prompt, chat["prompt"].get<std::string>());
  }
}

TEST(ChatTemplateTest, TellsTheTimeOnlyWhenGiven) {
  const absl::StatusOr<ChatTemplate> parsed = ChatTemplate::Parse(
      "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% else %}26 Jul 2024{% endif "
      "%}");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(*parsed->Render({}, {}), "26 Jul 2024");
  ChatTemplate::Variables variables;
  variables.now.emplace();
  variables.now->tm_mday = 3;
  variables.now->tm_mon = 1;
  variables.now->tm_year = 125;
  EXPECT_EQ(*parsed->Render({}, variables), "03 Feb 2025");
  const absl::StatusOr<ChatTemplate> wide = ChatTemplate::Parse("{{ strftime_now('%999999d') }}");
  ASSERT_TRUE(wide.ok());
  EXPECT_EQ(wide->Render({}, variables).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ChatTemplateTest, RendersLongConversations) {
  const json data = ReadTestData();
  std::vector<ChatMessage> messages;
  for (int i = 0; i < 2000; ++i) {
    messages.push_back({i % 2 == 0 ? "user" : "assistant", std::string(2000, 'x')});
  }
  for (const auto& [name, source] : data["templates"].items()) {
    const absl::StatusOr<ChatTemplate> parsed = ChatTemplate::Parse(source.get<std::string>());
    ASSERT_TRUE(parsed.ok()) << name << parsed.status();
    const absl::StatusOr<std::string> prompt = parsed->Render(messages, {});
    ASSERT_TRUE(prompt.ok()) << name << prompt.status();
    EXPECT_GT(prompt->size(), 4'000'000u) << name;
  }
}

TEST(ChatTemplateTest, TakesTheSourceFromTheTokenizersConfiguration) {
  EXPECT_EQ(*ChatTemplateSource(json{{"chat_template", "abc"}}), "abc");
  const json list = json::array({json{{"name", "tool_use"}, {"template", "t"}},
                                 json{{"name", "default"}, {"template", "d"}}});
  EXPECT_EQ(*ChatTemplateSource(json{{"chat_template", list}}), "d");
  EXPECT_EQ(ChatTemplateSource(json::object()).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ChatTemplateSource(json{{"chat_template", nullptr}}).status().code(),
            absl::StatusCode::kNotFound);
  for (const json& wrong : {json(5), json::array({5}), json::array(),
                            json::array({json{{"name", "tool_use"}, {"template", "t"}}}),
                            json::array({json{{"name", 1}, {"template", "t"}}})}) {
    EXPECT_EQ(ChatTemplateSource(json{{"chat_template", wrong}}).status().code(),
              absl::StatusCode::kInvalidArgument)
        << wrong;
  }
  EXPECT_EQ(ChatTemplateSource(json(1)).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(
      std::string(
          ChatTemplateSource(json{{"chat_template", json::array({list[0]})}}).status().message()),
      HasSubstr("tool_use"));
}

}  // namespace
}  // namespace mambad::text
