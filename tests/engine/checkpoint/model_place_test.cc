// What people give in place of a model: opened where it can be, and otherwise told what it is and
// where the way out lies.

#include "engine/checkpoint/model_place.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/directory_contents.h"
#include "engine/checkpoint/file_kind.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/checkpoint/small_gguf.h"
#include "tests/engine/checkpoint/test_directory.h"
#include "tests/support/checkpoint_writer.h"

namespace mambad::checkpoint {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ModelPlaceTest : public ::testing::Test {
 protected:
  void SaveModel(const std::string& folder) {
    support::RandomModelOptions options;
    options.layers = 1;
    ASSERT_TRUE(support::SaveRandomCheckpoint(folder, options).ok());
  }
  // One line that begins with the path.
  std::string Error(const std::string& path,
                    absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    const auto opened = Checkpoint::Open(path);
    EXPECT_EQ(opened.status().code(), code) << path << ": " << opened.status();
    const std::string message(opened.status().message());
    EXPECT_EQ(message.rfind(path, 0), 0u) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    return message;
  }
  // "" when it is opened.
  std::string Opens(const std::string& path) {
    const auto opened = Checkpoint::Open(path);
    return opened.ok() ? "" : opened.status().ToString();
  }

  TestDirectory directory_;
};

// ---- GGUF files --------------------------------------------------------------------------------

TEST_F(ModelPlaceTest, GgufUnderAnyName) {
  for (const char* name : {"model.gguf", "MODEL.GGUF", "sha256-00ff", "no ending", "model.bin",
                           "mod\xc3\xa8le \xe6\xa8\xa1.gguf", "model.safetensors"}) {
    directory_.Write(name, SmallGguf());
    EXPECT_EQ(Opens(directory_ / name), "") << name;
  }
}

TEST_F(ModelPlaceTest, GgufThroughALinkAndFromAReadOnlyFolder) {
  fs::create_directory(directory_ / "blobs");
  directory_.Write("blobs/sha256-00ff", SmallGguf());
  fs::create_directory(directory_ / "snapshot");
  fs::create_symlink("../blobs/sha256-00ff", directory_ / "snapshot/model.gguf");
  EXPECT_EQ(Opens(directory_ / "snapshot/model.gguf"), "");
  EXPECT_EQ(Opens(directory_ / "snapshot"), "");  // the only model there
  ASSERT_EQ(chmod((directory_ / "snapshot").c_str(), 0500), 0);
  EXPECT_EQ(Opens(directory_ / "snapshot/"), "");
  ASSERT_EQ(chmod((directory_ / "snapshot").c_str(), 0700), 0);
}

TEST_F(ModelPlaceTest, FolderOfGgufFiles) {
  directory_.Write("a.Q8_0.gguf", SmallGguf());
  directory_.Write("README.md", "words");
  directory_.Write("mmproj-a.gguf", SmallGguf());
  EXPECT_EQ(Opens(directory_.path()), "");
  // A configuration that is there beside it, without weights of its own, changes nothing.
  directory_.Write("config.json", "{}");
  EXPECT_EQ(Opens(directory_.path()), "");
  fs::remove(directory_ / "config.json");
  directory_.Write("a.Q4_0.GGUF", SmallGguf());
  EXPECT_THAT(Error(directory_.path()), AllOf(HasSubstr("2 GGUF models"), HasSubstr("a.Q8_0.gguf"),
                                              HasSubstr("a.Q4_0.GGUF")));
}

TEST_F(ModelPlaceTest, GgufFilesThatAreNoModel) {
  const auto of_architecture = [&](const std::string& architecture, const std::string& type) {
    GgufWriter writer;
    writer.Text("general.architecture", architecture);
    if (!type.empty()) writer.Text("general.type", type);
    WriteSmallGgufMetadata(writer, {"general.architecture"});
    WriteSmallGgufTensors(writer);
    directory_.Write("file.gguf", writer.Finish());
    return Error(directory_ / "file.gguf");
  };
  EXPECT_THAT(of_architecture("clip", ""), HasSubstr("mmproj"));
  EXPECT_THAT(of_architecture("llama", "adapter"), HasSubstr("LoRA"));
  EXPECT_THAT(of_architecture("mambad-parts", ""), HasSubstr("mambad-models assemble"));
  // A folder of parts says the same, however many.
  directory_.Write("other.gguf", directory_.Read("file.gguf"));
  EXPECT_THAT(Error(directory_.path()),
              AllOf(HasSubstr("mambad-models assemble"), HasSubstr("other.gguf")));
}

// ---- split GGUF files --------------------------------------------------------------------------

class SplitGguf : public ModelPlaceTest {
 protected:
  // Part `number` (from 0) of 3 with four, four and three tensors.
  static std::string Part(int number, int count = 3, int tensors = 11) {
    GgufWriter writer;
    if (number == 0) WriteSmallGgufMetadata(writer);
    writer.Value("split.no", kGgufUint16, Raw<uint16_t>(number));
    writer.Value("split.count", kGgufUint16, Raw<uint16_t>(count));
    writer.Value("split.tensors.count", kGgufInt32, Raw<int32_t>(tensors));
    WriteSmallGgufTensors(writer, 4 * number, std::min(11, 4 * number + 4));
    return writer.Finish();
  }
  static std::string Name(int number) {
    return absl::StrCat("m-0000", number + 1, "-of-00003.gguf");
  }
  void WriteAll() {
    for (int i = 0; i < 3; ++i) directory_.Write(Name(i), Part(i));
  }
};

TEST_F(SplitGguf, IsOpenedByAnyOfItsParts) {
  WriteAll();
  directory_.Write("whole.bin", SmallGguf());
  const auto whole = Checkpoint::Open(directory_ / "whole.bin");
  ASSERT_TRUE(whole.ok()) << whole.status();
  for (int i = 0; i < 3; ++i) {
    const auto split = Checkpoint::Open(directory_ / Name(i));
    ASSERT_TRUE(split.ok()) << split.status();
    EXPECT_EQ((*split)->fingerprint(), (*whole)->fingerprint());
    EXPECT_EQ((*split)->text().pieces, (*whole)->text().pieces);
    for (const Parameter& parameter : (*whole)->table().parameters()) {
      if (!(*whole)->Has(parameter)) continue;
      const int64_t row = parameter.shape.size() > 1 ? parameter.shape[1] : 1;
      std::vector<float> a(parameter.shape[0] * row), b = a;
      (*whole)->Read(parameter, 0, parameter.shape[0], absl::MakeSpan(a));
      (*split)->Read(parameter, 0, parameter.shape[0], absl::MakeSpan(b));
      EXPECT_EQ(a, b) << parameter.name;
    }
  }
  EXPECT_EQ(Opens(directory_.path()), "");  // one model, in three files
}

TEST_F(SplitGguf, MissingAndForeignPartsAreNamed) {
  WriteAll();
  fs::remove(directory_ / Name(1));
  const auto missing = Checkpoint::Open(directory_ / Name(0));
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.status().message()),
              AllOf(HasSubstr(Name(1)), HasSubstr("missing"), HasSubstr("part 2 of 3")));
  const auto with = [&](const std::string& second) {
    directory_.Write(Name(1), second);
    const auto opened = Checkpoint::Open(directory_ / Name(0));
    EXPECT_EQ(opened.status().code(), absl::StatusCode::kInvalidArgument) << opened.status();
    return std::string(opened.status().message());
  };
  EXPECT_THAT(with(Part(1, 4)), AllOf(HasSubstr(Name(1)), HasSubstr("another model")));
  EXPECT_THAT(with(Part(1, 3, 12)), HasSubstr("another model"));
  EXPECT_THAT(with(Part(2)), AllOf(HasSubstr(Name(1)), HasSubstr("part 3 of 3")));
  EXPECT_THAT(with(SmallGguf()), HasSubstr("stands in"));
  EXPECT_THAT(with(Part(1).substr(0, 900)), AllOf(HasSubstr(Name(1)), HasSubstr("truncated")));
  EXPECT_THAT(with("<html>"), AllOf(HasSubstr(Name(1)), HasSubstr("HTML")));
}

