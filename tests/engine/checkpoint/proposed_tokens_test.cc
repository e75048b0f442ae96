#include "engine/checkpoint/proposed_tokens.h"

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/checkpoint/test_directory.h"

namespace mambad::checkpoint {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kName[] = "proposed_tokens.json";
constexpr int64_t kVocabulary = 50;

class ProposedTokens : public ::testing::Test {
 protected:
  absl::StatusOr<std::vector<int32_t>> Read(const std::string& text) {
    directory_.Write(kName, text);
    return ReadProposedTokens(directory_.path(), kVocabulary);
  }
  // The message after the file's name.
  std::string Error(const std::string& text) {
    const absl::Status status = Read(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text.substr(0, 100);
    const std::string message(status.message()), source = directory_ / kName;
    EXPECT_EQ(message.substr(0, source.size()), source);
    EXPECT_LT(message.size(), source.size() + 200);
    EXPECT_EQ(message.find('\n'), std::string::npos);
    return message.size() > source.size() + 2 ? message.substr(source.size() + 2) : "";
  }

  TestDirectory directory_;
};

TEST_F(ProposedTokens, AreReadAsTheyStand) {
  EXPECT_THAT(*Read("[0]"), ElementsAre(0));
  EXPECT_THAT(*Read(" [ 3,\n 4,\t49 ]\n"), ElementsAre(3, 4, 49));
}

TEST_F(ProposedTokens, WithoutAFileAreAll) {
  EXPECT_THAT(*ReadProposedTokens(directory_.path(), kVocabulary), IsEmpty());
  EXPECT_THAT(*ReadProposedTokens(directory_ / "none", kVocabulary), IsEmpty());
}

TEST_F(ProposedTokens, AreWrittenReadAndRemoved) {
  const std::vector<int32_t> ids = {2, 7, 11, 48};
  ASSERT_TRUE(WriteProposedTokens(directory_.path(), ids).ok());
  EXPECT_EQ(directory_.Read(kName), "[2, 7, 11, 48]\n");
  EXPECT_EQ(*ReadProposedTokens(directory_.path(), kVocabulary), ids);
  for (int again = 0; again < 2; ++again) {
    EXPECT_TRUE(WriteProposedTokens(directory_.path(), {}).ok());
    EXPECT_FALSE(std::filesystem::exists(directory_ / kName));
  }
  EXPECT_THAT(std::string(WriteProposedTokens(directory_ / "none", ids).message()),
              HasSubstr(directory_ / "none"));
}

TEST_F(ProposedTokens, WrongEntriesAreNamed) {
  const std::pair<const char*, const char*> cases[] = {
      {"[]", "an empty list found, at least one token id expected"},
      {"[50]", "[0]: 50 found, a token id from 0 to 49 expected"},
      {"[-1]", "[0]: -1 found, a token id from 0 to 49 expected"},
      {"[3, 3]", "[1]: 3 found, a token id above 3 and up to 49 expected"},
      {"[3, 9, 8]", "[2]: 8 found, a token id above 9 and up to 49 expected"},
      {"[3, 49, 50]", "[2]: 50 found, the end of the list after id 49 expected"},
      {"[1.0]", "[0]: 1.0 found, a token id from 0 to 49 expected"},
      {"[1, 2.5]", "[1]: 2.5 found, a token id above 1 and up to 49 expected"},
      {"[18446744073709551615]",
       "[0]: 18446744073709551615 found, a token id from 0 to 49 expected"},
      {"[4294967296]", "[0]: 4294967296 found, a token id from 0 to 49 expected"},
      {"[1, \"2\"]", "[1]: a text found, a token id above 1 and up to 49 expected"},
      {"[null]", "[0]: null found, a token id from 0 to 49 expected"},
      {"[true]", "[0]: true found, a token id from 0 to 49 expected"},
      {"[[1]]", "[0]: a list found, a token id from 0 to 49 expected"},
      {"[{\"a\": 1}]", "[0]: an object found, a token id from 0 to 49 expected"},
      {"{\"ids\": [1]}", "a JSON array of token ids expected"},
      {"7", "a JSON array of token ids expected"},
      {"\"[1]\"", "a JSON array of token ids expected"},
      {"[1, 2", "not valid JSON at byte 6"},
      {"[1, 2] [3]", "not valid JSON at byte 8"},
      {"[1, 2,]", "not valid JSON at byte 7"},
      {"noise", "not valid JSON at byte 2"},
  };
  for (const auto& [text, expected] : cases) EXPECT_EQ(Error(text), expected) << text;
}

TEST_F(ProposedTokens, HostileFilesTakeNoMemoryOrDepth) {
  EXPECT_EQ(Error(std::string(1000000, '[')),
            "[0]: a list found, a token id from 0 to 49 expected");
  EXPECT_THAT(Error("[" + std::string(1000000, '9') + "]"), HasSubstr("not valid JSON"));
  EXPECT_THAT(Error("[0." + std::string(1000000, '1') + "]"),
              HasSubstr("[0]: 0.111111111111111111... found"));
  std::string all = "[0";
  for (int id = 1; id < 1000000; ++id) all += ", " + std::to_string(id);
  EXPECT_THAT(Error(all + "]"), HasSubstr("[50]: 50 found, the end of the list after id 49"));
  EXPECT_THAT(Error(std::string((64 << 20) + 1, ' ')), HasSubstr("at most 67108864 expected"));
  EXPECT_THAT(Error(""), HasSubstr("not a file with contents"));
  std::filesystem::remove(directory_ / kName);
  std::filesystem::create_directory(directory_ / kName);
  EXPECT_THAT(std::string(ReadProposedTokens(directory_.path(), kVocabulary).status().message()),
              HasSubstr("not a file with contents"));
}

TEST_F(ProposedTokens, FromOtherSourcesAreHeldToTheSame) {
  EXPECT_THAT(*CheckedProposedTokens("parts", {1, 2, 49}, kVocabulary), ElementsAre(1, 2, 49));
  EXPECT_EQ(CheckedProposedTokens("parts", {1, 2, 50}, kVocabulary).status().message(),
            "parts: [2]: 50 found, a token id above 2 and up to 49 expected");
  EXPECT_FALSE(CheckedProposedTokens("parts", {}, kVocabulary).ok());
}

}  // namespace
}  // namespace mambad::checkpoint
