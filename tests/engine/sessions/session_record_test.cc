// A session as bytes: what comes back, and what is refused before memory is taken for it.

#include "engine/sessions/session_record.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mambad {
namespace {

using ::testing::HasSubstr;

std::shared_ptr<SessionFormat> Format() {
  auto format = std::make_shared<SessionFormat>();
  format->names = {"model one", "tokenizer one", "cpu-avx2/f32", "draft one"};
  format->vocabulary = 100;
  format->context = 1000;
  format->target.fixed = 400;
  format->target.replay_row = 24;
  format->target.page = 640;
  format->target.replay_rows = 8;
  format->target.layout = "target layout";
  ImageSize draft;
  draft.fixed = 32;
  draft.replay_rows = 8;
  draft.layout = "draft layout";
  format->draft = draft;
  return format;
}

std::shared_ptr<HostMemory> Memory(int64_t bytes = 1 << 20) {
  return std::make_shared<HostMemory>(bytes);
}

std::shared_ptr<SessionRecord> Record(const SessionFormat& format, int tokens = 50) {
  auto record = std::make_shared<SessionRecord>();
  record->names = format.names;
  record->layout = format.target.layout;
  record->draft_layout = format.draft->layout;
  std::vector<TokenId> text;
  for (int i = 0; i < tokens; ++i) text.push_back(7 * i % 100);
  record->tokens = std::make_shared<const std::vector<TokenId>>(text);
  auto state =
      SavedState::Make(Memory(), {tokens - 1, 3}, format.target, {tokens - 5, 0}, &*format.draft);
  for (size_t i = 0; i < state->target().size(); ++i) state->target()[i] = std::byte(i % 251);
  for (size_t i = 0; i < state->draft().size(); ++i) state->draft()[i] = std::byte(i % 7);
  record->state = state;
  return record;
}

std::string BytesOf(const std::shared_ptr<const SessionRecord>& record, int64_t most = 1 << 20) {
  SessionRecordWriter writer(record);
  std::string bytes;
  for (std::string piece = writer.Next(most); !piece.empty(); piece = writer.Next(most))
    bytes += piece;
  EXPECT_EQ(static_cast<int64_t>(bytes.size()), writer.total_bytes());
  return bytes;
}

absl::StatusOr<std::shared_ptr<const SessionRecord>> Read(
    const std::string& bytes, const std::shared_ptr<const SessionFormat>& format,
    size_t piece = 1 << 20, SessionRecordReader::Rules rules = {},
    std::shared_ptr<HostMemory> memory = Memory()) {
  SessionRecordReader reader(format, std::move(memory), rules);
  for (size_t at = 0; at < bytes.size(); at += piece) {
    const absl::Status status = reader.Read(bytes.substr(at, piece));
    if (!status.ok()) return status;
  }
  if (!reader.done()) return absl::OutOfRangeError("more is wanted");
  EXPECT_EQ(reader.total_bytes(), static_cast<int64_t>(bytes.size()));
  return reader.Take();
}

TEST(SessionRecord, ComesBackHoweverItIsCut) {
  const auto format = Format();
  const auto record = Record(*format);
  const std::string bytes = BytesOf(record);
  EXPECT_EQ(BytesOf(record, 13), bytes);
  for (size_t piece : {1, 7, 64, 1 << 20}) {
    const auto read = Read(bytes, format, piece);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*(*read)->tokens, *record->tokens);
    EXPECT_EQ((*read)->state->target(), record->state->target());
    EXPECT_EQ((*read)->state->draft(), record->state->draft());
    EXPECT_EQ((*read)->state->target_read.fed, 49);
    EXPECT_EQ((*read)->state->target_read.replay, 3);
    EXPECT_TRUE((*read)->exact);
  }
}

TEST(SessionRecord, WithoutAStateIsItsText) {
  const auto format = Format();
  const auto record = Record(*format);
  record->state = nullptr;
  const auto read = Read(BytesOf(record), format);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*(*read)->tokens, *record->tokens);
  EXPECT_EQ((*read)->state, nullptr);
}

