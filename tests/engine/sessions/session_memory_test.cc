// Host memory for sessions' states: what gives way to what, and whose.

#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/engine_driver.h"

namespace mambad::testing {
namespace {

constexpr char kAnn[] = "ann", kBen[] = "ben";
constexpr int kText = 20;  // tokens of a session here, prompt and answer

class SessionMemoryTest : public ::testing::Test {
 protected:
  // Host memory for so many of the states here, and somewhat more.
  void Open(int states, const std::string& directory = "") {
    EngineOptions options;
    options.max_sequences = 1;
    options.max_context = 300;
    options.sessions.directory = directory;
    if (state_bytes_ == 0) {
      EngineDriver probe("mamba2", "", options);
      state_bytes_ = probe.core().facts().session_format->target.Bytes(kText - 1, 0);
    }
    options.sessions.host_memory_bytes = states * state_bytes_ + state_bytes_ / 2;
    driver_ = std::make_unique<EngineDriver>("mamba2", "", options);
  }
  Sessions& sessions() { return *driver_->core().sessions(); }
  void Settle() {
    while (driver_->core().Step(absl::Now) || !driver_->core().idle()) std::this_thread::yield();
  }
  std::string Keep(const char* principal) {
    Request request = driver_->Plain(kText - 5, 5, ++seed_);
    auto lease = sessions().Begin(principal);
    EXPECT_TRUE(lease.ok()) << lease.status();
    request.GoOnWith(*std::move(lease));
    lease = absl::CancelledError();
    request.keep_session = true;
    const auto sink = driver_->Send(std::move(request));
    Settle();
    EXPECT_TRUE(sink->answers[0].session.has_value());
    return sink->answers[0].session->id;
  }
  // Leaves the slot to another.
  void Park() { driver_->Run(driver_->Plain(3, 2, 1)); }
  SessionTier TierOf(const char* principal, const std::string& id) {
    return sessions().Get(principal, id)->tier;
  }
  std::string Export(const char* principal, const std::string& id) {
    std::string bytes;
    sessions().Export(principal, id, [&](absl::StatusOr<ExportedSession> exported) {
      ASSERT_TRUE(exported.ok()) << exported.status();
      while (true) {
        const std::string piece = exported->source->Next(1000);
        if (piece.empty()) return;
        bytes += piece;
      }
    });
    Settle();
    return bytes;
  }
  // As the wire does it, in pieces.
  absl::StatusOr<SessionInfo> Import(const char* principal, const std::string& bytes,
                                     size_t piece) {
    std::unique_ptr<SessionTarget> target =
        sessions().NewTarget(principal, /*other_numerics=*/false);
    for (size_t at = 0; at < bytes.size(); at += piece) {
      if (absl::Status status = target->Read(bytes.substr(at, piece)); !status.ok()) return status;
      if (target->wants_room() == 0) continue;
      absl::Status room = absl::UnknownError("not told");
      sessions().MakeRoom(principal, *target, [&](const absl::Status& status) { room = status; });
      Settle();
      if (!room.ok()) return room;
      EXPECT_EQ(target->wants_room(), 0);
    }
    if (absl::Status status = target->Read(""); !status.ok()) return status;
    EXPECT_TRUE(target->done());
    std::optional<absl::StatusOr<SessionInfo>> result;
    sessions().Import(principal, std::move(target), [&](auto info) { result = std::move(info); });
    Settle();
    return *std::move(result);
  }

