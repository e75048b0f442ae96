// The GGUF container, friendly and hostile.

#include "engine/checkpoint/gguf.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/checkpoint/gguf_writer.h"

namespace mambad::checkpoint {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

absl::StatusOr<GgufFile> Parse(const std::string& file) {
  return ParseGguf("model.gguf", {reinterpret_cast<const std::byte*>(file.data()), file.size()});
}

std::string Error(const std::string& file,
                  absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
  const auto parsed = Parse(file);
  EXPECT_EQ(parsed.status().code(), code) << parsed.status();
  const std::string message(parsed.status().message());
  EXPECT_THAT(message, HasSubstr("model.gguf"));
  EXPECT_EQ(message.find('\n'), std::string::npos);
  EXPECT_LT(message.size(), 500u);
  return message;
}

TEST(ParseGguf, ReadsEveryKindOfValue) {
  for (uint32_t version : {2u, 3u}) {
    GgufWriter writer;
    writer.version = version;
    writer.Value("u8", kGgufUint8, Raw<uint8_t>(200));
    writer.Value("i8", kGgufInt8, Raw<int8_t>(-100));
    writer.Value("u16", kGgufUint16, Raw<uint16_t>(60000));
    writer.Value("i16", kGgufInt16, Raw<int16_t>(-30000));
    writer.Value("u32", kGgufUint32, Raw<uint32_t>(4000000000));
    writer.Value("i32", kGgufInt32, Raw<int32_t>(-2000000000));
    writer.Value("u64", kGgufUint64, Raw<uint64_t>(uint64_t{1} << 40));
    writer.Value("i64", kGgufInt64, Raw<int64_t>(-(int64_t{1} << 40)));
    writer.Float("f32", 0.5f);
    writer.Value("f64", kGgufFloat64, Raw(0.1));
    writer.Flag("yes", true);
    writer.Text("text", std::string("a\0b", 3));
    writer.Texts("texts", {"x", "", "yz"});
    writer.Numbers<int8_t>("i8s", kGgufInt8, {-1, 2});
    writer.Numbers<float>("f32s", kGgufFloat32, {0.25f});
    writer.Numbers<uint32_t>("none", kGgufUint32, {});
    const auto parsed = Parse(writer.Finish());
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    const auto& values = parsed->metadata;
    EXPECT_EQ(values.size(), 16u);
    EXPECT_EQ(std::get<int64_t>(values.at("u8")), 200);
    EXPECT_EQ(std::get<int64_t>(values.at("i8")), -100);
    EXPECT_EQ(std::get<int64_t>(values.at("u16")), 60000);
    EXPECT_EQ(std::get<int64_t>(values.at("i16")), -30000);
    EXPECT_EQ(std::get<int64_t>(values.at("u32")), 4000000000);
    EXPECT_EQ(std::get<int64_t>(values.at("i32")), -2000000000);
    EXPECT_EQ(std::get<int64_t>(values.at("u64")), int64_t{1} << 40);
    EXPECT_EQ(std::get<int64_t>(values.at("i64")), -(int64_t{1} << 40));
    EXPECT_EQ(std::get<double>(values.at("f32")), 0.5);
    EXPECT_EQ(std::get<double>(values.at("f64")), 0.1);
    EXPECT_EQ(std::get<int64_t>(values.at("yes")), 1);
    EXPECT_EQ(std::get<std::string>(values.at("text")), std::string("a\0b", 3));
    EXPECT_EQ(std::get<std::vector<std::string>>(values.at("texts")),
              (std::vector<std::string>{"x", "", "yz"}));
    EXPECT_EQ(std::get<std::vector<int64_t>>(values.at("i8s")), (std::vector<int64_t>{-1, 2}));
    EXPECT_EQ(std::get<std::vector<double>>(values.at("f32s")), (std::vector<double>{0.25}));
    EXPECT_TRUE(std::get<std::vector<int64_t>>(values.at("none")).empty());
  }
}

TEST(ParseGguf, FindsTensors) {
  GgufWriter writer;
  writer.alignment = 64;
  writer.Number("general.alignment", 64);
  writer.Float32("a", {3, 2}, {1, 2, 3, 4, 5, 6});
  writer.Tensor("b", {64}, 8, std::string(68, 'q'));
  const std::string bytes = writer.Finish();  // what is parsed points into it
  const auto parsed = Parse(bytes);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const StoredTensor& a = parsed->tensors.at("a");
  EXPECT_EQ(a.shape, (std::vector<int64_t>{2, 3}));  // rows first
  EXPECT_EQ(a.type, StorageType::kFloat32);
  ASSERT_EQ(a.data.size(), 24u);
  float third;
  std::memcpy(&third, a.data.data() + 8, 4);
  EXPECT_EQ(third, 3);
  EXPECT_EQ(parsed->tensors.at("b").type, StorageType::kQ8_0);
  EXPECT_EQ(parsed->tensors.at("b").data.size(), 68u);
}

std::string Small() {
  GgufWriter writer;
  writer.Text("general.architecture", "llama");
  writer.Texts("tokens", {"a", "b"});
  writer.Float32("a", {4}, {1, 2, 3, 4});
  return writer.Finish();
}

TEST(ParseGguf, RefusesEveryTruncation) {
  const std::string file = Small();
  ASSERT_TRUE(Parse(file).ok());
  for (size_t size = 4; size < file.size(); ++size) {
    EXPECT_THAT(Error(file.substr(0, size)), AllOf(HasSubstr("truncated"), HasSubstr("again")))
        << size;
  }
  // How much is missing is said where it can be known.
  EXPECT_THAT(Error(file.substr(0, file.size() - 3)),
              AllOf(HasSubstr(absl::StrCat(file.size(), " bytes expected")),
                    HasSubstr(absl::StrCat(file.size() - 3, " found"))));
  // More than the tensors need does no harm.
  EXPECT_TRUE(Parse(file + "trailing").ok());
}

TEST(ParseGguf, RefusesOtherFiles) {
  EXPECT_THAT(Error("GGUX" + Small().substr(4)), HasSubstr("magic"));
  EXPECT_THAT(Error("<!DOCTYPE html><html>" + Small()), HasSubstr("HTML"));
  const auto with_version = [](uint32_t version) {
    return "GGUF" + Raw(version) + Small().substr(8);
  };
  for (uint32_t version : {0u, 4u}) {
    EXPECT_THAT(Error(with_version(version)), HasSubstr("version"));
  }
  constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
  EXPECT_THAT(Error(with_version(1), kUnimplemented), HasSubstr("version 1"));
  EXPECT_THAT(Error(with_version(0x03000000), kUnimplemented), HasSubstr("big-endian"));
  for (uint64_t count : {uint64_t{1} << 21, ~uint64_t{0}}) {
    EXPECT_THAT(Error("GGUF" + Raw(3u) + Raw(count) + Small().substr(16)), HasSubstr("announced"));
    EXPECT_THAT(Error("GGUF" + Raw(3u) + Raw(uint64_t{0}) + Raw(count) + Small().substr(24)),
                HasSubstr("announced"));
  }
}

TEST(ParseGguf, RefusesHostileValues) {
  const auto with = [](uint32_t type, const std::string& bytes) {
    GgufWriter writer;
    writer.Value("key\n", type, bytes);
    return writer.Finish();
  };
  // Lengths far beyond the file, sizes whose product overflows, arrays in arrays, unknown types.
  EXPECT_THAT(Error(with(kGgufString, Raw(~uint64_t{0}))), HasSubstr("key"));
  EXPECT_THAT(Error(with(kGgufString, Raw(uint64_t{1} << 20))), HasSubstr("key"));
  for (uint32_t type : {kGgufUint8, kGgufUint64, kGgufFloat64, kGgufString, kGgufBool}) {
    for (uint64_t count : {~uint64_t{0}, uint64_t{1} << 61, uint64_t{1} << 32}) {
      EXPECT_THAT(Error(with(kGgufArray, Raw<uint32_t>(type) + Raw(count))), HasSubstr("key"));
    }
  }
  EXPECT_THAT(Error(with(kGgufArray, Raw<uint32_t>(kGgufArray) + Raw<uint64_t>(1) +
                                         Raw<uint32_t>(kGgufUint8) + Raw<uint64_t>(1) + "x")),
              HasSubstr("key"));
  EXPECT_THAT(Error(with(13, "12345678")), HasSubstr("type 13"));
  EXPECT_THAT(Error(with(kGgufArray, Raw<uint32_t>(77) + Raw<uint64_t>(0))), HasSubstr("key"));
  // An array is widened to eight bytes an item: what a file may ask for is bounded.
  EXPECT_THAT(Error(with(kGgufArray, Raw<uint32_t>(kGgufUint8) + Raw<uint64_t>(9 << 20) +
                                         std::string(9 << 20, 'x'))),
              HasSubstr("too long"));
  GgufWriter twice;
  twice.Number("key", 1);
  twice.Number("key", 1);
  EXPECT_THAT(Error(twice.Finish()), HasSubstr("\"key\" stands twice"));
}

TEST(ParseGguf, RefusesHostileTensors) {
  const auto with = [](const std::vector<uint64_t>& dimensions, uint32_t type, uint64_t offset,
                       size_t data_bytes = 64) {
    GgufWriter writer;
    writer.Tensor("first", {16}, 0, std::string(data_bytes, '\0'));
    writer.Entry("second", dimensions, type, offset);
    return writer.Finish() + std::string(64, '\0');
  };
  ASSERT_TRUE(Parse(with({16}, 0, 64)).ok());
  EXPECT_THAT(Error(with({}, 0, 64)), HasSubstr("0 dimensions"));
  EXPECT_THAT(Error(with({1, 1, 1, 1, 1}, 0, 64)), HasSubstr("5 dimensions"));
  EXPECT_THAT(Error(with({uint64_t{1} << 41}, 0, 64)), HasSubstr("too large"));
  EXPECT_THAT(Error(with({uint64_t{1} << 32, uint64_t{1} << 32, 4}, 0, 64)),
              HasSubstr("too large"));
  EXPECT_THAT(Error(with({~uint64_t{0}}, 0, 64)), HasSubstr("too large"));
  EXPECT_THAT(Error(with({17}, 0, 64)), HasSubstr("truncated"));
  EXPECT_THAT(Error(with({16}, 0, uint64_t{1} << 63)), HasSubstr("too large"));
  EXPECT_THAT(Error(with({16}, 0, ~uint64_t{0} - 31)), HasSubstr("too large"));
  EXPECT_THAT(Error(with({16}, 0, 65)), HasSubstr("misaligned"));
  EXPECT_THAT(Error(with({16}, 0, 32)), HasSubstr("overlaps"));
  EXPECT_THAT(Error(with({16}, 0, 0)), HasSubstr("overlaps"));
  EXPECT_THAT(Error(with({48}, 8, 64)), HasSubstr("no whole blocks of 32"));
  EXPECT_THAT(Error(with({128}, 12, 64)), HasSubstr("no whole blocks of 256"));
  for (uint32_t type : {4u, 9u, 15u, 24u, 28u, 31u, 40u, 1000u}) {
    EXPECT_THAT(Error(with({32}, type, 64), absl::StatusCode::kUnimplemented), HasSubstr("second"));
  }
  GgufWriter twice;
  twice.Float32("a", {1}, {1});
  twice.Float32("a", {1}, {1});
  EXPECT_THAT(Error(twice.Finish()), HasSubstr("twice"));
  for (uint32_t alignment : {0u, 3u, 48u, 1u << 21}) {
    GgufWriter writer;
    writer.Number("general.alignment", alignment);
    EXPECT_THAT(Error(writer.Finish()), HasSubstr("general.alignment")) << alignment;
  }
}

}  // namespace
}  // namespace mambad::checkpoint
