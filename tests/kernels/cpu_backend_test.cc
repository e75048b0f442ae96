// The CPU backend's operations against float64 formulas, and that they neither allocate nor
// accept wrong shapes. The parts between the products have tests of their own.

#include "kernels/cpu/cpu_backend.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/instruction_set.h"

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

// A float32 matrix and its packed form.
struct Matrix {
  Matrix(Backend& backend, int64_t rows, int64_t columns, uint32_t seed)
      : rows(rows), columns(columns) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, 1 / std::sqrt(static_cast<float>(columns)));
    values.resize(rows * columns);
    for (float& value : values) value = normal(random);
    MatrixSource source;
    source.float32 = [this](int64_t begin, int64_t end, float* out) {
      std::copy(values.begin() + begin * this->columns, values.begin() + end * this->columns, out);
    };
    packed = backend.Pack(rows, columns, ElementType::kFloat32, source);
  }

  std::vector<double> Times(const std::vector<double>& x) const {
    std::vector<double> y(rows);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t k = 0; k < columns; ++k) y[i] += values[i * columns + k] * x[k];
    }
    return y;
  }

  int64_t rows, columns;
  std::vector<float> values;
  WeightMatrix packed;
};

std::vector<float> RandomNumbers(int64_t count, uint32_t seed, float scale = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

double SiLU(double x) { return x / (1 + std::exp(-x)); }

std::vector<double> RmsNorm(const std::vector<double>& x, const std::vector<float>& weight) {
  double mean = 0;
  for (double value : x) mean += value * value / x.size();
  std::vector<double> y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] / std::sqrt(mean + 1e-5) * weight[i];
  return y;
}

double RelativeError(const std::vector<std::vector<double>>& expected, const RowsView& found) {
  double error = 0, size = 0;
  for (size_t r = 0; r < expected.size(); ++r) {
    for (size_t i = 0; i < expected[r].size(); ++i) {
      error += std::pow(found.row(r)[i] - expected[r][i], 2);
      size += std::pow(expected[r][i], 2);
    }
  }
  return std::sqrt(error / size);
}

class CpuBackendTest : public testing::TestWithParam<InstructionSet> {
 protected:
  void SetUp() override {
    LimitInstructionSet(GetParam());
    backend_ = CreateCpuBackend({.threads = 2});
    embedding_ = std::make_unique<Matrix>(*backend_, kVocabulary, kWidth, 1);
    norm_weight_ = RandomNumbers(kWidth, 2);
    norm_ = {norm_weight_.data(), 1e-5f};
    WorkspaceShape shape;
    shape.max_rows = kRows;
    shape.max_logit_rows = kRows;
    shape.max_sequences = 2;
    shape.width = kWidth;
    shape.vocabulary = kVocabulary;
    shape.max_projection = 2 * kMlp;
    shape.max_inner = 2 * kInner;
    shape.max_selection = kRank + 2 * kState;
    shape.max_context = 64;
    workspace_ = backend_->CreateWorkspace(shape);
    for (int r = 0; r < kRows; ++r) tokens_.push_back((r * 17 + 3) % kVocabulary);
    batch_.sequences = 2;
    batch_.rows = kRows;
    batch_.row_begin = row_begin_;
    batch_.slot = slot_;
    batch_.position = zero_;
    batch_.replay = zero_;
    batch_.fold = one_;
    batch_.keep_from = all_;
    batch_.keep_at = zero_;
    batch_.resume = zero_;
    batch_.tokens = tokens_.data();
    batch_.logit_rows = logit_rows_;
    batch_.logit_count = 3;
    backend_->Embed(batch_, embedding_->packed, *workspace_);
  }
  void TearDown() override { LimitInstructionSet(InstructionSet::kAvx512Bfloat16); }

  std::vector<std::vector<double>> Residual() const {
    std::vector<std::vector<double>> rows;
    for (int r = 0; r < kRows; ++r) {
      rows.emplace_back(workspace_->residual.row(r), workspace_->residual.row(r) + kWidth);
    }
    return rows;
  }

  static constexpr int kRows = 11;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Matrix> embedding_;
  std::vector<float> norm_weight_;
  NormWeights norm_;
  std::unique_ptr<Workspace> workspace_;
  std::vector<int32_t> tokens_;
  const int32_t row_begin_[3] = {0, 7, kRows}, slot_[2] = {1, 0}, zero_[2] = {0, 0},
                one_[2] = {1, 1}, all_[2] = {7, 4};
  const int32_t logit_rows_[3] = {10, 0, 6};
  Batch batch_;
};

