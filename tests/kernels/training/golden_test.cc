// Training operations against outputs and gradients of the original CUDA and Triton kernels, where
// that data lies beside the checkout. The gradients there are those of the sum of the outputs.

#include <cmath>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/training/reference.h"
#include "tests/kernels/training/run.h"
#include "tests/support/golden_values.h"

namespace mambad::kernels {
namespace {

using testing::Json;

Numbers Tensor(const Json& parent, const char* name) {
  return testing::GoldenTensor<double>(parent, name);
}

// Some gradients in the file are NaN; at least a third of each tensor are numbers.
void ExpectGolden(const Numbers& ours, const Numbers& golden, double tolerance, const char* name) {
  ASSERT_EQ(ours.size(), golden.size()) << name;
  Numbers mine, theirs;
  for (size_t i = 0; i < golden.size(); ++i) {
    if (std::isnan(golden[i])) continue;
    mine.push_back(ours[i]);
    theirs.push_back(golden[i]);
  }
  EXPECT_GE(3 * theirs.size(), golden.size()) << name;
  EXPECT_LE(RelativeError(mine, theirs), tolerance) << name;
}

class TrainingGolden : public testing::GoldenCases {};
class TrainingGoldenSmall : public testing::GoldenSmallScans {};

TEST_F(TrainingGolden, CausalConvolution) {
  const Json& one = cases_["dw_causal_conv"]["channels_first_silu"];
  constexpr int kSequences = 2, kChannels = 8, kTokens = 5;
  const auto turn = [](const Numbers& values, bool to_rows) {  // [sequence, channel, token]
    Numbers turned(values.size());
    for (int s = 0; s < kSequences; ++s) {
      for (int c = 0; c < kChannels; ++c) {
        for (int t = 0; t < kTokens; ++t) {
          const int theirs = (s * kChannels + c) * kTokens + t,
                    ours = (s * kTokens + t) * kChannels + c;
          turned[to_rows ? ours : theirs] = values[to_rows ? theirs : ours];
        }
      }
    }
    return turned;
  };
  CausalConvolution problem;
  problem.batch.sequences = kSequences;
  problem.batch.tokens = kTokens;
  problem.channels = kChannels;
  const Json &inputs = one["inputs"], &gradients = one["gradients"];
  const TrainingResult ours = RunTraining<float>(problem,
                                                 {{"input", turn(Tensor(inputs, "x"), true)},
                                                  {"weight", Tensor(inputs, "weight")},
                                                  {"bias", Tensor(inputs, "bias")}},
                                                 Numbers(kSequences * kChannels * kTokens, 1.0), 2);
  ExpectGolden(turn(ours.y, false), Tensor(one["outputs"], "y"), 1e-6, "y");
  ExpectGolden(turn(ours.gradients.at("input"), false), Tensor(gradients, "x"), 1e-6, "d x");
  ExpectGolden(ours.gradients.at("weight"), Tensor(gradients, "weight"), 1e-6, "d weight");
  ExpectGolden(ours.gradients.at("bias"), Tensor(gradients, "bias"), 1e-6, "d bias");
}

// A selective scan with what the files' gradients are compared with. Softplus is on.
struct TrainingScan : testing::GoldenScan<double> {
  explicit TrainingScan(const Json& inputs) : GoldenScan(inputs) {
    for (const auto& [name, values] : in) gradients[name].assign(values.size(), 0);
    y.assign(in["u"].size(), 0);
  }

  // One channel with some of its state numbers as a problem of ours, A under the name `a`.
  Tensors Take(int64_t channel, const std::vector<int64_t>& picked) const {
    Tensors part;
    for (const auto& [ours, theirs] :
         {std::pair("x", "u"), std::pair("delta", "delta"), std::pair("z", "z")}) {
      if (in.count(theirs) == 0) continue;
      for (int64_t row = 0; row < rows(); ++row) {
        part[ours].push_back(in.at(theirs)[At(row, channel)]);
      }
    }
    for (const int64_t n : picked) part["a"].push_back(in.at("A")[channel * states + n]);
    for (int64_t row = 0; row < rows(); ++row) {
      for (const int64_t n : picked) {
        part["b"].push_back(in.at("B")[Place(row, channel, n)]);
        part["c"].push_back(in.at("C")[Place(row, channel, n)]);
      }
    }
    part["skip"] = {in.at("D")[channel]};
    part["dt_bias"] = {in.at("delta_bias")[channel]};
    return part;
  }

