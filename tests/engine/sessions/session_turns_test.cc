// Sessions that outlive calls: whatever became of their state between two turns, an answer has the
// bits of one fresh request over the whole text (invariant 3).

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/arithmetic.h"
#include "tests/engine/engine_driver.h"

namespace mambad::testing {
namespace {

constexpr char kAnn[] = "ann", kBen[] = "ben";

struct Models {
  const char *target, *draft;
};

// What becomes of a session between two turns.
enum class Between { kNothing, kParked, kForgotten, kForked, kCheckpointed };

EngineOptions SessionTestOptions() {
  EngineOptions options;
  options.max_sequences = 3;
  options.max_context = 480;
  options.kv_cache_tokens = 4 * 480;
  return options;
}

void Settle(EngineCore& core) {
  while (core.Step(absl::Now) || !core.idle()) std::this_thread::yield();
}

// Calls what is asked for on the engine thread, which is this one.
template <typename Result, typename Ask>
Result Get(EngineCore& core, Ask ask) {
  std::optional<Result> result;
  ask([&](Result got) { result = std::move(got); });
  Settle(core);
  EXPECT_TRUE(result.has_value());
  return *std::move(result);
}

absl::StatusOr<SessionInfo> Fork(EngineCore& core, const std::string& id) {
  return Get<absl::StatusOr<SessionInfo>>(
      core, [&](auto done) { core.sessions()->Fork(kAnn, id, done); });
}
absl::StatusOr<SessionInfo> Checkpoint(EngineCore& core, const std::string& id) {
  return Get<absl::StatusOr<SessionInfo>>(
      core, [&](auto done) { core.sessions()->Checkpoint(kAnn, id, done); });
}
absl::StatusOr<SessionInfo> Rewind(EngineCore& core, const std::string& id, int64_t position) {
  return Get<absl::StatusOr<SessionInfo>>(
      core, [&](auto done) { core.sessions()->Rewind(kAnn, id, position, done); });
}

// Keeps a session going, and its whole text by other means.
class Talk {
 public:
  explicit Talk(EngineDriver& driver) : driver_(driver) {}

  Request NewRequest(int prompt, int answer, uint64_t seed) const {
    Request request = driver_.Plain(prompt, answer, seed);
    request.speculation.mode = SpeculationMode::kAuto;
    request.sampling.seed = seed;
    request.output.logprobs = 1;
    return request;
  }
  // The next turn, which keeps the session.
  Answer Turn(Request request) {
    const std::vector<TokenId> prompt = request.prompt;
    auto lease = id_.empty() ? driver_.core().sessions()->Begin(kAnn)
                             : driver_.core().sessions()->Take(kAnn, id_);
    EXPECT_TRUE(lease.ok()) << lease.status();
    if (!lease.ok()) return Answer();
    request.GoOnWith(*std::move(lease));
    request.keep_session = true;
    const std::shared_ptr<CollectingSink> sink = driver_.Send(std::move(request));
    Settle(driver_.core());
    Answer& answer = sink->answers[0];
    EXPECT_EQ(answer.finishes, 1);
    text_.insert(text_.end(), prompt.begin(), prompt.end());
    text_.insert(text_.end(), answer.tokens.begin(), answer.tokens.end());
    EXPECT_TRUE(answer.session.has_value());
    if (!answer.session.has_value()) return answer;
    id_ = answer.session->id;
    EXPECT_EQ(answer.session->position, static_cast<int64_t>(text_.size()));
    EXPECT_EQ(answer.session->digest, driver_.core().sessions()->Get(kAnn, id_)->digest);
    return answer;
  }
  // The same without a session, of an engine that knows none of it.
  Answer Fresh(EngineDriver& other, Request request) const {
    request.prompt.insert(request.prompt.begin(), text_.begin(), text_.end());
    request.speculation.mode = SpeculationMode::kOff;
    return other.Run(std::move(request));
  }
  const std::string& id() const { return id_; }
  void set_id(std::string id) { id_ = std::move(id); }
  const std::vector<TokenId>& text() const { return text_; }
  SessionInfo info() const { return *driver_.core().sessions()->Get(kAnn, id_); }

