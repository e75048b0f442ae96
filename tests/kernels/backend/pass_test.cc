// A pass of few rows through several layers, described once and done again and again as a decode
// round, gives what its layers give by themselves: bit for bit, and slots end the same.

#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/backend/device_array.h"
#include "tests/kernels/backend/reference.h"
#include "tests/kernels/backend/step_rows.h"
#include "tests/kernels/backend/tested_backend.h"

namespace mambad::kernels {
namespace {

struct PassShape {
  const char* name;
  int width, inner, state, rank, taps, vocabulary;
  bool biases = false, selection_norm = false;
};

constexpr int kLayers = 3, kWindow = 4, kSlots = 5, kMostRows = 8, kSteps = 4;

class PassTest : public OnBackend<std::tuple<std::string, PassShape>> {
 protected:
  const PassShape& shape() const { return std::get<1>(GetParam()); }

  void Prepare() override {
    std::mt19937 random(3);
    for (int i = 0; i < kLayers; ++i) AddLayer(random);
    norm_ = {OnDevice(RandomRow(random, shape().width)), 1e-5f};
    head_ = &Matrix(random, shape().vocabulary, shape().width);
    WorkspaceShape workspace = SmallWorkspace(kMostRows, shape().width, shape().vocabulary);
    workspace.max_projection = workspace.max_inner = 2 * shape().inner;
    workspace.max_selection = shape().rank + 2 * shape().state;
    workspace_ = backend().CreateWorkspace(workspace);
    layout_ = backend().SlotLayout(layers_[0], kWindow, false);
  }

  void AddLayer(std::mt19937& random) {
    const PassShape& s = shape();
    MambaLayer layer;
    layer.inner_width = s.inner;
    layer.state_size = s.state;
    layer.dt_rank = s.rank;
    layer.convolution_width = s.taps;
    layer.selection_norm = s.selection_norm;
    layer.selection_norm_epsilon = 1e-6f;
    layer.norm = {OnDevice(RandomRow(random, s.width)), 1e-5f};
    layer.in = &Matrix(random, 2 * s.inner, s.width).packed;
    layer.select = &Matrix(random, s.rank + 2 * s.state, s.inner).packed;
    layer.dt = &Matrix(random, s.inner, s.rank).packed;
    layer.out = &Matrix(random, s.width, s.inner).packed;
    layer.convolution = OnDevice(RandomRow(random, s.inner * s.taps, 0.6f));
    layer.dt_bias = OnDevice(RandomRow(random, s.inner));
    layer.skip = OnDevice(RandomRow(random, s.inner));
    Row decay = RandomRow(random, (s.inner + 15) / 16 * 16 * s.state);
    for (float& a : decay) a = -1 - a * a;
    layer.a = OnDevice(decay);
    layer.convolution_bias = OnDevice(RandomRow(random, s.inner, 0.2f));
    if (s.biases) {
      layer.in_bias = OnDevice(RandomRow(random, 2 * s.inner, 0.3f));
      layer.out_bias = OnDevice(RandomRow(random, s.width, 0.3f));
    }
    layers_.push_back(layer);
  }

  // All slots of all layers.
  std::deque<DeviceArray<float>> States() {
    std::mt19937 random(5);
    std::deque<DeviceArray<float>> states;
    for (int i = 0; i < kLayers; ++i) {
      states.emplace_back(backend(), RandomRow(random, layout_.floats * kSlots, 0.3f));
    }
    return states;
  }
  void Describe(const Batch& batch, const std::deque<DeviceArray<float>>& states) {
    for (int i = 0; i < kLayers; ++i) {
      const RecurrentState state{states[i].data(), layout_.floats, layout_};
      backend().Mamba(batch, layers_[i], state, *workspace_);
    }
    backend().Head(batch, norm_, head_->packed, *workspace_);
  }
  // Rows of the residual and of logits that a round leaves, from the same rows before it.
  template <typename Run>
  Rows Left(uint32_t seed, const Run& run) {
    std::mt19937 random(seed);
    WriteRows(backend(), workspace_->residual, RandomRow(random, kMostRows * shape().width));
    WriteRows(backend(), workspace_->logits, Row(kMostRows * shape().vocabulary, 7));
    run();
    Rows left = ReadRows(backend(), workspace_->residual, kMostRows);
    for (const Row& row : ReadRows(backend(), workspace_->logits, kMostRows)) left.push_back(row);
    return left;
  }
  void EqualsLayersByThemselves(const std::vector<int>& counts, int most_rows = kMostRows);

