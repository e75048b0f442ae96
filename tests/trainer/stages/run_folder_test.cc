// Nothing that took work to make is lost to a command that was given the wrong folder.

#include "trainer/stages/run_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>

#include "tests/support/model_directory.h"
#include "tests/trainer/expect_error.h"
#include "tests/trainer/small_text.h"
#include "trainer/train_config.h"

namespace mambad::trainer {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using testing::ErrorOf;
using ::testing::HasSubstr;
using testing::ReadText;
using testing::WriteText;

class RunFolderTest : public ::testing::Test {
 protected:
  RunFolderTest() {
    config_.run.output = Path("run");
    config_.student = Path("student");
    config_.data.train = {Path("text.txt")};
  }
  std::string Path(const std::string& name) const { return folder_.path() + "/" + name; }
  void MakeModel(const std::string& name) const {
    fs::create_directories(Path(name));
    WriteText(Path(name) + "/config.json", "{}");
    WriteText(Path(name) + "/model.safetensors", name);
  }
  std::string Keep(bool overwrite = false, const std::string& command = "finetune") {
    return RunFolder(Path("run")).KeepSettings(command, DescriptionOf(config_), overwrite);
  }

  testing::TemporaryDirectory folder_;
  FinetuneConfig config_;
};

TEST_F(RunFolderTest, AModelOfOtherSettingsStaysUnlessAskedFor) {
  EXPECT_EQ(Keep(), "");
  MakeModel("run/model");
  EXPECT_EQ(Keep(), "");  // the same again
  config_.loop.steps = 7;
  EXPECT_THAT(ErrorOf([&] { Keep(); }),
              AllOf(HasSubstr("a run of other settings was begun here: expected \"steps: 1000\", "
                              "found \"steps: 7\""),
                    HasSubstr("give another output, or overwrite: true (--overwrite)")));
  EXPECT_THAT(ReadText(Path("run/config.yaml")), HasSubstr("steps: 1000\n"));
  WriteText(Path("run/mine.txt"), "not of a run");
  EXPECT_THAT(Keep(/*overwrite=*/true), HasSubstr("removed what was there"));
  EXPECT_FALSE(fs::exists(Path("run/model")));
  EXPECT_TRUE(fs::exists(Path("run/mine.txt")));
  EXPECT_THAT(ReadText(Path("run/config.yaml")), HasSubstr("steps: 7\n"));
}

// Of a run in phases, when the last of them is not there yet.
TEST_F(RunFolderTest, APartsModelCountsAsWell) {
  Keep();
  MakeModel("run/phase-1/model");
  config_.loop.steps = 7;
  EXPECT_THAT(ErrorOf([&] { Keep(); }), HasSubstr("a run of other settings was begun here"));
}

TEST_F(RunFolderTest, AModelThatNoRunMadeStays) {
  MakeModel("run/model");
  EXPECT_THAT(ErrorOf([&] { Keep(); }),
              HasSubstr("holds a model in " + Path("run/model") + " and no config.yaml of a run"));
  EXPECT_FALSE(fs::exists(Path("run/config.yaml")));
  Keep(/*overwrite=*/true);
  EXPECT_TRUE(fs::exists(Path("run/config.yaml")));
}

TEST_F(RunFolderTest, TheWorkOfAnotherCommandStays) {
  Keep();
  WriteText(Path("run/inputs.json"), "{}");
  fs::create_directories(Path("run/tokens/train"));
  EXPECT_EQ(Keep(false, "distill"), "");  // nothing had come of it
  WriteText(Path("run/report.md"), "numbers");
  EXPECT_THAT(ErrorOf([&] { Keep(); }), HasSubstr("holds a run of `trainer distill`"));
  EXPECT_EQ(ReadText(Path("run/report.md")), "numbers");
}

// What is about to be read is not removed, however much is insisted.
TEST_F(RunFolderTest, OverwritingSparesWhatIsRead) {
  Keep();
  MakeModel("run/model");
  config_.student = Path("run/model");
  EXPECT_THAT(ErrorOf([&] { Keep(/*overwrite=*/true); }),
              HasSubstr("the student lies in it: name another directory"));
  EXPECT_TRUE(fs::exists(Path("run/model/config.json")));
}

TEST_F(RunFolderTest, AModelsDirectoryIsNoRunsFolder) {
  MakeModel("run");
  EXPECT_THAT(ErrorOf([&] { Keep(true); }), HasSubstr("is a model's directory"));
  EXPECT_FALSE(fs::exists(Path("run/run.lock")));
}

TEST_F(RunFolderTest, TwoRunsInOneFolderAreOneTooMany) {
  const RunFolder first(Path("run"));
  EXPECT_THAT(ErrorOf([&] { Keep(); }), HasSubstr("another trainer works there"));
}

// Settings that were not there when a run was begun, and that nobody uses, change nothing.
TEST_F(RunFolderTest, ARunOfAnEarlierVersionGoesOn) {
  Keep();
  std::string text = ReadText(Path("run/config.yaml"));
  for (const std::string line :
       {"overwrite: false\n", "chat_template: \"\"\n", "  save_seconds: 600\n"}) {
    ASSERT_NE(text.find(line), std::string::npos) << line;
    text.erase(text.find(line), line.size());
  }
  WriteText(Path("run/config.yaml"), text);
  fs::create_directories(Path("run/states/step-000000005"));
  EXPECT_EQ(Keep(), "");
}

}  // namespace
}  // namespace mambad::trainer
