// What is the CPU backend's own: that its operations allocate nothing, what it says of itself, the
// sizes of its slots, and its words for wrong shapes. tests/kernels/backend holds it to the rest.

#include "kernels/cpu/cpu_backend.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/instruction_set.h"
#include "tests/kernels/backend/device_array.h"
#include "tests/kernels/backend/reference.h"
#include "tests/kernels/backend/step_rows.h"

namespace {
std::atomic<int64_t> allocations{0};
}  // namespace

// Not inlined, or the compiler warns of free() on memory of new.
__attribute__((noinline)) void* operator new(size_t bytes) {
  ++allocations;
  if (void* data = std::malloc(bytes)) return data;
  std::abort();
}
void* operator new(size_t bytes, const std::nothrow_t&) noexcept { return operator new(bytes); }
__attribute__((noinline)) void operator delete(void* data) noexcept { std::free(data); }
__attribute__((noinline)) void operator delete(void* data, size_t) noexcept { std::free(data); }

namespace mambad::kernels {
namespace {

constexpr int kWidth = 40, kVocabulary = 50, kInner = 48, kState = 16, kRank = 3, kTaps = 4,
              kMlp = 72;

// A standard Mamba-1 layer with its state, in numbers that are of no matter.
struct TestMamba {
  TestMamba(Backend& backend, const NormWeights& norm)
      : in(Pack(backend, 2 * kInner, kWidth)),
        select(Pack(backend, kRank + 2 * kState, kInner)),
        dt(Pack(backend, kInner, kRank)),
        out(Pack(backend, kWidth, kInner)),
        numbers(backend, Row(kInner * kState, -0.1f)) {
    layer.inner_width = kInner;
    layer.state_size = kState;
    layer.dt_rank = kRank;
    layer.convolution_width = kTaps;
    layer.norm = norm;
    layer.in = &in->packed;
    layer.select = &select->packed;
    layer.dt = &dt->packed;
    layer.out = &out->packed;
    layer.convolution = layer.convolution_bias = layer.dt_bias = layer.a = layer.skip =
        numbers.data();
    state.layout = backend.SlotLayout(layer, kMaxWindowRows, false);
    state.slot_stride = state.layout.floats;
    memory = backend.Allocate(2 * state.slot_stride * sizeof(float));
    state.data = memory.as<float>();
  }

  static std::unique_ptr<TestMatrix> Pack(Backend& backend, int64_t rows, int64_t columns) {
    std::mt19937 random(5);
    return std::make_unique<TestMatrix>(backend, rows, columns, ElementType::kFloat32,
                                        RandomWeights(random, rows, columns));
  }

  std::unique_ptr<TestMatrix> in, select, dt, out;
  DeviceArray<float> numbers;
  MambaLayer layer;
  Buffer memory;
  RecurrentState state;
};

class CpuBackendTest : public testing::TestWithParam<InstructionSet> {
 protected:
  static constexpr int kRows = 11;

  void SetUp() override {
    LimitInstructionSet(GetParam());
    backend_ = CreateCpuBackend({.threads = 2});
    embedding_ = TestMamba::Pack(*backend_, kVocabulary, kWidth);
    norm_weight_ = std::make_unique<DeviceArray<float>>(*backend_, Row(kWidth, 1));
    norm_ = {norm_weight_->data(), 1e-5f};
    WorkspaceShape shape = SmallWorkspace(kRows, kWidth, kVocabulary);
    shape.max_projection = 2 * kMlp;
    shape.max_inner = 2 * kInner;
    workspace_ = backend_->CreateWorkspace(shape);
    for (int r = 0; r < kRows; ++r) tokens_.push_back((r * 17 + 3) % kVocabulary);
    arrays_ = std::make_unique<BatchArrays>(*backend_);
  }
  void TearDown() override { LimitInstructionSet(kHighestInstructionSet); }

