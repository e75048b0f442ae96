// The decoder by itself: what sequences need that outlive an answer. Tokens cut off after a step
// that had committed them, and steps that only fold, change nothing of what comes next.

#include "engine/speculation/speculative_decoder.h"

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/model/model.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/engine/checked_calls.h"
#include "tests/engine/waiting_backend.h"
#include "tests/support/formula_models.h"
#include "tests/support/model_directory.h"

namespace mambad::testing {
namespace {

constexpr int kDrafts = 4, kMaxRows = 64, kContext = 256;

// Two slots of a model that is its own draft model, so that nearly all drafts are right.
class Decoder {
 public:
  Decoder(const std::string& model, int waiting_rows)
      : backend_(Checked(std::make_unique<WaitingBackend>(kernels::CreateCpuBackend({.threads = 1}),
                                                          waiting_rows))) {
    TemporaryDirectory directory;
    MakeFormulaModel(model).directory.Write(directory.path(), StoredAs::kFloat32);
    const auto checkpoint = checkpoint::Checkpoint::Open(directory.path());
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    ModelLimits limits;
    limits.max_rows = limits.max_logit_rows = kMaxRows;
    limits.max_sequences = 2;
    limits.max_context = kContext;
    for (auto* part : {&target_, &draft_}) {
      auto loaded = Model::Load(**checkpoint, ComputeType::kFloat32, limits, *backend_, {});
      EXPECT_TRUE(loaded.ok()) << loaded.status();
      part->model = *std::move(loaded);
      StatePoolShape shape;
      shape.slots = 2;
      shape.max_context = kContext;
      shape.cache_tokens = 2 * kContext;
      shape.window_rows = kDrafts;
      shape.keeps_working = part == &draft_;
      part->state = std::make_unique<StatePool>(part->model->weights().blocks(), shape, *backend_);
      for (int slot = 0; slot < 2; ++slot) EXPECT_TRUE(part->state->Acquire(slot, kContext));
    }
    const checkpoint::ModelConfig& config = target_.model->config();
    sampler_ =
        std::make_unique<Sampler>(2, 2, config.vocabulary, config.padded_vocabulary, *backend_);
    decoder_ = std::make_unique<SpeculativeDecoder>(
        SpeculativeDecoder::Shape{2, kMaxRows, kMaxRows, kDrafts}, *backend_, *target_.model,
        *target_.state, draft_.model.get(), draft_.state.get(), *sampler_);
  }

  int vocabulary() const { return target_.model->config().vocabulary; }

  Sequence Start(int slot, const std::vector<TokenId>& prompt) {
    const SamplingParams greedy;
    sampler_->Configure(slot, SlotSampling{greedy});
    Sequence sequence;
    sequence.slot = slot;
    sequence.tokens = prompt;
    return sequence;
  }
  // Reads the backlog and appends what is kept, but for the last `cut` tokens, of which one stays.
  void Step(Sequence& sequence, DrafterKind drafter, const std::vector<TokenId>& lookup, int cut) {
    StepEntry entry;
    entry.sequence = &sequence;
    entry.feed = static_cast<int>(sequence.backlog());
    entry.drafter = drafter;
    entry.draft_length = drafter == DrafterKind::kNone ? 0 : kDrafts;
    entry.limit = kDrafts + 1;
    std::copy(lookup.begin(), lookup.end(), entry.lookup.begin());
    decoder_->Launch(absl::MakeSpan(&entry, 1), -1, -1);
    decoder_->Finish();
    ASSERT_TRUE(entry.sampled);
    kept += entry.kept;
    const int stays = std::max(1, entry.kept - cut);
    sequence.tokens.insert(sequence.tokens.end(), entry.tokens, entry.tokens + stays);
    sequence.Trim();
  }
  void Fold(Sequence& sequence) {
    StepEntry entry;
    entry.sequence = &sequence;
    entry.feed = 0;
    decoder_->Launch(absl::MakeSpan(&entry, 1), -1, -1);
    decoder_->Finish();
    EXPECT_FALSE(entry.sampled);
    EXPECT_EQ(sequence.target.replay, 0);
  }

  int kept = 0;

 private:
  struct Part {
    std::unique_ptr<Model> model;
    std::unique_ptr<StatePool> state;
  };
  std::unique_ptr<kernels::Backend> backend_;
  Part target_, draft_;
  std::unique_ptr<Sampler> sampler_;
  std::unique_ptr<SpeculativeDecoder> decoder_;
};

// How many rows may wait before they are folded.
class SpeculativeDecoderTest : public ::testing::TestWithParam<std::tuple<std::string, int>> {};

TEST_P(SpeculativeDecoderTest, CutsAndFoldsChangeNothing) {
  const auto& [model, waiting_rows] = GetParam();
  Decoder decoder(model, waiting_rows);
  const std::vector<TokenId> prompt = FormulaTokens(11, decoder.vocabulary());
  Sequence plain = decoder.Start(0, prompt);
  while (plain.size() < 90) decoder.Step(plain, DrafterKind::kNone, {}, 0);

  Sequence sequence = decoder.Start(1, prompt);
  std::mt19937 random(7);
  int trimmed = 0;
  decoder.kept = 0;
  for (int step = 0; sequence.size() < 80; ++step) {
    SCOPED_TRACE(step);
    const DrafterKind drafter = std::vector{DrafterKind::kNone, DrafterKind::kPromptLookup,
                                            DrafterKind::kDraftModel}[step == 0 ? 0 : random() % 3];
    const auto next = plain.tokens.begin() + sequence.size();
    std::vector<TokenId> lookup(next, next + kDrafts);
    if (random() % 3 == 0) lookup[random() % kDrafts] ^= 1;  // a wrong one
    const int64_t before = sequence.size();
    const int kept = decoder.kept;
    decoder.Step(sequence, drafter, lookup, static_cast<int>(random() % 4));
    trimmed += decoder.kept - kept > sequence.size() - before;
    if (random() % 3 == 0) decoder.Fold(sequence);
    ASSERT_TRUE(std::equal(sequence.tokens.begin(), sequence.tokens.end(), plain.tokens.begin()));
  }
  EXPECT_GE(trimmed, 5) << "nothing was cut, or nothing was tested";
}

INSTANTIATE_TEST_SUITE_P(, SpeculativeDecoderTest,
                         ::testing::Combine(::testing::Values("mamba", "mamba2_groups",
                                                              "llama_tied", "hybrid_mamba",
                                                              "hybrid_mamba2"),
                                            ::testing::Values(0, 12)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_" +
                                  std::to_string(std::get<1>(info.param)) + "RowsWait";
                         });

}  // namespace
}  // namespace mambad::testing
