#include "engine/json/json_text.h"

#include <limits>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mambad {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

Json Good(const std::string& text) {
  const auto json = ParseJson("file", text);
  EXPECT_TRUE(json.ok()) << json.status();
  return json.ok() ? *json : Json("failed");
}

std::string Error(const std::string& text) {
  const absl::Status status = ParseJson("file", text).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
  return std::string(status.message());
}

TEST(ParseJson, ReadsWhatJsonIs) {
  for (const char* text :
       {"null", "true", " [ ] ", "{ }", R"({"a": [1, -2, 3.5, 1e3, -0.25E-2], "b": {"c": "d"}})",
        R"("\"\\\/\b\f\n\r\t\u00e9\u8a9e\ud83d\ude00é語")", "[[],[[]]]", "0", "-0",
        "9007199254740993", "18446744073709551615", "-9223372036854775808"}) {
    EXPECT_EQ(Good(text), Json::parse(text)) << text;
  }
}

TEST(ParseJson, ReadsWhatPythonWrites) {
  EXPECT_EQ(Good("[0.0, Infinity, -Infinity]"), Json({0.0, kInfinity, -kInfinity}));
  EXPECT_EQ(Good(R"({"no": NaN})"), Json({{"no", nullptr}}));
  EXPECT_EQ(Good(R"([{"__float__": "Infinity"}, {"__float__": "-Infinity"}, {"__float__": "x"}])"),
            Json({kInfinity, -kInfinity, {{"__float__", "x"}}}));
  EXPECT_EQ(Good("\xEF\xBB\xBF{}"), Json::object());
  EXPECT_EQ(Good("[18446744073709551616, -9223372036854775809]"),
            Json({18446744073709551616.0, -9223372036854775809.0}));
  EXPECT_EQ(Good("1e999"), Json(kInfinity));
  EXPECT_EQ(Good(R"("\ud800 \udc00\ud800\u0041")"), Json("\uFFFD \uFFFD\uFFFDA"));
  EXPECT_EQ(Good(R"({"a \" Infinity": "NaN\\", "b": "\"Infinity, NaN"})"),
            Json({{"a \" Infinity", "NaN\\"}, {"b", "\"Infinity, NaN"}}));
}

TEST(ParseJson, TheLastOfEqualKeysCounts) {
  EXPECT_EQ(Good(R"({"a": 1, "b": 2, "a": 3})"), Json({{"a", 3}, {"b", 2}}));
  const auto refused = ParseJson("file", R"({"b": {"a\n": 1, "a\n": 2}})", RepeatedKeys::kRefused);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("the key \"a\\n\" once"));
  EXPECT_TRUE(ParseJson("file", R"({"a": {"x": 1}, "x": 2})", RepeatedKeys::kRefused).ok());
}

TEST(ParseJson, SaysWhereItIsNoJson) {
  EXPECT_EQ(Error("{\"a\": 1\n \"b\": 2}"),
            "file: not valid JSON: line 2, column 2: expected ',' or '}', found \"\\\"\"");
  EXPECT_THAT(Error("{\n  \"é\": nul\n}"),
              HasSubstr("line 2, column 8: expected a value, found \"n\""));
  EXPECT_THAT(Error(""), HasSubstr("line 1, column 1: expected a value, found the end"));
  EXPECT_THAT(Error("[1,]"), HasSubstr("column 4: expected a value, found \"]\""));
  EXPECT_THAT(Error("{\"a\": 1,}"), HasSubstr("column 9: expected a key in quotes"));
  EXPECT_THAT(Error("{\"a\" 1}"), HasSubstr("expected ':' behind a key"));
  EXPECT_THAT(Error("{} x"), HasSubstr("expected the end, found \"x\""));
  EXPECT_THAT(Error("\"a"), HasSubstr("at the end of a text"));
  EXPECT_THAT(Error("\"a\nb\""), HasSubstr("no control character"));
  EXPECT_THAT(Error("\"\xFF\""), HasSubstr("expected valid UTF-8"));
  EXPECT_THAT(Error("\"\xED\xA0\x80\""), HasSubstr("expected valid UTF-8"));
  EXPECT_THAT(Error("\"\\q\""), HasSubstr("an escape that JSON knows"));
  EXPECT_THAT(Error("\"\\u12x4\""), HasSubstr("four hexadecimal digits"));
  for (const char* text :
       {"01", "-", "1.", "1e", ".5", "+1", "Inf", "nan", "1Infinity", "'a'", "{a: 1}", "\"\\"}) {
    EXPECT_THAT(Error(text), HasSubstr("file: not valid JSON: line 1")) << text;
  }
}

TEST(ParseJson, DepthIsBounded) {
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_TRUE(ParseJson("file", nested(64)).ok());
  EXPECT_THAT(Error(nested(65)), HasSubstr("column 65: expected at most 64 levels"));
  EXPECT_THAT(Error(std::string(1000000, '[')), HasSubstr("64 levels"));
  EXPECT_FALSE(ParseJson("file", std::string(1000000, ']') + std::string(1000000, '[')).ok());
  std::string objects;
  for (int i = 0; i < 1000000; ++i) objects += "{\"a\":";
  EXPECT_THAT(Error(objects), HasSubstr("64 levels"));
}

}  // namespace
}  // namespace mambad
