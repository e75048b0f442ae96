#include "engine/checkpoint/json_file.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/checkpoint/test_directory.h"

namespace mambad::checkpoint {
namespace {

using ::testing::HasSubstr;

std::string Error(const std::string& text) {
  return std::string(ParseJsonObject("file", text).status().message());
}

TEST(ParseJson, TakesObjectsOnly) {
  EXPECT_TRUE(ParseJsonObject("file", "{}").ok());
  for (const char* text : {"[1]", "3", "null", "NaN"}) {
    EXPECT_EQ(Error(text), "file: a JSON object expected") << text;
  }
  EXPECT_THAT(Error("{"), HasSubstr("file: not valid JSON: line 1, column 2"));
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