 private:
  EngineDriver& driver_;
  std::string id_;
  std::vector<TokenId> text_;
};

void ExpectSame(const Answer& a, const Answer& b) {
  EXPECT_EQ(a.tokens, b.tokens);
  ASSERT_EQ(a.logprobs.size(), b.logprobs.size());
  for (size_t i = 0; i < a.logprobs.size(); ++i)
    ASSERT_EQ(a.logprobs[i].logprob, b.logprobs[i].logprob) << i;
}

// Requests that take all slots, so that sessions must leave theirs.
void TakeAllSlots(EngineDriver& driver) {
  std::vector<std::shared_ptr<CollectingSink>> sinks;
  for (int i = 0; i < driver.core().facts().options.max_sequences; ++i)
    sinks.push_back(driver.Send(driver.Plain(20, 5, 100 + i)));
  driver.RunAll();
  for (const auto& sink : sinks) EXPECT_EQ(sink->answers[0].finishes, 1);
}

class SessionTurns : public ::testing::TestWithParam<std::tuple<Models, Arithmetic>> {
 protected:
  std::unique_ptr<EngineDriver> Driver(EngineOptions options = SessionTestOptions()) const {
    const auto& [models, arithmetic] = GetParam();
    return std::make_unique<EngineDriver>(models.target, models.draft,
                                          arithmetic.AddedTo(std::move(options)));
  }
};

TEST_P(SessionTurns, Invariant3TurnsAreOneTextWhereverTheStateWas) {
  const auto driver = Driver(), other = Driver();
  for (float temperature : {0.0f, 0.8f}) {
    for (Between between : {Between::kNothing, Between::kParked, Between::kForgotten,
                            Between::kForked, Between::kCheckpointed}) {
      SCOPED_TRACE(::testing::Message() << temperature << " " << static_cast<int>(between));
      Talk talk(*driver);
      for (int turn = 0; turn < 4; ++turn) {
        Request request = talk.NewRequest(7 + 31 * turn, 9 + 7 * turn, turn);
        request.sampling.temperature = temperature;
        request.sampling.repetition_penalty = 1.1f;
        const Answer fresh = talk.Fresh(*other, request);
        const int64_t before = static_cast<int64_t>(talk.text().size());
        const Answer answer = talk.Turn(request);
        ExpectSame(fresh, answer);
        if (HasFailure()) return;
        const bool lost = between == Between::kForgotten;
        EXPECT_EQ(answer.stats->cached_tokens > 0, before > 0 && !lost);
        if (before > 0 && !lost) {
          // All but what waited to be read, which is less than a window.
          EXPECT_LT(answer.stats->cached_tokens, before);
          EXPECT_GE(answer.stats->cached_tokens, before - 1 - 16);
        }
        if (between == Between::kParked || lost) {
          TakeAllSlots(*driver);
          EXPECT_EQ(talk.info().tier, SessionTier::kHost);
        }
        if (lost) {
          // Its text into another session, which has no state.
          const auto made = Get<absl::StatusOr<SessionInfo>>(driver->core(), [&](auto done) {
            driver->core().sessions()->Create(kAnn, talk.text(), done);
          });
          ASSERT_TRUE(made.ok()) << made.status();
          EXPECT_EQ(made->digest, talk.info().digest);
          EXPECT_EQ(made->tier, SessionTier::kText);
          talk.set_id(made->id);
        }
        if (between == Between::kForked) {
          const auto fork = Fork(driver->core(), talk.id());
          ASSERT_TRUE(fork.ok()) << fork.status();
          EXPECT_NE(fork->id, talk.id());
          EXPECT_EQ(fork->digest, talk.info().digest);
          talk.set_id(fork->id);
        }
        if (between == Between::kCheckpointed) {
          const auto kept = Checkpoint(driver->core(), talk.id());
          ASSERT_TRUE(kept.ok()) << kept.status();
          EXPECT_THAT(kept->checkpoints, ::testing::Contains(kept->position));
          // A turn that is taken back.
          auto lease = driver->core().sessions()->Take(kAnn, talk.id());
          ASSERT_TRUE(lease.ok());
          Request request = talk.NewRequest(11, 12, 99);
          request.GoOnWith(*std::move(lease));
          lease = absl::CancelledError();
          request.keep_session = true;
          driver->Send(std::move(request));
          Settle(driver->core());
          EXPECT_GT(talk.info().position, kept->position);
          const auto back = Rewind(driver->core(), talk.id(), kept->position);
          ASSERT_TRUE(back.ok()) << back.status();
          EXPECT_EQ(back->digest, kept->digest);
        }
      }
    }
  }
}

// A call that goes on with a session and does not keep it leaves it as it was.
TEST_P(SessionTurns, WhatIsNotKeptChangesNothing) {
  const auto driver = Driver(), other = Driver();
  Talk talk(*driver);
  talk.Turn(talk.NewRequest(40, 20, 1));
  for (int i = 0; i < 2; ++i) {
    Request aside = talk.NewRequest(9, 10, 7);
    const Answer fresh = talk.Fresh(*other, aside);
    auto lease = driver->core().sessions()->Take(kAnn, talk.id());
    ASSERT_TRUE(lease.ok()) << lease.status();
    aside.GoOnWith(*std::move(lease));
    const auto sink = driver->Send(std::move(aside));
    lease = absl::CancelledError();
    Settle(driver->core());
    ExpectSame(fresh, sink->answers[0]);
    EXPECT_GT(sink->answers[0].stats->cached_tokens, 0);
    EXPECT_FALSE(sink->answers[0].session.has_value());
    EXPECT_EQ(talk.info().position, 60);
  }
  const Request next = talk.NewRequest(9, 10, 3);
  const Answer fresh = talk.Fresh(*other, next);
  ExpectSame(fresh, talk.Turn(next));
}

TEST_P(SessionTurns, CancelledTurnsStandWhereTheyStopped) {
  const auto driver = Driver(), other = Driver();
  Talk talk(*driver);
  talk.Turn(talk.NewRequest(30, 8, 1));
  Request request = talk.NewRequest(20, 200, 2);
  std::vector<TokenId> text = talk.text();
  text.insert(text.end(), request.prompt.begin(), request.prompt.end());
  auto lease = driver->core().sessions()->Take(kAnn, talk.id());
  ASSERT_TRUE(lease.ok());
  request.GoOnWith(*std::move(lease));
  lease = absl::CancelledError();
  request.keep_session = true;
  const auto sink = driver->Send(std::move(request));
  for (int step = 0; step < 5; ++step) driver->core().Step(absl::Now);
  driver->core().Cancel(driver->last_id());
  Settle(driver->core());
  const Answer& cut = sink->answers[0];
  EXPECT_EQ(cut.finish, FinishReason::kCancelled);
  ASSERT_TRUE(cut.session.has_value());
  text.insert(text.end(), cut.tokens.begin(), cut.tokens.end());
  EXPECT_EQ(cut.session->position, static_cast<int64_t>(text.size()));

  Request next = talk.NewRequest(5, 20, 3);
  Request whole = next;
  whole.prompt.insert(whole.prompt.begin(), text.begin(), text.end());
  const Answer fresh = other->Run(std::move(whole));
  lease = driver->core().sessions()->Take(kAnn, talk.id());
  ASSERT_TRUE(lease.ok());
  EXPECT_EQ((*lease)->tokens(), text);
  next.GoOnWith(*std::move(lease));
  lease = absl::CancelledError();
  ExpectSame(fresh, driver->Run(std::move(next)));
}

// A call that goes on from a checkpoint: what came after it is no more, once the call is kept.
TEST_P(SessionTurns, GoOnFromACheckpoint) {
  EngineOptions options = SessionTestOptions();
  options.max_sequences = 1;
  const auto driver = Driver(options), other = Driver();
  Talk talk(*driver);
  talk.Turn(talk.NewRequest(30, 8, 1));
  ASSERT_TRUE(Checkpoint(driver->core(), talk.id()).ok());
  const std::vector<TokenId> text = talk.text();
  talk.Turn(talk.NewRequest(10, 8, 2));
  ASSERT_TRUE(Checkpoint(driver->core(), talk.id()).ok());
  for (bool keeps : {false, true}) {
    Request request = talk.NewRequest(6, 9, 3);
    Request whole = request;
    whole.prompt.insert(whole.prompt.begin(), text.begin(), text.end());
    const Answer fresh = other->Run(std::move(whole));
    auto lease = driver->core().sessions()->Take(kAnn, talk.id());
    ASSERT_TRUE(lease.ok());
    EXPECT_THAT((*lease)->checkpoints(), ::testing::ElementsAre(38, 56));
    request.GoOnWith(*std::move(lease), 38);
    lease = absl::CancelledError();
    request.keep_session = keeps;
    const auto sink = driver->Send(std::move(request));
    Settle(driver->core());
    ExpectSame(fresh, sink->answers[0]);
    EXPECT_GT(sink->answers[0].stats->cached_tokens, 20);
    EXPECT_EQ(talk.info().position, keeps ? 38 + 6 + 9 : 56);
    EXPECT_EQ(talk.info().checkpoints.size(), keeps ? 1u : 2u);
  }
}

TEST_P(SessionTurns, Invariant5NothingIsHeldWhenSessionsAreGone) {
  const auto driver = Driver();
  std::vector<std::string> ids;
  for (int i = 0; i < 5; ++i) {
    Talk talk(*driver);
    talk.Turn(talk.NewRequest(20 + i, 6, i));
    ids.push_back(talk.id());
    ASSERT_TRUE(Checkpoint(driver->core(), talk.id()).ok());
  }
  EXPECT_EQ(driver->core().sessions()->List(kAnn).size(), 5u);
  EXPECT_EQ(driver->core().stats().slots_used, 0);
  for (const std::string& id : ids) {
    EXPECT_TRUE(absl::IsNotFound(driver->core().sessions()->Delete(kBen, id, [] {})));
    EXPECT_TRUE(driver->core().sessions()->Delete(kAnn, id, [] {}).ok());
    EXPECT_TRUE(absl::IsNotFound(driver->core().sessions()->Delete(kAnn, id, [] {})));
  }
  Settle(driver->core());
  EXPECT_EQ(driver->Held(), 0);
  EXPECT_THAT(driver->core().sessions()->List(kAnn), ::testing::IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(
    Formula, SessionTurns,
    ::testing::Combine(
        ::testing::Values(Models{"mamba", "mamba2"}, Models{"mamba2_groups", "mamba"},
                          Models{"hybrid_mamba", "hybrid_mamba2"},
                          Models{"hybrid_mamba2", "mamba2"}, Models{"llama_tied", "mamba"},
                          Models{"mistral_window", ""}, Models{"mamba_state_spaces", ""}),
        ::testing::ValuesIn(ExtremeArithmetics())),
    [](const auto& info) {
      return std::string(std::get<0>(info.param).target) + "_" + std::get<1>(info.param).name;
    });

// ---- what holds for any model -------------------------------------------------------------------

TEST(Sessions, AreTheirPrincipalsAndOneCalls) {
  EngineDriver driver("mamba", "", SessionTestOptions());
  SessionTable& sessions = *driver.core().sessions();
  Talk talk(driver);
  talk.Turn(talk.NewRequest(10, 5, 1));
  EXPECT_TRUE(absl::IsNotFound(sessions.Take(kBen, talk.id()).status()));
  EXPECT_TRUE(absl::IsNotFound(sessions.Get(kBen, talk.id()).status()));
  EXPECT_THAT(sessions.List(kBen), ::testing::IsEmpty());
  EXPECT_EQ(sessions.Get(kBen, talk.id()).status(), sessions.Get(kBen, "nothing").status());
  auto lease = sessions.Take(kAnn, talk.id());
  ASSERT_TRUE(lease.ok());
  EXPECT_TRUE(absl::IsAborted(sessions.Take(kAnn, talk.id()).status()));
  EXPECT_TRUE(absl::IsAborted(sessions.Delete(kAnn, talk.id(), [] {})));
  EXPECT_TRUE(sessions.Get(kAnn, talk.id())->in_use);
  lease = absl::CancelledError();
  EXPECT_TRUE(sessions.Take(kAnn, talk.id()).ok());
}

TEST(Sessions, ANewOneThatIsNotKeptIsNotThere) {
  EngineDriver driver("mamba", "", SessionTestOptions());
  SessionTable& sessions = *driver.core().sessions();
  auto lease = sessions.Begin(kAnn);
  ASSERT_TRUE(lease.ok());
  const std::string id = (*lease)->id();
  Request request = driver.Plain(10, 100);
  request.GoOnWith(*std::move(lease));
  lease = absl::CancelledError();
  request.keep_session = true;
  const auto sink = driver.Send(std::move(request));
  for (int step = 0; step < 4; ++step) driver.core().Step(absl::Now);
  driver.core().Cancel(driver.last_id());
  Settle(driver.core());
  EXPECT_FALSE(sink->answers[0].session.has_value());
  EXPECT_TRUE(absl::IsNotFound(sessions.Take(kAnn, id).status()));
  EXPECT_EQ(driver.Held(), 0);
}

TEST(Sessions, WhenTheEngineEndsANewOneIsKeptWhereItStands) {
  EngineDriver driver("mamba", "", SessionTestOptions());
  auto lease = driver.core().sessions()->Begin(kAnn);
  ASSERT_TRUE(lease.ok());
  Request request = driver.Plain(10, 100);
  request.GoOnWith(*std::move(lease));
  lease = absl::CancelledError();
  request.keep_session = true;
  const auto sink = driver.Send(std::move(request));
  for (int step = 0; step < 4; ++step) driver.core().Step(absl::Now);
  driver.core().CancelAll();
  Settle(driver.core());
  const Answer& cut = sink->answers[0];
  EXPECT_EQ(cut.finish, FinishReason::kCancelled);
  ASSERT_TRUE(cut.session.has_value());
  EXPECT_EQ(cut.session->position, 10 + static_cast<int64_t>(cut.tokens.size()));
  EXPECT_TRUE(driver.core().sessions()->Take(kAnn, cut.session->id).ok());
}

TEST(Sessions, WithoutRoomInHostMemoryTheTextIsReadAgain) {
  EngineOptions options = SessionTestOptions();
  options.sessions.host_memory_bytes = 400;  // of texts a quarter
  EngineDriver driver("mamba", "", options), other("mamba", "", SessionTestOptions());
  Talk talk(driver);
  talk.Turn(talk.NewRequest(10, 5, 1));
  EXPECT_EQ(talk.info().tier, SessionTier::kSlot);
  EXPECT_TRUE(absl::IsResourceExhausted(Checkpoint(driver.core(), talk.id()).status()));
  TakeAllSlots(driver);
  EXPECT_EQ(talk.info().tier, SessionTier::kText);
  const Request next = talk.NewRequest(6, 7, 2);
  const Answer fresh = talk.Fresh(other, next);
  const Answer answer = talk.Turn(next);
  ExpectSame(fresh, answer);
  EXPECT_EQ(answer.stats->cached_tokens, 0);
  // And no more texts than there is room for.
  EXPECT_TRUE(absl::IsResourceExhausted(driver.core().sessions()->Begin(kAnn).status()));
}

TEST(Sessions, GoWhenNobodyUsesThem) {
  EngineOptions options = SessionTestOptions();
  options.sessions.idle_timeout = absl::Seconds(60);
  EngineDriver driver("mamba", "", options);
  Talk talk(driver);
  talk.Turn(talk.NewRequest(10, 5, 1));
  const absl::Time now = absl::Now();
  driver.core().Step([&] { return now + absl::Seconds(59); });
  EXPECT_TRUE(driver.core().sessions()->Get(kAnn, talk.id()).ok());
  EXPECT_LT(driver.core().NextDeadline(), now + absl::Seconds(61));
  driver.core().Step([&] { return now + absl::Seconds(61); });
  EXPECT_TRUE(absl::IsNotFound(driver.core().sessions()->Get(kAnn, talk.id()).status()));
  EXPECT_EQ(driver.Held(), 0);
}

TEST(Sessions, RewindSaysWhereCheckpointsAre) {
  EngineDriver driver("hybrid_mamba", "", SessionTestOptions());
  Talk talk(driver);
  talk.Turn(talk.NewRequest(10, 5, 1));
  ASSERT_TRUE(Checkpoint(driver.core(), talk.id()).ok());
  talk.Turn(talk.NewRequest(4, 3, 2));
  ASSERT_TRUE(Checkpoint(driver.core(), talk.id()).ok());
  const auto wrong = Rewind(driver.core(), talk.id(), 16);
  EXPECT_TRUE(absl::IsFailedPrecondition(wrong.status()));
  EXPECT_THAT(std::string(wrong.status().message()), ::testing::HasSubstr("[15, 22]"));
  EXPECT_EQ(Rewind(driver.core(), talk.id(), 15)->checkpoints, std::vector<int64_t>{15});
}

}  // namespace
}  // namespace mambad::testing
