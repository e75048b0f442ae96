// Invariants 1 to 3 of the architecture, bit for bit, on whole models: what a sequence computes
// does not depend on drafts, kept or not, on chunks, on the company in its batch, on threads, or on
// what its slot held before. The truth is the same model decoding alone, one token a call, on one
// thread.

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/arithmetic.h"
#include "tests/engine/engine_driver.h"
#include "tests/engine/model_runner.h"
#include "tests/engine/tested_device.h"
#include "tests/engine/waiting_backend.h"
#include "tests/support/formula_models.h"
#include "tests/support/model_directory.h"

namespace mambad::testing {
namespace {

constexpr int kVocabulary = 50;  // of all formula models

bool SameBits(const LogitRow& a, const LogitRow& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), sizeof(float) * a.size()) == 0;
}

// A small generator, so that schedules are the same everywhere.
class Dice {
 public:
  explicit Dice(uint64_t seed) : state_(seed * 2 + 1) {}
  int Below(int sides) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<int>((state_ >> 33) % sides);
  }

 private:
  uint64_t state_;
};

using Case = std::tuple<std::string, Arithmetic>;
std::string CaseName(const ::testing::TestParamInfo<Case>& info) {
  return std::get<0>(info.param) + "_" + std::get<1>(info.param).name;
}

// One sequence making its way through a known text by prompt chunks, verifications of right and
// wrong drafts, and folds.
class Walker {
 public:
  Walker(int slot, uint64_t seed, std::vector<int32_t> text, const std::vector<LogitRow>* truth)
      : slot_(slot), dice_(seed), text_(std::move(text)), truth_(truth) {}

  // Until `prompt` tokens only prompt chunks of at most `largest_chunk`, afterwards verifications
  // of `drafts` drafts (0: a number by the dice).
  void Begin(int prompt, int largest_chunk, int drafts) {
    at_ = replay_ = 0;
    prompt_ = prompt, largest_chunk_ = largest_chunk, drafts_ = drafts;
  }
  bool done() const { return at_ + 1 + kernels::kMaxWindowRows >= static_cast<int>(text_.size()); }
  int slot() const { return slot_; }
  int at() const { return at_; }

  // Folds when `state` says so, and now and then.
  ModelRunner::Window Next(const StatePool& state) {
    ModelRunner::Window window;
    window.slot = slot_;
    window.position = at_;
    window.replay = replay_;
    if (at_ < prompt_) {
      kept_ = std::min(prompt_ - at_, 1 + dice_.Below(largest_chunk_));
      window.tokens.assign(text_.begin() + at_, text_.begin() + at_ + kept_);
      next_replay_ = Keep(state, kept_, 0, window);
      return window;
    }
    if (replay_ > 0 && dice_.Below(6) == 0) {  // only fold
      kept_ = next_replay_ = 0;
      return window;
    }
    const int drafts = drafts_ > 0 ? drafts_ : dice_.Below(kernels::kMaxWindowRows + 1);
    kept_ = 1 + dice_.Below(drafts + 1);
    for (int i = 0; i <= drafts; ++i) {
      const int32_t right = text_[at_ + i];
      window.tokens.push_back(i < kept_ ? right
                                        : (right + 1 + dice_.Below(kVocabulary - 1)) % kVocabulary);
    }
    next_replay_ = Keep(state, 1, drafts, window) + kept_ - 1;
    return window;
  }

  // Compares what was kept with the truth; `rows` begins with this window's first row. False after
  // a difference.
  bool Take(const LogitRow* rows) {
    for (int i = 0; i < kept_; ++i) {
      if (SameBits(rows[i], (*truth_)[at_ + i])) continue;
      ADD_FAILURE() << "slot " << slot_ << ": row " << i << " of a window at position " << at_
                    << " after a prompt of " << prompt_ << ", replaying " << replay_ << ", differs";
      return false;
    }
    at_ += kept_;
    replay_ = next_replay_;
    return true;
  }

 private:
  // Where the window's rows go; returns how many wait before those of its drafts.
  int Keep(const StatePool& state, int feed, int drafts, ModelRunner::Window& window) {
    window.fold = dice_.Below(9) == 0 || state.Folds(replay_, feed, drafts);
    window.keep_from = window.fold ? feed : 0;
    window.keep_at = window.fold ? 0 : replay_;
    return window.fold ? 0 : replay_ + feed;
  }

