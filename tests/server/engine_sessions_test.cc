// What engine/session.h promises, of the real engine and of the one that tests of the server use.

#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/server/engine_contract.h"

namespace mambad {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kAnn[] = "ann", kBen[] = "ben";

// What a call of another thread's will be told.
template <typename Result>
class Promise {
 public:
  std::function<void(absl::StatusOr<Result>)> Teller() {
    return [this](absl::StatusOr<Result> result) {
      std::lock_guard<std::mutex> lock(mutex_);
      result_ = std::move(result);
      told_.notify_all();
    };
  }
  absl::StatusOr<Result> Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    const bool told = told_.wait_for(lock, absl::ToChronoMilliseconds(kPatience),
                                     [this] { return result_.has_value(); });
    return told ? *result_ : absl::DeadlineExceededError("nobody has told");
  }

 private:
  std::mutex mutex_;
  std::condition_variable told_;
  std::optional<absl::StatusOr<Result>> result_;
};

class SessionContract : public EngineContractTest {
 protected:
  void SetUp() override { Open(2, 8); }

  Sessions& sessions() { return *engine_->sessions(); }
  template <typename Ask>
  absl::StatusOr<SessionInfo> Get(Ask ask) {
    Promise<SessionInfo> promise;
    ask(promise.Teller());
    return promise.Wait();
  }
  absl::StatusOr<SessionInfo> Fork(const char* principal, const std::string& id) {
    return Get([&](auto done) { sessions().Fork(principal, id, done); });
  }
  absl::StatusOr<SessionInfo> Checkpoint(const char* principal, const std::string& id) {
    return Get([&](auto done) { sessions().Checkpoint(principal, id, done); });
  }
  absl::StatusOr<SessionInfo> Rewind(const char* principal, const std::string& id, int64_t to) {
    return Get([&](auto done) { sessions().Rewind(principal, id, to, done); });
  }
  absl::StatusOr<std::string> Export(const char* principal, const std::string& id) {
    Promise<ExportedSession> promise;
    sessions().Export(principal, id, promise.Teller());
    const auto exported = promise.Wait();
    if (!exported.ok()) return exported.status();
    std::string bytes;
    for (std::string piece = exported->source->Next(100); !piece.empty();
         piece = exported->source->Next(100)) {
      bytes += piece;
    }
    EXPECT_EQ(static_cast<int64_t>(bytes.size()), exported->source->total_bytes());
    return bytes;
  }
  absl::StatusOr<SessionInfo> Import(const char* principal, const std::string& bytes) {
    std::unique_ptr<SessionTarget> target =
        sessions().NewTarget(principal, /*other_numerics=*/false);
    if (absl::Status status = target->Read(bytes); !status.ok()) return status;
    EXPECT_TRUE(target->done());
    return Get([&](auto done) { sessions().Import(principal, std::move(target), done); });
  }
  // The next turn of a session, of a new one without `id`: what was kept of it.
  std::optional<SessionFacts> Turn(std::string id, Request request, bool keeps = true,
                                   Reader::Sample* answer = nullptr, const char* principal = kAnn) {
    auto lease = id.empty() ? sessions().Begin(principal) : sessions().Take(principal, id);
    EXPECT_TRUE(lease.ok()) << lease.status();
    if (!lease.ok()) return std::nullopt;
    request.principal = principal;
    request.keep_session = keeps;
    request.GoOnWith(*std::move(lease));
    lease = absl::CancelledError();
    std::optional<SessionFacts> facts;
    const auto reader = std::make_shared<Reader>();
    reader->OnEach([&](const TokenEvent& event) {
      if (event.finish != FinishReason::kNone) facts = event.session;
    });
    Submit(std::move(request), nullptr, reader);
    EXPECT_TRUE(reader->Wait());
    if (answer != nullptr) *answer = reader->sample();
    return facts;
  }
};

TEST_P(SessionContract, TurnsAreOneText) {
  std::vector<TokenId> text;
  std::string id;
  for (int turn = 0; turn < 4; ++turn) {
    Request request = Asking(5 + turn, 1, 4 + turn);
    Request whole = request;
    whole.prompt.insert(whole.prompt.begin(), text.begin(), text.end());
    const Reader::Sample expected = Undisturbed(whole);
    Reader::Sample answer;
    const auto kept = Turn(id, std::move(request), /*keeps=*/true, &answer);
    ASSERT_TRUE(kept.has_value());
    EXPECT_EQ(answer.tokens, expected.tokens);
    EXPECT_EQ(answer.text, expected.text);
    EXPECT_EQ(answer.stats.prompt_tokens, static_cast<int64_t>(whole.prompt.size()));
    EXPECT_EQ(answer.stats.cached_tokens > 0, turn > 0);
    text = whole.prompt;
    text.insert(text.end(), answer.tokens.begin(), answer.tokens.end());
    EXPECT_EQ(kept->position, static_cast<int64_t>(text.size()));
    EXPECT_TRUE(turn == 0 || kept->id == id);
    id = kept->id;
    // Whoever is told may go on at once.
    const auto info = sessions().Get(kAnn, id);
    ASSERT_TRUE(info.ok()) << info.status();
    EXPECT_EQ(info->position, kept->position);
    EXPECT_EQ(info->digest, kept->digest);
    EXPECT_FALSE(info->in_use);
  }
  // The same text by other means has the same digest.
  const auto made = Get([&](auto done) { sessions().Create(kAnn, text, done); });
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->digest, sessions().Get(kAnn, id)->digest);
  EXPECT_EQ(sessions().List(kAnn).size(), 2u);
  const SessionTotals totals = sessions().Totals();
  int64_t all = 0;
  for (const int64_t count : totals.sessions) all += count;
  EXPECT_EQ(all, 2);
}