TEST_P(CpuBackendTest, EmbedsRowsOfTheMatrix) {
  for (int r = 0; r < kRows; ++r) {
    EXPECT_EQ(std::memcmp(workspace_->residual.row(r), &embedding_->values[tokens_[r] * kWidth],
                          kWidth * sizeof(float)),
              0);
  }
}

TEST_P(CpuBackendTest, MlpAddsGatedProjection) {
  const Matrix in(*backend_, 2 * kMlp, kWidth, 3), out(*backend_, kWidth, kMlp, 4);
  std::vector<std::vector<double>> expected = Residual();
  for (std::vector<double>& row : expected) {
    const std::vector<double> projected = in.Times(RmsNorm(row, norm_weight_));
    std::vector<double> gated(kMlp);
    for (int i = 0; i < kMlp; ++i) gated[i] = SiLU(projected[i]) * projected[kMlp + i];
    const std::vector<double> added = out.Times(gated);
    for (int i = 0; i < kWidth; ++i) row[i] += added[i];
  }
  backend_->Mlp(batch_, {kMlp, norm_, &in.packed, &out.packed}, *workspace_);
  EXPECT_LT(RelativeError(expected, workspace_->residual), 1e-6);
}

TEST_P(CpuBackendTest, HeadGivesLogitsOfTheRowsAskedForInTheirOrder) {
  const std::vector<std::vector<double>> residual = Residual();
  std::vector<std::vector<double>> expected;
  for (int row : logit_rows_)
    expected.push_back(embedding_->Times(RmsNorm(residual[row], norm_weight_)));
  backend_->Head(batch_, norm_, embedding_->packed, *workspace_);
  EXPECT_LT(RelativeError(expected, workspace_->logits), 1e-6);
}

// The rows of `tokens` of a matrix, packed: a head that says nothing of other tokens.
WeightMatrix PackRows(Backend& backend, const Matrix& matrix, const std::vector<int32_t>& tokens) {
  MatrixSource source;
  source.float32 = [&](int64_t begin, int64_t end, float* out) {
    for (int64_t i = begin; i < end; ++i) {
      const auto row = matrix.values.begin() + tokens[i] * matrix.columns;
      std::copy(row, row + matrix.columns, out + (i - begin) * matrix.columns);
    }
  };
  return backend.Pack(static_cast<int64_t>(tokens.size()), matrix.columns, ElementType::kFloat32,
                      source);
}

// Bit for bit what the whole head says of its tokens, in any place of the row, and the floor
// everywhere else, whatever stood there before.
TEST_P(CpuBackendTest, HeadOfTokensGivesTheirLogitsAndNoOthers) {
  backend_->Head(batch_, norm_, embedding_->packed, *workspace_);
  std::vector<std::vector<float>> whole;
  for (int row = 0; row < batch_.logit_count; ++row) {
    whole.emplace_back(workspace_->logits.row(row), workspace_->logits.row(row) + kVocabulary);
  }
  std::vector<int32_t> all(kVocabulary);
  for (int id = 0; id < kVocabulary; ++id) all[id] = id;
  const std::vector<std::vector<int32_t>> lists = {{7},
                                                   {0},
                                                   {kVocabulary - 1},
                                                   {0, 1, 2, 3, 30, 31, 48},
                                                   {0, kVocabulary - 1},
                                                   {20, 21},
                                                   {all.begin() + 13, all.end()},
                                                   all};
  for (const std::vector<int32_t>& tokens : lists) {
    const WeightMatrix head = PackRows(*backend_, *embedding_, tokens);
    backend_->HeadOfTokens(batch_, norm_, head, tokens.data(), *workspace_);
    for (int row = 0; row < batch_.logit_count; ++row) {
      std::vector<float> expected(kVocabulary, kUnproposedLogit);
      for (const int32_t id : tokens) expected[id] = whole[row][id];
      EXPECT_EQ(std::memcmp(workspace_->logits.row(row), expected.data(),
                            expected.size() * sizeof(float)),
                0)
          << tokens.size() << " tokens from " << tokens[0] << ", row " << row;
    }
  }
}

