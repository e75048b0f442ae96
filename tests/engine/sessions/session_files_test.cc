// Sessions that outlive an engine: in a directory, whatever the end of the process was.

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <future>
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

using ::testing::HasSubstr;
namespace fs = std::filesystem;

class SessionFilesTest : public ::testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<EngineDriver> Open(const char* draft = "") {
    EngineOptions options;
    options.max_sequences = 2;
    options.max_context = 300;
    options.sessions.directory = folder_.path() + "/of/sessions";
    return std::make_unique<EngineDriver>(GetParam(), draft, options);
  }
  std::vector<std::string> Files() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_.path() + "/of/sessions"))
      if (entry.path().filename() != "lock") names.push_back(entry.path());
    return names;
  }
  // Lines of the operator's log about the directory.
  std::vector<std::string> Warnings(EngineDriver& driver) const {
    std::vector<std::string> lines;
    for (const std::string& line : driver.core().facts().warnings)
      if (line.rfind(folder_.path(), 0) == 0) lines.push_back(line);
    return lines;
  }
  static void Settle(EngineCore& core) {
    while (core.Step(absl::Now) || !core.idle()) std::this_thread::yield();
  }
  // A turn that keeps its session; of a new one without `id`.
  Answer Turn(EngineDriver& driver, const std::string& id, int prompt, uint64_t seed) {
    Request request = driver.Plain(prompt, 12, seed);
    request.sampling.temperature = 0.8f;
    request.sampling.seed = seed;
    request.speculation.mode = SpeculationMode::kAuto;
    auto lease = id.empty() ? driver.core().sessions()->Begin("ann")
                            : driver.core().sessions()->Take("ann", id);
    EXPECT_TRUE(lease.ok()) << lease.status();
    if (!lease.ok()) return Answer();
    const std::vector<TokenId> added = request.prompt;
    request.GoOnWith(*std::move(lease));
    lease = absl::CancelledError();
    request.keep_session = true;
    last_prompt_ = request.prompt;
    const auto sink = driver.Send(std::move(request));
    Settle(driver.core());
    EXPECT_EQ(sink->answers[0].finishes, 1);
    return sink->answers[0];
  }
  // What is asked of sessions, with the engine thread's part, which is this one's.
  template <typename Ask>
  absl::StatusOr<SessionInfo> Get(EngineDriver& driver, Ask ask) {
    std::optional<absl::StatusOr<SessionInfo>> result;
    ask(*driver.core().sessions(), [&](auto info) { result = std::move(info); });
    Settle(driver.core());
    EXPECT_TRUE(result.has_value());
    return *std::move(result);
  }
  absl::StatusOr<SessionInfo> Checkpoint(EngineDriver& driver, const std::string& id) {
    return Get(driver,
               [&](Sessions& sessions, auto done) { sessions.Checkpoint("ann", id, done); });
  }
  absl::StatusOr<SessionInfo> Rewind(EngineDriver& driver, const std::string& id, int64_t to) {
    return Get(driver,
               [&](Sessions& sessions, auto done) { sessions.Rewind("ann", id, to, done); });
  }
  absl::StatusOr<SessionInfo> Fork(EngineDriver& driver, const std::string& id) {
    return Get(driver, [&](Sessions& sessions, auto done) { sessions.Fork("ann", id, done); });
  }
  // Files of no more than so many bytes can be written from now on.
  void LimitFiles(rlim_t bytes) {
    std::signal(SIGXFSZ, SIG_IGN);
    rlimit limit{};
    ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = std::min(bytes, limit.rlim_max);
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  }
  Answer Fresh(EngineDriver& driver, uint64_t seed) {
    Request request = driver.Plain(1, 12, seed);
    request.sampling.temperature = 0.8f;
    request.sampling.seed = seed;
    request.prompt = last_prompt_;
    return driver.Run(std::move(request));
  }

  TemporaryDirectory folder_;
  std::vector<TokenId> last_prompt_;
};