TEST_F(SplitGguf, PartsThatLackATensorSayHowMany) {
  for (int i = 0; i < 3; ++i) directory_.Write(Name(i), Part(i, 3, 12));
  EXPECT_THAT(Error(directory_ / Name(0)),
              AllOf(HasSubstr("11 tensors found"), HasSubstr("12 expected")));
}

TEST_F(SplitGguf, APartUnderAnotherNameSaysWhatItShouldBe) {
  directory_.Write("blob", Part(1));
  EXPECT_THAT(Error(directory_ / "blob"),
              AllOf(HasSubstr("part 2 of 3"), HasSubstr("-00002-of-00003.gguf")));
  directory_.Write("m-00001-of-00003.gguf", Part(1));
  EXPECT_THAT(Error(directory_ / "m-00001-of-00003.gguf"), HasSubstr("-00002-of-00003.gguf"));
}

TEST(PartNames, AreReadAndMade) {
  const auto part = ParsePartName("a-b-00002-of-00010.GGUF", ".gguf");
  ASSERT_TRUE(part.has_value());
  EXPECT_EQ(part->stem, "a-b");
  EXPECT_EQ(part->number, 2);
  EXPECT_EQ(part->count, 10);
  EXPECT_EQ(part->Name(3), "a-b-00003-of-00010.GGUF");
  for (const char* name :
       {"a.gguf", "a-00001-of-00002.safetensors", "a-00003-of-00002.gguf", "a-00000-of-00002.gguf",
        "a-0001-of-0002.gguf", "a-0000x-of-00002.gguf", "-of-00002.gguf", ".gguf", ""}) {
    EXPECT_FALSE(ParsePartName(name, ".gguf").has_value()) << name;
  }
  const auto sets =
      FileSetsOf({"a.gguf", "b-00001-of-00003.gguf", "b-00003-of-00003.gguf"}, ".gguf");
  ASSERT_EQ(sets.size(), 2u);
  EXPECT_THAT(sets[0].names, ElementsAre("a.gguf"));
  EXPECT_THAT(sets[1].names, ElementsAre("b-00001-of-00003.gguf", "b-00003-of-00003.gguf"));
  EXPECT_THAT(sets[1].missing, ElementsAre("b-00002-of-00003.gguf"));
}

