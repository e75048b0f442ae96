#include "engine/checkpoint/json_file.h"

#include <cmath>
#include <limits>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/checkpoint/test_directory.h"

namespace mambad::checkpoint {
namespace {

using ::testing::HasSubstr;

std::string Error(const std::string& text) {
  return std::string(ParseJson("file", text).status().message());
}

TEST(ParseJson, TakesTheInfinitiesThatPythonWrites) {
  const auto json = ParseJson("file", R"({"limit": [0.0, Infinity], "low": -Infinity, "no": NaN,
      "new": [0.0, {"__float__": "Infinity"}, {"__float__": "-Infinity"}]})");
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ((*json)["limit"][1].get<double>(), std::numeric_limits<double>::infinity());
  EXPECT_EQ((*json)["low"].get<double>(), -std::numeric_limits<double>::infinity());
  EXPECT_TRUE((*json)["no"].is_null());
  EXPECT_EQ((*json)["new"][1].get<double>(), std::numeric_limits<double>::infinity());
  EXPECT_EQ((*json)["new"][2].get<double>(), -std::numeric_limits<double>::infinity());
}

TEST(ParseJson, LeavesThemAloneInsideTexts) {
  const auto json = ParseJson("file", R"({"a \" Infinity": "NaN\\", "b": "\"Infinity, NaN"})");
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ((*json)["a \" Infinity"], "NaN\\");
  EXPECT_EQ((*json)["b"], "\"Infinity, NaN");
}

TEST(ParseJson, RefusesWhatIsNoObject) {
  for (const char* text :
       {"", "[1]", "3", "{", "{\"a\": 1,}", "{\"a\" 1}", "nul", "{\"a\": Inf}",
        "{\"a\": 1Infinity}", "{\"a\": \"\xff\"}", "{\"a\": 1} x", "{\"a\": 1e999}"}) {
    EXPECT_THAT(Error(text), HasSubstr("file")) << text;
  }
}

TEST(ParseJson, RefusesDepthBeforeItParses) {
  std::string deep = "{\"a\": ";
  for (int i = 0; i < 1000000; ++i) deep += '[';
  EXPECT_THAT(Error(deep), HasSubstr("deeper than 64"));
  // Closing brackets must not make room for more.
  EXPECT_FALSE(ParseJson("file", std::string(1000000, ']') + std::string(1000000, '[')).ok());
  std::string fine = "{\"a\": ";
  for (int i = 0; i < 63; ++i) fine += '[';
  for (int i = 0; i < 63; ++i) fine += ']';
  EXPECT_TRUE(ParseJson("file", fine + "}").ok());
}

TEST(ParseJson, RefusesKeysThatStandTwice) {
  EXPECT_THAT(Error(R"({"a": {"x": 1, "y": 2, "x": 3}})"), HasSubstr("\"x\" stands twice"));
  EXPECT_TRUE(ParseJson("file", R"({"a": {"x": 1}, "x": {"x": 2}})").ok());
  // One line, whatever the key.
  EXPECT_THAT(Error("{\"a\\n\": 1, \"a\\n\": 2}"), HasSubstr("\"a\\n\" stands twice"));
}

TEST(ReadJsonFile, NamesTheFile) {
  TestDirectory directory;
  directory.Write("good.json", "{\"a\": 1}");
  directory.Write("bad.json", "{");
  directory.Write("large.json", "{\"a\": \"" + std::string(65 << 20, 'x') + "\"}");
  EXPECT_TRUE(ReadJsonFile(directory / "good.json").ok());
  EXPECT_THAT(std::string(ReadJsonFile(directory / "bad.json").status().message()),
              HasSubstr(directory / "bad.json"));
  EXPECT_EQ(ReadJsonFile(directory / "none.json").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(ReadJsonFile(directory / "large.json").status().message()),
              HasSubstr("at most 67108864"));
}

}  // namespace
}  // namespace mambad::checkpoint