// Drafts drawn from such a row: of the proposed tokens only, however high the temperature; where
// they are forbidden, any of the others.
TEST_P(CpuBackendTest, UnproposedTokensAreDrawnOnlyWhereNothingElseIsLeft) {
  const std::vector<int32_t> tokens = {3, 4, 17};
  const WeightMatrix head = PackRows(*backend_, *embedding_, tokens);
  backend_->HeadOfTokens(batch_, norm_, head, tokens.data(), *workspace_);
  SamplingState state;
  state.temperature = 100;
  std::vector<float> bias(kVocabulary);
  SamplingTables tables;
  tables.states = &state;
  tables.bias = bias.data();
  tables.vocabulary = tables.padded_vocabulary = kVocabulary;
  const int32_t zero = 0;
  int32_t drawn = -1;
  DraftSampling request;
  request.sequences = 1;
  request.slot = request.logit_row = request.position = request.token_row = &zero;
  request.tokens = &drawn;
  const auto draw = [&](int times) {
    std::vector<int> seen(kVocabulary);
    for (state.seed = 0; state.seed < static_cast<uint64_t>(times); ++state.seed) {
      backend_->SampleDrafts(request, tables, *workspace_);
      ++seen[drawn];
    }
    return seen;
  };
  std::vector<int> seen = draw(300);
  for (int id = 0; id < kVocabulary; ++id) {
    EXPECT_EQ(seen[id] > 0, id == 3 || id == 4 || id == 17) << id;
  }
  for (const int32_t id : tokens) bias[id] = -std::numeric_limits<float>::infinity();
  state.bias_row = 0;
  seen = draw(40 * kVocabulary);
  for (int id = 0; id < kVocabulary; ++id) {
    EXPECT_EQ(seen[id] > 0, id != 3 && id != 4 && id != 17) << id;
  }
}

// A standard Mamba-1 layer with its state.
struct TestMamba {
  explicit TestMamba(Backend& backend)
      : in(backend, 2 * kInner, kWidth, 5),
        select(backend, kRank + 2 * kState, kInner, 6),
        dt(backend, kInner, kRank, 7),
        out(backend, kWidth, kInner, 8),
        convolution(RandomNumbers(kInner * kTaps, 9)),
        convolution_bias(RandomNumbers(kInner, 10)),
        dt_bias(RandomNumbers(kInner, 11)),
        skip(RandomNumbers(kInner, 12)),
        blocked_a(kInner * kState) {
    for (int c = 0; c < kInner; ++c) {
      for (int n = 0; n < kState; ++n) blocked_a[(c / 16 * kState + n) * 16 + c % 16] = A(c, n);
    }
    layer.inner_width = kInner;
    layer.state_size = kState;
    layer.dt_rank = kRank;
    layer.convolution_width = kTaps;
    layer.in = &in.packed;
    layer.select = &select.packed;
    layer.dt = &dt.packed;
    layer.out = &out.packed;
    layer.convolution = convolution.data();
    layer.convolution_bias = convolution_bias.data();
    layer.dt_bias = dt_bias.data();
    layer.a = blocked_a.data();
    layer.skip = skip.data();
    state.layout = backend.SlotLayout(layer, kMaxWindowRows, false);
    state.slot_stride = state.layout.floats;
    memory = backend.Allocate(2 * state.slot_stride * sizeof(float));
    state.data = memory.as<float>();
  }

  static float A(int channel, int n) {
    return -0.1f * static_cast<float>(n + 1) - 0.01f * static_cast<float>(channel);
  }

  // One sequence from an empty state: adds the mixer's output to its rows.
  void AddTo(std::vector<std::vector<double>>& rows, int begin, int end,
             const std::vector<float>& norm) const {
    std::vector<std::vector<double>> inputs(kTaps - 1, std::vector<double>(kInner));
    std::vector<double> s(kInner * kState);
    for (int r = begin; r < end; ++r) {
      const std::vector<double> projected = in.Times(RmsNorm(rows[r], norm));
      inputs.push_back(projected);
      std::vector<double> x(kInner), y(kInner);
      for (int c = 0; c < kInner; ++c) {
        double sum = convolution_bias[c];
        for (int j = 0; j < kTaps; ++j)
          sum += convolution[c * kTaps + j] * inputs[inputs.size() - kTaps + j][c];
        x[c] = SiLU(sum);
      }
      const std::vector<double> selected = select.Times(x);
      const std::vector<double> delta = dt.Times({selected.begin(), selected.begin() + kRank});
      for (int c = 0; c < kInner; ++c) {
        const double step = std::log1p(std::exp(delta[c] + dt_bias[c]));
        y[c] = skip[c] * x[c];
        for (int n = 0; n < kState; ++n) {
          double& number = s[c * kState + n];
          number = std::exp(step * A(c, n)) * number + step * selected[kRank + n] * x[c];
          y[c] += selected[kRank + kState + n] * number;
        }
        y[c] *= SiLU(projected[kInner + c]);
      }
      const std::vector<double> added = out.Times(y);
      for (int i = 0; i < kWidth; ++i) rows[r][i] += added[i];
    }
  }

