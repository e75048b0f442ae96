// Invariant 6: once warm, a decode step allocates nothing.

#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>

#include "absl/time/clock.h"
#include "engine/engine_core.h"
#include "gtest/gtest.h"
#include "tests/engine/engine_driver.h"

namespace {
std::atomic<int64_t> allocations{0};

void* CountedAllocation(size_t bytes, size_t alignment) {
  ++allocations;
  const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  void* memory = std::aligned_alloc(alignment, rounded == 0 ? alignment : rounded);
  if (memory == nullptr) std::abort();
  return memory;
}
}  // namespace

void* operator new(size_t bytes) { return CountedAllocation(bytes, alignof(std::max_align_t)); }
void* operator new[](size_t bytes) { return CountedAllocation(bytes, alignof(std::max_align_t)); }
void* operator new(size_t bytes, std::align_val_t alignment) {
  return CountedAllocation(bytes, static_cast<size_t>(alignment));
}
void* operator new(size_t bytes, const std::nothrow_t&) noexcept { return operator new(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

namespace mambad::testing {
namespace {

// Reads every event, keeps nothing that grows.
class CountingSink : public EventSink {
 public:
  bool OnEvent(const TokenEvent& event) override {
    tokens += static_cast<int64_t>(event.tokens.size());
    return true;
  }
  int64_t tokens = 0;
};

struct Case {
  std::string name, target, draft;
  SpeculationMode mode;
  int logprobs = -1;
  bool grows = false;  // the length is not named: pages come on the way
};

class DecodeStep : public ::testing::TestWithParam<Case> {};

TEST_P(DecodeStep, Invariant6AllocatesNothingOnceWarm) {
  EngineOptions options;
  options.max_sequences = 4;
  EngineDriver driver(GetParam().target, GetParam().draft, options);
  auto sink = std::make_shared<CountingSink>();
  for (int i = 0; i < 3; ++i) {
    Request request = driver.Plain(10 + 7 * i, 400, i);
    request.speculation.mode = GetParam().mode;
    if (GetParam().mode != SpeculationMode::kOff) request.speculation.draft_length = 3;
    request.output.logprobs = GetParam().logprobs;
    if (GetParam().grows) request.stopping.max_tokens = 0;
    ASSERT_TRUE(driver.core().Admit(i + 1, std::move(request), sink, absl::Now()).ok());
  }
  while (sink->tokens < 150) ASSERT_TRUE(driver.core().Step(absl::Now));
  const int64_t before = allocations.load();
  ASSERT_GT(before, 0);  // opening was counted
  int steps = 0;
  const int64_t pages = driver.core().stats().pages_used;
  while (sink->tokens < (GetParam().grows ? 1200 : 600)) {
    ASSERT_TRUE(driver.core().Step(absl::Now));
    ++steps;
  }
  EXPECT_EQ(allocations.load() - before, 0) << "in " << steps << " steps";
  EXPECT_GT(steps, 25);
  EXPECT_EQ(driver.core().stats().pages_used > pages, GetParam().grows);
}

INSTANTIATE_TEST_SUITE_P(
    Engine, DecodeStep,
    ::testing::Values(
        Case{"mamba_plain", "mamba", "", SpeculationMode::kOff},
        Case{"mamba2_plain", "mamba2", "", SpeculationMode::kOff},
        Case{"llama_plain", "llama_tied", "", SpeculationMode::kOff},
        Case{"biases_plain", "llama_biases", "", SpeculationMode::kOff},
        Case{"dynamic_plain", "llama_dynamic", "", SpeculationMode::kOff},
        Case{"qwen3_draft", "qwen3", "qwen3", SpeculationMode::kDraftModel},
        Case{"falcon_mamba_draft", "falcon_mamba", "falcon_mamba", SpeculationMode::kDraftModel},
        Case{"hybrid_lookup", "hybrid_mamba2", "", SpeculationMode::kPromptLookup},
        Case{"hybrid_draft", "hybrid_mamba", "hybrid_mamba", SpeculationMode::kDraftModel},
        Case{"mamba_draft", "mamba", "mamba", SpeculationMode::kDraftModel},
        Case{"mamba_logprobs", "mamba", "", SpeculationMode::kOff, 0},
        Case{"llama_alternatives", "llama_tied", "", SpeculationMode::kOff, 5},
        Case{"lookup_alternatives", "hybrid_mamba", "", SpeculationMode::kPromptLookup, 20},
        Case{"draft_alternatives", "mamba2", "mamba2", SpeculationMode::kDraftModel, 3},
        Case{"llama_grows", "llama_tied", "", SpeculationMode::kPromptLookup, -1, true}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace mambad::testing
