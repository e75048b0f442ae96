// The memory that is planned beside the memory that is taken; what does not fit is refused in
// words.

#include "engine/memory_plan.h"

#include <fstream>
#include <iterator>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/engine_core.h"
#include "engine/opening/opening.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/engine/broken_backend.h"
#include "tests/engine/engine_driver.h"
#include "tests/support/formula_models.h"

namespace mambad::testing {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::EndsWith;
using ::testing::HasSubstr;

// A device that has `free` bytes left.
class SmallBackend : public BrokenBackend {
 public:
  explicit SmallBackend(int64_t free, bool dedicated = false)
      : BrokenBackend(kernels::CreateCpuBackend({.threads = 1}), Fault::kNone),
        free_(free),
        dedicated_(dedicated) {}
  kernels::DeviceMemory Memory() const override { return {free_, free_, dedicated_}; }
  std::vector<std::string> Warnings() const override { return {}; }

 private:
  const int64_t free_;
  const bool dedicated_;
};

// A device that says nothing, or too much, and gives memory only `times` times.
class StingyBackend : public SmallBackend {
 public:
  StingyBackend(int64_t free, int times) : SmallBackend(free), left_(times) {}
  kernels::Buffer Allocate(size_t bytes) override {
    Give();
    return SmallBackend::Allocate(bytes);
  }
  kernels::WeightMatrix Pack(int64_t rows, int64_t columns, kernels::ElementType type,
                             const kernels::MatrixSource& source) override {
    Give();
    return SmallBackend::Pack(rows, columns, type, source);
  }
  std::unique_ptr<kernels::Workspace> CreateWorkspace(
      const kernels::WorkspaceShape& shape) override {
    Give();
    return SmallBackend::CreateWorkspace(shape);
  }

 private:
  void Give() {
    if (left_-- == 0) throw std::bad_alloc();
  }
  int left_;
};

// Counts what is taken of a device that gives memory in large blocks.
class CountingBackend : public SmallBackend {
 public:
  explicit CountingBackend(int64_t* taken) : SmallBackend(int64_t{1} << 40, true), taken_(taken) {}
  int64_t AllocatedBytes(int64_t bytes) const override {
    constexpr int64_t kBlock = 4096;
    return (bytes + kBlock - 1) / kBlock * kBlock;
  }
  int64_t PackedBytes(int64_t rows, int64_t columns, kernels::ElementType type) const override {
    return AllocatedBytes(SmallBackend::PackedBytes(rows, columns, type));
  }
  kernels::Buffer Allocate(size_t bytes) override {
    *taken_ += AllocatedBytes(static_cast<int64_t>(bytes));
    return SmallBackend::Allocate(bytes);
  }
  kernels::WeightMatrix Pack(int64_t rows, int64_t columns, kernels::ElementType type,
                             const kernels::MatrixSource& source) override {
    *taken_ += PackedBytes(rows, columns, type);
    return SmallBackend::Pack(rows, columns, type, source);
  }
  std::unique_ptr<kernels::Workspace> CreateWorkspace(
      const kernels::WorkspaceShape& shape) override {
    *taken_ += WorkspaceBytes(shape);
    return SmallBackend::CreateWorkspace(shape);
  }