  Matrix in, select, dt, out;
  std::vector<float> convolution, convolution_bias, dt_bias, skip, blocked_a;
  MambaLayer layer;
  Buffer memory;
  RecurrentState state;
};

TEST_P(CpuBackendTest, MambaAddsItsMixer) {
  TestMamba mamba(*backend_);
  mamba.layer.norm = norm_;
  std::vector<std::vector<double>> expected = Residual();
  mamba.AddTo(expected, 0, 7, norm_weight_);
  mamba.AddTo(expected, 7, kRows, norm_weight_);
  backend_->Mamba(batch_, mamba.layer, mamba.state, *workspace_);
  EXPECT_LT(RelativeError(expected, workspace_->residual), 1e-5);
}

// One sequence said exactly, and as what there is within larger bounds: all memory ends the same.
TEST_P(CpuBackendTest, BoundsOfADecodeRoundGiveWhatThereIs) {
  const Matrix in(*backend_, 2 * kMlp, kWidth, 3), out(*backend_, kWidth, kMlp, 4);
  const MlpLayer mlp = {kMlp, norm_, &in.packed, &out.packed};
  const std::vector<int32_t> tokens = {3, 4, 17};
  const WeightMatrix head = PackRows(*backend_, *embedding_, tokens);
  const int32_t row_begin[3] = {0, 5, 5}, slot[2] = {1, -1}, fold[2] = {1, 0},
                keep_from[2] = {5, 0};
  const int32_t logit_rows[3] = {4, 0, -1};
  const auto run = [&](bool bounds, bool listed) {
    TestMamba mamba(*backend_);
    mamba.layer.norm = norm_;
    for (const RowsView& view : {workspace_->residual, workspace_->logits}) {
      for (int64_t r = 0; r < view.rows; ++r) std::fill_n(view.row(r), view.columns, 7.0f);
    }
    Batch batch = batch_;
    batch.row_begin = row_begin;
    batch.slot = slot;
    batch.fold = fold;
    batch.keep_from = keep_from;
    batch.logit_rows = logit_rows;
    batch.sequences = bounds ? 2 : 1;
    batch.rows = bounds ? kRows : 5;
    batch.logit_count = bounds ? 3 : 2;
    backend_->Embed(batch, embedding_->packed, *workspace_);
    backend_->Mamba(batch, mamba.layer, mamba.state, *workspace_);
    backend_->Mlp(batch, mlp, *workspace_);
    if (listed) {
      backend_->HeadOfTokens(batch, norm_, head, tokens.data(), *workspace_);
    } else {
      backend_->Head(batch, norm_, embedding_->packed, *workspace_);
    }
    std::vector<float> memory(mamba.state.data, mamba.state.data + 2 * mamba.state.slot_stride);
    for (const RowsView& view : {workspace_->residual, workspace_->logits}) {
      for (int64_t r = 0; r < view.rows; ++r)
        memory.insert(memory.end(), view.row(r), view.row(r) + view.columns);
    }
    return memory;
  };
  for (bool listed : {false, true}) EXPECT_EQ(run(true, listed), run(false, listed)) << listed;
}

TEST_P(CpuBackendTest, OperationsAllocateNothing) {
  const Matrix in(*backend_, 2 * kMlp, kWidth, 3), out(*backend_, kWidth, kMlp, 4);
  TestMamba mamba(*backend_);
  mamba.layer.norm = norm_;
  const MlpLayer mlp = {kMlp, norm_, &in.packed, &out.packed};
  const std::vector<int32_t> tokens = {3, 4, 17};
  const WeightMatrix head = PackRows(*backend_, *embedding_, tokens);
  for (int step = 0; step < 2; ++step) {
    const int64_t before = allocations;
    backend_->BeginRound({});
    backend_->Embed(batch_, embedding_->packed, *workspace_);
    backend_->Mamba(batch_, mamba.layer, mamba.state, *workspace_);
    backend_->Mlp(batch_, mlp, *workspace_);
    backend_->Head(batch_, norm_, embedding_->packed, *workspace_);
    backend_->HeadOfTokens(batch_, norm_, head, tokens.data(), *workspace_);
    backend_->EndRound();
    if (step > 0) {
      EXPECT_EQ(allocations - before, 0);
    }
  }
}