  SelectiveScan Sizes(const std::vector<int64_t>& picked) const {
    SelectiveScan problem;
    problem.batch.sequences = sequences;
    problem.batch.tokens = tokens;
    problem.channels = 1;
    problem.state_size = static_cast<int64_t>(picked.size());
    return problem;
  }

  // Adds a part's results to y and to the gradients, which are those of the files' tensors.
  void Add(int64_t channel, const std::vector<int64_t>& picked, const Numbers& part_y,
           const Tensors& part) {
    const int64_t count = static_cast<int64_t>(picked.size());
    for (int64_t row = 0; row < rows(); ++row) {
      const int64_t at = At(row, channel);
      y[at] += part_y[row];
      gradients["u"][at] += part.at("x")[row];
      gradients["delta"][at] += part.at("delta")[row];
      if (part.count("z")) gradients["z"][at] += part.at("z")[row];
      for (int64_t k = 0; k < count; ++k) {
        const int64_t place = Place(row, channel, picked[k]);
        gradients["B"][place] += part.at("b")[row * count + k];
        gradients["C"][place] += part.at("c")[row * count + k];
      }
    }
    for (int64_t k = 0; k < count; ++k) {
      gradients["A"][channel * states + picked[k]] += part.at("a")[k];
    }
    gradients["delta_bias"][channel] += part.at("dt_bias")[0];
  }

