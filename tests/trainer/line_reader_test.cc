// Lines of plain, gzip and xz files; damage is an error, not an end.

#include "trainer/line_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <lzma.h>
#include <zlib.h>

#include <vector>

#include "tests/support/model_directory.h"
#include "tests/trainer/expect_error.h"
#include "tests/trainer/small_text.h"

namespace mambad::trainer {
namespace {

using ::testing::ElementsAre;
using testing::ErrorOf;
using ::testing::HasSubstr;
using testing::ReadText;
using testing::WriteText;

std::vector<std::string> Lines(const std::string& path) {
  LineReader reader(path);
  std::vector<std::string> lines;
  std::string line;
  while (reader.Next(&line)) {
    lines.push_back(line);
    EXPECT_EQ(reader.line_number(), static_cast<int64_t>(lines.size()));
  }
  return lines;
}

std::string ManyLines() {
  std::string text;
  for (int i = 0; i < 200000; ++i) text += "line " + std::to_string(i) + "\n";
  return text;
}

void WriteGzip(const std::string& path, const std::string& content) {
  gzFile file = gzopen(path.c_str(), "wb");
  ASSERT_EQ(gzwrite(file, content.data(), static_cast<unsigned>(content.size())),
            static_cast<int>(content.size()));
  gzclose(file);
}

void WriteXz(const std::string& path, const std::string& content) {
  std::string out(lzma_stream_buffer_bound(content.size()), '\0');
  size_t size = 0;
  ASSERT_EQ(lzma_easy_buffer_encode(
                0, LZMA_CHECK_CRC32, nullptr, reinterpret_cast<const uint8_t*>(content.data()),
                content.size(), reinterpret_cast<uint8_t*>(out.data()), &size, out.size()),
            LZMA_OK);
  WriteText(path, out.substr(0, size));
}

TEST(LineReader, EndsOfLines) {
  testing::TemporaryDirectory folder;
  const std::string path = folder.path() + "/a";
  WriteText(path, "one\r\n\ntwo\nthree");
  EXPECT_THAT(Lines(path), ElementsAre("one", "", "two", "three"));
  WriteText(path, "");
  EXPECT_THAT(Lines(path), ElementsAre());
  WriteText(path, "\n");
  EXPECT_THAT(Lines(path), ElementsAre(""));
}

TEST(LineReader, AByteOrderMarkIsNoText) {
  testing::TemporaryDirectory folder;
  const std::string path = folder.path() + "/a";
  WriteText(path, "\xEF\xBB\xBFone\n\xEF\xBB\xBFtwo");
  EXPECT_THAT(Lines(path), ElementsAre("one", "\xEF\xBB\xBFtwo"));
}

// By the name, and else by the first character other than space.
TEST(LineReader, TellsJsonLines) {
  testing::TemporaryDirectory folder;
  const auto json_lines = [&](const std::string& name, const std::string& content) {
    WriteText(folder.path() + "/" + name, content);
    LineReader reader(folder.path() + "/" + name);
    std::string line;
    while (reader.Next(&line)) {
    }
    return reader.json_lines();
  };
  for (const char* name : {"a.jsonl", "a.json", "a.jsonl.gz", "a.JSONL"}) {
    EXPECT_TRUE(json_lines(name, "no object\n")) << name;
    EXPECT_TRUE(json_lines(name, "[\n{}\n]")) << name;
  }
  for (const char* name : {"a", "a.txt", "a.gz", "json", "a.json.txt"}) {
    EXPECT_FALSE(json_lines(name, "no object\n{}\n")) << name;
    EXPECT_TRUE(json_lines(name, "\n  {}\nno object")) << name;
    EXPECT_TRUE(json_lines(name, "\xEF\xBB\xBF{}")) << name;
  }
}

TEST(LineReader, CompressedFilesGiveTheSameLines) {
  testing::TemporaryDirectory folder;
  const std::string text = ManyLines();
  WriteText(folder.path() + "/a.txt", text);
  WriteGzip(folder.path() + "/a.gz", text);
  WriteXz(folder.path() + "/a.xz", text);
  const std::vector<std::string> plain = Lines(folder.path() + "/a.txt");
  ASSERT_EQ(plain.size(), 200000u);
  EXPECT_EQ(plain[199999], "line 199999");
  EXPECT_EQ(Lines(folder.path() + "/a.gz"), plain);
  EXPECT_EQ(Lines(folder.path() + "/a.xz"), plain);
}

TEST(LineReader, LinesLongerThanAChunk) {
  testing::TemporaryDirectory folder;
  const std::string path = folder.path() + "/a", longest(1000000, 'x');
  WriteText(path, longest + "\nshort\n" + longest);
  EXPECT_THAT(Lines(path), ElementsAre(longest, "short", longest));
}

TEST(LineReader, DamagedFilesAreErrors) {
  testing::TemporaryDirectory folder;
  const std::string text = ManyLines();
  const std::string gzip = folder.path() + "/a.gz", xz = folder.path() + "/a.xz";
  WriteGzip(gzip, text);
  WriteXz(xz, text);
  for (const std::string& path : {gzip, xz}) {
    std::string content = ReadText(path);
    WriteText(path, content.substr(0, content.size() / 2));
    EXPECT_THAT(ErrorOf([&] { Lines(path); }), HasSubstr(path + ": damaged")) << "cut";
    content[content.size() / 2] = static_cast<char>(content[content.size() / 2] ^ 1);
    WriteText(path, content);
    EXPECT_THAT(ErrorOf([&] { Lines(path); }), HasSubstr(path + ": damaged")) << "a bit";
  }
}

TEST(LineReader, FoldersAreNoFiles) {
  testing::TemporaryDirectory folder;
  EXPECT_THAT(ErrorOf([&] { LineReader reader(folder.path()); }), HasSubstr("not a regular file"));
}

}  // namespace
}  // namespace mambad::trainer