TEST_P(CpuBackendTest, TellsWhatARoundTook) {
  for (bool drafts : {true, false}) {
    backend_->BeginRound({});
    backend_->Embed(batch_, embedding_->packed, *workspace_);
    if (drafts) backend_->BeginVerify();
    backend_->Head(batch_, norm_, embedding_->packed, *workspace_);
    backend_->EndRound();
    backend_->Synchronize();
    const RoundTimes times = backend_->TakeRoundTimes();
    EXPECT_EQ(times.draft > 0, drafts);
    EXPECT_GT(times.verify, 0);
    EXPECT_GE(times.whole, times.draft + times.verify);
  }
}

TEST_P(CpuBackendTest, MovesMemory) {
  const Buffer buffer = backend_->Allocate(3 << 20);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
  float* numbers = buffer.as<float>();
  for (size_t i = 0; i < (3 << 20) / sizeof(float); i += 1000) ASSERT_EQ(numbers[i], 0);
  const float values[3] = {1, 2, 3};
  float read[3];
  backend_->Write(numbers, values, sizeof(values));
  backend_->Copy(numbers + 3, numbers, sizeof(values));
  backend_->Fill(numbers + 4, 9, 1);
  backend_->Read(read, numbers + 3, sizeof(read));
  backend_->Synchronize();
  EXPECT_EQ(read[0], 1);
  EXPECT_EQ(read[1], 9);
  EXPECT_EQ(read[2], 3);
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
  const bool rounds = GetParam() == InstructionSet::kAvx512Bfloat16;
  EXPECT_EQ(rounding->Numerics(ElementType::kBFloat16, kKeyValues),
            set + "/weights-bf16/activations-" + (rounds ? "bf16" : "f32") + "/kv-f32");
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

using CpuBackendDeathTest = CpuBackendTest;

TEST_P(CpuBackendDeathTest, WrongShapesEndTheProcessWithTheOperationsName) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const Matrix in(*backend_, 2 * kMlp, kWidth, 3), out(*backend_, kWidth, kMlp, 4);
  EXPECT_DEATH(backend_->Mlp(batch_, {kMlp - 1, norm_, &in.packed, &out.packed}, *workspace_),
               "Mlp in: 144 142 40 40");
  EXPECT_DEATH(backend_->Mlp(batch_, {kMlp, norm_, nullptr, &out.packed}, *workspace_), "Mlp in");
  EXPECT_DEATH(backend_->Head(batch_, norm_, in.packed, *workspace_), "Head: 144 50");
  const std::vector<int32_t> tokens = {3, 4, 17}, repeated = {3, 3, 17}, high = {3, 4, kVocabulary};
  const WeightMatrix head = PackRows(*backend_, *embedding_, tokens);
  EXPECT_DEATH(backend_->HeadOfTokens(batch_, norm_, in.packed, tokens.data(), *workspace_),
               "HeadOfTokens: 144 50");
  EXPECT_DEATH(backend_->HeadOfTokens(batch_, norm_, head, repeated.data(), *workspace_),
               "HeadOfTokens: token, place, below: 3 0 3");
  EXPECT_DEATH(backend_->HeadOfTokens(batch_, norm_, head, high.data(), *workspace_),
               "HeadOfTokens: token, place, below: 50 2 50");
  TestMamba mamba(*backend_);
  mamba.layer.norm = norm_;
  mamba.state.layout.window_rows = 1;
  const int32_t keep_from[2] = {7, 2};
  batch_.keep_from = keep_from;
  EXPECT_DEATH(backend_->Mamba(batch_, mamba.layer, mamba.state, *workspace_),
               "window of a sequence");
  tokens_[4] = kVocabulary;
  EXPECT_DEATH(backend_->Embed(batch_, embedding_->packed, *workspace_),
               "Embed: token, vocabulary, row: 50 50 4");
  tokens_[4] = -1;
  EXPECT_DEATH(backend_->Embed(batch_, embedding_->packed, *workspace_), "Embed: token");
  batch_.rows = kRows + 1;
  EXPECT_DEATH(backend_->Embed(batch_, embedding_->packed, *workspace_), "Embed: 12 11");
}

INSTANTIATE_TEST_SUITE_P(BestInstructionSet, CpuBackendDeathTest,
                         testing::Values(AvailableInstructionSets().back()), SetName);

}  // namespace
}  // namespace mambad::kernels