TEST_P(SessionFilesTest, Invariant3SessionsGoOnInAnotherEngine) {
  std::string id;
  for (int turn = 0; turn < 3; ++turn) {
    const auto driver = Open("mamba2");
    const Answer answer = Turn(*driver, id, 20 + 5 * turn, turn);
    ASSERT_TRUE(answer.session.has_value()) << answer.error;
    EXPECT_EQ(answer.stats->cached_tokens > 0, turn > 0);
    EXPECT_EQ(Fresh(*driver, turn).tokens, answer.tokens);
    id = answer.session->id;
    EXPECT_EQ(Files().size(), 1u);
  }
  const auto driver = Open();  // without the draft model
  const auto info = driver->core().sessions()->Get("ann", id);
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(info->tier, SessionTier::kDisk);
  const Answer answer = Turn(*driver, id, 9, 7);
  EXPECT_GT(answer.stats->cached_tokens, 0);
  EXPECT_EQ(Fresh(*driver, 7).tokens, answer.tokens);
  EXPECT_TRUE(driver->core().sessions()->Delete("ann", id, [] {}).ok());
  Settle(driver->core());
}

// Marks are there again, each with its state, also of a fork, and go with what made them.
TEST_P(SessionFilesTest, Invariant3CheckpointsOutliveTheEngine) {
  std::string id, fork;
  std::vector<int64_t> marks;
  {
    const auto driver = Open("mamba2");
    for (int turn = 0; turn < 3; ++turn) {
      id = Turn(*driver, id, 20 + 5 * turn, turn).session->id;
      const auto marked = Checkpoint(*driver, id);
      ASSERT_TRUE(marked.ok()) << marked.status();
      EXPECT_FALSE(marked->in_use);
      marks = marked->checkpoints;
    }
    ASSERT_EQ(marks.size(), 3u);
    const auto forked = Fork(*driver, id);
    ASSERT_TRUE(forked.ok()) << forked.status();
    fork = forked->id;
    EXPECT_EQ(Files().size(), 8u);
  }
  for (const std::string& each : {id, fork}) {
    const auto driver = Open("mamba2");
    EXPECT_THAT(Warnings(*driver), ::testing::IsEmpty());
    EXPECT_EQ(driver->core().sessions()->Get("ann", each)->checkpoints, marks);
    const auto back = Rewind(*driver, each, marks[1]);
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(back->checkpoints.size(), 2u);
    const Answer answer = Turn(*driver, each, 9, 7);
    EXPECT_GE(answer.stats->cached_tokens, marks[1] - 17);
    EXPECT_EQ(Fresh(*driver, 7).tokens, answer.tokens);
  }
  EXPECT_EQ(Files().size(), 6u);
  const auto driver = Open();  // the draft's states are left out
  const auto back = Rewind(*driver, id, marks[0]);
  ASSERT_TRUE(back.ok()) << back.status();
  const Answer answer = Turn(*driver, id, 9, 8);
  EXPECT_GE(answer.stats->cached_tokens, marks[0] - 17);
  EXPECT_EQ(Fresh(*driver, 8).tokens, answer.tokens);
  EXPECT_TRUE(driver->core().sessions()->Delete("ann", fork, [] {}).ok());
  Settle(driver->core());
  while (Files().size() > 2) std::this_thread::yield();  // its files' thread removes them
}