  Tensors gradients;
  Numbers y;
};

// Some A of the files are positive, which no A_log gives. Everything is a sum over the state
// numbers: ours for the negative A, with D, plus the closed form for the others must be theirs.
TEST_F(TrainingGolden, SelectiveScan) {
  for (const char* name : {"full", "time_varying_3d"}) {
    SCOPED_TRACE(name);
    const Json& one = cases_["selective_scan"][name];
    TrainingScan scan(one["inputs"]);
    ASSERT_EQ(scan.rows(), 10);
    const Numbers ones(10, 1.0);
    int64_t ours = 0;
    for (int64_t channel = 0; channel < scan.channels; ++channel) {
      std::vector<int64_t> negative, positive;
      for (int64_t n = 0; n < scan.states; ++n) {
        (scan.in["A"][channel * scan.states + n] < 0 ? negative : positive).push_back(n);
      }
      ours += static_cast<int64_t>(negative.size());
      Tensors part = scan.Take(channel, negative);
      for (const double a : part["a"]) part["a_log"].push_back(std::log(-a));
      const Numbers a = part["a"];
      part.erase("a");
      ASSERT_FALSE(negative.empty());
      TrainingResult result = RunTraining<float>(scan.Sizes(negative), part, ones, 1);
      scan.gradients["D"][channel] += result.gradients.at("skip")[0];
      Numbers& a_gradient = result.gradients["a"] = result.gradients.at("a_log");
      for (size_t i = 0; i < a.size(); ++i) a_gradient[i] /= a[i];
      scan.Add(channel, negative, result.y, result.gradients);
      if (positive.empty()) continue;
      part = scan.Take(channel, positive);
      part["skip"] = {0};
      const SelectiveScan sizes = scan.Sizes(positive);
      scan.Add(channel, positive, Reference(sizes, part), Differences(sizes, part, ones));
    }
    EXPECT_GE(ours, 4);
    ExpectGolden(scan.y, Tensor(one["outputs"], "y"), 2e-6, "y");
    for (const char* tensor : {"u", "delta", "A", "B", "C", "D", "z", "delta_bias"}) {
      if (!one["gradients"].contains(tensor)) continue;
      ExpectGolden(scan.gradients[tensor], Tensor(one["gradients"], tensor), 3e-6, tensor);
    }
  }
}

// Head 0 only: A of the other is positive, where the original clamps what the recurrence does not.
// Their products run in TF32. The state they begin with is written by three tokens before the
// others, one a row of it; what they get as B's gradient is then the state's. D is one number a
// channel there and, as the gate, added here.
TEST_F(TrainingGolden, StateSpaceDuality) {
  const Json& one = cases_["ssd_combined"]["combined_full"];
  const Json &inputs = one["inputs"], &gradients = one["gradients"];
  const Numbers x = Tensor(inputs, "X"), dt = Tensor(inputs, "dt"), b = Tensor(inputs, "B"),
                c = Tensor(inputs, "C"), d = Tensor(inputs, "D"), z = Tensor(inputs, "z"),
                initial = Tensor(inputs, "initial_states");
  constexpr int kSequences = 2, kTokens = 6, kHeads = 2, kWidth = 3, kSize = 4, kBefore = 3;
  constexpr int kRows = kTokens + kBefore;
  const double a = Tensor(inputs, "A")[0], bias = Tensor(inputs, "dt_bias")[0];
  ASSERT_LT(a, 0);
  Mamba2Scan problem;
  problem.batch.sequences = kSequences;
  problem.batch.tokens = kRows;
  problem.heads = problem.source_heads = 1;
  problem.head_width = kWidth;
  problem.state_size = kSize;
  Tensors in = {{"a_log", {std::log(-a)}}, {"skip", {0}}, {"dt_bias", {bias}}};
  Numbers y_gradient;
  for (int s = 0; s < kSequences; ++s) {
    for (int i = 0; i < kBefore; ++i) {
      // dt = softplus(0) and so many decays before the first real token.
      const double step = std::log(2.0), left = std::exp(step * a * (kBefore - 1 - i));
      in["dt"].push_back(-bias);
      for (int p = 0; p < kWidth; ++p) {
        in["x"].push_back(p == i ? 1 / (step * left) : 0);
        y_gradient.push_back(0);
      }
      const auto row = initial.begin() + (s * kHeads * kWidth + i) * kSize;
      in["b"].insert(in["b"].end(), row, row + kSize);
      in["c"].insert(in["c"].end(), kSize, 0.0);
    }
    for (int t = 0; t < kTokens; ++t) {
      const int row = s * kTokens + t;
      in["dt"].push_back(dt[row * kHeads]);
      for (int p = 0; p < kWidth; ++p) {
        in["x"].push_back(x[row * kHeads * kWidth + p]);
        y_gradient.push_back(ReferenceSilu(z[row * kHeads * kWidth + p]));
      }
      in["b"].insert(in["b"].end(), &b[row * kSize], &b[row * kSize] + kSize);
      in["c"].insert(in["c"].end(), &c[row * kSize], &c[row * kSize] + kSize);
    }
  }
  const TrainingResult ours = RunTraining<float>(problem, in, y_gradient, 2);
  Tensors mine, theirs;
  const auto compare = [&](const char* name, double our, double golden) {
    mine[name].push_back(our);
    theirs[name].push_back(golden);
  };
  const Numbers y = Tensor(one["outputs"], "y"), x_gradient = Tensor(gradients, "X"),
                dt_gradient = Tensor(gradients, "dt"), state = Tensor(gradients, "initial_states");
  for (int s = 0; s < kSequences; ++s) {
    for (int i = 0; i < kWidth * kSize; ++i) {
      compare("initial state", ours.gradients.at("b")[s * kRows * kSize + i],
              state[s * kHeads * kWidth * kSize + i]);
    }
    for (int t = 0; t < kTokens; ++t) {
      const int row = s * kTokens + t, our_row = s * kRows + kBefore + t;
      compare("dt", ours.gradients.at("dt")[our_row], dt_gradient[row * kHeads]);
      for (int p = 0; p < kWidth; ++p) {
        const int at = row * kHeads * kWidth + p, our_at = our_row * kWidth + p;
        compare("y", (ours.y[our_at] + d[p] * x[at]) * ReferenceSilu(z[at]), y[at]);
        compare("x", ours.gradients.at("x")[our_at] + d[p] * y_gradient[our_at], x_gradient[at]);
      }
    }
  }
  for (const auto& [name, golden] : theirs) ExpectGolden(mine[name], golden, 7e-3, name.c_str());
}

TEST_F(TrainingGoldenSmall, SelectiveScan) {
  for (const Json& each : cases_) {
    SCOPED_TRACE(each["description"].get<std::string>());
    TrainingScan scan(each["inputs"]);
    std::vector<int64_t> all;
    for (int64_t n = 0; n < scan.states; ++n) all.push_back(n);
    for (int64_t channel = 0; channel < scan.channels; ++channel) {
      Tensors part = scan.Take(channel, all);
      for (const double a : part["a"]) part["a_log"].push_back(std::log(-a));
      part.erase("a");
      TrainingResult result =
          RunTraining<float>(scan.Sizes(all), part, Numbers(scan.rows(), 1.0), 1);
      result.gradients["a"] = result.gradients["a_log"];
      scan.Add(channel, all, result.y, result.gradients);
    }
    ExpectGolden(scan.y, Tensor(each["outputs"], "y"), 2e-6, "y");
  }
}

}  // namespace
}  // namespace mambad::kernels
