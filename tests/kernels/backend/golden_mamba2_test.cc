// Backend::Mamba2 against outputs of the original Triton kernels, where that data lies beside the
// checkout.

#include <cstdint>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/backend/device_array.h"
#include "tests/kernels/backend/golden.h"
#include "tests/kernels/backend/reference.h"
#include "tests/kernels/backend/tested_backend.h"

namespace mambad::kernels {
namespace {

using GoldenMamba2Test = GoldenTest;
INSTANTIATE_TEST_SUITE_P(Backends, GoldenMamba2Test, ::testing::ValuesIn(TestedDevices()),
                         NameOfVariant);

// One head of P = x.size() / T numbers a row; b and c [T, N].
struct Head {
  int width = 0, states = 0;
  Row x, dt, b, c, state;  // state [N][P]: what it starts from and becomes
  float dt_bias = 0, a = 0;
};

// A second head stands beside it, whose output is known: what the norm over both divides by is
// seen in it.
Row Scan(Backend& backend, Head& head) {
  const int width = head.width, states = head.states, inner = 2 * width;
  const int channels = inner + 2 * states, projected = inner + channels + 2;
  constexpr double kKnown = double{kShrunk} * kShrunk * kShrunk;  // so much is y made smaller
  Rows rows;
  for (size_t t = 0; t < head.dt.size(); ++t) {
    Row row(inner, kOpenGate);
    for (int p = 0; p < width; ++p) row.push_back(BeforeSiLU(head.x[t * width + p] * kShrunk));
    for (int p = 0; p < width; ++p) row.push_back(BeforeSiLU(kKnown));
    for (const Row* numbers : {&head.b, &head.c}) {
      for (int n = 0; n < states; ++n) {
        row.push_back(BeforeSiLU((*numbers)[t * states + n] * kShrunk));
      }
    }
    row.push_back(head.dt[t]);
    row.push_back(-200);  // the second head's state stays 0
    rows.push_back(row);
  }
  const CarriedRows carried(backend, rows, inner);
  const TestMatrix in(backend, projected, carried.width(), ElementType::kFloat32,
                      Diagonal(projected, carried.width(), 0, projected)),
      out(backend, carried.width(), inner, ElementType::kFloat32,
          Diagonal(carried.width(), inner, projected + 1, inner));
  Row taps;
  for (int c = 0; c < channels; ++c) taps.insert(taps.end(), {0, 0, 0, 1});
  const DeviceArray<float> convolution(backend, taps), dt_bias(backend, {head.dt_bias, 0}),
      a(backend, {head.a, -1}), skip(backend, {0, 1});
  Mamba2Layer layer;
  layer.inner_width = inner;
  layer.state_size = states;
  layer.heads = 2;
  layer.convolution_width = kTaps;
  layer.dt_maximum = kInfinity;
  layer.norm = carried.norm();
  layer.in = &in.packed;
  layer.out = &out.packed;
  layer.convolution = convolution.data();
  layer.dt_bias = dt_bias.data();
  layer.a = a.data();
  layer.skip = skip.data();
  layer.gated_norm = {nullptr, 0};
  const RecurrentSlotLayout layout = backend.SlotLayout(layer, 0, false);
  Row slot(layout.floats, 0);
  for (int i = 0; i < states * width; ++i) {
    slot[layout.checkpoint + i] = head.state[i] * kShrunk * kShrunk;
  }
  const DeviceArray<float> memory(backend, slot);
  const Rows result = carried.Run(projected, [&](const Batch& batch, Workspace& workspace) {
    backend.Mamba2(batch, layer, {memory.data(), layout.floats, layout}, workspace);
  });
  slot = memory.Read();
  for (int i = 0; i < states * width; ++i) {
    head.state[i] = slot[layout.checkpoint + i] / kShrunk / kShrunk;
  }
  Row y;
  for (const Row& row : result) {
    for (int p = 0; p < width; ++p) y.push_back(row[p] / row[width]);
  }
  return y;
}

// The first head only: A of the second is positive, where the original clamps what the recurrence
// does not. Their products run in TF32. D is one number a channel there and is added here.
TEST_P(GoldenMamba2Test, StateSpaceDuality) {
  const Json& inputs = cases_["ssd_combined"]["combined_full"]["inputs"];
  const Json& outputs = cases_["ssd_combined"]["combined_full"]["outputs"];
  const Row x = Tensor(inputs, "X"), dt = Tensor(inputs, "dt"), a = Tensor(inputs, "A"),
            b = Tensor(inputs, "B"), c = Tensor(inputs, "C"), d = Tensor(inputs, "D"),
            z = Tensor(inputs, "z"), dt_bias = Tensor(inputs, "dt_bias"),
            initial = Tensor(inputs, "initial_states"), y = Tensor(outputs, "y"),
            final_states = Tensor(outputs, "final_states");
  constexpr int kBatches = 2, kRows = 6, kHeads = 2, kWidth = 3, kStates = 4;
  ASSERT_LT(a[0], 0);
  Row ours, theirs, our_states, their_states;
  for (int batch = 0; batch < kBatches; ++batch) {
    Head head;
    head.width = kWidth;
    head.states = kStates;
    head.dt_bias = dt_bias[0];
    head.a = a[0];
    for (int t = batch * kRows; t < (batch + 1) * kRows; ++t) {
      head.x.insert(head.x.end(), &x[t * kHeads * kWidth], &x[t * kHeads * kWidth] + kWidth);
      head.dt.push_back(dt[t * kHeads]);
      head.b.insert(head.b.end(), &b[t * kStates], &b[t * kStates] + kStates);
      head.c.insert(head.c.end(), &c[t * kStates], &c[t * kStates] + kStates);
    }
    const auto theirs_at = [&](int n, int p) {
      return (batch * kHeads * kWidth + p) * kStates + n;
    };
    for (int i = 0; i < kStates * kWidth; ++i) {
      head.state.push_back(initial[theirs_at(i / kWidth, i % kWidth)]);
      their_states.push_back(final_states[theirs_at(i / kWidth, i % kWidth)]);
    }
    const Row scanned = Scan(backend(), head);
    our_states.insert(our_states.end(), head.state.begin(), head.state.end());
    for (int i = 0; i < kRows * kWidth; ++i) {
      const int p = i % kWidth, at = (batch * kRows + i / kWidth) * kHeads * kWidth + p;
      ours.push_back(static_cast<float>((scanned[i] + d[p] * x[at]) * SiLU(z[at])));
      theirs.push_back(y[at]);
    }
  }
  EXPECT_LE(RelativeError(ours, theirs), 7e-3);
  EXPECT_LE(RelativeError(our_states, their_states), 7e-3);
}

}  // namespace
}  // namespace mambad::kernels
