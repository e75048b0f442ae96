// Files that change under their reader.

#include "engine/checkpoint/mapped_file.h"

#include <filesystem>
#include <string>

#include "gtest/gtest.h"
#include "tests/engine/checkpoint/test_directory.h"

namespace mambad::checkpoint {
namespace {

TEST(MappedFileDeathTest, AFileThatIsCutShortIsNamed) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  TestDirectory directory;
  directory.Write("weights", std::string(1 << 20, 'x'));
  EXPECT_EXIT(
      {
        const auto file = MappedFile::Open(directory / "weights");
        std::filesystem::resize_file(directory / "weights", 10);
        volatile int sum = 0;
        for (const std::byte byte : file->bytes()) sum = sum + static_cast<int>(byte);
      },
      ::testing::ExitedWithCode(1), "mambad: .*weights: cut short");
}

TEST(MappedFile, EmptyFilesAndWhatIsNoFile) {
  TestDirectory directory;
  directory.Write("empty", "");
  const auto empty = MappedFile::Open(directory / "empty");
  EXPECT_EQ(empty.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(empty.status().message()).find("it is empty"), std::string::npos);
  EXPECT_EQ(MappedFile::Open(directory.path()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MappedFile::Open(directory / "none").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace mambad::checkpoint