  // Two sequences; the last four rows of the second may turn out wrong.
  Batch WriteBatch() {
    StepRows rows;
    rows.Add(1, 0, {tokens_.begin(), tokens_.begin() + 7});
    rows.Add(0, 0, {tokens_.begin() + 7, tokens_.end()}, 0, true, 0, 0);
    rows.logit_rows = {10, 0, 6};
    return arrays_->Write(rows);
  }

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<TestMatrix> embedding_;
  std::unique_ptr<DeviceArray<float>> norm_weight_;
  NormWeights norm_;
  std::unique_ptr<Workspace> workspace_;
  std::vector<int32_t> tokens_;
  std::unique_ptr<BatchArrays> arrays_;
};

TEST_P(CpuBackendTest, OperationsAllocateNothing) {
  const auto in = TestMamba::Pack(*backend_, 2 * kMlp, kWidth),
             out = TestMamba::Pack(*backend_, kWidth, kMlp),
             head = TestMamba::Pack(*backend_, 3, kWidth);
  const TestMamba mamba(*backend_, norm_);
  const MlpLayer mlp = {kMlp, norm_, &in->packed, &out->packed};
  const DeviceArray<int32_t> tokens(*backend_, {3, 4, 17});
  const Batch batch = WriteBatch();
  for (int step = 0; step < 2; ++step) {
    const int64_t before = allocations;
    RunRound(*backend_, [&] {
      backend_->Embed(batch, embedding_->packed, *workspace_);
      backend_->Mamba(batch, mamba.layer, mamba.state, *workspace_);
      backend_->Mlp(batch, mlp, *workspace_);
      backend_->Head(batch, norm_, embedding_->packed, *workspace_);
      backend_->HeadOfTokens(batch, norm_, head->packed, tokens.data(), *workspace_);
    });
    if (step > 0) {
      EXPECT_EQ(allocations - before, 0);
    }
  }
}

TEST_P(CpuBackendTest, SaysWhatItRunsOn) {
  EXPECT_EQ(backend_->Description(), std::string("CPU, ") + Name(GetParam()) + ", 2 threads");
}

// Not the number of threads: it changes no bit.
TEST_P(CpuBackendTest, TellsByWhichRulesItComputes) {
  const std::string set = std::string("cpu-") + NumericsName(GetParam());
  constexpr ElementType kKeyValues = ElementType::kFloat32;
  EXPECT_EQ(backend_->Numerics(ElementType::kFloat32, kKeyValues),
            set + "/weights-f32/activations-f32/kv-f32");
  EXPECT_EQ(backend_->Numerics(ElementType::kFloat32, ElementType::kBFloat16),
            set + "/weights-f32/activations-f32/kv-bf16");
  EXPECT_EQ(backend_->Numerics(ElementType::kBFloat16, kKeyValues),
            set + "/weights-bf16/activations-f32/kv-f32");
  const auto rounding = CreateCpuBackend({.threads = 1, .activations = ElementType::kBFloat16});
  const bool rounds = GetParam() >= InstructionSet::kAvx512Bfloat16;
  EXPECT_EQ(rounding->Numerics(ElementType::kBFloat16, kKeyValues),
            (GetParam() == InstructionSet::kAmxBfloat16 ? "cpu-amx" : set) +
                "/weights-bf16/activations-" + (rounds ? "bf16" : "f32") + "/kv-f32");
  EXPECT_EQ(rounding->Activations(ElementType::kBFloat16),
            rounds ? ElementType::kBFloat16 : ElementType::kFloat32);
  EXPECT_EQ(rounding->Activations(ElementType::kFloat32), ElementType::kFloat32);
  EXPECT_EQ(rounding->Numerics(ElementType::kFloat32, kKeyValues),
            backend_->Numerics(ElementType::kFloat32, kKeyValues));
}

std::string SetName(const testing::TestParamInfo<InstructionSet>& info) {
  std::string name = Name(info.param);
  std::erase_if(name, [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); });
  return name;
}

INSTANTIATE_TEST_SUITE_P(EveryInstructionSet, CpuBackendTest,
                         testing::ValuesIn(AvailableInstructionSets()), SetName);

// Parts begin at cache lines, and nothing else is in between. Of Mamba-2 four rows wait before a
// state is stored, but not where a window is extended row by row.
TEST(CpuSlotTest, TakesWhatItsPartsTake) {
  const auto backend = CreateCpuBackend({.threads = 1});
  MambaLayer mamba;
  mamba.inner_width = 20;
  mamba.state_size = 5;
  Mamba2Layer mamba2;
  mamba2.inner_width = 44;
  mamba2.state_size = 7;
  mamba2.heads = 4;
  mamba2.groups = 2;
  for (const int rows : {1, 4, 8, kMaxWindowRows}) {
    for (const bool as_draft : {false, true}) {
      const int64_t ring = 3 + rows, states = as_draft ? 2 : 1;
      const RecurrentSlotLayout one = backend->SlotLayout(mamba, rows, as_draft);
      EXPECT_EQ(one.waiting_rows, 0);
      EXPECT_EQ(one.replay_row, 48);  // 2 x 20 + 5
      EXPECT_EQ(one.floats, states * 32 * 5 + (ring * 20 + 15) / 16 * 16 + one.replay_rows * 48);
      const RecurrentSlotLayout two = backend->SlotLayout(mamba2, rows, as_draft);
      EXPECT_EQ(two.waiting_rows, 0);
      EXPECT_EQ(two.replay_row, 64);  // 44 + 2 x 7 + 4
      EXPECT_EQ(two.floats, states * 320 + (ring * 72 + 15) / 16 * 16 + two.replay_rows * 64);
    }
  }
}

using CpuBackendDeathTest = CpuBackendTest;

TEST_P(CpuBackendDeathTest, WrongShapesEndTheProcessWithTheOperationsName) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto in = TestMamba::Pack(*backend_, 2 * kMlp, kWidth),
             out = TestMamba::Pack(*backend_, kWidth, kMlp),
             head = TestMamba::Pack(*backend_, 3, kWidth);
  Batch batch = WriteBatch();
  backend_->Embed(batch, embedding_->packed, *workspace_);
  EXPECT_DEATH(backend_->Mlp(batch, {kMlp - 1, norm_, &in->packed, &out->packed}, *workspace_),
               "Mlp in: 144 142 40 40");
  EXPECT_DEATH(backend_->Mlp(batch, {kMlp, norm_, nullptr, &out->packed}, *workspace_), "Mlp in");
  EXPECT_DEATH(backend_->Head(batch, norm_, in->packed, *workspace_), "Head: 144 50");
  const DeviceArray<int32_t> tokens(*backend_, {3, 4, 17}), repeated(*backend_, {3, 3, 17}),
      high(*backend_, {3, 4, kVocabulary});
  EXPECT_DEATH(backend_->HeadOfTokens(batch, norm_, in->packed, tokens.data(), *workspace_),
               "HeadOfTokens: 144 50");
  EXPECT_DEATH(backend_->HeadOfTokens(batch, norm_, head->packed, repeated.data(), *workspace_),
               "HeadOfTokens: token, place, below: 3 0 3");
  EXPECT_DEATH(backend_->HeadOfTokens(batch, norm_, head->packed, high.data(), *workspace_),
               "HeadOfTokens: token, place, below: 50 2 50");
  TestMamba mamba(*backend_, norm_);
  mamba.state.layout.window_rows = 1;
  EXPECT_DEATH(backend_->Mamba(batch, mamba.layer, mamba.state, *workspace_),
               "window of a sequence");
  tokens_[4] = kVocabulary;
  batch = WriteBatch();
  EXPECT_DEATH(backend_->Embed(batch, embedding_->packed, *workspace_),
               "Embed: token, vocabulary, row: 50 50 4");
  tokens_[4] = -1;
  batch = WriteBatch();
  EXPECT_DEATH(backend_->Embed(batch, embedding_->packed, *workspace_), "Embed: token");
  batch.rows = kRows + 1;
  EXPECT_DEATH(backend_->Embed(batch, embedding_->packed, *workspace_), "Embed: 12 11");
}

INSTANTIATE_TEST_SUITE_P(BestInstructionSet, CpuBackendDeathTest,
                         testing::Values(AvailableInstructionSets().back()), SetName);

}  // namespace
}  // namespace mambad::kernels