TEST_P(SessionContract, WhatIsNotKeptChangesNothing) {
  const std::string id = Turn("", Asking(5))->id;
  const std::string before = sessions().Get(kAnn, id)->digest;
  EXPECT_FALSE(Turn(id, Asking(7), /*keeps=*/false).has_value());
  EXPECT_EQ(sessions().Get(kAnn, id)->digest, before);
  EXPECT_FALSE(Turn("", Asking(7), /*keeps=*/false).has_value());
  EXPECT_EQ(sessions().List(kAnn).size(), 1u);
}

// One that was kept stands where its turn was cut; a new one is not there.
TEST_P(SessionContract, ACancelledTurnStandsWhereItStopped) {
  for (const bool is_new : {false, true}) {
    const std::string id = is_new ? "" : Turn("", Asking(5))->id;
    auto lease = is_new ? sessions().Begin(kAnn) : sessions().Take(kAnn, id);
    ASSERT_TRUE(lease.ok());
    const std::string name = (*lease)->id();
    Request request = Asking(0);
    request.keep_session = true;
    request.GoOnWith(*std::move(lease));
    lease = absl::CancelledError();
    const auto prompt = static_cast<int64_t>(request.prompt.size());
    const auto reader = std::make_shared<Reader>();
    std::optional<SessionFacts> facts;
    reader->OnEach([&](const TokenEvent& event) {
      if (event.finish != FinishReason::kNone) facts = event.session;
    });
    RequestId request_id = 0;
    Submit(std::move(request), &request_id, reader);
    ASSERT_TRUE(reader->WaitForEvents(3));
    EXPECT_TRUE(is_new || absl::IsAborted(sessions().Take(kAnn, name).status()));
    engine_->Cancel(request_id);
    ASSERT_TRUE(reader->Wait());
    EXPECT_EQ(reader->finish(), FinishReason::kCancelled);
    EXPECT_EQ(facts.has_value(), !is_new);
    const auto info = sessions().Get(kAnn, name);
    EXPECT_EQ(info.ok(), !is_new) << info.status();
    if (!info.ok()) continue;
    EXPECT_EQ(info->position, prompt + static_cast<int64_t>(reader->sample().tokens.size()));
    EXPECT_EQ(info->digest, facts->digest);
  }
}

TEST_P(SessionContract, ADrainKeepsNewOnesWhereTheyStand) {
  auto lease = sessions().Begin(kAnn);
  ASSERT_TRUE(lease.ok());
  Request request = Asking(0);
  request.keep_session = true;
  request.GoOnWith(*std::move(lease));
  lease = absl::CancelledError();
  const auto reader = std::make_shared<Reader>();
  std::optional<SessionFacts> facts;
  reader->OnEach([&](const TokenEvent& event) {
    if (event.finish != FinishReason::kNone) facts = event.session;
  });
  Submit(std::move(request), nullptr, reader);
  ASSERT_TRUE(reader->WaitForEvents(2));
  engine_->Drain(SteadyNow());
  ASSERT_TRUE(facts.has_value());
  EXPECT_EQ(facts->position, 4 + static_cast<int64_t>(reader->sample().tokens.size()));
  EXPECT_EQ(sessions().Get(kAnn, facts->id)->digest, facts->digest);
}

TEST_P(SessionContract, ForksAndCheckpointsComeBack) {
  const auto first = *Turn("", Asking(5));
  const auto marked = Checkpoint(kAnn, first.id);
  ASSERT_TRUE(marked.ok()) << marked.status();
  EXPECT_EQ(marked->checkpoints, std::vector<int64_t>{first.position});
  const auto fork = Fork(kAnn, first.id);
  ASSERT_TRUE(fork.ok()) << fork.status();
  EXPECT_NE(fork->id, first.id);
  EXPECT_EQ(fork->digest, first.digest);
  EXPECT_EQ(fork->checkpoints, marked->checkpoints);
  const auto second = *Turn(first.id, Asking(6));
  ASSERT_TRUE(Checkpoint(kAnn, first.id).ok());
  EXPECT_EQ(sessions().Get(kAnn, fork->id)->digest, first.digest);
  const auto wrong = Rewind(kAnn, first.id, 2);
  EXPECT_TRUE(absl::IsFailedPrecondition(wrong.status())) << wrong.status();
  EXPECT_THAT(std::string(wrong.status().message()),
              HasSubstr(absl::StrCat("[", first.position, ", ", second.position, "]")));
  const auto back = Rewind(kAnn, first.id, first.position);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->digest, first.digest);
  EXPECT_EQ(back->checkpoints, marked->checkpoints);
}

