#include "engine/checkpoint/safetensors.h"

#include <cstring>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/checkpoint/test_directory.h"

namespace mambad::checkpoint {
namespace {

using ::testing::HasSubstr;

absl::Span<const std::byte> Bytes(const std::string& text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

// A file of `header` and `data_bytes` bytes 0, 1, 2, ...
std::string File(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string file(reinterpret_cast<const char*>(&length), 8);
  file += header;
  for (size_t i = 0; i < data_bytes; ++i) file += static_cast<char>(i);
  return file;
}

std::string Error(const std::string& file) {
  const auto parsed = ParseSafetensors("model.safetensors", Bytes(file));
  EXPECT_FALSE(parsed.ok());
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  const std::string message(parsed.status().message());
  EXPECT_EQ(message.find('\n'), std::string::npos);
  EXPECT_THAT(message, HasSubstr("model.safetensors"));
  return message;
}

TEST(ParseSafetensors, FindsTensors) {
  const std::string file = File(
      R"({"__metadata__": {"format": "pt"}, "b": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [8, 20]},)"
      R"( "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},)"
      R"( "none": {"dtype": "F16", "shape": [0, 4], "data_offsets": [20, 20]},)"
      R"( "one": {"dtype": "F16", "shape": [], "data_offsets": [20, 22]},)"
      R"( "ids": {"dtype": "I64", "shape": [1], "data_offsets": [22, 30]}}   )",
      30);
  const auto parsed = ParseSafetensors("model.safetensors", Bytes(file));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ASSERT_EQ(parsed->tensors.size(), 4u);
  const StoredTensor& b = parsed->tensors.at("b");
  EXPECT_EQ(b.type, StorageType::kBFloat16);
  EXPECT_EQ(b.shape, (std::vector<int64_t>{2, 3}));
  ASSERT_EQ(b.data.size(), 12u);
  EXPECT_EQ(b.data[0], std::byte{8});
  EXPECT_EQ(parsed->tensors.at("a").type, StorageType::kFloat32);
  EXPECT_EQ(parsed->tensors.at("one").data.size(), 2u);
  EXPECT_EQ(parsed->ignored, (std::map<std::string, std::string>{{"ids", "I64"}}));
}

std::string One(const std::string& type, const std::string& shape, const std::string& offsets) {
  return R"({"w": {"dtype": )" + type + R"(, "shape": )" + shape + R"(, "data_offsets": )" +
         offsets + "}}";
}

TEST(ParseSafetensors, RefusesHostileFiles) {
  const std::string good = One("\"F32\"", "[2]", "[0, 8]");
  ASSERT_TRUE(ParseSafetensors("x", Bytes(File(good, 8))).ok());
  EXPECT_THAT(Error(""), HasSubstr("0 bytes"));
  EXPECT_THAT(Error("1234567"), HasSubstr("7 bytes"));
  EXPECT_THAT(Error(File(good, 7)), HasSubstr("truncated: 8 bytes of data expected, 7 found"));
  EXPECT_THAT(Error(File(good, 9)), HasSubstr("9 bytes of data found"));
  EXPECT_THAT(Error(File(good, 8).substr(0, 30)), HasSubstr("truncated"));
  for (uint64_t length : {uint64_t{1} << 63, ~uint64_t{0}, uint64_t{1} << 32}) {
    std::string file = File(good, 8);
    std::memcpy(file.data(), &length, 8);
    EXPECT_THAT(Error(file), HasSubstr("a header of"));
  }
  EXPECT_THAT(Error(File("{\"a\": " + std::string(20 << 20, ' ') + "1}", 0)),
              HasSubstr("a header of"));
  EXPECT_THAT(Error(File("", 0)), HasSubstr("JSON"));
  EXPECT_THAT(Error(File("[]", 0)), HasSubstr("object"));
  EXPECT_THAT(Error(File("{\"w\": 3}", 0)), HasSubstr("dtype"));
  EXPECT_THAT(Error(File(One("3", "[2]", "[0, 8]"), 8)), HasSubstr("dtype"));
  for (const char* shape : {"[-2]", "[2.0]", "[\"2\"]", "2", "[[2]]", "[18446744073709551615]",
                            "[1099511627777]", "[1,1,1,1,1,1,1,1,2]", "null"}) {
    EXPECT_THAT(Error(File(One("\"F32\"", shape, "[0, 8]"), 8)), HasSubstr("shape")) << shape;
  }
  // 2^20 x 2^20 x 2^20 x 16 numbers of 4 bytes come to 0 in 64 bits.
  EXPECT_THAT(Error(File(One("\"F32\"", "[1048576, 1048576, 1048576, 16]", "[0, 0]"), 0)),
              HasSubstr("too large"));
  EXPECT_THAT(Error(File(One("\"F32\"", "[3]", "[0, 8]"), 8)), HasSubstr("12 expected"));
  for (const char* offsets :
       {"[8, 0]", "[0]", "[0, 8, 8]", "[-8, 0]", "[0.0, 8.0]", "{}", "[0, 18446744073709551615]"}) {
    EXPECT_THAT(Error(File(One("\"F32\"", "[2]", offsets), 8)), HasSubstr("data_offsets"))
        << offsets;
  }
}

TEST(ParseSafetensors, RefusesOverlapsAndGaps) {
  const auto two = [](const char* first, const char* second) {
    return std::string(R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": )") + first +
           R"(}, "b": {"dtype": "F32", "shape": [2], "data_offsets": )" + second + "}}";
  };
  EXPECT_TRUE(ParseSafetensors("x", Bytes(File(two("[8, 16]", "[0, 8]"), 16))).ok());
  EXPECT_THAT(Error(File(two("[0, 8]", "[4, 12]"), 12)), HasSubstr("overlap"));
  EXPECT_THAT(Error(File(two("[0, 8]", "[0, 8]"), 8)), HasSubstr("overlap"));
  EXPECT_THAT(Error(File(two("[0, 8]", "[12, 20]"), 20)), HasSubstr("gap"));
  EXPECT_THAT(Error(File(two("[4, 12]", "[12, 20]"), 20)), HasSubstr("gap"));
  // A tensor of a type that is not read takes its room all the same.
  EXPECT_THAT(Error(File(R"({"a": {"dtype": "I8", "shape": [8], "data_offsets": [0, 8]},)"
                         R"( "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}})",
                         12)),
              HasSubstr("overlap"));
}