  std::unique_ptr<EngineDriver> driver_;
  int64_t state_bytes_ = 0;
  uint64_t seed_ = 0;
};

TEST_F(SessionMemoryTest, AnImportTakesThePlaceOfItsOwnersOldest) {
  for (const size_t piece : {size_t{7}, size_t{1} << 20}) {
    Open(2);
    const std::string oldest = Keep(kAnn), newer = Keep(kAnn);
    Park();
    const std::string bytes = Export(kAnn, newer);
    ASSERT_EQ(TierOf(kAnn, oldest), SessionTier::kHost);
    const auto imported = Import(kAnn, bytes, piece);
    ASSERT_TRUE(imported.ok()) << imported.status();
    EXPECT_EQ(imported->tier, SessionTier::kHost);
    EXPECT_EQ(imported->digest, sessions().Get(kAnn, newer)->digest);
    EXPECT_EQ(TierOf(kAnn, oldest), SessionTier::kText);
    EXPECT_EQ(TierOf(kAnn, newer), SessionTier::kHost);
    EXPECT_EQ(driver_->core().stats().sessions.evictions, 1);
  }
}

// By name: a second principal cannot evict another's session.
TEST_F(SessionMemoryTest, ASecondPrincipalCannotEvictAnothersSession) {
  Open(2);
  const std::string anns = Keep(kAnn), bens = Keep(kBen);
  Park();
  const std::string bytes = Export(kBen, bens);
  for (int i = 0; i < 3; ++i) {
    const auto imported = Import(kBen, bytes, 100);
    ASSERT_TRUE(imported.ok()) << imported.status();
    Keep(kBen);
    Park();
    EXPECT_EQ(TierOf(kAnn, anns), SessionTier::kHost) << i;
  }
  // Who has the most gives way to who has nothing.
  Open(2);
  const std::string first = Keep(kBen), second = Keep(kBen), third = Keep(kAnn);
  Park();
  EXPECT_EQ(TierOf(kBen, first), SessionTier::kText);
  EXPECT_EQ(TierOf(kBen, second), SessionTier::kHost);
  EXPECT_EQ(TierOf(kAnn, third), SessionTier::kHost);
}

// Nor where it would then have as much as the other.
TEST_F(SessionMemoryTest, WhoWantsRoomGivesWayToWhoHasAsMuch) {
  Open(3);
  const std::string oldest = Keep(kAnn), newer = Keep(kAnn), bens = Keep(kBen);
  Park();
  ASSERT_TRUE(Import(kBen, Export(kBen, bens), 100).ok());
  EXPECT_EQ(TierOf(kAnn, oldest), SessionTier::kHost);
  EXPECT_EQ(TierOf(kAnn, newer), SessionTier::kHost);
  EXPECT_EQ(TierOf(kBen, bens), SessionTier::kText);
}

TEST_F(SessionMemoryTest, WhatFitsNowhereIsRefusedAndTakesNothing) {
  Open(2);
  const std::string bytes = Export(kAnn, Keep(kAnn));
  state_bytes_ /= 4;
  Open(1);
  const auto imported = Import(kAnn, bytes, 100);
  EXPECT_TRUE(absl::IsResourceExhausted(imported.status())) << imported.status();
  EXPECT_THAT(std::string(imported.status().message()),
              ::testing::HasSubstr("sessions.host_memory_bytes"));
  EXPECT_EQ(sessions().Totals().host_bytes, 0);
}

// Room that was made for a record that never came whole is given back.
TEST_F(SessionMemoryTest, AnImportThatBreaksOffHoldsNothing) {
  Open(1);
  const std::string bytes = Export(kAnn, Keep(kAnn));
  Park();
  const int64_t before = sessions().Totals().host_bytes;
  ASSERT_GT(before, 0);
  {
    std::unique_ptr<SessionTarget> target = sessions().NewTarget(kAnn, /*other_numerics=*/false);
    ASSERT_TRUE(target->Read(bytes.substr(0, bytes.size() / 2)).ok());
    ASSERT_EQ(target->wants_room(), before);
    sessions().MakeRoom(kAnn, *target,
                        [](const absl::Status& status) { EXPECT_TRUE(status.ok()) << status; });
    Settle();
    EXPECT_EQ(sessions().Totals().host_bytes, before);  // of the record now
  }
  EXPECT_EQ(sessions().Totals().host_bytes, 0);
}

// A newcomer's first state is had by whoever has more.
TEST_F(SessionMemoryTest, AnImportTakesTheOldestOfWhoHasMore) {
  Open(2);
  const std::string bytes = Export(kBen, Keep(kBen));
  Open(2);
  const std::string oldest = Keep(kAnn), newer = Keep(kAnn);
  Park();
  const auto imported = Import(kBen, bytes, 100);
  ASSERT_TRUE(imported.ok()) << imported.status();
  EXPECT_EQ(TierOf(kAnn, oldest), SessionTier::kText);
  EXPECT_EQ(TierOf(kAnn, newer), SessionTier::kHost);
}

// Records that are begun and not ended cannot push out what others have, either.
TEST_F(SessionMemoryTest, UnfinishedImportsOfOneTakeNoMoreThanAQuarter) {
  Open(2);
  const std::string anns = Keep(kAnn), bens = Keep(kBen);
  Park();
  const std::string bytes = Export(kBen, bens);
  std::vector<std::unique_ptr<SessionTarget>> begun;
  for (int i = 0; i < 3; ++i) {
    begun.push_back(sessions().NewTarget(kBen, /*other_numerics=*/false));
    const absl::Status status = begun.back()->Read(bytes.substr(0, bytes.size() - 9));
    EXPECT_EQ(status.ok(), i == 0) << status;
    if (begun.back()->wants_room() == 0) continue;
    sessions().MakeRoom(kBen, *begun.back(),
                        [](const absl::Status& status) { EXPECT_TRUE(status.ok()) << status; });
    Settle();
  }
  EXPECT_EQ(TierOf(kBen, bens), SessionTier::kText);
  EXPECT_EQ(TierOf(kAnn, anns), SessionTier::kHost);
  // They count as Ben's: what he wants more is not taken from her.
  Keep(kBen);
  Park();
  EXPECT_EQ(TierOf(kAnn, anns), SessionTier::kHost);
  begun.clear();
  EXPECT_TRUE(Import(kBen, bytes, 100).ok());
  EXPECT_EQ(TierOf(kAnn, anns), SessionTier::kHost);
}

// What is in a file gives way first, and comes back from there, also where memory is full.
TEST_F(SessionMemoryTest, StatesInFilesGiveWayAndComeBack) {
  const TemporaryDirectory folder;
  Open(1, folder.path() + "/sessions");
  const std::string first = Keep(kAnn), second = Keep(kBen);
  Park();
  EXPECT_EQ(TierOf(kAnn, first), SessionTier::kDisk);
  EXPECT_EQ(TierOf(kBen, second), SessionTier::kHost);
  for (const auto& [principal, id] : {std::pair(kAnn, first), std::pair(kBen, second)}) {
    Request request = driver_->Plain(4, 5, 9);
    auto lease = sessions().Take(principal, id);
    ASSERT_TRUE(lease.ok());
    request.GoOnWith(*std::move(lease));
    lease = absl::CancelledError();
    const auto sink = driver_->Send(std::move(request));
    Settle();
    EXPECT_GT(sink->answers[0].stats->cached_tokens, 0) << principal;
  }
  EXPECT_EQ(driver_->core().stats().sessions.evictions, 0);
  EXPECT_EQ(driver_->core().stats().sessions.restores, 2);
  EXPECT_GE(driver_->core().stats().sessions.parks, 2);
  const SessionTotals totals = sessions().Totals();
  EXPECT_EQ(totals.sessions[static_cast<size_t>(SessionTier::kHost)], 1);
  EXPECT_EQ(totals.sessions[static_cast<size_t>(SessionTier::kDisk)], 1);
  EXPECT_GE(totals.file_bytes, 2 * state_bytes_);
}

}  // namespace
}  // namespace mambad::testing