// ---- files of a model directory ----------------------------------------------------------------

TEST_F(ModelPlaceTest, FilesOfADirectoryStandForIt) {
  ASSERT_NO_FATAL_FAILURE(SaveModel(directory_ / "model"));
  EXPECT_EQ(Opens(directory_ / "model"), "");
  EXPECT_EQ(Opens(directory_ / "model/"), "");
  EXPECT_EQ(Opens(directory_ / "model/config.json"), "");
  EXPECT_EQ(Opens(directory_ / "model/model.safetensors"), "");
  fs::copy_file(directory_ / "model/model.safetensors", directory_ / "model/model.ema.safetensors");
  EXPECT_THAT(Error(directory_ / "model/model.ema.safetensors"),
              AllOf(HasSubstr("model.safetensors"), HasSubstr("give the directory")));
  fs::rename(directory_ / "model/config.json", directory_ / "model/settings.json");
  EXPECT_THAT(Error(directory_ / "model/model.safetensors"),
              AllOf(HasSubstr("a safetensors file found"), HasSubstr("config.json")));
  EXPECT_THAT(Error(directory_ / "model/settings.json"), HasSubstr("a JSON file found"));
}

TEST_F(ModelPlaceTest, ADirectorysOwnWeightsWinOverAGgufFileBesideThem) {
  ASSERT_NO_FATAL_FAILURE(SaveModel(directory_ / "model"));
  directory_.Write("model/other.gguf", SmallGguf());
  const auto opened = Checkpoint::Open(directory_ / "model");
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ((*opened)->config().layout, Layout::kHuggingFace);
}

TEST_F(ModelPlaceTest, SnapshotOfLinks) {
  ASSERT_NO_FATAL_FAILURE(SaveModel(directory_ / "files"));
  fs::create_directories(directory_ / "cache/snapshots/0123");
  fs::create_directory(directory_ / "cache/refs");
  for (const auto& entry : fs::directory_iterator(directory_ / "files")) {
    fs::create_symlink(entry.path(),
                       directory_ / ("cache/snapshots/0123/" + entry.path().filename().string()));
  }
  EXPECT_EQ(Opens(directory_ / "cache/snapshots/0123"), "");
  EXPECT_THAT(Error(directory_ / "cache", absl::StatusCode::kNotFound),
              HasSubstr("cache/snapshots/0123"));
}

// ---- what is no model --------------------------------------------------------------------------

TEST_F(ModelPlaceTest, FilesThatAreSomethingElse) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "an empty file"},
      {"PK\3\4" + std::string(100, 'x'), "trainer convert"},
      {"\x80\2}q" + std::string(100, 'x'), "pickle"},
      {"<!DOCTYPE html>\n<html>", "web page"},
      {"\n\n <HTML>", "web page"},
      {"\xef\xbb\xbf<html>", "web page"},
      {"<?xml version=\"1.0\"?><Error>", "web page"},
      {"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "git lfs pull"},
      {"\x1f\x8b\x08 more", "gunzip"},
      {"\xfd"
       "7zXZ" +
           std::string(1, '\0'),
       "unpack"},
      {"\x28\xb5\x2f\xfd more", "unpack"},
      {"\x89HDF\r\n", "HDF5"},
      {"tjgg" + std::string(20, '\1'), "before GGUF"},
      {std::string(5000, '\0'), "zero bytes"},
      {std::string(257, 'n') + "ustar" + std::string(200, '\0'), "tar -xf"},
      {"\x7f"
       "ELF\2",
       "a program"},
      {"words", "a model directory or a GGUF file expected"},
  };
  for (const auto& [bytes, expected] : cases) {
    SCOPED_TRACE(expected);
    directory_.Write("model.gguf", bytes);
    EXPECT_THAT(Error(directory_ / "model.gguf"), HasSubstr(expected));
  }
}

