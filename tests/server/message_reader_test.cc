// Bytes that are no message, texts that are none, and messages that would be too large to build.

#include "server/message_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "mambad/v1/generation.pb.h"

namespace mambad::server {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

const EntryLimits kLimits = {{"mambad.v1.Stopping.stop_strings", 16},
                             {"mambad.v1.Sampling.logit_bias", 100},
                             {"mambad.v1.Conversation.messages", 8}};

template <typename Message>
absl::Status Read(const std::string& bytes, Message* message) {
  // In slices, as large messages come.
  std::vector<grpc::Slice> slices;
  for (size_t at = 0; at < bytes.size(); at += 8192)
    slices.emplace_back(bytes.data() + at, std::min<size_t>(8192, bytes.size() - at));
  grpc::ByteBuffer buffer(slices.data(), slices.size());
  const absl::Status status = ReadMessage(&buffer, kLimits, message);
  EXPECT_FALSE(buffer.Valid());
  return status;
}

std::string Varint(uint64_t value) {
  std::string bytes;
  for (; value > 127; value >>= 7) bytes += static_cast<char>(value | 128);
  return bytes + static_cast<char>(value);
}

std::string Delimited(int field, const std::string& contents) {
  return Varint(static_cast<uint64_t>(field) << 3 | 2) + Varint(contents.size()) + contents;
}

TEST(MessageReaderTest, ReadsWhatProtobufWrites) {
  v1::GenerateRequest request;
  auto* message = request.mutable_conversation()->add_messages();
  message->set_role("user");
  message->set_content(std::string(100000, 'x') + "é\U0001F600");
  (*request.mutable_sampling()->mutable_logit_bias())[7] = 1.5f;
  request.mutable_stopping()->add_stop_strings("stop");
  request.mutable_sampling()->add_allowed_token_ids(5);
  request.set_request_id("name");
  v1::GenerateRequest read;
  ASSERT_TRUE(Read(request.SerializeAsString(), &read).ok());
  EXPECT_EQ(read.SerializeAsString(), request.SerializeAsString());
  v1::GetLoadRequest empty;
  EXPECT_TRUE(Read("", &empty).ok());
}

TEST(MessageReaderTest, NamesTheFieldThatIsNotUtf8) {
  const std::string bad = "ab\xff";
  const std::string reason = "text is not valid UTF-8: bad byte at offset 2";
  v1::GenerateRequest request;
  const auto first = [&](const std::string& bytes) {
    const absl::Status status = Read(bytes, &request);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_TRUE(status.GetPayload("type.googleapis.com/google.rpc.BadRequest").has_value());
    return std::string(status.message());
  };
  EXPECT_EQ(first(Delimited(1, bad)), "text: " + reason);
  EXPECT_EQ(first(Delimited(12, bad)), "request_id: " + reason);
  EXPECT_EQ(first(Delimited(5, Delimited(3, "fine") + Delimited(3, bad))),
            "stopping.stop_strings[1]: " + reason);
  const std::string fine = Delimited(1, Delimited(1, "user"));
  EXPECT_EQ(first(Delimited(3, fine + fine + Delimited(1, Delimited(2, bad)))),
            "conversation.messages[2].content: " + reason);
  for (const char* no_text : {"\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\x80"})
    EXPECT_THAT(first(Delimited(1, no_text)), HasSubstr("text: text is not valid UTF-8"));
}

TEST(MessageReaderTest, RefusesByNumberBeforeAnythingIsBuilt) {
  const auto many = [](const std::string& entry, int count) {
    std::string bytes;
    for (int i = 0; i < count; ++i) bytes += entry;
    return bytes;
  };
  v1::GenerateRequest request;
  EXPECT_EQ(Read(Delimited(5, many(Delimited(3, ""), 1000000)), &request).message(),
            "stopping.stop_strings: 1000000 entries given, allowed at most 16");
  EXPECT_EQ(Read(Delimited(3, many(Delimited(1, ""), 1000000)), &request).message(),
            "conversation.messages: 1000000 entries given, allowed at most 8");
  EXPECT_EQ(Read(Delimited(4, many(Delimited(9, ""), 101)), &request).message(),
            "sampling.logit_bias: 101 entries given, allowed at most 100");
  // Put together from many parts of one.
  EXPECT_EQ(Read(many(Delimited(5, Delimited(3, "")), 17), &request).message(),
            "stopping.stop_strings: 17 entries given, allowed at most 16");
  EXPECT_EQ(request.ByteSizeLong(), 0u);
  EXPECT_TRUE(Read(Delimited(5, many(Delimited(3, ""), 16)), &request).ok());
}

TEST(MessageReaderTest, FieldsOfNewerClientsAreBounded) {
  v1::GenerateRequest request;
  std::string bytes;
  for (int i = 0; i < kMostUnknownFields; ++i) bytes += Varint(1000 << 3) + "\x01";
  EXPECT_TRUE(Read(bytes, &request).ok());
  bytes += Delimited(2000, "x");
  EXPECT_THAT(std::string(Read(bytes, &request).message()),
              HasSubstr("more than 4096 fields that this server does not know"));
}

// protobuf keeps them beside the message as it does fields that it has no name for.
TEST(MessageReaderTest, KnownFieldsOfAnotherTypeAreUnknownOnes) {
  const auto read = [](const std::string& bytes) {
    v1::GenerateRequest request;
    const absl::Status status = Read(bytes, &request);
    if (!status.ok()) {
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(status.message()),
                  HasSubstr("more than 4096 fields that this server does not know"));
    }
    return status.ok();
  };
  const auto many = [](const std::string& entry) {
    std::string bytes;
    for (int i = 0; i <= kMostUnknownFields; ++i) bytes += entry;
    return bytes;
  };
  const std::string number = "\x01", fixed(4, 'x');
  EXPECT_FALSE(read(many(Varint(1 << 3) + number)));                       // text
  EXPECT_FALSE(read(many(Varint(5 << 3 | 5) + fixed)));                    // stopping
  EXPECT_FALSE(read(many(Varint(12 << 3 | 3) + Varint(12 << 3 | 4))));     // request_id, as a group
  EXPECT_FALSE(read(Delimited(4, many(Varint(1 << 3) + number))));         // sampling.temperature
  EXPECT_FALSE(read(Delimited(4, many(Delimited(3, "x")))));               // sampling.top_k
  EXPECT_FALSE(read(Delimited(4, Delimited(9, many(Delimited(1, ""))))));  // a bias's id
  // In a group each field counts.
  EXPECT_FALSE(read(Varint(1000 << 3 | 3) + many(Varint(1 << 3) + number) + Varint(1000 << 3 | 4)));
  // Numbers that repeat come packed or one by one.
  EXPECT_TRUE(read(Delimited(4, many(Varint(10 << 3) + number))));  // sampling.allowed_token_ids
  EXPECT_TRUE(read(Delimited(4, many(Delimited(10, number)))));
}

TEST(MessageReaderTest, SaysWhereBytesMakeNoSense) {
  v1::GenerateRequest request;
  const auto groups = [](int depth) {
    std::string bytes;
    for (int i = 0; i < depth; ++i) bytes = Varint(1000 << 3 | 3) + bytes + Varint(1000 << 3 | 4);
    return bytes;
  };
  EXPECT_TRUE(Read(groups(32), &request).ok());
  const std::string bad[] = {
      std::string("\x00\x01", 2),          // a field without a number
      "\x0a\x05hel",                       // shorter than it says
      "\x32\x7f\x1a\x01",                  // likewise inside
      "\x0a\xff\xff\xff\xff\x0f",          // 4 GB
      "\x0a\xff\xff\xff\xff\xff\xff\xff",  // no number at all
      "\x0f",                              // no such type
      Varint(1000 << 3 | 4),               // an end without a beginning
      groups(33),
      groups(2000),
  };
  for (const std::string& bytes : bad) {
    const absl::Status status = Read(bytes, &request);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bytes.size();
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("no mambad.v1.GenerateRequest"), HasSubstr("at byte")));
  }
}

}  // namespace
}  // namespace mambad::server
