#include "engine/text/utf8.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace mambad::text {
namespace {

std::string Mend(const std::string& bytes) {
  std::string out;
  EXPECT_EQ(AppendValidUtf8(bytes, true, &out), bytes.size());
  return out;
}

TEST(Utf8, ReplacesEachMaximalInvalidPartOnce) {
  const std::string r = "\xEF\xBF\xBD";
  // Expected texts are those of Python's bytes.decode("utf-8", errors="replace").
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", ""},
      {"caf\xC3\xA9", "caf\xC3\xA9"},
      {"\x80", r},
      {"\xC0\xAF", r + r},
      {"\xE0\x80\xAF", r + r + r},
      {"\xED\xA0\x80", r + r + r},
      {"\xF0\x9F\x98", r},
      {"\xF0\x9F\x98x", r + "x"},
      {"\xF0\x9F\xF0\x9F\x98\x80", r + "\xF0\x9F\x98\x80"},
      {"\xE2\x82", r},
      {"\xE2\x82\xE2\x82\xAC", r + "\xE2\x82\xAC"},
      {"\xF4\x90\x80\x80", r + r + r + r},
      {"\xF5\xFF", r + r},
      {"a\xC3", "a" + r},
  };
  for (const auto& [bytes, text] : cases) EXPECT_EQ(Mend(bytes), text);
}

TEST(Utf8, LeavesAnUnfinishedCharacterForLater) {
  std::string out;
  EXPECT_EQ(AppendValidUtf8("ab\xF0\x9F\x98", false, &out), 2u);
  EXPECT_EQ(out, "ab");
  EXPECT_EQ(AppendValidUtf8("\xF0\x9F\x98\x80", false, &out), 4u);
  EXPECT_EQ(out, "ab\xF0\x9F\x98\x80");
}

TEST(Utf8, NamesTheOffsetOfTheFirstBadByte) {
  EXPECT_TRUE(CheckUtf8("plain \xE2\x82\xAC").ok());
  EXPECT_EQ(std::string(CheckUtf8("ab\xE2\x82").message()),
            "text is not valid UTF-8: bad byte at offset 2");
  EXPECT_EQ(std::string(CheckUtf8("\xC3\xA9\xFF").message()),
            "text is not valid UTF-8: bad byte at offset 2");
}

TEST(Utf8, CodePointsGoThereAndBack) {
  for (uint32_t c = 1; c < 0x110000; c += 61) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    AppendCodePoint(c, &text);
    ASSERT_TRUE(CheckUtf8(text).ok()) << c;
    ASSERT_EQ(Utf8Length(text), text.size()) << c;
    ASSERT_EQ(FirstCodePoint(text), c);
  }
}

}  // namespace
}  // namespace mambad::text