 private:
  const TestMatrix& Matrix(std::mt19937& random, int64_t rows, int64_t columns) {
    return matrices_.emplace_back(backend(), rows, columns, ElementType::kBFloat16,
                                  RandomWeights(random, rows, columns));
  }
  const float* OnDevice(const Row& values) {
    return arrays_.emplace_back(backend(), values).data();
  }

  std::deque<TestMatrix> matrices_;
  std::deque<DeviceArray<float>> arrays_;
  std::vector<MambaLayer> layers_;
  NormWeights norm_;
  const TestMatrix* head_ = nullptr;
  std::unique_ptr<Workspace> workspace_;
  RecurrentSlotLayout layout_;
  int64_t shapes_ = 0;
};

// Windows of counts[s] rows of sequence s, of which another number is right each time.
void PassTest::EqualsLayersByThemselves(const std::vector<int>& counts, int most_rows) {
  const std::deque<DeviceArray<float>> alone = States(), together = States();
  BatchArrays exact(backend()), bounded(backend());
  const int sequences = static_cast<int>(counts.size());
  std::vector<int> position(sequences), right(sequences);
  RoundShape round;
  round.sequences = sequences + 1;
  round.context = 100 + ++shapes_;
  for (int step = 0; step < kSteps; ++step) {
    StepRows rows;
    for (int s = 0; s < sequences; ++s) {
      rows.Add((s * 3 + 1) % kSlots, position[s], std::vector<int32_t>(counts[s]), right[s],
               /*folds=*/true, std::min(1, counts[s]), 0);
      right[s] = counts[s] > 0 ? (step + s) % counts[s] : 0;
      position[s] += std::min(1, counts[s]) + right[s];
    }
    for (int r = rows.rows() - 1; r >= 0; r -= 2) rows.logit_rows.push_back(r);
    const Batch batch = exact.Write(rows);
    const Rows expected = Left(step, [&] { RunRound(backend(), [&] { Describe(batch, alone); }); });
    Batch bounds = bounded.Write(rows, {1, most_rows - rows.rows(), 1});
    bounds.max_position = kSteps * kMostRows;
    const Rows left =
        Left(step, [&] { RunDecodeRound(backend(), round, [&] { Describe(bounds, together); }); });
    EXPECT_EQ(left, expected) << step;
    for (int i = 0; i < kLayers; ++i) EXPECT_EQ(together[i].Read(), alone[i].Read()) << step;
  }
}

TEST_P(PassTest, OneRow) {
  EqualsLayersByThemselves({1}, 1);
  EqualsLayersByThemselves({1});
}
TEST_P(PassTest, OneWindow) {
  EqualsLayersByThemselves({2});
  EqualsLayersByThemselves({5});
}
TEST_P(PassTest, RowsOfSeveralSequences) {
  EqualsLayersByThemselves({1, 1});
  EqualsLayersByThemselves({1, 1, 1, 1});
}
TEST_P(PassTest, WindowsOfSeveralSequences) {
  EqualsLayersByThemselves({3, 5});
  EqualsLayersByThemselves({2, 1, 3});
  EqualsLayersByThemselves({1, 0, 4, 2});
}

constexpr PassShape kShapes[] = {
    {"Even", 64, 128, 16, 8, 4, 80},
    {"NoWholeSteps", 40, 96, 5, 21, 3, 50},
    {"NoWholePanels", 40, 90, 16, 5, 4, 50},
    {"OneTap", 24, 48, 16, 3, 1, 33},
    {"ManyTaps", 24, 48, 9, 3, 8, 33},
    {"HalvesOfPanels", 720, 800, 16, 21, 4, 720},
    {"MorePanelsThanBlocks", 72, 2592, 16, 37, 4, 50},
    {"LargeState", 40, 64, 40, 5, 4, 50},
    {"Biases", 40, 64, 16, 5, 4, 50, true, false},
    {"SelectionNorm", 40, 64, 16, 5, 4, 50, false, true},
};
INSTANTIATE_TEST_SUITE_P(Shapes, PassTest,
                         ::testing::Combine(::testing::ValuesIn(TestedVariants()),
                                            ::testing::ValuesIn(kShapes)),
                         NameOfShape<PassShape>);

}  // namespace
}  // namespace mambad::kernels
