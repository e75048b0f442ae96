// Backend::Mamba against outputs of the original CUDA kernels, where that data lies beside the
// checkout.

#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/backend/device_array.h"
#include "tests/kernels/backend/golden.h"
#include "tests/kernels/backend/reference.h"
#include "tests/kernels/backend/tested_backend.h"
#include "tests/support/golden_values.h"

namespace mambad::kernels {
namespace {

using ScanCase = testing::GoldenScan<float>;

// A Mamba-1 layer of `width` channels and as many states that reads B and C from its projection.
struct MambaNumbers {
  int width = 0;
  Row a, dt_bias, skip;  // a [width][width]: channel by channel
  Row convolution, convolution_bias;
};

// Rows of [x, z, B, C] of `width` numbers each and dt in; outputs of all channels. `state`
// [channels][states] is what it starts from and becomes.
Rows RunMamba(Backend& backend, const MambaNumbers& numbers, const Rows& rows, Row& state) {
  const int width = numbers.width, projected = 4 * width + 1;
  const CarriedRows carried(backend, rows, width);
  const auto matrix = [&](int64_t out, int64_t in, const Row& values) {
    return std::make_unique<TestMatrix>(backend, out, in, ElementType::kFloat32, values);
  };
  const auto in =
      matrix(projected, carried.width(), Diagonal(projected, carried.width(), 0, projected));
  const auto dt = matrix(width, 1, Row(width, 1));
  const auto out =
      matrix(carried.width(), width, Diagonal(carried.width(), width, projected + 1, width));
  Row blocked_a((width + 15) / 16 * 16 * width, 0);
  for (int c = 0; c < width; ++c) {
    for (int n = 0; n < width; ++n) {
      blocked_a[(c / 16 * width + n) * 16 + c % 16] = numbers.a[c * width + n];
    }
  }
  const DeviceArray<float> convolution(backend, numbers.convolution),
      bias(backend, numbers.convolution_bias), dt_bias(backend, numbers.dt_bias),
      skip(backend, numbers.skip), a(backend, blocked_a);
  MambaLayer layer;
  layer.inner_width = layer.state_size = layer.source_width = width;
  layer.dt_rank = 1;
  layer.convolution_width = kTaps;
  layer.norm = carried.norm();
  layer.in = &in->packed;
  layer.dt = &dt->packed;
  layer.out = &out->packed;
  layer.convolution = convolution.data();
  layer.convolution_bias = numbers.convolution_bias.empty() ? nullptr : bias.data();
  layer.dt_bias = dt_bias.data();
  layer.a = a.data();
  layer.skip = skip.data();
  const RecurrentSlotLayout layout = backend.SlotLayout(layer, 0, false);
  const auto place = [&](int c, int n) {
    return layout.checkpoint + (c / 16 * width + n) * 16 + c % 16;
  };
  Row slot(layout.floats, 0);
  for (int i = 0; i < width * width; ++i) slot[place(i / width, i % width)] = state[i];
  const DeviceArray<float> memory(backend, slot);
  const Rows result = carried.Run(projected, [&](const Batch& batch, Workspace& workspace) {
    backend.Mamba(batch, layer, {memory.data(), layout.floats, layout}, workspace);
  });
  slot = memory.Read();
  for (int i = 0; i < width * width; ++i) state[i] = slot[place(i / width, i % width)];
  return result;
}

// One channel's selective scan. Vectors run over time; b and c [T, N]. `state` [N] is what it
// starts from and becomes.
struct Channel {
  Row x, delta, z, a, b, c, state;
  float dt_bias = 0, skip = 0;
};

Row Scan(Backend& backend, Channel& channel) {
  const int width = static_cast<int>(channel.a.size());
  MambaNumbers numbers;
  numbers.width = width;
  numbers.a.assign(width * width, -1.0f);
  std::copy(channel.a.begin(), channel.a.end(), numbers.a.begin());
  numbers.dt_bias.assign(width, channel.dt_bias);
  numbers.skip.assign(width, channel.skip);
  for (int c = 0; c < width; ++c)
    numbers.convolution.insert(numbers.convolution.end(), {0, 0, 0, 1});
  Rows rows;
  for (size_t t = 0; t < channel.x.size(); ++t) {
    Row row(4 * width, 0);
    row[0] = BeforeSiLU(channel.x[t] * kShrunk);
    row[width] = channel.z[t];
    std::copy_n(channel.b.begin() + t * width, width, row.begin() + 2 * width);
    std::copy_n(channel.c.begin() + t * width, width, row.begin() + 3 * width);
    row.push_back(channel.delta[t]);
    rows.push_back(row);
  }
  Row state(width * width, 0);
  for (int n = 0; n < width; ++n) state[n] = channel.state[n] * kShrunk;
  Row y;
  for (const Row& row : RunMamba(backend, numbers, rows, state)) y.push_back(row[0] / kShrunk);
  for (int n = 0; n < width; ++n) channel.state[n] = state[n] / kShrunk;
  return y;
}

Channel Take(const ScanCase& scan, int64_t sequence, int64_t channel) {
  Channel result;
  const int64_t begin = sequence * scan.tokens;
  const auto over_time = [&](const char* name) {
    const float* values = &scan.in.at(name)[scan.At(begin, channel)];
    return Row(values, values + scan.tokens);
  };
  result.x = over_time("u");
  result.delta = over_time("delta");
  result.z = scan.in.contains("z") ? over_time("z") : Row(scan.tokens, kOpenGate);
  const float* a = &scan.in.at("A")[channel * scan.states];
  result.a.assign(a, a + scan.states);
  for (int64_t row = begin; row < begin + scan.tokens; ++row) {
    for (int64_t n = 0; n < scan.states; ++n) {
      result.b.push_back(scan.in.at("B")[scan.Place(row, channel, n)]);
      result.c.push_back(scan.in.at("C")[scan.Place(row, channel, n)]);
    }
  }
  result.state.assign(scan.states, 0.0f);
  result.dt_bias = scan.in.at("delta_bias")[channel];
  result.skip = scan.in.at("D")[channel];
  return result;
}

// The first `channels` of a case give y [sequences, channels, tokens].
void ExpectScan(Backend& backend, const ScanCase& scan, const Row& y, int64_t channels) {
  ASSERT_EQ(static_cast<int64_t>(y.size()), scan.rows() * scan.channels);
  Row ours, theirs;
  for (int64_t sequence = 0; sequence < scan.sequences; ++sequence) {
    for (int64_t c = 0; c < channels; ++c) {
      Channel channel = Take(scan, sequence, c);
      const Row our_y = Scan(backend, channel);
      ours.insert(ours.end(), our_y.begin(), our_y.end());
      const float* at = &y[scan.At(sequence * scan.tokens, c)];
      const Row their_y(at, at + scan.tokens);
      theirs.insert(theirs.end(), their_y.begin(), their_y.end());
      EXPECT_LE(RelativeError(our_y, their_y), 2e-6)
          << "sequence " << sequence << ", channel " << c;
    }
  }
  EXPECT_LE(RelativeError(ours, theirs), 2e-6);
}

using GoldenMambaTest = GoldenTest;
class GoldenSmallTest : public GoldenTest {
  void Prepare() override { Load("b-vitamins-ssm/selective_scan_reference.json"); }
};
INSTANTIATE_TEST_SUITE_P(Backends, GoldenMambaTest, ::testing::ValuesIn(TestedDevices()),
                         NameOfVariant);
INSTANTIATE_TEST_SUITE_P(Backends, GoldenSmallTest, ::testing::ValuesIn(TestedDevices()),
                         NameOfVariant);

// Softplus is on in these cases; in the others dt may be negative, which no softplus gives.
TEST_P(GoldenMambaTest, SelectiveScan) {
  for (const char* name : {"full", "time_varying_3d"}) {
    SCOPED_TRACE(name);
    const Json& one = cases_["selective_scan"][name];
    const ScanCase scan(one["inputs"]);
    ExpectScan(backend(), scan, Tensor(one["outputs"], "y"), scan.channels);
  }
}

// Three channels over two groups: the third has no group.
TEST_P(GoldenMambaTest, SelectiveScanWithGroups) {
  const Json& one = cases_["selective_scan"]["grouped_time_varying"];
  const ScanCase scan(one["inputs"]);
  ASSERT_EQ(scan.groups, 2);
  ExpectScan(backend(), scan, Tensor(one["outputs"], "y"), 2);
}

TEST_P(GoldenSmallTest, SelectiveScanCases) {
  const Json one = testing::LoadGolden("b-vitamins-ssm/selective_scan_case1.json");
  ASSERT_TRUE(one.is_object());
  const ScanCase scan(one["inputs"]);
  ExpectScan(backend(), scan, Tensor(one["outputs"], "out"), scan.channels);
  for (const Json& each : cases_) {
    SCOPED_TRACE(each["description"].get<std::string>());
    const ScanCase part(each["inputs"]);
    ExpectScan(backend(), part, Tensor(each["outputs"], "y"), part.channels);
  }
}

// B is 0 and D is 1: what comes out is the convolved x.
TEST_P(GoldenMambaTest, CausalConvolution) {
  for (const char* name : {"channels_first_silu", "channels_last_identity"}) {
    SCOPED_TRACE(name);
    const Json& one = cases_["dw_causal_conv"][name];
    const Row x = Tensor(one["inputs"], "x");
    Row y = Tensor(one["outputs"], "y");
    constexpr int kChannels = 8, kRows = 5;
    MambaNumbers numbers;
    numbers.width = kChannels;
    numbers.convolution = Tensor(one["inputs"], "weight");
    numbers.convolution_bias = Tensor(one["inputs"], "bias");
    numbers.a.assign(kChannels * kChannels, -1);
    numbers.dt_bias.assign(kChannels, 0);
    numbers.skip.assign(kChannels, 1);
    ASSERT_EQ(numbers.convolution.size(), size_t{kChannels * kTaps});
    const bool channels_first = !numbers.convolution_bias.empty();
    if (!channels_first) {  // ours always has the activation
      for (float& value : y) value = static_cast<float>(SiLU(value));
    }
    Row ours(y.size());
    for (int batch = 0; batch < 2; ++batch) {
      const auto place = [&](int t, int c) {
        return batch * kChannels * kRows + (channels_first ? c * kRows + t : t * kChannels + c);
      };
      Rows rows;
      for (int t = 0; t < kRows; ++t) {
        Row row(4 * kChannels + 1, 0);
        for (int c = 0; c < kChannels; ++c) {
          row[c] = x[place(t, c)];
          row[kChannels + c] = kOpenGate;
        }
        rows.push_back(row);
      }
      Row state(kChannels * kChannels, 0);
      const Rows out = RunMamba(backend(), numbers, rows, state);
      for (int t = 0; t < kRows; ++t) {
        for (int c = 0; c < kChannels; ++c) ours[place(t, c)] = out[t][c];
      }
    }
    EXPECT_LE(RelativeError(ours, y), 1e-6);
  }
}

// One step from a given state: the second half of every decoding step. "grouped" was made without
// softplus: there only the channels with a positive dt can be compared, given as softplus takes it.
TEST_P(GoldenMambaTest, SelectiveStateUpdate) {
  for (const char* name : {"baseline_full", "grouped"}) {
    SCOPED_TRACE(name);
    const Json& inputs = cases_["selective_state_update"][name]["inputs"];
    const Json& outputs = cases_["selective_state_update"][name]["outputs"];
    const Row state = Tensor(inputs, "state"), x = Tensor(inputs, "x"), dt = Tensor(inputs, "dt"),
              a = Tensor(inputs, "A"), b = Tensor(inputs, "B"), c = Tensor(inputs, "C"),
              skip = Tensor(inputs, "D"), z = Tensor(inputs, "z"),
              dt_bias = Tensor(inputs, "dt_bias"), golden_y = Tensor(outputs, "y"),
              golden_state = Tensor(outputs, "updated_state");
    const size_t batches = 2, states = 4, channels = x.size() / batches,
                 groups = b.size() / (batches * states);
    const bool softplus = std::string(name) == "baseline_full";
    Row y, updated, their_y, their_state;
    for (size_t batch = 0; batch < batches; ++batch) {
      for (size_t i = 0; i < channels; ++i) {
        const size_t at = batch * channels + i,
                     group = (batch * groups + i / (channels / groups)) * states;
        Channel channel;
        channel.x = {x[at]};
        channel.delta = {dt[at]};
        channel.z = {z.empty() ? kOpenGate : z[at]};
        channel.a.assign(&a[i * states], &a[i * states] + states);
        channel.b.assign(&b[group], &b[group] + states);
        channel.c.assign(&c[group], &c[group] + states);
        channel.state.assign(&state[at * states], &state[at * states] + states);
        channel.dt_bias = dt_bias[i];
        channel.skip = skip.empty() ? 0 : skip[i];
        if (!softplus) {
          const double step = double{dt[at]} + dt_bias[i];
          if (step <= 0) continue;
          channel.delta = {static_cast<float>(std::log(std::expm1(step)))};
          channel.dt_bias = 0;
        }
        their_y.push_back(golden_y[at]);
        their_state.insert(their_state.end(), &golden_state[at * states],
                           &golden_state[at * states] + states);
        y.push_back(Scan(backend(), channel)[0]);
        updated.insert(updated.end(), channel.state.begin(), channel.state.end());
      }
    }
    ASSERT_GE(y.size(), 4u);
    EXPECT_LE(RelativeError(y, their_y), 2e-6);
    EXPECT_LE(RelativeError(updated, their_state), 2e-6);
  }
}

}  // namespace
}  // namespace mambad::kernels
