// Chat templates against the prompts that Jinja2 makes of them (testdata/make_chat_templates.py).
#include "engine/text/chat_template.h"

#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace mambad::text {
namespace {

using jinja::LocalTime;
using ::nlohmann::json;
using ::testing::HasSubstr;

json ReadTestData() {
  const std::string path = MAMBAD_CHAT_TEMPLATES;
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  return json::parse(file, nullptr, false);
}

// What the generator of the test data had strftime_now tell.
LocalTime GeneratorsNow() {
  LocalTime now;
  now.calendar.tm_year = 2026 - 1900;
  now.calendar.tm_mon = 6;
  now.calendar.tm_mday = 4;
  return now;
}

// The conversation, when it consists of what a ChatMessage holds.
std::optional<std::vector<ChatMessage>> MessagesOf(const json& list) {
  std::vector<ChatMessage> messages;
  for (const json& message : list) {
    if (message.size() != 2 || !message.contains("content") || !message["content"].is_string()) {
      return std::nullopt;
    }
    messages.push_back({message["role"], message["content"]});
  }
  return messages;
}

TEST(ChatTemplateTest, RendersConversationsAsTheReference) {
  const json data = ReadTestData();
  ASSERT_TRUE(data.is_object());
  size_t prompts = 0;
  size_t exceptions = 0;
  for (const json& example : data["cases"]) {
    SCOPED_TRACE(example.dump());
    const json& given = example["variables"];
    const auto messages = MessagesOf(given["messages"]);
    if (!messages.has_value() || !given["tools"].is_null() || given.contains("enable_thinking")) {
      continue;
    }
    const absl::StatusOr<ChatTemplate> parsed = ChatTemplate::Parse(
        data["templates"][example["template"].get<std::string>()].get<std::string>());
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    ChatTemplate::Variables variables;
    variables.add_generation_prompt = given["add_generation_prompt"];
    variables.now = GeneratorsNow();
    for (const auto& [key, value] : given.items()) {
      if (value.is_string()) variables.text_variables.emplace_back(key, value);
    }
    const absl::StatusOr<std::string> prompt = parsed->Render(*messages, variables);
    if (example.contains("text")) {
      ASSERT_TRUE(prompt.ok()) << prompt.status();
      EXPECT_EQ(*prompt, example["text"].get<std::string>());
      ++prompts;
      continue;
    }
    EXPECT_EQ(prompt.status().code(), absl::StatusCode::kInvalidArgument);
    if (example.contains("exception")) {
      EXPECT_EQ(std::string(prompt.status().message()), example["exception"].get<std::string>());
      ++exceptions;
    }
  }
  EXPECT_GE(prompts, 70u);
  EXPECT_GE(exceptions, 4u);
}

absl::StatusOr<std::string> RenderTime(const std::string& format, const LocalTime& now) {
  const absl::StatusOr<ChatTemplate> parsed =
      ChatTemplate::Parse("{{ strftime_now('" + format + "') }}");
  if (!parsed.ok()) return parsed.status();
  ChatTemplate::Variables variables;
  variables.now = now;
  return parsed->Render({}, variables);
}

TEST(ChatTemplateTest, TellsTheTime) {
  LocalTime now;
  now.calendar.tm_mday = 3;
  now.calendar.tm_mon = 1;
  now.calendar.tm_year = 125;
  now.calendar.tm_hour = 14;
  now.calendar.tm_wday = 1;
  now.calendar.tm_yday = 33;
  now.microseconds = 1500;
  const std::pair<const char*, const char*> formats[] = {
      {"%d %b %Y", "03 Feb 2025"},
      {"%Y-%m-%dT%H:%M:%S.%f", "2025-02-03T14:00:00.001500"},
      {"%A, %B %-d; %j %I %p", "Monday, February 3; 034 02 PM"},
      {"[%z%Z]%%|%Q|%é|100%", "[]%|%Q|%é|100%"},
      {"", ""},
      {"äöü", "äöü"}};
  for (const auto& [format, expected] : formats) {
    const absl::StatusOr<std::string> text = RenderTime(format, now);
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(*text, expected) << format;
  }
  EXPECT_EQ(RenderTime("%999999d", now).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ChatTemplateTest, TellsTheTimeOfThisMachineByItself) {
  const absl::StatusOr<ChatTemplate> parsed =
      ChatTemplate::Parse("{{ strftime_now is defined }} {{ strftime_now('%s') }}");
  ASSERT_TRUE(parsed.ok());
  // Its own time zone, too: the seconds since 1970 are counted back from the local time.
  const char* const zone = std::getenv("TZ");
  const std::optional<std::string> zone_before =
      zone == nullptr ? std::nullopt : std::optional<std::string>(zone);
  setenv("TZ", "EAST-5:30", 1);
  tzset();
  const std::time_t before = std::time(nullptr);
  const absl::StatusOr<std::string> text = parsed->Render({}, {});
  const std::time_t after = std::time(nullptr);
  zone_before.has_value() ? setenv("TZ", zone_before->c_str(), 1) : unsetenv("TZ");
  tzset();
  ASSERT_TRUE(text.ok()) << text.status();
  ASSERT_EQ(text->substr(0, 5), "True ");
  const std::time_t told = std::stoll(text->substr(5));
  EXPECT_GE(told, before);
  EXPECT_LE(told, after);
}

TEST(ChatTemplateTest, HasTheSpecialTokensThatThereAre) {
  const absl::StatusOr<ChatTemplate> parsed = ChatTemplate::Parse(
      "{{ bos_token is defined }}{{ eos_token }}{{ pad_token }}{{ unk_token is defined }}"
      "{{ additional_special_tokens }}");
  ASSERT_TRUE(parsed.ok());
  ChatTemplate::Variables variables;
  variables.eos_token = "<end>";
  variables.text_variables.emplace_back("pad_token", "<pad>");
  variables.list_variables.push_back({"additional_special_tokens", {"<a>", "<b>"}});
  EXPECT_EQ(*parsed->Render({}, variables), "False<end><pad>False['<a>', '<b>']");
}

TEST(ChatTemplateTest, OneThatIsUnusableSaysSoWhenItIsAskedFor) {
  const ChatTemplate broken = ChatTemplate::Unusable(absl::FailedPreconditionError("no such luck"));
  EXPECT_EQ(broken.fault().message(), "no such luck");
  EXPECT_EQ(broken.Render({{"user", "a"}}, {}).status(), broken.fault());
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
    ChatTemplate::Variables variables;
    variables.bos_token = "<s>";
    variables.eos_token = "</s>";
    const absl::StatusOr<std::string> prompt = parsed->Render(messages, variables);
    ASSERT_TRUE(prompt.ok()) << name << prompt.status();
    EXPECT_GT(prompt->size(), 4'000'000u) << name;
  }
}

TEST(ChatTemplateTest, TakesTheSourceFromTheTokenizersConfiguration) {
  EXPECT_EQ(*ChatTemplateSource(json{{"chat_template", "abc"}}), "abc");
  const json list = json::array({json{{"name", "tool_use"}, {"template", "t"}},
                                 json{{"name", "default"}, {"template", "d"}}});
  EXPECT_EQ(*ChatTemplateSource(json{{"chat_template", list}}), "d");
  const json object = {{"tool_use", "t"}, {"default", "d"}};
  EXPECT_EQ(*ChatTemplateSource(json{{"chat_template", object}}), "d");
  EXPECT_EQ(ChatTemplateSource(json::object()).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ChatTemplateSource(json{{"chat_template", nullptr}}).status().code(),
            absl::StatusCode::kNotFound);
  for (const json& none_is_default :
       {json::array(), json::object(), json{{"tool_use", "t"}, {"rag", "r"}},
        json::array({json{{"name", "tool_use"}, {"template", "t"}}})}) {
    EXPECT_EQ(ChatTemplateSource(json{{"chat_template", none_is_default}}).status().code(),
              absl::StatusCode::kFailedPrecondition)
        << none_is_default;
  }
  EXPECT_THAT(
      std::string(ChatTemplateSource(json{{"chat_template", {{"tool_use", "t"}, {"rag", "r"}}}})
                      .status()
                      .message()),
      HasSubstr("found: rag, tool_use"));
  for (const json& wrong : {json(5), json::array({5}), json{{"default", 5}},
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
