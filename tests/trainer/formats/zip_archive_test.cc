// Archives as PyTorch writes them, and damaged ones.

#include "trainer/formats/zip_archive.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/trainer/expect_error.h"
#include "tests/trainer/formats/pytorch_writer.h"

namespace mambad::trainer {
namespace {

using mambad::testing::ErrorOf;
using ::testing::HasSubstr;

absl::Span<const std::byte> BytesOf(const std::string& text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}
std::map<std::string, std::string> Read(const std::string& archive) {
  std::map<std::string, std::string> files;
  for (const auto& [name, contents] : ReadZipArchive("file", BytesOf(archive))) {
    files[name] = std::string(reinterpret_cast<const char*>(contents.data()), contents.size());
  }
  return files;
}
std::string ErrorOfArchive(const std::string& archive) {
  return ErrorOf([&] { Read(archive); });
}

class Layouts : public ::testing::TestWithParam<bool> {
 protected:
  Layouts() {
    zip_.zip64 = GetParam();
    zip_.Add("a/data.pkl", "pickle");
    zip_.Add("a/data/0", std::string(1000, 'x'));
    zip_.Add("a/empty", "");
  }
  ZipWriter zip_;
};

TEST_P(Layouts, AreRead) {
  for (const char* comment : {"", "a comment with PK\5\6 in it, longer than the record itself"}) {
    const auto files = Read(zip_.Finish(comment));
    ASSERT_EQ(files.size(), 3u);
    EXPECT_EQ(files.at("a/data.pkl"), "pickle");
    EXPECT_EQ(files.at("a/data/0"), std::string(1000, 'x'));
    EXPECT_EQ(files.at("a/empty"), "");
  }
}

TEST_P(Layouts, TruncatedIsAnError) {
  const std::string archive = zip_.Finish();
  for (size_t length = 0; length < archive.size(); ++length) {
    EXPECT_THAT(ErrorOfArchive(archive.substr(0, length)), HasSubstr("file: ")) << length;
  }
  for (size_t from = 1; from < archive.size(); ++from) {  // the front is missing
    EXPECT_THAT(ErrorOfArchive(archive.substr(from)), HasSubstr("file: ")) << from;
  }
}

// One changed byte: an error, or contents that lie inside.
TEST_P(Layouts, ChangedBytesAreHarmless) {
  const std::string archive = zip_.Finish();
  for (size_t i = 0; i < archive.size(); ++i) {
    for (const int flip : {0x01, 0x80, 0xff}) {
      std::string changed = archive;
      changed[i] = static_cast<char>(changed[i] ^ flip);
      ErrorOfArchive(changed);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Zip, Layouts, ::testing::Bool());

TEST(ZipArchive, OtherKindsAreRefused) {
  EXPECT_THAT(ErrorOfArchive(""), HasSubstr("no zip archive"));
  EXPECT_THAT(ErrorOfArchive(std::string(100, 'x')), HasSubstr("no zip archive"));
  ZipWriter compressed;
  compressed.method = 8;
  compressed.Add("a/data.pkl", "pickle");
  EXPECT_THAT(ErrorOfArchive(compressed.Finish()), HasSubstr("\"a/data.pkl\" is compressed"));
  ZipWriter encrypted;
  encrypted.flags = 1;
  encrypted.Add("a/data.pkl", "pickle");
  EXPECT_THAT(ErrorOfArchive(encrypted.Finish()), HasSubstr("is encrypted"));
  ZipWriter twice;
  twice.Add("a", "1");
  twice.Add("a", "2");
  EXPECT_THAT(ErrorOfArchive(twice.Finish()), HasSubstr("\"a\" stands twice"));
}

// Entries of the directory that share bytes would make small files large.
TEST(ZipArchive, OverlappingEntriesAreRefused) {
  ZipWriter zip;
  zip.Add("a", "contents");
  zip.Add("b", "contents");
  std::string archive = zip.Finish();
  const size_t second = archive.rfind("PK\1\2");
  archive.replace(second + 42, 4, std::string(4, '\0'));  // where the first one stands
  EXPECT_THAT(ErrorOfArchive(archive), HasSubstr("overlap"));
}

}  // namespace
}  // namespace mambad::trainer