TEST_F(ModelPlaceTest, SomethingElseInPlaceOfAFileOfTheDirectory) {
  for (const char* name : {"model.safetensors", "config.json", "generation_config.json"}) {
    ASSERT_NO_FATAL_FAILURE(SaveModel(directory_ / "model"));
    directory_.Write(absl::StrCat("model/", name),
                     "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n");
    const auto opened = Checkpoint::Open(directory_ / "model");
    EXPECT_THAT(std::string(opened.status().message()),
                AllOf(HasSubstr(name), HasSubstr("git lfs pull")));
    directory_.Write(absl::StrCat("model/", name), "<html><body>404</body></html>");
    EXPECT_THAT(std::string(Checkpoint::Open(directory_ / "model").status().message()),
                AllOf(HasSubstr(name), HasSubstr("web page")));
    fs::remove_all(directory_ / "model");
  }
}

TEST_F(ModelPlaceTest, NamesInPlaceOfPaths) {
  constexpr auto kNotFound = absl::StatusCode::kNotFound;
  EXPECT_THAT(Error("some-owner/Some-Model-1.5B", kNotFound),
              AllOf(HasSubstr("No such file"), HasSubstr("local"),
                    HasSubstr("hf download some-owner/Some-Model-1.5B --local-dir Some-Model-1.5B"),
                    HasSubstr("huggingface-cli")));
  EXPECT_THAT(Error("https://host/owner/model", kNotFound), HasSubstr("download"));
  EXPECT_THAT(Error("~/models/none", kNotFound), HasSubstr("whole path"));
  const std::string plain = Error(directory_ / "none", kNotFound);
  EXPECT_EQ(plain.find("download"), std::string::npos) << plain;
  directory_.Write("file", "x");
  EXPECT_THAT(std::string(Checkpoint::Open(directory_ / "file/below").status().message()),
              HasSubstr("Not a directory"));
}

TEST_F(ModelPlaceTest, FoldersThatAreNoModel) {
  const auto folder = [&](const std::vector<std::string>& files) {
    fs::remove_all(directory_ / "folder");
    fs::create_directory(directory_ / "folder");
    for (const std::string& name : files) {
      fs::create_directories(fs::path(directory_ / ("folder/" + name)).parent_path());
      directory_.Write("folder/" + name, "x");
    }
    return Error(directory_ / "folder", absl::StatusCode::kNotFound);
  };
  EXPECT_THAT(folder({}), HasSubstr("empty directory"));
  EXPECT_THAT(folder({"adapter_config.json", "adapter_model.safetensors"}),
              AllOf(HasSubstr("LoRA"), HasSubstr("merge")));
  EXPECT_THAT(folder({"tokenizer.json", "tokenizer_config.json"}),
              HasSubstr("a tokenizer found, but no model"));
  EXPECT_THAT(folder({"params.json", "consolidated.00.pth"}), HasSubstr("own format"));
  EXPECT_THAT(folder({"model.safetensors"}), HasSubstr("no config.json"));
  EXPECT_THAT(folder({"pytorch_model.bin"}), HasSubstr("no config.json"));
  EXPECT_THAT(folder({"run/model/weights", "model/config.json"}), HasSubstr("folder/model"));
  EXPECT_THAT(folder({"notes.txt"}), HasSubstr("config.json or a GGUF file expected"));
}

TEST_F(ModelPlaceTest, WhatMayNotBeRead) {
  if (geteuid() == 0) GTEST_SKIP() << "the superuser may read everything";
  directory_.Write("model.gguf", SmallGguf());
  ASSERT_EQ(chmod((directory_ / "model.gguf").c_str(), 0), 0);
  EXPECT_THAT(Error(directory_ / "model.gguf", absl::StatusCode::kPermissionDenied),
              HasSubstr("Permission denied"));
}

}  // namespace
}  // namespace mambad::checkpoint