// A request may go on from a mark whose state only its file has.
TEST_P(SessionFilesTest, Invariant3AnAnswerGoesOnFromACheckpointInAFile) {
  std::string id;
  int64_t mark = 0;
  {
    const auto driver = Open();
    id = Turn(*driver, "", 30, 1).session->id;
    mark = Checkpoint(*driver, id)->position;
    Turn(*driver, id, 10, 2);
  }
  const auto driver = Open();
  auto lease = driver->core().sessions()->Take("ann", id);
  ASSERT_TRUE(lease.ok());
  Request request = driver->Plain(6, 9, 3);
  request.GoOnWith(*std::move(lease), mark);
  lease = absl::CancelledError();
  request.keep_session = true;
  Request whole = driver->Plain(1, 9, 3);
  whole.prompt = request.prompt;
  const auto sink = driver->Send(std::move(request));
  Settle(driver->core());
  EXPECT_GE(sink->answers[0].stats->cached_tokens, mark - 17);
  EXPECT_EQ(driver->Run(std::move(whole)).tokens, sink->answers[0].tokens);
  EXPECT_EQ(driver->core().sessions()->Get("ann", id)->checkpoints, std::vector<int64_t>{mark});
}

TEST_P(SessionFilesTest, TornAndStrayCheckpointsAreRemovedWithWords) {
  std::string id;
  int64_t first = 0, second = 0;
  {
    const auto driver = Open();
    id = Turn(*driver, "", 20, 1).session->id;
    first = Checkpoint(*driver, id)->position;
    Turn(*driver, id, 10, 2);
    second = Checkpoint(*driver, id)->position;
  }
  const std::string path = folder_.path() + "/of/sessions/" + id + ".";
  const std::string torn = path + std::to_string(first) + ".checkpoint";
  const std::string good = path + std::to_string(second) + ".checkpoint";
  const std::string stray =
      folder_.path() + "/of/sessions/0123." + std::to_string(second) + ".checkpoint";
  const std::string misnamed = path + std::to_string(second + 1) + ".checkpoint";
  for (const std::string& copy : {stray, misnamed}) fs::copy_file(good, copy);
  fs::resize_file(torn, 300);
  std::ofstream(good + ".part") << "MAMBADS1 and so on";
  {
    const auto driver = Open();
    EXPECT_THAT(
        Warnings(*driver),
        ::testing::UnorderedElementsAre(
            HasSubstr(torn + ": removed"), HasSubstr(good + ".part: a session that was being"),
            HasSubstr(stray + ": a checkpoint of a session that is not there: removed"),
            HasSubstr(misnamed + ": a checkpoint of a session that is not there: removed")));
    EXPECT_EQ(driver->core().sessions()->Get("ann", id)->checkpoints, std::vector<int64_t>{second});
    EXPECT_EQ(Files().size(), 2u);
  }
  // As where the process ends after the session's file, before what it has no more is removed.
  std::string later;
  {
    const auto driver = Open();
    ASSERT_TRUE(Turn(*driver, id, 5, 4).session.has_value());
    const auto mark = Checkpoint(*driver, id);
    ASSERT_TRUE(mark.ok());
    later = path + std::to_string(mark->position) + ".checkpoint";
    fs::copy_file(later, later + ".aside");
    ASSERT_TRUE(Rewind(*driver, id, second).ok());
    EXPECT_EQ(Turn(*driver, id, 5, 9).session->position, mark->position);
  }
  EXPECT_FALSE(fs::exists(later));
  fs::rename(later + ".aside", later);
  const auto driver = Open();
  EXPECT_THAT(Warnings(*driver),
              ::testing::ElementsAre(HasSubstr(later + ": a checkpoint of a text that")));
  EXPECT_EQ(driver->core().sessions()->Get("ann", id)->checkpoints, std::vector<int64_t>{second});
}

TEST_P(SessionFilesTest, DeletedOnesAreGone) {
  {
    const auto driver = Open();
    const Answer answer = Turn(*driver, "", 20, 1);
    EXPECT_TRUE(Checkpoint(*driver, answer.session->id).ok());
    std::promise<std::vector<std::string>> left;  // when it is told to be removed
    const auto removed = [&] { left.set_value(Files()); };
    EXPECT_TRUE(driver->core().sessions()->Delete("ann", answer.session->id, removed).ok());
    Settle(driver->core());
    EXPECT_THAT(left.get_future().get(), ::testing::IsEmpty());
  }
  EXPECT_THAT(Files(), ::testing::IsEmpty());
}

