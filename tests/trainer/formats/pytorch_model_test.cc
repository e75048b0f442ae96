// Directories with pytorch_model.bin against the same model in safetensors, number for number.

#include "trainer/formats/pytorch_model.h"

#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/dequantise.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/checkpoint/test_directory.h"
#include "tests/support/checkpoint_writer.h"
#include "tests/trainer/expect_error.h"
#include "tests/trainer/formats/pytorch_writer.h"
#include "tests/trainer/formats/random_models.h"

namespace mambad::trainer {
namespace {

using mambad::testing::ErrorOf;
constexpr char kNoError[] = "nothing was thrown";
using checkpoint::StorageType;
using checkpoint::TestDirectory;
using support::RandomModelOptions;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::Span<const std::byte> BytesOf(const std::string& text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

std::vector<float> FloatsOf(const checkpoint::StoredTensor& tensor) {
  std::vector<float> values(tensor.data.size() / 4);
  std::memcpy(values.data(), tensor.data.data(), tensor.data.size());
  return values;
}

std::string ErrorOfFile(const std::string& bytes) {
  RearrangedTensors rearranged;
  return ErrorOf([&] { ReadPytorchFile("file", BytesOf(bytes), &rearranged); });
}

TEST(PytorchFile, ViewsAreRearranged) {
  PytorchWriter writer;
  const std::string data = FloatBytes({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
  writer.Tensor("plain", "Float", {3, 4}, data);
  writer.View("transposed", "Float", {4, 3}, {1, 4}, 0, 12, data);
  writer.View("cut", "Float", {2, 2}, {4, 1}, 5, 12, data);
  writer.View("tail", "Float", {1, 4}, {99, 1}, 8, 12, data);
  writer.Tensor("position_ids", "Long", {2}, std::string(16, '\0'));
  const std::string file = writer.Finish();
  RearrangedTensors rearranged;
  const PytorchTensors read = ReadPytorchFile("file", BytesOf(file), &rearranged);
  EXPECT_THAT(FloatsOf(read.tensors.at("plain")),
              ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11));
  EXPECT_THAT(FloatsOf(read.tensors.at("transposed")),
              ElementsAre(0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11));
  EXPECT_THAT(FloatsOf(read.tensors.at("cut")), ElementsAre(5, 6, 9, 10));
  EXPECT_THAT(FloatsOf(read.tensors.at("tail")), ElementsAre(8, 9, 10, 11));
  EXPECT_EQ(read.ignored.at("position_ids"), "Long");
  EXPECT_EQ(rearranged.size(), 2u);  // the others lie in the file as they are
}

TEST(PytorchFile, OtherFilesAreRefusedByName) {
  EXPECT_THAT(ErrorOfFile("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9"
                          "\x03."),
              HasSubstr("before version 1.6"));
  ZipWriter script;
  script.Add("m/data.pkl", "x");
  script.Add("m/constants.pkl", "x");
  EXPECT_THAT(ErrorOfFile(script.Finish()), HasSubstr("TorchScript"));
  ZipWriter other;
  other.Add("word/document.xml", "x");
  EXPECT_THAT(ErrorOfFile(other.Finish()), HasSubstr("no data.pkl"));
  ZipWriter big;
  big.Add("m/data.pkl", "x");
  big.Add("m/byteorder", "big");
  EXPECT_THAT(ErrorOfFile(big.Finish()), HasSubstr("\"big\" found, \"little\" expected"));
}

TEST(PytorchFile, StoragesMustBeThereAndWhole) {
  PytorchWriter writer;
  writer.View("weight", "Float", {4}, {1}, 0, 4, FloatBytes({1, 2, 3}));
  EXPECT_THAT(ErrorOfFile(writer.Finish()),
              HasSubstr("tensor \"weight\": a storage of 4 numbers announced, 12 bytes found"));
  ZipWriter zip;
  PytorchWriter whole;
  whole.Tensor("weight", "Float", {1}, FloatBytes({1}));
  zip.Add("m/data.pkl", whole.Pickle());
  EXPECT_THAT(ErrorOfFile(zip.Finish()), HasSubstr("entry \"data/0\" expected"));
}

// Every family and layout, in one file and in shards.
TEST(PytorchDirectory, HoldsTheSameModel) {
  for (auto [name, options] : support::AllVariants()) {
    for (const int shards : {1, 3}) {
      SCOPED_TRACE(absl::StrCat(name, ", ", shards, " files"));
      TestDirectory safetensors, pytorch;
      ASSERT_TRUE(support::SaveRandomCheckpoint(safetensors.path(), options).ok());
      SavePytorchCheckpoint(pytorch, options, shards);
      const ModelSource expected = OpenModelSource(safetensors.path());
      const ModelSource found = OpenModelSource(pytorch.path());
      EXPECT_EQ(found.kind, SourceKind::kPytorchDirectory);
      ExpectSameNumbers(*expected.checkpoint, *found.checkpoint);
    }
  }
}

TEST(PytorchDirectory, FaultsAreNamed) {
  RandomModelOptions options;
  TestDirectory directory;
  SavePytorchCheckpoint(directory, options, 2);
  const auto error = [&] { return ErrorOf([&] { OpenModelSource(directory.path()); }); };
  ASSERT_EQ(error(), kNoError);
  const std::string index = directory.Read("pytorch_model.bin.index.json");
  directory.Write("pytorch_model.bin.index.json", R"({"weight_map": {"a": "../other.bin"}})");
  EXPECT_THAT(error(), HasSubstr("the name of a .bin file beside it expected"));
  directory.Write("pytorch_model.bin.index.json", R"({"weight_map": {"a": "none.bin"}})");
  EXPECT_THAT(error(), HasSubstr("none.bin"));
  directory.Write("pytorch_model.bin.index.json", index);
  directory.Write("pytorch_model-00002.bin", directory.Read("pytorch_model-00001.bin"));
  EXPECT_THAT(error(), HasSubstr("too"));
  directory.Write("pytorch_model-00002.bin", "PK");
  EXPECT_THAT(error(), HasSubstr("pytorch_model-00002.bin: no zip archive"));
}

}  // namespace
}  // namespace mambad::trainer