TEST_P(SessionContract, ExportsBecomeSessionsAgain) {
  const auto kept = *Turn("", Asking(5));
  const auto bytes = Export(kAnn, kept.id);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  const auto imported = Import(kBen, *bytes);
  ASSERT_TRUE(imported.ok()) << imported.status();
  EXPECT_EQ(imported->digest, kept.digest);
  EXPECT_TRUE(imported->exact);
  Reader::Sample one, other;
  Turn(kept.id, Asking(6), /*keeps=*/false, &one);
  Turn(imported->id, Asking(6), /*keeps=*/false, &other, kBen);
  EXPECT_EQ(one.tokens, other.tokens);
  std::string damaged = *bytes;
  damaged[40] ^= 1;
  EXPECT_TRUE(absl::IsInvalidArgument(Import(kAnn, damaged).status()));
}

// By name: a second principal cannot read, list, fork, time or evict another's session.
TEST_P(SessionContract, ASecondPrincipalFindsNothing) {
  const std::string id = Turn("", Asking(5))->id;
  ASSERT_TRUE(Checkpoint(kAnn, id).ok());
  const int64_t position = sessions().Get(kAnn, id)->position;
  EXPECT_THAT(sessions().List(kBen), IsEmpty());
  // As of one that nobody has, to the letter.
  const std::string nobodys(id.size(), '0');
  const auto expect_same = [](const absl::Status& its, const absl::Status& nothings) {
    EXPECT_TRUE(absl::IsNotFound(its)) << its;
    EXPECT_EQ(its, nothings);
  };
  expect_same(sessions().Get(kBen, id).status(), sessions().Get(kBen, nobodys).status());
  expect_same(sessions().Take(kBen, id).status(), sessions().Take(kBen, nobodys).status());
  expect_same(sessions().Delete(kBen, id, [] {}), sessions().Delete(kBen, nobodys, [] {}));
  expect_same(Fork(kBen, id).status(), Fork(kBen, nobodys).status());
  expect_same(Checkpoint(kBen, id).status(), Checkpoint(kBen, nobodys).status());
  expect_same(Rewind(kBen, id, position).status(), Rewind(kBen, nobodys, position).status());
  expect_same(Export(kBen, id).status(), Export(kBen, nobodys).status());
  // Not even whether it is being used.
  const auto lease = sessions().Take(kAnn, id);
  ASSERT_TRUE(lease.ok());
  expect_same(sessions().Take(kBen, id).status(), sessions().Take(kBen, nobodys).status());
  expect_same(sessions().Delete(kBen, id, [] {}), sessions().Delete(kBen, nobodys, [] {}));
  EXPECT_EQ(sessions().Get(kAnn, id)->position, position);
}

TEST_P(SessionContract, OneCallHasIt) {
  const std::string id = Turn("", Asking(5))->id;
  {
    const auto lease = sessions().Take(kAnn, id);
    ASSERT_TRUE(lease.ok());
    EXPECT_TRUE(sessions().Get(kAnn, id)->in_use);
    for (const absl::Status& status :
         {sessions().Take(kAnn, id).status(), sessions().Delete(kAnn, id, [] {}),
          Fork(kAnn, id).status(), Checkpoint(kAnn, id).status(), Rewind(kAnn, id, 1).status(),
          Export(kAnn, id).status()}) {
      EXPECT_TRUE(absl::IsAborted(status)) << status;
    }
  }
  EXPECT_TRUE(sessions().Delete(kAnn, id, [] {}).ok());
  EXPECT_TRUE(absl::IsNotFound(sessions().Get(kAnn, id).status()));
}

TEST_P(SessionContract, ThereAreAsManyAsThereMayBe) {
  EngineOptions options;
  options.sessions.max_sessions = 2;
  Open(options);
  const std::string id = Turn("", Asking(5))->id;
  ASSERT_TRUE(Fork(kAnn, id).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(sessions().Begin(kBen).status()));
  EXPECT_TRUE(absl::IsResourceExhausted(Fork(kAnn, id).status()));
  EXPECT_TRUE(sessions().Delete(kAnn, id, [] {}).ok());
  EXPECT_TRUE(sessions().Begin(kBen).ok());
}

TEST_P(SessionContract, AskWhatASessionCanAnswer) {
  const std::string id = Turn("", Asking(5))->id;
  for (const bool samples : {true, false}) {
    auto lease = sessions().Take(kAnn, id);
    ASSERT_TRUE(lease.ok()) << lease.status();
    Request request = Asking(5, samples ? 2 : 1);
    if (!samples) request.output.prompt_logprobs = 0;
    request.GoOnWith(*std::move(lease));
    lease = absl::CancelledError();
    const absl::Status status = Refused(std::move(request));
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(samples ? "output.n" : "output.prompt_logprobs"));
  }
}

INSTANTIATE_TEST_SUITE_P(Engines, SessionContract, BothEngines(), NameOfEngine);

}  // namespace
}  // namespace mambad