TEST_P(SessionFilesTest, WhatIsTornIsRemovedWithWords) {
  std::string good, torn;
  {
    const auto driver = Open();
    good = Turn(*driver, "", 20, 1).session->id;
    torn = Turn(*driver, "", 25, 2).session->id;
  }
  const std::string path = folder_.path() + "/of/sessions/";
  fs::resize_file(path + torn + ".session", 1000);
  std::ofstream(path + good + ".session.part") << "MAMBADS1 and so on";
  std::ofstream(path + "notes.txt") << "somebody's";
  const auto driver = Open();
  EXPECT_TRUE(driver->core().sessions()->Get("ann", good).ok());
  EXPECT_TRUE(absl::IsNotFound(driver->core().sessions()->Get("ann", torn).status()));
  EXPECT_THAT(driver->core().facts().warnings,
              ::testing::IsSupersetOf({HasSubstr(good + ".session.part: a session that was being"),
                                       HasSubstr(torn + ".session: removed")}));
  EXPECT_THAT(Files(),
              ::testing::UnorderedElementsAre(path + good + ".session", path + "notes.txt"));
}

// A state that has changed on the disk is not gone on from; the text is.
TEST_P(SessionFilesTest, ADamagedStateIsReadAgain) {
  std::string id;
  {
    const auto driver = Open();
    id = Turn(*driver, "", 20, 1).session->id;
  }
  {
    std::fstream file(Files()[0], std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-100, std::ios::end);
    file.put('\x55').put('\xaa').put('\x55');
  }
  const auto driver = Open();
  const Answer answer = Turn(*driver, id, 9, 3);
  EXPECT_EQ(answer.stats->cached_tokens, 0);
  EXPECT_EQ(Fresh(*driver, 3).tokens, answer.tokens);
}

TEST_P(SessionFilesTest, AFullDiskIsAnErrorThatLosesNothing) {
  std::string id;
  int64_t position = 0;
  {
    const auto driver = Open();
    const Answer first = Turn(*driver, "", 20, 1);
    id = first.session->id;
    position = first.session->position;
    LimitFiles(500);
    const Answer second = Turn(*driver, id, 9, 2);
    const auto marked = Checkpoint(*driver, id);
    const auto fork = Fork(*driver, id);
    LimitFiles(RLIM_INFINITY);
    EXPECT_TRUE(absl::IsResourceExhausted(marked.status())) << marked.status();
    EXPECT_TRUE(absl::IsResourceExhausted(fork.status())) << fork.status();
    EXPECT_EQ(driver->core().sessions()->List("ann").size(), 1u);
    EXPECT_EQ(second.finish, FinishReason::kError);
    EXPECT_TRUE(absl::IsResourceExhausted(second.error)) << second.error;
    EXPECT_EQ(second.tokens.size(), 12u);
    // It is as the answer left it, and what is on the disk as it was.
    const auto info = driver->core().sessions()->Get("ann", id);
    EXPECT_EQ(info->position, position + 9 + 12);
    EXPECT_THAT(info->checkpoints, ::testing::IsEmpty());
  }
  EXPECT_EQ(Files().size(), 1u);
  const auto driver = Open();
  EXPECT_EQ(driver->core().sessions()->Get("ann", id)->position, position);
}

TEST_P(SessionFilesTest, OneEngineUsesADirectory) {
  const auto driver = Open();
  EngineOptions options = driver->core().facts().options;
  const auto second = EngineCore::Open(options, nullptr);
  EXPECT_TRUE(absl::IsFailedPrecondition(second.status())) << second.status();
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("sessions.directory"));
}

INSTANTIATE_TEST_SUITE_P(Formula, SessionFilesTest,
                         ::testing::Values("mamba", "mamba2_groups", "hybrid_mamba", "llama_tied"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace mambad::testing
