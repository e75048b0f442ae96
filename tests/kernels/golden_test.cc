// The mixers against outputs of the original CUDA and Triton kernels, where that data lies beside
// the checkout.

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/convolution.h"
#include "kernels/cpu/mamba2_scan.h"
#include "kernels/cpu/mixers.h"
#include "nlohmann/json.hpp"

namespace mambad::kernels {
namespace {

using Json = nlohmann::json;
using Numbers = std::vector<float>;

constexpr float kOpenGate = 1.27846454f;  // SiLU of this is 1: for cases without a gate

Json Load(const std::string& file) {
  const char* folder = std::getenv("MAMBAD_SHARED_DATA");
  if (folder == nullptr) return nullptr;
  std::ifstream stream(std::string(folder) + "/golden/" + file);
  if (!stream) return nullptr;
  std::string text((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
  for (size_t at; (at = text.find("NaN")) != std::string::npos;)
    text.replace(at, 3, "null");  // not JSON, nor used here
  Json parsed = Json::parse(text, nullptr, false);
  EXPECT_FALSE(parsed.is_discarded()) << file;
  return parsed;
}

void Flatten(const Json& value, Numbers& out) {
  if (value.is_array()) {
    for (const Json& element : value) Flatten(element, out);
  } else {
    out.push_back(value.is_number() ? value.get<float>() : std::numeric_limits<float>::quiet_NaN());
  }
}

// A tensor in row-major order, either plain nested lists or {data, shape}; empty when absent.
Numbers Tensor(const Json& parent, const char* name) {
  Numbers out;
  if (!parent.contains(name) || parent[name].is_null()) return out;
  Flatten(parent[name].is_object() ? parent[name]["data"] : parent[name], out);
  return out;
}

std::vector<size_t> Shape(const Json& parent, const char* name) {
  std::vector<size_t> shape;
  const Json& value = parent[name];
  for (const Json* at = value.is_object() ? &value["data"] : &value; at->is_array(); at = &(*at)[0])
    shape.push_back(at->size());
  return shape;
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
  explicit OneSequence(int rows) : row_begin{0, rows}, commit{rows} {
    batch.sequences = 1;
    batch.rows = rows;
    batch.row_begin = row_begin;
    batch.slot = batch.position = batch.replay = batch.window_start = zero;
    batch.commit = commit;
  }
  int32_t row_begin[2], commit[1], zero[1] = {0};
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
  const RecurrentSlotLayout layout = MambaSlotLayout(layer, false);
  Numbers slot(layout.floats, 0.0f), out(rows);
  for (int n = 0; n < size; ++n) slot[layout.checkpoint + n * 16] = channel.state[n];
  ThreadPool pool(1);
  OneSequence one(rows);
  MambaScan(pool, one.batch, layer, {slot.data(), layout}, View(channel.x, rows, 1),
            View(channel.delta, rows, 1), View(channel.b, rows, size), View(channel.c, rows, size),
            View(channel.z, rows, 1), View(out, rows, 1));
  for (int n = 0; n < size; ++n) channel.state[n] = slot[layout.checkpoint + n * 16];
  return out;
}

// A selective scan case: x, delta, z [batch, channels, T]; B and C [channels, N], [N, ...] or with
// groups and time.
struct ScanCase {
  Numbers x, delta, a, b, c, skip, z, dt_bias, y;
  size_t batches = 0, channels = 0, rows = 0, states = 0, b_rank = 0, groups = 1;

  // Element n of B or C for a channel at a time.
  float At(const Numbers& values, size_t batch, size_t channel, size_t n, size_t t) const {
    if (b_rank == 2) return values[channel * states + n];
    if (b_rank == 3) return values[(batch * channels + channel) * states + n];
    const size_t group = channel / (channels / groups);
    return values[((batch * groups + group) * states + n) * rows + t];
  }
  Channel Take(size_t batch, size_t channel) const {
    Channel result;
    const size_t begin = (batch * channels + channel) * rows;
    result.x.assign(&x[begin], &x[begin] + rows);
    result.delta.assign(&delta[begin], &delta[begin] + rows);
    z.empty() ? result.z.assign(rows, kOpenGate) : result.z.assign(&z[begin], &z[begin] + rows);
    result.a.assign(&a[channel * states], &a[channel * states] + states);
    for (size_t t = 0; t < rows; ++t) {
      for (size_t n = 0; n < states; ++n) {
        result.b.push_back(At(b, batch, channel, n, t));
        result.c.push_back(At(c, batch, channel, n, t));
      }
    }
    result.state.assign(states, 0.0f);
    if (!dt_bias.empty()) result.dt_bias = dt_bias[channel];
    if (!skip.empty()) result.skip = skip[channel];
    return result;
  }
};

ScanCase ReadScan(const Json& inputs, const Numbers& y) {
  ScanCase scan;
  scan.x = Tensor(inputs, "u");
  scan.delta = Tensor(inputs, "delta");
  scan.a = Tensor(inputs, "A");
  scan.b = Tensor(inputs, "B");
  scan.c = Tensor(inputs, "C");
  scan.skip = Tensor(inputs, "D");
  scan.z = Tensor(inputs, "z");
  scan.dt_bias = Tensor(inputs, inputs.contains("delta_bias") ? "delta_bias" : "dt_bias");
  scan.y = y;
  const Json& u = inputs["u"];
  const std::vector<size_t> shape = u.is_object() && u["shape"].size() == 3
                                        ? u["shape"].get<std::vector<size_t>>()
                                        : Shape(inputs, "u");
  scan.batches = shape[0];
  scan.channels = shape[1];
  scan.rows = shape[2];
  scan.states = scan.a.size() / scan.channels;
  scan.b_rank = scan.b.size() == scan.a.size()                  ? 2
                : scan.b.size() == scan.batches * scan.a.size() ? 3
                                                                : 4;
  if (scan.b_rank == 4) scan.groups = scan.b.size() / (scan.batches * scan.states * scan.rows);
  return scan;
}

void ExpectScan(const ScanCase& scan, size_t channels, double tolerance) {
  Numbers ours, theirs;
  for (size_t batch = 0; batch < scan.batches; ++batch) {
    for (size_t c = 0; c < channels; ++c) {
      Channel channel = scan.Take(batch, c);
      const Numbers y = Scan(channel);
      ours.insert(ours.end(), y.begin(), y.end());
      const float* at = &scan.y[(batch * scan.channels + c) * scan.rows];
      theirs.insert(theirs.end(), at, at + scan.rows);
      EXPECT_LE(RelativeError(y, Numbers(at, at + scan.rows)), tolerance)
          << "batch " << batch << ", channel " << c;
    }
  }
  EXPECT_LE(RelativeError(ours, theirs), tolerance);
}

class Golden : public ::testing::Test {
 protected:
  void SetUp() override {
    cases_ = Load("mamba_ssm_cuda_reference_cases.json");
    if (!cases_.is_object()) {
      GTEST_SKIP() << "no reference values: MAMBAD_SHARED_DATA names no folder with "
                      "golden/mamba_ssm_cuda_reference_cases.json";
    }
  }
  Json cases_;
};

// Softplus is on in these cases; in the others dt may be negative, which no softplus gives.
TEST_F(Golden, SelectiveScan) {
  for (const char* name : {"full", "time_varying_3d"}) {
    SCOPED_TRACE(name);
    const Json& one = cases_["selective_scan"][name];
    const ScanCase scan = ReadScan(one["inputs"], Tensor(one["outputs"], "y"));
    ExpectScan(scan, scan.channels, 2e-6);
  }
}

// Three channels over two groups: the third has no group.
TEST_F(Golden, SelectiveScanWithGroups) {
  const Json& one = cases_["selective_scan"]["grouped_time_varying"];
  const ScanCase scan = ReadScan(one["inputs"], Tensor(one["outputs"], "y"));
  ASSERT_EQ(scan.groups, 2u);
  ExpectScan(scan, 2, 2e-6);
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
    const RecurrentSlotLayout layout = MambaSlotLayout(layer, false);
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
      MambaConvolution(pool, one_sequence.batch, layer, {slot.data(), layout},
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
  const RecurrentSlotLayout layout = Mamba2SlotLayout(layer, false);
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
    Mamba2Scan(pool, one.batch, layer, {slot.data(), layout}, View(projected, rows, projection),
               View(convolved, rows, channels), View(out, rows, width));
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

TEST(GoldenSmall, SelectiveScanCases) {
  const Json cases = Load("b-vitamins-ssm/selective_scan_reference.json");
  const Json one = Load("b-vitamins-ssm/selective_scan_case1.json");
  if (!cases.is_array() || !one.is_object()) {
    GTEST_SKIP()
        << "no reference values: MAMBAD_SHARED_DATA names no folder with golden/b-vitamins-ssm";
  }
  ScanCase scan = ReadScan(one["inputs"], Tensor(one["outputs"], "out"));
  ExpectScan(scan, scan.channels, 2e-6);
  for (const Json& each : cases) {
    SCOPED_TRACE(each["description"].get<std::string>());
    scan = ReadScan(each["inputs"], Tensor(each["outputs"], "y"));
    ExpectScan(scan, scan.channels, 2e-6);
  }
}

}  // namespace
}  // namespace mambad::kernels
