#include "trainer/text_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/support/model_directory.h"
#include "tests/trainer/expect_error.h"
#include "tests/trainer/small_text.h"

namespace mambad::trainer {
namespace {

TEST(TextFile, IsReplacedWhole) {
  testing::TemporaryDirectory folder;
  const std::string path = folder.path() + "/text";
  const std::string bytes("two\0lines\n", 10);
  WriteText(path, "something longer than what comes after");
  WriteText(path, bytes);
  EXPECT_EQ(testing::ReadText(path), bytes);
  WriteText(path, "");
  EXPECT_EQ(testing::ReadText(path), "");
  // Nothing is left beside it.
  const std::filesystem::directory_iterator first(folder.path());
  EXPECT_EQ(std::distance(first, std::filesystem::directory_iterator()), 1);
}

TEST(TextFile, APlaceThatCannotBeWrittenIsNamed) {
  testing::TemporaryDirectory folder;
  const std::string path = folder.path() + "/nowhere/text";
  EXPECT_THAT(testing::ErrorOf([&] { WriteText(path, "text"); }), ::testing::HasSubstr(path));
}

}  // namespace
}  // namespace mambad::trainer
