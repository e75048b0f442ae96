// Templates of every construct, and whole chat templates with tools, parts and reasoning, against
// what Jinja2 makes of them (../testdata/make_chat_templates.py).
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "engine/text/jinja/interpreter.h"
#include "engine/text/jinja/parser.h"
#include "engine/text/jinja/runtime.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace mambad::text::jinja {
namespace {

using Json = nlohmann::ordered_json;  // templates go through dicts in the order of the file

Json ReadTable() {
  std::ifstream file(MAMBAD_CHAT_TEMPLATES);
  EXPECT_TRUE(file.good()) << MAMBAD_CHAT_TEMPLATES;
  return Json::parse(file, nullptr, false);
}

Value ValueOf(Runtime& runtime, const Json& json) {
  if (json.is_null()) return Value::None();
  if (json.is_boolean()) return Value::Boolean(json.get<bool>());
  if (json.is_number_integer()) return Value::Integer(json.get<int64_t>());
  if (json.is_number()) return Value::Float(json.get<double>());
  if (json.is_string()) return Value::String(json.get<std::string>());
  if (json.is_array()) {
    Values items;
    for (const Json& item : json) items.push_back(ValueOf(runtime, item));
    return runtime.MakeList(std::move(items));
  }
  std::vector<std::pair<Value, Value>> entries;
  for (const auto& [key, value] : json.items()) {
    entries.emplace_back(Value::String(key), ValueOf(runtime, value));
  }
  return runtime.MakeDict(std::move(entries));
}

absl::StatusOr<std::string> Render(const std::string& source, const Json& variables) {
  const absl::StatusOr<StatementList> statements = ParseTemplate(source);
  if (!statements.ok()) return statements.status();
  Runtime runtime;
  std::vector<std::pair<std::string, Value>> values;
  for (const auto& [name, value] : variables.items()) {
    values.emplace_back(name, ValueOf(runtime, value));
  }
  LocalTime now;  // the generator's NOW
  now.calendar.tm_year = 2026 - 1900;
  now.calendar.tm_mon = 6;
  now.calendar.tm_mday = 4;
  now.calendar.tm_hour = 13;
  now.calendar.tm_min = 5;
  now.calendar.tm_sec = 9;
  now.calendar.tm_wday = 6;
  now.calendar.tm_yday = 184;
  now.microseconds = 1234;
  return Interpret(*statements, std::move(values), now);
}

// `expected` holds the text, the template's own exception, or that it fails.
void ExpectAsReference(const absl::StatusOr<std::string>& text, const Json& expected) {
  if (expected.contains("text")) {
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(*text, expected["text"].get<std::string>());
  } else if (expected.contains("exception")) {
    EXPECT_EQ(text.status().message(), expected["exception"].get<std::string>());
  } else {
    EXPECT_FALSE(text.ok()) << *text;
  }
}

TEST(JinjaReferenceTest, RendersEveryConstruct) {
  const Json table = ReadTable();
  ASSERT_TRUE(table.is_object());
  for (const Json& construct : table["constructs"]) {
    const std::string source = construct["source"];
    SCOPED_TRACE(source);
    ExpectAsReference(Render(source, table["variables"]), construct);
  }
  EXPECT_GE(table["constructs"].size(), 130u);
}

TEST(JinjaReferenceTest, RendersWholeTemplates) {
  const Json table = ReadTable();
  ASSERT_TRUE(table.is_object());
  for (const Json& example : table["cases"]) {
    SCOPED_TRACE(example.dump());
    const std::string name = example["template"];
    ExpectAsReference(Render(table["templates"][name], example["variables"]), example);
  }
  EXPECT_GE(table["cases"].size(), 90u);
}

}  // namespace
}  // namespace mambad::text::jinja
