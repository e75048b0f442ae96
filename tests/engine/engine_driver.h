// Drives an EngineCore without threads: requests in, collected answers out.

#ifndef MAMBAD_TESTS_ENGINE_ENGINE_DRIVER_H_
#define MAMBAD_TESTS_ENGINE_ENGINE_DRIVER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "engine/engine_core.h"
#include "gtest/gtest.h"
#include "tests/engine/checked_calls.h"
#include "tests/engine/deferred_backend.h"
#include "tests/support/formula_models.h"
#include "tests/support/model_directory.h"

namespace mambad::testing {

// One sample's answer, put together from its events.
struct Answer {
  std::vector<TokenId> tokens;
  std::string text;
  std::vector<TokenLogprob> logprobs, prompt_logprobs;
  FinishReason finish = FinishReason::kNone;
  int finishes = 0;  // must end as 1
  std::string matched_stop;
  std::optional<TokenId> matched_stop_id;
  std::optional<RequestStats> stats;
  std::optional<SessionFacts> session;
  absl::Status error;
};

class CollectingSink : public EventSink {
 public:
  bool OnEvent(const TokenEvent& event) override {
    Answer& answer = answers[event.index];
    answer.tokens.insert(answer.tokens.end(), event.tokens.begin(), event.tokens.end());
    answer.text += event.text;
    answer.logprobs.insert(answer.logprobs.end(), event.logprobs.begin(), event.logprobs.end());
    answer.prompt_logprobs.insert(answer.prompt_logprobs.end(), event.prompt_logprobs.begin(),
                                  event.prompt_logprobs.end());
    if (event.finish != FinishReason::kNone) {
      answer.finish = event.finish;
      ++answer.finishes;
      answer.matched_stop = event.matched_stop;
      answer.matched_stop_id = event.matched_stop_id;
      answer.stats = event.stats;
      answer.session = event.session;
      answer.error = event.error;
    }
    return !pause_after_each;
  }
  std::map<int, Answer> answers;  // by sample
  bool pause_after_each = false;
};

class EngineDriver {
 public:
  // A formula model as target and, when `draft` is named, another as draft.
  // `backend`: null for the one that options name.
  explicit EngineDriver(const std::string& target, const std::string& draft = "",
                        EngineOptions options = {},
                        std::unique_ptr<kernels::Backend> backend = nullptr) {
    MakeFormulaModel(target).directory.Write(target_directory_.path(), StoredAs::kFloat32);
    options.model = target_directory_.path();
    if (!draft.empty()) {
      MakeFormulaModel(draft, /*seed=*/1)
          .directory.Write(draft_directory_.path(), StoredAs::kFloat32);
      options.draft_model = draft_directory_.path();
    }
    Open(std::move(options), std::move(backend));
  }
  // Any model directory as target.
  explicit EngineDriver(const ModelDirectory& target, EngineOptions options = {}) {
    target.Write(target_directory_.path(), StoredAs::kFloat32);
    options.model = target_directory_.path();
    Open(std::move(options));
  }

  EngineCore& core() { return *core_; }
  int vocabulary() const { return core_->facts().model.vocabulary; }

  // Queues a request; EXPECTs that it is valid.
  std::shared_ptr<CollectingSink> Send(Request request) {
    const absl::Status valid = core_->Validate(request);
    EXPECT_TRUE(valid.ok()) << valid;
    auto sink = std::make_shared<CollectingSink>();
    const absl::Status admitted = core_->Admit(++last_id_, std::move(request), sink, absl::Now());
    EXPECT_TRUE(admitted.ok()) << admitted;
    return sink;
  }
  RequestId last_id() const { return last_id_; }

  void RunAll() {
    while (core_->Step(absl::Now)) {
    }
  }

  Answer Run(Request request) {
    const std::shared_ptr<CollectingSink> sink = Send(std::move(request));
    RunAll();
    EXPECT_EQ(sink->answers[0].finishes, 1);
    return sink->answers[0];
  }

  // A greedy request that nothing ends but its length.
  Request Plain(int prompt_tokens, int max_tokens, uint64_t seed = 0) const {
    Request request;
    request.prompt = FormulaTokens(prompt_tokens, vocabulary(), seed);
    request.stopping.max_tokens = max_tokens;
    request.stopping.ignore_eos = true;
    request.speculation.mode = SpeculationMode::kOff;
    return request;
  }

  // Slots, pages and queue places in use; 0 when all came back.
  int64_t Held() const {
    const EngineStats& stats = core_->stats();
    return stats.slots_used + stats.pages_used + stats.running + stats.waiting +
           stats.waiting_tokens + stats.state_bytes;
  }

 private:
  void Open(EngineOptions options, std::unique_ptr<kernels::Backend> backend = nullptr) {
    if (options.threads == 0) options.threads = 2;
    if (backend == nullptr) backend = DeferredIfAsked(options);
    absl::StatusOr<std::unique_ptr<EngineCore>> opened =
        EngineCore::Open(Checked(options), nullptr, std::move(backend));
    if (!opened.ok()) ADD_FAILURE() << opened.status();
    core_ = *std::move(opened);
  }

  TemporaryDirectory target_directory_, draft_directory_;
  std::unique_ptr<EngineCore> core_;
  RequestId last_id_ = 0;
};

}  // namespace mambad::testing

#endif  // MAMBAD_TESTS_ENGINE_ENGINE_DRIVER_H_
