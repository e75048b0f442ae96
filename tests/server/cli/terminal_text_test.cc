#include "server/cli/terminal_text.h"

#include <gtest/gtest.h>

#include <clocale>

namespace mambad::cli {
namespace {

TEST(TerminalTextTest, FindsTheFirstByteThatIsNoUtf8) {
  for (const char* good : {"", "plain", "Gr\xc3\xbc\xc3\x9f", "\xe7\x8c\xab", "\xf0\x9f\x90\x88",
                           "\xf4\x8f\xbf\xbf", "\xed\x9f\xbf", "\xee\x80\x80"}) {
    EXPECT_FALSE(FirstInvalidUtf8(good).has_value()) << good;
  }
  const std::pair<const char*, size_t> kBad[] = {
      {"a\xff", 1},             // no byte of any character
      {"\x80", 0},              // a byte of the middle
      {"ab\xc3", 2},            // cut off
      {"\xe7\x8c", 0},          // cut off
      {"\xc0\x80", 0},          // longer than need be
      {"\xe0\x80\x80", 0},      // longer than need be
      {"\xf0\x80\x80\x80", 0},  // longer than need be
      {"x\xed\xa0\x80", 1},     // half of a pair of UTF-16
      {"\xf4\x90\x80\x80", 0},  // beyond the last character
      {"\xf5\x80\x80\x80", 0},
      {"\xc3(", 0},
  };
  for (const auto& [text, at] : kBad) EXPECT_EQ(FirstInvalidUtf8(text), at) << text;
  EXPECT_EQ(CheckUtf8("--prompt", "a\xff"), "--prompt: not UTF-8: byte 0xff at offset 1");
  EXPECT_EQ(CheckUtf8("--prompt", "a"), "");
}

TEST(TerminalTextTest, PiecesStandOnOneLineAndMoveNothing) {
  EXPECT_EQ(QuotePiece(" word"), "\" word\"");
  EXPECT_EQ(QuotePiece("\n\t\r"), R"("\n\t\r")");
  EXPECT_EQ(QuotePiece("a\"b\\c"), R"("a\"b\\c")");
  EXPECT_EQ(QuotePiece("\x1b[2J"), R"("\x1b[2J")");
  EXPECT_EQ(QuotePiece(absl::string_view("\0", 1)), R"("\x00")");
  EXPECT_EQ(QuotePiece("\xe7\x8c"), R"("\xe7\x8c")");
  EXPECT_EQ(QuotePiece("\xe7\x8c\xab"), "\"\xe7\x8c\xab\"");
  EXPECT_EQ(QuotePiece("\xc2\x9b"
                       "2J"),
            R"("\xc2\x9b2J")");  // C1: control sequence
  EXPECT_EQ(QuotePiece("\xe2\x80\xae"
                       "abc"),
            R"("\xe2\x80\xaeabc")");  // right to left
  EXPECT_EQ(QuotePiece(""), "\"\"");
}

TEST(TerminalTextTest, AnswersMayNotSteerTheTerminal) {
  EXPECT_EQ(SafeForTerminal("a\n\tb \xe7\x8c\xab"), "a\n\tb \xe7\x8c\xab");
  EXPECT_EQ(SafeForTerminal("\x1b[2J\a\r"), "\\x1b[2J\\x07\\x0d");
  EXPECT_EQ(SafeForTerminal("\xc2\x9b\xff"), "\\xc2\\x9b\\xff");
}

TEST(TerminalTextTest, Widths) {
  ASSERT_NE(std::setlocale(LC_CTYPE, "C.UTF-8"), nullptr);
  EXPECT_EQ(DisplayWidth("abc"), 3);
  EXPECT_EQ(DisplayWidth("Gr\xc3\xbc"), 3);
  EXPECT_EQ(DisplayWidth("\xe7\x8c\xab"), 2);
  EXPECT_EQ(PadRight("\xe7\x8c\xab", 4), "\xe7\x8c\xab  ");
  EXPECT_EQ(PadRight("long", 2), "long");
}

TEST(TerminalTextTest, Numbers) {
  EXPECT_EQ(GroupDigits(0), "0");
  EXPECT_EQ(GroupDigits(999), "999");
  EXPECT_EQ(GroupDigits(1000), "1,000");
  EXPECT_EQ(GroupDigits(-1234567), "-1,234,567");
  EXPECT_EQ(ShortCount(950), "950");
  EXPECT_EQ(ShortCount(4722944), "4.72 M");
  EXPECT_EQ(ShortCount(134515008), "134.5 M");
  EXPECT_EQ(ShortCount(999960000), "1.00 B");
  EXPECT_EQ(ShortBytes(1), "1 byte");
  EXPECT_EQ(ShortBytes(9463296), "9.46 MB");
  EXPECT_EQ(ShortSeconds(0), "0 s");
  EXPECT_EQ(ShortSeconds(0.01), "10 ms");
  EXPECT_EQ(ShortSeconds(1.25), "1.2 s");
  EXPECT_EQ(ShortSeconds(200), "3 min 20 s");
}

}  // namespace
}  // namespace mambad::cli