  int slot_;
  Dice dice_;
  std::vector<int32_t> text_;
  const std::vector<LogitRow>* truth_;
  int prompt_ = 1, largest_chunk_ = 1, drafts_ = 0;
  int at_ = 0, replay_ = 0, kept_ = 0, next_replay_ = 0;
};

class Exactness : public ::testing::TestWithParam<Case> {
 protected:
  static constexpr int kTexts = 3, kLength = 180;

  void SetUp() override {
    const auto& [model, arithmetic] = GetParam();
    const bool float32 = arithmetic.weights == ComputeType::kFloat32;
    MakeFormulaModel(model).directory.Write(folder_.path(),
                                            float32 ? StoredAs::kFloat32 : StoredAs::kBFloat16);
    const auto alone = Open(1, 1);
    if (alone == nullptr) GTEST_FAIL();
    for (int i = 0; i < kTexts; ++i) {
      texts_.push_back(FormulaTokens(kLength, kVocabulary, i));
      truth_.push_back(alone->Read(0, texts_[i], 1));
    }
  }
  std::unique_ptr<ModelRunner> Open(int slots, int threads, bool keeps_working = false,
                                    int waiting_rows = -1) {
    RunnerOptions options;
    options.slots = slots;
    options.waiting_rows = waiting_rows;
    options.backend = {threads, std::get<1>(GetParam()).backend_activations()};
    options.keeps_working = keeps_working;
    options.key_values = std::get<1>(GetParam()).backend_key_values();
    auto runner = ModelRunner::Open(folder_.path(), options);
    EXPECT_TRUE(runner.ok()) << runner.status();
    return runner.ok() ? *std::move(runner) : nullptr;
  }
  Walker MakeWalker(int slot, uint64_t seed) {
    return Walker(slot, seed, texts_[slot % kTexts], &truth_[slot % kTexts]);
  }
  // One call with the next window of every walker.
  static bool Advance(ModelRunner& runner, std::vector<Walker*>& walkers) {
    std::vector<ModelRunner::Window> windows;
    for (Walker* walker : walkers) windows.push_back(walker->Next(runner.state()));
    const std::vector<LogitRow> rows = runner.Forward(windows);
    size_t first = 0;
    for (size_t i = 0; i < walkers.size(); ++i) {
      if (!walkers[i]->Take(rows.data() + first)) return false;
      first += windows[i].tokens.size();
    }
    return true;
  }

  TemporaryDirectory folder_;
  std::vector<std::vector<int32_t>> texts_;
  std::vector<std::vector<LogitRow>> truth_;
};

// Every prompt length from 1 to 130, around every ring, page and chunk border, alone, then some
// rounds of each draft length; in every third, rows wait in replay rows.
TEST_P(Exactness, Invariant1CommitAfterVerifyEqualsDecodingOneByOne) {
  const auto folding = Open(2, 1), waiting = Open(2, 1, /*keeps_working=*/false, 14);
  for (int prompt = 1; prompt <= 130; ++prompt) {
    ModelRunner* const runner = (prompt % 3 == 0 ? waiting : folding).get();
    runner->Poison();
    Walker walker = MakeWalker(prompt % 2, prompt);
    ASSERT_TRUE(runner->Start(walker.slot()));
    walker.Begin(prompt, prompt % 3 == 0 ? 1 : prompt % 3 == 1 ? 7 : 130, 1 + prompt % 8);
    std::vector<Walker*> walkers = {&walker};
    for (int round = 0; walker.at() < prompt || round < 8; round += walker.at() >= prompt) {
      if (walker.done()) break;
      ASSERT_TRUE(Advance(*runner, walkers));
    }
    runner->Stop(walker.slot());
  }
}

// Ragged batches of 1 to 16 sequences, each at its own place in its own text with its own number of
// drafts, coming and going; on one thread and on several, where rows wait in replay rows; in slots
// that held NaN.
TEST_P(Exactness, Invariant3SequencesDoNotFeelTheirCompanyChunksOrThreads) {
  constexpr int kSlots = 16;
  for (const int threads : {1, 3}) {
    const auto runner = Open(kSlots, threads, /*keeps_working=*/false, threads > 1 ? 24 : -1);
    runner->Poison();
    Dice dice(threads);
    std::vector<Walker> all;
    for (int slot = 0; slot < kSlots; ++slot) all.push_back(MakeWalker(slot, 100 * threads + slot));
    std::vector<bool> started(kSlots, false);
    for (int step = 0; step < 60; ++step) {
      std::vector<Walker*> walkers;
      const int wanted = 1 + (step / 3) % kSlots;
      int rows_left = ModelRunner::kMaxRows;
      for (int i = 0; i < wanted; ++i) {
        Walker& walker = all[(step * 5 + i) % kSlots];
        if (started[walker.slot()] && walker.done()) {
          runner->Stop(walker.slot());
          started[walker.slot()] = false;
        }
        if (!started[walker.slot()]) {
          ASSERT_TRUE(runner->Start(walker.slot()));
          walker.Begin(1 + dice.Below(130), 1 + dice.Below(19), 0);
          started[walker.slot()] = true;
        }
        if (rows_left < 20) break;
        rows_left -= 20;
        walkers.push_back(&walker);
      }
      ASSERT_TRUE(Advance(*runner, walkers)) << "step " << step << ", " << threads << " threads";
    }
  }
}