TEST(SessionRecord, EveryChangedByteAndEveryLengthIsFound) {
  const auto format = Format();
  const std::string bytes = BytesOf(Record(*format));
  for (size_t at = 0; at < bytes.size(); ++at) {
    std::string changed = bytes;
    changed[at] = static_cast<char>(changed[at] ^ 0x20);
    EXPECT_FALSE(Read(changed, format).ok()) << at;
  }
  for (size_t length = 0; length < bytes.size(); length += 3)
    EXPECT_FALSE(Read(bytes.substr(0, length), format).ok()) << length;
  EXPECT_TRUE(absl::IsInvalidArgument(Read(bytes + "x", format).status()));
}

TEST(SessionRecord, AnothersAreRefusedByName) {
  const auto format = Format();
  const auto refused = [&](const std::shared_ptr<SessionRecord>& record) {
    const auto read = Read(BytesOf(record), format);
    EXPECT_TRUE(absl::IsFailedPrecondition(read.status())) << read.status();
    return std::string(read.status().message());
  };
  auto record = Record(*format);
  record->names.model = "model two";
  EXPECT_THAT(refused(record), HasSubstr("another model: \"model two\", here \"model one\""));
  record = Record(*format);
  record->names.tokenizer = "none";
  EXPECT_THAT(refused(record), HasSubstr("another tokenizer"));
  record = Record(*format);
  record->names.numerics = "cuda-9.0/bf16";
  EXPECT_THAT(refused(record), HasSubstr("numerics"));
  SessionRecordReader::Rules rules;
  rules.other_numerics = true;
  const auto taken = Read(BytesOf(record), format, 1 << 20, rules);
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_FALSE((*taken)->exact);
  record = Record(*format);
  record->layout = "another";
  EXPECT_THAT(refused(record), HasSubstr("layout"));
  std::string later = BytesOf(Record(*format));
  later[7] = '2';
  const absl::Status status = Read(later, format).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("format"));
}

// A draft model's state only costs time where it is missing.
TEST(SessionRecord, AnotherDraftsStateIsLeftOut) {
  const auto format = Format();
  const auto record = Record(*format);
  record->names.draft = "draft two";
  const auto read = Read(BytesOf(record), format, 100);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ((*read)->state->target(), record->state->target());
  EXPECT_TRUE((*read)->state->draft().empty());
}

// With right checksums, as an enemy would write them.
TEST(SessionRecord, WhatCannotBeIsRefusedBeforeMemoryIsTaken) {
  const auto format = Format();
  const auto memory = Memory();
  const auto refused = [&](const std::shared_ptr<SessionRecord>& record) {
    const auto read = Read(BytesOf(record), format, 1 << 20, {}, memory);
    EXPECT_FALSE(read.ok());
    EXPECT_EQ(memory->used(), 0);
    return read.status();
  };
  SessionFormat larger = *format;
  larger.target.fixed = 1 << 19;  // a state of another size than follows
  EXPECT_TRUE(absl::IsInvalidArgument(refused(Record(larger))));
  EXPECT_TRUE(absl::IsFailedPrecondition(refused(Record(*format, 1001))));  // beyond the context
  auto record = Record(*format);
  record->state = nullptr;
  record->tokens = std::make_shared<const std::vector<TokenId>>(200000, 1);  // a header too long
  EXPECT_TRUE(absl::IsInvalidArgument(refused(record)));
  record = Record(*format);
  record->tokens = std::make_shared<const std::vector<TokenId>>(50, 100);  // beyond the vocabulary
  EXPECT_TRUE(absl::IsInvalidArgument(refused(record)));
  record = Record(*format);
  record->tokens = std::make_shared<const std::vector<TokenId>>(49, 1);  // all of them read
  EXPECT_TRUE(absl::IsInvalidArgument(refused(record)));
  record = Record(*format);
  record->id = "id";  // of a file
  EXPECT_TRUE(absl::IsInvalidArgument(refused(record)));
  const auto few = Memory(100);
  const auto read = Read(BytesOf(Record(*format)), format, 1 << 20, {}, few);
  EXPECT_TRUE(absl::IsResourceExhausted(read.status())) << read.status();
  EXPECT_EQ(few->used(), 0);
}

}  // namespace
}  // namespace mambad
