// The mixers against outputs of the original CUDA and Triton kernels, where that data lies beside
// the checkout.

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/convolution.h"
#include "kernels/cpu/mamba2_scan.h"
#include "kernels/cpu/mixers.h"
#include "tests/support/golden_values.h"

namespace mambad::kernels {
namespace {

using testing::Json;
using Numbers = std::vector<float>;
using ScanCase = testing::GoldenScan<float>;

constexpr float kOpenGate = 1.27846454f;  // SiLU of this is 1: for cases without a gate

Numbers Tensor(const Json& parent, const char* name) {
  return testing::GoldenTensor<float>(parent, name);
}

double RelativeError(const Numbers& ours, const Numbers& theirs) {
  EXPECT_EQ(ours.size(), theirs.size());
  double difference = 0, size = 0;
  for (size_t i = 0; i < theirs.size(); ++i) {
    difference += (double{ours[i]} - theirs[i]) * (double{ours[i]} - theirs[i]);
    size += double{theirs[i]} * theirs[i];
  }
  return std::sqrt(difference / size);
}

// A batch of one sequence in slot 0 that commits all its rows.
struct OneSequence {
  explicit OneSequence(int rows) : row_begin{0, rows}, all{rows} {
    batch.sequences = 1;
    batch.rows = rows;
    batch.row_begin = row_begin;
    batch.slot = batch.position = batch.replay = batch.keep_at = batch.resume = zero;
    batch.fold = one;
    batch.keep_from = all;
  }
  int32_t row_begin[2], all[1], zero[1] = {0}, one[1] = {1};
  Batch batch;
};

RowsView View(Numbers& numbers, int64_t rows, int64_t columns) {
  return {numbers.data(), rows, columns, columns};
}

// One channel's selective scan. Vectors run over time; b and c [T, N]. `state` [N] is what it
// starts from and becomes.
struct Channel {
  Numbers x, delta, z, a, b, c, state;
  float dt_bias = 0, skip = 0;
};

Numbers Scan(Channel& channel) {
  const int rows = static_cast<int>(channel.x.size()), size = static_cast<int>(channel.a.size());
  MambaLayer layer;
  layer.inner_width = 1;
  layer.state_size = size;
  layer.dt_rank = 1;
  layer.dt_bias = &channel.dt_bias;
  layer.skip = &channel.skip;
  Numbers a(size * 16, 0.0f);
  for (int n = 0; n < size; ++n) a[n * 16] = channel.a[n];
  layer.a = a.data();
  const RecurrentSlotLayout layout = MambaSlotLayout(layer, 0, false);
  Numbers slot(layout.floats, 0.0f), out(rows);
  for (int n = 0; n < size; ++n) slot[layout.checkpoint + n * 16] = channel.state[n];
  ThreadPool pool(1);
  OneSequence one(rows);
  MambaScan(pool, one.batch, layer, {slot.data(), layout.floats, layout}, View(channel.x, rows, 1),
            View(channel.delta, rows, 1), View(channel.b, rows, size), View(channel.c, rows, size),
            View(channel.z, rows, 1), View(out, rows, 1));
  for (int n = 0; n < size; ++n) channel.state[n] = slot[layout.checkpoint + n * 16];
  return out;
}

Channel Take(const ScanCase& scan, int64_t sequence, int64_t channel) {
  Channel result;
  const int64_t begin = sequence * scan.tokens;
  const auto over_time = [&](const char* name) {
    const float* values = &scan.in.at(name)[scan.At(begin, channel)];
    return Numbers(values, values + scan.tokens);
  };
  result.x = over_time("u");
  result.delta = over_time("delta");
  result.z = scan.in.contains("z") ? over_time("z") : Numbers(scan.tokens, kOpenGate);
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
void ExpectScan(const ScanCase& scan, const Numbers& y, int64_t channels, double tolerance) {
  ASSERT_EQ(static_cast<int64_t>(y.size()), scan.rows() * scan.channels);
  Numbers ours, theirs;
  for (int64_t sequence = 0; sequence < scan.sequences; ++sequence) {
    for (int64_t c = 0; c < channels; ++c) {
      Channel channel = Take(scan, sequence, c);
      const Numbers our_y = Scan(channel);
      ours.insert(ours.end(), our_y.begin(), our_y.end());
      const float* at = &y[scan.At(sequence * scan.tokens, c)];
      const Numbers their_y(at, at + scan.tokens);
      theirs.insert(theirs.end(), their_y.begin(), their_y.end());
      EXPECT_LE(RelativeError(our_y, their_y), tolerance)
          << "sequence " << sequence << ", channel " << c;
    }
  }
  EXPECT_LE(RelativeError(ours, theirs), tolerance);
}

class Golden : public testing::GoldenCases {};
class GoldenSmall : public testing::GoldenSmallScans {};

// Softplus is on in these cases; in the others dt may be negative, which no softplus gives.
TEST_F(Golden, SelectiveScan) {
  for (const char* name : {"full", "time_varying_3d"}) {
    SCOPED_TRACE(name);
    const Json& one = cases_["selective_scan"][name];
    const ScanCase scan(one["inputs"]);
    ExpectScan(scan, Tensor(one["outputs"], "y"), scan.channels, 2e-6);
  }
}

// Three channels over two groups: the third has no group.
TEST_F(Golden, SelectiveScanWithGroups) {
  const Json& one = cases_["selective_scan"]["grouped_time_varying"];
  const ScanCase scan(one["inputs"]);
  ASSERT_EQ(scan.groups, 2);
  ExpectScan(scan, Tensor(one["outputs"], "y"), 2, 2e-6);
}

TEST_F(Golden, CausalConvolution) {
  for (const char* name : {"channels_first_silu", "channels_last_identity"}) {
    SCOPED_TRACE(name);
    const Json& one = cases_["dw_causal_conv"][name];
    Numbers x = Tensor(one["inputs"], "x"), weights = Tensor(one["inputs"], "weight"),
            bias = Tensor(one["inputs"], "bias");
    Numbers y = Tensor(one["outputs"], "y");
    const bool channels_first = !bias.empty();
    const int channels = 8, rows = 5;
    if (!channels_first) {  // ours always has the activation
      for (float& value : y) value = static_cast<float>(value / (1 + std::exp(-double{value})));
    }
    MambaLayer layer;
    layer.inner_width = channels;
    layer.state_size = 1;
    layer.convolution = weights.data();
    layer.convolution_bias = bias.empty() ? nullptr : bias.data();
    const RecurrentSlotLayout layout = MambaSlotLayout(layer, 0, false);
    Numbers ours(y.size());
    for (int batch = 0; batch < 2; ++batch) {
      const auto place = [&](int t, int c) {
        return batch * channels * rows + (channels_first ? c * rows + t : t * channels + c);
      };
      Numbers in(rows * channels), out(rows * channels), slot(layout.floats, 0.0f);
      for (int t = 0; t < rows; ++t) {
        for (int c = 0; c < channels; ++c) in[t * channels + c] = x[place(t, c)];
      }
      ThreadPool pool(1);
      OneSequence one_sequence(rows);
      MambaConvolution(pool, one_sequence.batch, layer, {slot.data(), layout.floats, layout},
                       View(in, rows, channels), View(out, rows, channels));
      for (int t = 0; t < rows; ++t) {
        for (int c = 0; c < channels; ++c) ours[place(t, c)] = out[t * channels + c];
      }
    }
    EXPECT_LE(RelativeError(ours, y), 1e-6);
  }
}

// One step from a given state: the second half of every decoding step. "grouped" was made without
// softplus: there only the channels with a positive dt can be compared, given as softplus takes it.
TEST_F(Golden, SelectiveStateUpdate) {
  for (const char* name : {"baseline_full", "grouped"}) {
    SCOPED_TRACE(name);
    const Json& inputs = cases_["selective_state_update"][name]["inputs"];
    const Json& outputs = cases_["selective_state_update"][name]["outputs"];
    const Numbers state = Tensor(inputs, "state"), x = Tensor(inputs, "x"),
                  dt = Tensor(inputs, "dt"), a = Tensor(inputs, "A");
    const Numbers b = Tensor(inputs, "B"), c = Tensor(inputs, "C"), skip = Tensor(inputs, "D"),
                  z = Tensor(inputs, "z");
    const Numbers dt_bias = Tensor(inputs, "dt_bias");
    const size_t batches = 2, states = 4, channels = x.size() / batches,
                 groups = b.size() / (batches * states);
    const Numbers golden_y = Tensor(outputs, "y"), golden_state = Tensor(outputs, "updated_state");
    const bool softplus = std::string(name) == "baseline_full";
    Numbers y, updated, their_y, their_state;
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
        y.push_back(Scan(channel)[0]);
        updated.insert(updated.end(), channel.state.begin(), channel.state.end());
      }
    }
    ASSERT_GE(y.size(), 4u);
    EXPECT_LE(RelativeError(y, their_y), 2e-6);
    EXPECT_LE(RelativeError(updated, their_state), 2e-6);
  }
}

// The first head only: A of the second is positive, where the original clamps what the recurrence
// does not. Their products run in TF32. D is one number a channel there and is added here.
TEST_F(Golden, StateSpaceDuality) {
  const Json& inputs = cases_["ssd_combined"]["combined_full"]["inputs"];
  const Json& outputs = cases_["ssd_combined"]["combined_full"]["outputs"];
  const Numbers x = Tensor(inputs, "X"), dt = Tensor(inputs, "dt"), a = Tensor(inputs, "A"),
                b = Tensor(inputs, "B");
  const Numbers c = Tensor(inputs, "C"), d = Tensor(inputs, "D"), z = Tensor(inputs, "z"),
                y = Tensor(outputs, "y");
  const Numbers dt_bias = Tensor(inputs, "dt_bias"), initial = Tensor(inputs, "initial_states");
  const Numbers final_states = Tensor(outputs, "final_states");
  const int batches = 2, rows = 6, heads = 2, width = 3, size = 4;
  ASSERT_LT(a[0], 0);
  Mamba2Layer layer;
  layer.inner_width = width;
  layer.state_size = size;
  layer.heads = 1;
  layer.dt_maximum = std::numeric_limits<float>::infinity();
  const float no_skip = 0;
  layer.dt_bias = &dt_bias[0];
  layer.a = &a[0];
  layer.skip = &no_skip;
  const RecurrentSlotLayout layout = Mamba2SlotLayout(layer, 0, false);
  Numbers ours, theirs, our_states, their_states;
  for (int batch = 0; batch < batches; ++batch) {
    const int channels = width + 2 * size, projection = width + channels + 1;
    Numbers projected(rows * projection, 0.0f), convolved(rows * channels), out(rows * width);
    for (int t = 0; t < rows; ++t) {
      const int at = batch * rows + t;
      for (int p = 0; p < width; ++p) {
        projected[t * projection + p] = kOpenGate;
        convolved[t * channels + p] = x[at * heads * width + p];
      }
      projected[t * projection + projection - 1] = dt[at * heads];
      for (int n = 0; n < size; ++n) {
        convolved[t * channels + width + n] = b[at * size + n];
        convolved[t * channels + width + size + n] = c[at * size + n];
      }
    }
    Numbers slot(layout.floats, 0.0f);
    const auto theirs_at = [&](int p, int n) { return (batch * heads * width + p) * size + n; };
    for (int p = 0; p < width; ++p) {
      for (int n = 0; n < size; ++n)
        slot[layout.checkpoint + n * width + p] = initial[theirs_at(p, n)];
    }
    ThreadPool pool(1);
    OneSequence one(rows);
    Mamba2Scan(pool, one.batch, layer, {slot.data(), layout.floats, layout},
               View(projected, rows, projection), View(convolved, rows, channels),
               View(out, rows, width));
    for (int t = 0; t < rows; ++t) {
      for (int p = 0; p < width; ++p) {
        const int at = ((batch * rows + t) * heads) * width + p;
        ours.push_back((out[t * width + p] + d[p] * x[at]) * z[at] / (1 + std::exp(-z[at])));
        theirs.push_back(y[at]);
      }
    }
    for (int p = 0; p < width; ++p) {
      for (int n = 0; n < size; ++n) {
        our_states.push_back(slot[layout.checkpoint + n * width + p]);
        their_states.push_back(final_states[theirs_at(p, n)]);
      }
    }
  }
  EXPECT_LE(RelativeError(ours, theirs), 7e-3);
  EXPECT_LE(RelativeError(our_states, their_states), 7e-3);
}

TEST_F(GoldenSmall, SelectiveScanCases) {
  const Json one = testing::LoadGolden("b-vitamins-ssm/selective_scan_case1.json");
  ASSERT_TRUE(one.is_object());
  const ScanCase scan(one["inputs"]);
  ExpectScan(scan, Tensor(one["outputs"], "out"), scan.channels, 2e-6);
  for (const Json& each : cases_) {
    SCOPED_TRACE(each["description"].get<std::string>());
    const ScanCase part(each["inputs"]);
    ExpectScan(part, Tensor(each["outputs"], "y"), part.channels, 2e-6);
  }
}

}  // namespace
}  // namespace mambad::kernels