// A draft model extends its window row by row; afterwards some of the rows were kept.
TEST_P(Exactness, Invariant1WindowsExtendedRowByRow) {
  const auto runner = Open(1, 1, /*keeps_working=*/true);
  const std::vector<int32_t>& text = texts_[0];
  Dice dice(7);
  ASSERT_TRUE(runner->Start(0));
  int at = 0, replay = 0;
  while (at + 2 + kernels::kMaxWindowRows < kLength) {
    // What was kept last time beyond the replay rows is read and committed, then drafts follow one
    // at a time.
    const int backlog = 1 + dice.Below(at == 0 ? 40 : 3);
    ModelRunner::Window first;
    first.position = at;
    first.replay = replay;
    first.keep_from = backlog;
    first.tokens.assign(text.begin() + at, text.begin() + at + backlog);
    const std::vector<LogitRow> rows = runner->Forward({first});
    for (int i = 0; i < backlog; ++i)
      ASSERT_TRUE(SameBits(rows[i], truth_[0][at + i])) << "position " << at + i;
    at += backlog;
    const int drafts = dice.Below(kernels::kMaxWindowRows + 1), right = dice.Below(drafts + 1);
    for (int j = 0; j < drafts && at + j < kLength; ++j) {
      ModelRunner::Window window;
      window.position = at + j;
      window.fold = false;
      window.keep_at = j;
      window.resume = j > 0;
      window.tokens = {j < right ? text[at + j] : (text[at + j] + 1) % kVocabulary};
      const std::vector<LogitRow> row = runner->Forward({window});
      if (j < right) {
        ASSERT_TRUE(SameBits(row[0], truth_[0][at + j]))
            << "draft " << j << " at position " << at + j;
      }
    }
    at += right;
    replay = right;
  }
}

INSTANTIATE_TEST_SUITE_P(Formula, Exactness,
                         ::testing::Combine(::testing::ValuesIn(FormulaModelNames()),
                                            ::testing::ValuesIn(EveryArithmetic())),
                         CaseName);

// ---- the engine

void ExpectSameAnswer(const Answer& answer, const Answer& plain) {
  EXPECT_EQ(answer.tokens, plain.tokens);
  ASSERT_EQ(answer.logprobs.size(), plain.logprobs.size());
  for (size_t i = 0; i < plain.logprobs.size(); ++i) {
    EXPECT_EQ(answer.logprobs[i].logprob, plain.logprobs[i].logprob) << "token " << i;
    EXPECT_EQ(answer.logprobs[i].alternatives, plain.logprobs[i].alternatives) << "token " << i;
  }
}

// One model, at one temperature, in one arithmetic.
class Answers : public ::testing::TestWithParam<std::tuple<std::string, float, Arithmetic>> {
 protected:
  static std::string Model() { return std::get<0>(GetParam()); }
  static EngineOptions WithThreads(int threads) {
    EngineOptions options;
    options.threads = threads;
    return std::get<2>(GetParam()).AddedTo(options);
  }
  static Request Make(const EngineDriver& driver, int prompt, uint64_t seed) {
    Request request = driver.Plain(prompt, 24, seed);
    request.output.logprobs = 3;
    request.sampling.temperature = std::get<1>(GetParam());
    request.sampling.seed = 77 + seed;
    if (seed % 3 == 1) request.sampling.top_p = 0.9f;
    if (seed % 4 == 2) request.sampling.frequency_penalty = 0.3f;
    if (seed % 5 == 3) request.sampling.top_k = 12;
    return request;
  }
};