TEST(ParseSafetensors, RefusesNamesThatStandTwice) {
  EXPECT_THAT(Error(File(R"({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},)"
                         R"( "w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}})",
                         8)),
              HasSubstr("twice"));
}

TEST(ParseSafetensors, KeepsMessagesShort) {
  const std::string name = std::string(100000, 'n') + "\\n";
  const std::string message = Error(File("{\"" + name + "\": 3}", 0));
  EXPECT_LT(message.size(), 400u);
}

// ---- writing -----------------------------------------------------------------------------------

TEST(WriteSafetensors, WritesTheFormatToTheByte) {
  TestDirectory directory;
  const float numbers[] = {1.5f, -2};
  const TensorToWrite tensor = {
      "w",
      StorageType::kFloat32,
      {2},
      absl::Span<const std::byte>(reinterpret_cast<const std::byte*>(numbers), sizeof(numbers))};
  ASSERT_TRUE(WriteSafetensors(directory / "x.safetensors", {tensor}).ok());
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  const std::string file = directory.Read("x.safetensors");
  ASSERT_GE(file.size(), 8u);
  uint64_t length;
  std::memcpy(&length, file.data(), 8);
  EXPECT_EQ(length % 8, 0u);
  ASSERT_EQ(file.size(), 8 + length + 8);
  EXPECT_EQ(file.substr(8, header.size()), header);
  EXPECT_EQ(file.substr(8 + header.size(), length - header.size()),
            std::string(length - header.size(), ' '));
  EXPECT_EQ(std::memcmp(file.data() + 8 + length, numbers, 8), 0);
  // Nothing temporary is left.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory.path()), {}), 1);
}

TEST(WriteSafetensors, KeepsTheOldFileWhenItFails) {
  TestDirectory directory;
  directory.Write("x.safetensors", "old");
  const std::byte bytes[3] = {};
  EXPECT_FALSE(WriteSafetensors(directory / "x.safetensors",
                                {TensorToWrite{"w", StorageType::kFloat32, {1}, bytes}})
                   .ok());
  EXPECT_FALSE(WriteSafetensors(directory / "x.safetensors",
                                {TensorToWrite{"w", StorageType::kQ8_0, {3}, bytes}})
                   .ok());
  EXPECT_EQ(directory.Read("x.safetensors"), "old");
  EXPECT_EQ(WriteSafetensors(directory / "no/such/x.safetensors", {}).code(),
            absl::StatusCode::kNotFound);
}

TEST(WriteSharded, CutsBySizeAndLeavesNoOldIndex) {
  TestDirectory directory;
  const std::vector<std::byte> data(40);
  std::vector<TensorToWrite> tensors;
  for (const char* name : {"a", "b", "c", "d"})
    tensors.push_back({name, StorageType::kFloat16, {5, 4}, data});
  ASSERT_TRUE(WriteShardedSafetensors(directory.path(), tensors, 100).ok());
  EXPECT_THAT(directory.Read("model.safetensors.index.json"), HasSubstr("\"total_size\": 160"));
  const std::string first = directory.Read("model-00001-of-00002.safetensors");
  const auto parsed = ParseSafetensors("first", Bytes(first));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_TRUE(parsed->tensors.contains("a") && parsed->tensors.contains("b") &&
              parsed->tensors.size() == 2);
  // One tensor a file at least, however small the limit.
  TestDirectory narrow;
  ASSERT_TRUE(WriteShardedSafetensors(narrow.path(), tensors, 1).ok());
  EXPECT_TRUE(std::filesystem::exists(narrow / "model-00004-of-00004.safetensors"));
  // A single file written later must not stand beside an index that says otherwise.
  ASSERT_TRUE(WriteShardedSafetensors(directory.path(), tensors, 0).ok());
  EXPECT_TRUE(std::filesystem::exists(directory / "model.safetensors"));
  EXPECT_FALSE(std::filesystem::exists(directory / "model.safetensors.index.json"));
}

}  // namespace
}  // namespace mambad::checkpoint
