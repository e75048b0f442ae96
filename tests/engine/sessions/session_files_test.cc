// Sessions that outlive an engine: in a directory, whatever the end of the process was.

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <memory>
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
  EXPECT_TRUE(driver->core().sessions()->Delete("ann", id).ok());
  Settle(driver->core());
}

TEST_P(SessionFilesTest, DeletedOnesAreGone) {
  {
    const auto driver = Open();
    const Answer answer = Turn(*driver, "", 20, 1);
    EXPECT_TRUE(driver->core().sessions()->Delete("ann", answer.session->id).ok());
    Settle(driver->core());
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
    std::signal(SIGXFSZ, SIG_IGN);
    rlimit before{}, small{};
    ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 500;
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    const Answer second = Turn(*driver, id, 9, 2);
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
    EXPECT_EQ(second.finish, FinishReason::kError);
    EXPECT_TRUE(absl::IsResourceExhausted(second.error)) << second.error;
    EXPECT_EQ(second.tokens.size(), 12u);
    // It is as the answer left it, and what is on the disk as it was.
    EXPECT_EQ(driver->core().sessions()->Get("ann", id)->position, position + 9 + 12);
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