// Target and draft model of one family. The good draft is the target in bf16, most of whose drafts
// are kept; the bad one has other weights. Every draft length, every prompt length around page and
// ring borders, up to 16 requests together.
TEST_P(Answers, Invariant2SpeculationChangesNothing) {
  const EngineOptions one_thread = WithThreads(1);
  EngineDriver plain(Model(), "", one_thread);
  TemporaryDirectory good_draft;
  MakeFormulaModel(Model()).directory.Write(good_draft.path(), StoredAs::kBFloat16);
  EngineOptions good_options = one_thread;
  good_options.draft_model = good_draft.path();
  good_options.max_step_rows = 40;
  EngineDriver good(Model(), "", good_options), bad(Model(), Model(), one_thread);
  const std::vector<int> prompts = {1, 2, 3, 15, 16, 17, 18, 19, 20, 31, 32, 33, 40, 63, 64, 130};
  std::vector<Answer> expected;
  for (size_t i = 0; i < prompts.size(); ++i)
    expected.push_back(plain.Run(Make(plain, prompts[i], i)));

  int64_t accepted = 0, rejected = 0;
  for (int draft_length = 0; draft_length <= 8; ++draft_length) {
    for (const SpeculationMode mode :
         {SpeculationMode::kDraftModel, SpeculationMode::kPromptLookup, SpeculationMode::kAuto}) {
      if (mode == SpeculationMode::kAuto && draft_length > 1)
        continue;  // it chooses its own lengths
      EngineDriver& driver = draft_length % 2 == 0 ? bad : good;
      SCOPED_TRACE(::testing::Message()
                   << "draft length " << draft_length << ", mode " << static_cast<int>(mode));
      std::vector<std::shared_ptr<CollectingSink>> sinks;
      for (size_t i = 0; i < prompts.size(); ++i) {
        Request request = Make(driver, prompts[i], i);
        request.speculation.mode = mode;
        if (mode != SpeculationMode::kAuto) request.speculation.draft_length = draft_length;
        sinks.push_back(driver.Send(std::move(request)));
        if (static_cast<int>(i) % 5 == draft_length % 5)
          driver.core().Step(absl::Now);  // some come later
      }
      driver.RunAll();
      for (size_t i = 0; i < prompts.size(); ++i) {
        SCOPED_TRACE(::testing::Message() << "prompt of " << prompts[i]);
        const Answer& answer = sinks[i]->answers[0];
        ASSERT_EQ(answer.finishes, 1);
        ExpectSameAnswer(answer, expected[i]);
        if (answer.stats.has_value()) {
          accepted += answer.stats->speculation.accepted;
          rejected += answer.stats->speculation.drafted - answer.stats->speculation.accepted;
        }
      }
    }
  }
  // Both kinds were seen, or nothing was tested.
  EXPECT_GT(accepted, 100);
  EXPECT_GT(rejected, 100);
}

// Slots hold the rows of the longest draft and none beyond: drafts of just that length.
TEST_P(Answers, Invariant2DraftsAsLongAsTheWindowChangeNothing) {
  EngineOptions options;
  options.threads = 1;
  options.speculation = false;
  EngineDriver plain(Model(), "", options);
  std::vector<Answer> expected;
  for (int i = 0; i < 6; ++i) expected.push_back(plain.Run(Make(plain, 1 + 7 * i, i)));
  TemporaryDirectory good_draft;
  MakeFormulaModel(Model()).directory.Write(good_draft.path(), StoredAs::kBFloat16);
  options.speculation = true;
  options.draft_model = good_draft.path();
  for (const int longest : {1, 2, 5, kMaxDraftLength}) {
    options.max_draft_length = longest;
    EngineDriver driver(Model(), "", options);
    for (const SpeculationMode mode :
         {SpeculationMode::kDraftModel, SpeculationMode::kPromptLookup}) {
      SCOPED_TRACE(::testing::Message() << longest << " drafts, mode " << static_cast<int>(mode));
      std::vector<std::shared_ptr<CollectingSink>> sinks;
      for (int i = 0; i < 6; ++i) {
        Request request = Make(driver, 1 + 7 * i, i);
        request.speculation.mode = mode;
        request.speculation.draft_length = longest;
        sinks.push_back(driver.Send(std::move(request)));
      }
      driver.RunAll();
      for (int i = 0; i < 6; ++i) ExpectSameAnswer(sinks[i]->answers[0], expected[i]);
    }
  }
}