 private:
  int64_t* const taken_;
};

class MemoryPlanTest : public ::testing::TestWithParam<std::string> {
 protected:
  absl::StatusOr<std::unique_ptr<EngineCore>> Open(const std::string& name, EngineOptions options,
                                                   int64_t free = int64_t{1} << 40) {
    MakeFormulaModel(name).directory.Write(directory_.path(), StoredAs::kFloat32);
    options.model = directory_.path();
    return EngineCore::Open(options, nullptr, std::make_unique<SmallBackend>(free));
  }
  TemporaryDirectory directory_;
};

TEST_P(MemoryPlanTest, IsWhatIsTaken) {
  for (const ComputeType type : {ComputeType::kFloat32, ComputeType::kBFloat16}) {
    EngineOptions options;
    options.weight_type = type;
    options.max_sequences = 3;
    options.kv_cache_tokens = 640;
    const auto core = Open(GetParam(), options);
    ASSERT_TRUE(core.ok()) << core.status();
    const MemoryPlan& plan = (*core)->facts().memory;
    const ModelInfo& model = (*core)->facts().model;
    EXPECT_GE(plan.weights, model.weight_bytes);
    EXPECT_EQ(plan.float32_weights, type == ComputeType::kFloat32);
    EXPECT_EQ(plan.states, 3 * model.state_bytes_per_sequence);
    EXPECT_EQ(plan.keys_and_values, 640 * plan.cache_token);
    EXPECT_EQ(plan.keys_and_values > 0, model.attention_layers > 0);
    EXPECT_GT(plan.workspace, int64_t{4} * 256 * model.width);
    EXPECT_EQ(plan.free, int64_t{1} << 40);
  }
}

TEST_P(MemoryPlanTest, TablesFollowHowManyMayBePenalised) {
  EngineOptions options;
  options.max_sequences = 8;
  const auto tables = [&](int penalised, int64_t* vocabulary) {
    options.max_penalised = penalised;
    const auto core = Open(GetParam(), options);
    EXPECT_TRUE(core.ok()) << core.status();
    *vocabulary = (*core)->facts().model.vocabulary;
    return (*core)->facts().memory.tables;
  };
  int64_t vocabulary = 0;
  const int64_t one = tables(1, &vocabulary), all = tables(8, &vocabulary);
  EXPECT_GE(all - one, 7 * 8 * vocabulary);
  EXPECT_EQ(tables(0, &vocabulary), all);   // chosen
  EXPECT_EQ(tables(20, &vocabulary), all);  // no more than there are sequences
}

TEST_P(MemoryPlanTest, KeysAndValuesOfHalfTheBytesTakeHalfTheRoom) {
  EngineOptions options;
  options.kv_cache_tokens = 640;
  int64_t planned[2], taken[2];
  for (const bool half : {false, true}) {
    options.kv_type = half ? ComputeType::kBFloat16 : ComputeType::kAuto;
    const auto core = Open(GetParam(), options);
    ASSERT_TRUE(core.ok()) << core.status();
    EXPECT_THAT((*core)->facts().model.numerics, EndsWith(half ? "/kv-bf16" : "/kv-f32"));
    planned[half] = (*core)->facts().memory.keys_and_values;
    Request request;
    request.prompt = {1, 2, 3};
    auto sink = std::make_shared<CollectingSink>();
    ASSERT_TRUE((*core)->Admit(1, request, sink, absl::Now()).ok());
    (*core)->Step(absl::Now);
    taken[half] = (*core)->stats().state_bytes - (*core)->facts().model.state_bytes_per_sequence;
  }
  EXPECT_EQ(planned[0], 2 * planned[1]);
  EXPECT_EQ(taken[0], 2 * taken[1]);
}

// A slot has room for the longest draft, and for none where nothing is drafted.
TEST_P(MemoryPlanTest, StatesFollowTheLongestDraft) {
  EngineOptions options;
  std::vector<int64_t> states;
  for (int longest : {0, 1, 4, 16}) {
    options.speculation = longest > 0;
    if (longest > 0) options.max_draft_length = longest;
    const auto core = Open(GetParam(), options);
    ASSERT_TRUE(core.ok()) << core.status();
    states.push_back((*core)->facts().memory.states);
    EXPECT_EQ(states.back(), 16 * (*core)->facts().model.state_bytes_per_sequence);
  }
  if (states[0] == 0) return;  // attention alone
  for (int i = 1; i < 4; ++i) EXPECT_GT(states[i], states[i - 1]);
}

// All of it, a draft model's too: a start that is planned to fit fits. Parts that share a matrix or
// an array are planned each by itself, so that some blocks are planned and not taken.
TEST_P(MemoryPlanTest, NoMoreIsTakenThanIsPlanned) {
  MakeFormulaModel(GetParam()).directory.Write(directory_.path(), StoredAs::kFloat32);
  for (const ComputeType type : {ComputeType::kFloat32, ComputeType::kBFloat16}) {
    for (const bool drafts : {false, true}) {
      for (const int sequences : {1, 3, 40}) {
        SCOPED_TRACE(absl::StrCat(drafts, " ", sequences));
        EngineOptions options;
        options.model = directory_.path();
        if (drafts) options.draft_model = options.model;
        options.weight_type = type;
        options.max_sequences = sequences;
        int64_t taken = 0;
        const auto core =
            EngineCore::Open(options, nullptr, std::make_unique<CountingBackend>(&taken));
        ASSERT_TRUE(core.ok()) << core.status();
        const int64_t planned = (*core)->facts().memory.total();
        EXPECT_LE(taken, planned);
        EXPECT_LE(planned, taken + taken / 10 + (300 << 10));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, MemoryPlanTest, ::testing::ValuesIn(FormulaModelNames()),
                         [](const auto& info) { return info.param; });

using MemoryRefusal = MemoryPlanTest;

TEST_F(MemoryRefusal, SaysWhatForAndWhatToChange) {
  EngineOptions options;
  options.max_sequences = 4096;
  const absl::Status status = Open("mamba", options, 100 << 20).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("too little memory: "), HasSubstr("(weights "),
                    HasSubstr("105 MB are free: lower batching.max_sequences: 4096")));
}

TEST_F(MemoryRefusal, NamesTheLargestPart) {
  MemoryPlan plan;
  plan.free = 1000;
  plan.weights = 900;
  EXPECT_TRUE(CheckFits(plan, {}).ok());
  plan.keys_and_values = 5000;
  EXPECT_THAT(std::string(CheckFits(plan, {}).message()),
              HasSubstr("lower batching.kv_cache_tokens"));
  plan.weights = 7000;
  EXPECT_THAT(std::string(CheckFits(plan, {}).message()), HasSubstr("serve a smaller model"));
  plan.float32_weights = true;
  EXPECT_THAT(std::string(CheckFits(plan, {}).message()),
              HasSubstr("set compute.weight_type: bfloat16, or serve a smaller model"));
  plan.workspace = 8000;
  EXPECT_THAT(std::string(CheckFits(plan, {}).message()),
              HasSubstr("lower batching.max_step_rows"));
  plan.free = -1;  // the device does not say
  EXPECT_TRUE(CheckFits(plan, {}).ok());
}

// Wherever it happens: each allocation of opening a target and its draft fails once.
TEST_F(MemoryRefusal, ADeviceThatGivesLessThanItSaysIsNoEndOfTheProcess) {
  TemporaryDirectory draft;
  MakeFormulaModel("hybrid_mamba").directory.Write(directory_.path(), StoredAs::kFloat32);
  MakeFormulaModel("mamba2").directory.Write(draft.path(), StoredAs::kFloat32);
  EngineOptions options;
  options.model = directory_.path();
  options.draft_model = draft.path();
  options.max_sequences = 2;
  int times = 0;
  for (;; ++times) {
    SCOPED_TRACE(times);
    const int64_t free = times % 2 == 0 ? -1 : int64_t{1} << 40;
    const auto core =
        EngineCore::Open(options, nullptr, std::make_unique<StingyBackend>(free, times));
    if (core.ok()) break;
    ASSERT_EQ(core.status().code(), absl::StatusCode::kResourceExhausted) << core.status();
    ASSERT_THAT(
        std::string(core.status().message()),
        AllOf(HasSubstr("too little memory: "),
              HasSubstr(free < 0 ? "more than the device gives: lower batching."
                                 : "were free, but the device gives less: lower batching.")));
  }
  EXPECT_GT(times, 40);
}

// Where nobody said how large the cache is to be, it takes what there is.
TEST_F(MemoryRefusal, AChosenCacheFitsItself) {
  EngineOptions options;
  options.max_sequences = 64;
  auto core = Open("llama_tied", options);
  ASSERT_TRUE(core.ok()) << core.status();
  EXPECT_THAT((*core)->facts().warnings, Each(HasSubstr("no tokenizer")));
  const MemoryPlan roomy = (*core)->facts().memory;
  const int64_t wanted = (*core)->facts().options.kv_cache_tokens;

  core = Open("llama_tied", options, roomy.total() - roomy.keys_and_values / 2);
  ASSERT_TRUE(core.ok()) << core.status();
  EXPECT_LT((*core)->facts().options.kv_cache_tokens, wanted);
  EXPECT_LE((*core)->facts().memory.total(), (*core)->facts().memory.free);
  EXPECT_THAT((*core)->facts().warnings,
              Contains(HasSubstr("batching.kv_cache_tokens: free memory")));

  options.kv_cache_tokens = wanted;
  EXPECT_EQ(Open("llama_tied", options, roomy.total() - roomy.keys_and_values / 2).status().code(),
            absl::StatusCode::kResourceExhausted);
}

// A device's own memory is filled: as many sequences as are usual there, a whole context for each.
TEST_F(MemoryRefusal, ADevicesOwnMemoryIsFilledUpToItsShare) {
  MakeFormulaModel("llama_tied").directory.Write(directory_.path(), StoredAs::kFloat32);
  EngineOptions options;
  options.model = directory_.path();
  const auto open = [&](int64_t free) {
    return EngineCore::Open(options, nullptr, std::make_unique<SmallBackend>(free, true));
  };
  auto core = open(int64_t{1} << 40);
  ASSERT_TRUE(core.ok()) << core.status();
  EXPECT_EQ((*core)->facts().options.max_sequences, 64);
  EXPECT_EQ((*core)->facts().options.kv_cache_tokens, 64 * (*core)->facts().options.max_context);
  EXPECT_THAT((*core)->facts().warnings, Each(HasSubstr("no tokenizer")));

  // Less of a cache where it does not fit, down to the share of what is free.
  const MemoryPlan roomy = (*core)->facts().memory;
  const int64_t others = roomy.total() - roomy.keys_and_values;
  options.max_sequences = 64;
  const auto free = static_cast<int64_t>((others + 24'000 * roomy.cache_token) / 0.9);
  for (const double fraction : {0.9, 0.8}) {
    options.memory_fraction = fraction == 0.9 ? 0 : fraction;
    core = open(free);
    ASSERT_TRUE(core.ok()) << core.status();
    const MemoryPlan& plan = (*core)->facts().memory;
    EXPECT_LE(plan.total(), fraction * free);
    EXPECT_GT(plan.total(), fraction * free - 32 * plan.cache_token);
    EXPECT_THAT((*core)->facts().warnings,
                Contains(HasSubstr("batching.kv_cache_tokens: free memory")));
  }

  // Sequences that there is no room for are not chosen; when they are named they are refused.
  options.memory_fraction = 0;
  options.max_sequences = 0;
  core = open(roomy.total() / 2);
  ASSERT_TRUE(core.ok()) << core.status();
  EXPECT_LT((*core)->facts().options.max_sequences, 64);
  EXPECT_LE((*core)->facts().memory.total(), 0.9 * (*core)->facts().memory.free);
  options.max_sequences = 4096;
  EXPECT_EQ(open(roomy.total() / 2).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(MemoryRefusal, ADevicesOwnMemoryGivesAStepMoreRowsWhereTheyTakeLittle) {
  MakeFormulaModel("llama_tied").directory.Write(directory_.path(), StoredAs::kFloat32);
  EngineOptions options;
  options.model = directory_.path();
  int64_t workspace = 0;
  const auto rows = [&](int64_t free, bool dedicated) {
    auto core = EngineCore::Open(options, nullptr, std::make_unique<SmallBackend>(free, dedicated));
    EXPECT_TRUE(core.ok()) << core.status();
    workspace = (*core)->facts().memory.workspace;
    return (*core)->facts().options.max_step_rows;
  };
  constexpr int64_t kMuch = int64_t{1} << 40;
  EXPECT_EQ(rows(kMuch, true), 1024);
  EXPECT_EQ(rows(15 * workspace, true), 256);
  EXPECT_EQ(rows(kMuch, false), 256);
  options.max_sequences = 600;
  EXPECT_EQ(rows(kMuch, true), 1200);
  options.max_step_rows = 1500;
  EXPECT_EQ(rows(kMuch, true), 1500);
}

// A context that does not fit is cut, however many it leaves room for.
TEST_F(MemoryRefusal, ALongContextIsNoReasonToServeFew) {
  MakeFormulaModel("llama_tied").directory.Write(directory_.path(), StoredAs::kFloat32);
  const std::string path = directory_.path() + "/config.json";
  std::ifstream in(path);
  std::string config((std::istreambuf_iterator<char>(in)), {});
  const std::string context = "\"max_position_embeddings\": 512";
  ASSERT_NE(config.find(context), std::string::npos) << config;
  config.replace(config.find(context), context.size(), "\"max_position_embeddings\": 1000000");
  std::ofstream(path) << config;
  EngineOptions options;
  options.model = directory_.path();
  const auto open = [&](int64_t free) {
    return EngineCore::Open(options, nullptr, std::make_unique<SmallBackend>(free, true));
  };
  auto core = open(int64_t{1} << 40);
  ASSERT_TRUE(core.ok()) << core.status();
  const MemoryPlan roomy = (*core)->facts().memory;
  EXPECT_EQ((*core)->facts().options.kv_cache_tokens, 64'000'000);
  core = open(roomy.total() - roomy.keys_and_values + 400'000 * roomy.cache_token);
  ASSERT_TRUE(core.ok()) << core.status();
  const EngineFacts& facts = (*core)->facts();
  EXPECT_EQ(facts.options.max_sequences, 64);
  EXPECT_EQ(facts.options.max_context, facts.options.kv_cache_tokens);
  EXPECT_LE(facts.memory.total(), 0.9 * facts.memory.free);
  EXPECT_THAT(facts.warnings, Contains(HasSubstr("cuts the context from 1000000 to ")));
}

TEST_F(MemoryRefusal, RowsOfAStepBoundHowManySequencesAreChosen) {
  EngineOptions options;
  options.max_step_rows = 9;
  const auto core = Open("mamba", options);
  ASSERT_TRUE(core.ok()) << core.status();
  EXPECT_EQ((*core)->facts().options.max_sequences, 4);
  options.max_step_rows = 0;
  EXPECT_EQ((*Open("mamba", options))->facts().options.max_sequences, 16);
}

TEST_F(MemoryRefusal, RowsOfAStepFollowTheSequencesOrAreRefused) {
  EngineOptions options;
  options.max_sequences = 200;
  auto core = Open("mamba", options);
  ASSERT_TRUE(core.ok()) << core.status();
  EXPECT_EQ((*core)->facts().options.max_step_rows, 400);
  options.max_step_rows = 399;
  EXPECT_THAT(std::string(Open("mamba", options).status().message()),
              HasSubstr("batching.max_step_rows: 399 is too few for batching.max_sequences: 200 "
                        "(at least 400, or 0: chosen)"));
}

TEST_F(MemoryRefusal, ACacheThatCutsTheContextIsToldOf) {
  EngineOptions options;
  options.kv_cache_tokens = 32;
  const auto core = Open("llama_tied", options);
  ASSERT_TRUE(core.ok()) << core.status();
  EXPECT_THAT((*core)->facts().warnings,
              Contains(HasSubstr("cuts the context from 512 to 32 tokens")));
}

// Check looks at all that Open would refuse, and takes no weights.
TEST_F(MemoryRefusal, CheckRefusesWhatOpenRefuses) {
  MakeFormulaModel("mamba").directory.Write(directory_.path(), StoredAs::kFloat32);
  EngineOptions options;
  options.model = directory_.path();
  EXPECT_TRUE(CheckParts(options).ok());
  options.draft_model = directory_.path() + "/nothing";
  EXPECT_THAT(std::string(CheckParts(options).status().message()), HasSubstr("/nothing"));
  options.draft_model.clear();
  options.max_sequences = 4096;
  options.max_step_rows = 300;
  EXPECT_THAT(std::string(CheckParts(options).status().message()), HasSubstr("max_step_rows"));
}

TEST(BytesForPeople, HaveThreeDigits) {
  EXPECT_EQ(BytesForPeople(0), "0 B");
  EXPECT_EQ(BytesForPeople(999), "999 B");
  EXPECT_EQ(BytesForPeople(1000), "1.00 kB");
  EXPECT_EQ(BytesForPeople(9'534'000), "9.53 MB");
  EXPECT_EQ(BytesForPeople(52'900'000'000), "52.9 GB");
  EXPECT_EQ(BytesForPeople(999'600), "1.00 MB");
}

}  // namespace
}  // namespace mambad::testing