// States that are stored now and then only, with rows that wait in between: one by one, behind
// drafts, in samples that are forked.
TEST_P(Answers, Invariant2StatesThatWaitChangeNothing) {
  if (!OnCpu()) GTEST_SKIP() << "a device of its own lets rows wait as it likes";
  EngineOptions options = WithThreads(1);
  options.max_sequences = 9;
  EngineDriver plain(Model(), "", options);
  const std::vector<int> prompts = {1, 2, 3, 17, 40};
  std::vector<std::shared_ptr<CollectingSink>> expected;
  const auto make = [&](size_t i) {
    Request request = Make(plain, prompts[i], i);
    if (i == 1 || i == 3) request.output.samples = 3;
    return request;
  };
  for (size_t i = 0; i < prompts.size(); ++i) expected.push_back(plain.Send(make(i)));
  plain.RunAll();
  for (const int waiting_rows : {1, 3, 10, 32}) {
    for (const int drafts : {0, 1, 4}) {
      SCOPED_TRACE(::testing::Message() << waiting_rows << " rows wait, " << drafts << " drafts");
      auto backend = std::make_unique<WaitingBackend>(
          kernels::CreateCpuBackend({1, std::get<2>(GetParam()).backend_activations()}),
          waiting_rows);
      const WaitingBackend& counts = *backend;
      EngineDriver driver(Model(), drafts == 1 ? Model() : "", options, std::move(backend));
      std::vector<std::shared_ptr<CollectingSink>> sinks;
      for (size_t i = 0; i < prompts.size(); ++i) {
        Request request = make(i);
        request.speculation.mode = drafts == 0   ? SpeculationMode::kOff
                                   : drafts == 1 ? SpeculationMode::kDraftModel
                                                 : SpeculationMode::kPromptLookup;
        if (drafts > 0) request.speculation.draft_length = drafts;
        sinks.push_back(driver.Send(std::move(request)));
      }
      driver.RunAll();
      for (size_t i = 0; i < prompts.size(); ++i) {
        for (const auto& [sample, answer] : expected[i]->answers)
          ExpectSameAnswer(sinks[i]->answers[sample], answer);
      }
      if (counts.waited() + counts.folded() == 0) continue;  // no recurrent layers
      EXPECT_TRUE(counts.waited() > 5 || waiting_rows <= 1 + drafts) << counts.waited();
      EXPECT_TRUE(counts.folded() > 5 || waiting_rows > 10) << counts.folded();
    }
  }
}

// The answer of one sequence, whatever the chunks, threads and company.
TEST_P(Answers, Invariant3BatchChunksAndThreadsChangeNothing) {
  const EngineOptions one_thread = WithThreads(1);
  EngineDriver alone(Model(), "", one_thread);
  const Answer expected = alone.Run(Make(alone, 77, 5));
  for (const int rows : {2, 3, 16, 64, 256}) {
    for (const int threads : {1, 3}) {
      if (threads > 1 && rows < 64) continue;  // many steps, nothing new
      SCOPED_TRACE(::testing::Message() << rows << " rows a step, " << threads << " threads");
      EngineOptions options = WithThreads(threads);
      options.max_sequences = std::min(16, rows / 2);
      options.max_step_rows = rows;
      EngineDriver driver(Model(), "", options);
      std::vector<std::shared_ptr<CollectingSink>> company;
      for (int i = 0; i < 7; ++i) company.push_back(driver.Send(Make(driver, 1 + 13 * i, 10 + i)));
      const auto sink = driver.Send(Make(driver, 77, 5));
      for (int i = 0; i < 7; ++i) company.push_back(driver.Send(Make(driver, 2 + 11 * i, 20 + i)));
      driver.RunAll();
      ExpectSameAnswer(sink->answers[0], expected);
    }
  }
}

std::string AnswersName(const ::testing::TestParamInfo<Answers::ParamType>& info) {
  const auto& [model, temperature, arithmetic] = info.param;
  return model + (temperature > 0 ? "_sampled_" : "_greedy_") + arithmetic.name;
}

INSTANTIATE_TEST_SUITE_P(Formula, Answers,
                         ::testing::Combine(::testing::Values("llama_tied", "mistral_window",
                                                              "mamba", "mamba_state_spaces",
                                                              "mamba2_groups", "hybrid_mamba",
                                                              "hybrid_mamba_late", "hybrid_mamba2",
                                                              "hybrid_mamba2_early"),
                                            ::testing::Values(0.0f, 0.8f),
                                            ::testing::ValuesIn(ExtremeArithmetics())),
                         AnswersName);

}  // namespace
}  // namespace mambad::testing
