// The flat, fused, sharded AdamW against one written out.

#include "trainer/optimizer.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/trainer/expect_error.h"
#include "tests/trainer/two_processes.h"
#include "trainer/losses.h"

namespace mambad::trainer {
namespace {

using at::Tensor;
using testing::AsTwoProcesses;
using testing::ErrorOf;
using ::testing::HasSubstr;

std::unique_ptr<ProcessGroup> Alone() { return JoinProcessGroup({}, false); }

Tensor Numbers(at::IntArrayRef shape, int seed) {
  return at::randn(shape, at::detail::createCPUGenerator(static_cast<uint64_t>(seed)),
                   at::TensorOptions().dtype(at::kFloat));
}

// Loshchilov and Hutter 2019, one number at a time in double precision, fp32 where the state is.
struct PlainAdam {
  std::vector<float> value, average, square;
  explicit PlainAdam(const Tensor& start)
      : value(start.data_ptr<float>(), start.data_ptr<float>() + start.numel()),
        average(value.size()),
        square(value.size()) {}
  void Step(const std::vector<double>& gradient, double rate, double decay,
            const AdamOptions& options, int step) {
    for (size_t i = 0; i < value.size(); ++i) {
      value[i] = static_cast<float>(value[i] * (1 - rate * decay));
      average[i] =
          static_cast<float>(options.beta1 * average[i] + (1 - options.beta1) * gradient[i]);
      square[i] = static_cast<float>(options.beta2 * square[i] +
                                     (1 - options.beta2) * gradient[i] * gradient[i]);
      const double mean = average[i] / (1 - std::pow(options.beta1, step));
      const double root = std::sqrt(square[i] / (1 - std::pow(options.beta2, step)));
      value[i] = static_cast<float>(value[i] - rate * mean / (root + options.epsilon));
    }
  }
};

std::vector<double> Doubles(const Tensor& tensor) {
  const Tensor wide = tensor.to(at::kDouble).contiguous().view({-1});
  return {wide.data_ptr<double>(), wide.data_ptr<double>() + wide.numel()};
}

TEST(Schedule, RisesAndFallsAsACosine) {
  const Schedule schedule{110, 10, 0.1};
  EXPECT_DOUBLE_EQ(schedule.At(0), 0.1);
  EXPECT_DOUBLE_EQ(schedule.At(9), 1.0);
  EXPECT_DOUBLE_EQ(schedule.At(10), 1.0);
  EXPECT_DOUBLE_EQ(schedule.At(60), 0.55);
  EXPECT_DOUBLE_EQ(schedule.At(110), 0.1);
  EXPECT_DOUBLE_EQ(schedule.At(500), 0.1);
  for (int step = 11; step < 110; ++step) EXPECT_LT(schedule.At(step), schedule.At(step - 1));
  EXPECT_DOUBLE_EQ((Schedule{10, 0, 0.0}).At(0), 1.0);
}

TEST(Optimizer, VectorsAndDecayRatesAreNotPulledToZero) {
  EXPECT_TRUE(WantsWeightDecay("model.layers.0.mlp.up_proj.weight", 2));
  EXPECT_FALSE(WantsWeightDecay("model.norm.weight", 1));
  EXPECT_FALSE(WantsWeightDecay("model.layers.0.mamba.A_log", 2));
  EXPECT_FALSE(WantsWeightDecay("backbone.layers.0.mixer.D", 2));
}

TEST(Optimizer, StepsAsPlainAdamDoes) {
  Tensor one = Numbers({3, 5}, 1), two = Numbers({70}, 2), three = Numbers({2, 2}, 3);
  std::vector<PlainAdam> plain = {PlainAdam(one), PlainAdam(two), PlainAdam(three)};
  AdamOptions options;
  options.clip_norm = 2.0;
  const auto processes = Alone();
  Optimizer optimizer(
      {{"a", 0.01, 0.1, {{"one", one}, {"two", two}}}, {"b", 0.05, 0, {{"three", three}}}}, options,
      processes.get());
  EXPECT_EQ(optimizer.parameter_count(), 15 + 70 + 4);
  const std::vector<Tensor> parameters = {one, two, three};
  for (int step = 1; step <= 20; ++step) {
    std::vector<std::vector<double>> gradients;
    double norm = 0;
    for (size_t i = 0; i < 3; ++i) {
      const Tensor gradient = Numbers(parameters[i].sizes(), 100 * step + static_cast<int>(i)) *
                              (step % 3 == 0 ? 5.0 : 0.05);
      (parameters[i] * gradient).sum().backward();
      gradients.push_back(Doubles(gradient));
      for (const double value : gradients.back()) norm += value * value;
    }
    norm = std::sqrt(norm);
    const double scale = norm > 2.0 ? 2.0 / norm : 1.0, factor = 1.0 / step;
    optimizer.Step(factor);
    EXPECT_NEAR(optimizer.gradient_norm().item<float>(), norm, 1e-5 * norm);
    for (size_t i = 0; i < 3; ++i) {
      for (double& value : gradients[i]) value *= scale;
      plain[i].Step(gradients[i], (i == 2 ? 0.05 : 0.01) * factor, i == 2 ? 0 : 0.1, options, step);
      const std::vector<double> found = Doubles(parameters[i].detach());
      for (size_t j = 0; j < found.size(); ++j) {
        ASSERT_NEAR(found[j], plain[i].value[j], 2e-6) << step << " " << i << " " << j;
      }
    }
  }
}

// Working copies are bf16, masters fp32: changes smaller than a bf16 step add up all the same, and
// micro-batches are summed in fp32.
TEST(Optimizer, MastersKeepWhatWorkingCopiesRoundAway) {
  Tensor working = at::ones({64}, at::kBFloat16), wide = at::ones({64}, at::kFloat);
  AdamOptions options;
  options.clip_norm = 0;
  const auto processes = Alone();
  Optimizer narrow({{"a", 1e-4, 0, {{"w", working}}}}, options, processes.get());
  Optimizer plain({{"a", 1e-4, 0, {{"w", wide}}}}, options, processes.get());
  for (int step = 0; step < 100; ++step) {
    for (int micro = 0; micro < 3; ++micro) {
      working.sum().backward();
      narrow.AccumulateGradients();
      wide.sum().backward();
    }
    narrow.Step(1);
    plain.Step(1);
  }
  EXPECT_NEAR(narrow.gradient_norm().item<float>(), 3 * 8, 1e-4);
  EXPECT_NEAR(wide[0].item<float>(), 0.99, 1e-4);
  EXPECT_TRUE(at::equal(narrow.State().at("BFloat16.master").narrow(0, 0, 64), wide.detach()));
  EXPECT_TRUE(at::equal(working.detach(), wide.detach().to(at::kBFloat16)));
}

TEST(Optimizer, AGradientThatIsNotFiniteMovesNothing) {
  Tensor weight = Numbers({10}, 1);
  const auto processes = Alone();
  Optimizer optimizer({{"a", 0.1, 0.1, {{"w", weight}}}}, {}, processes.get());
  weight.sum().backward();
  optimizer.Step(1);
  const std::map<std::string, Tensor> before = [&] {
    std::map<std::string, Tensor> copies;
    for (const auto& [name, tensor] : optimizer.State()) copies[name] = tensor.clone();
    return copies;
  }();
  const Tensor kept = weight.detach().clone();
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    (weight.sum() * bad).backward();
    optimizer.Step(1);
    EXPECT_TRUE(at::equal(weight.detach(), kept));
  }
  EXPECT_EQ(optimizer.bad_steps().item<float>(), 2);
  for (const auto& [name, tensor] : optimizer.State()) {
    if (name != "bad_steps") EXPECT_TRUE(at::equal(tensor, before.at(name))) << name;
  }
  // The next finite one moves.
  weight.sum().backward();
  optimizer.Step(1);
  EXPECT_FALSE(at::equal(weight.detach(), kept));
  EXPECT_TRUE(at::isfinite(weight.detach()).all().item<bool>());
}

TEST(Optimizer, StateMovesToAnotherOneAndGoesOnBitForBit) {
  Tensor one = Numbers({3, 5}, 1), two = Numbers({3, 5}, 9);
  const auto processes = Alone();
  Optimizer first({{"a", 0.01, 0.1, {{"w", one}}}}, {}, processes.get());
  Optimizer second({{"a", 0.01, 0.1, {{"w", two}}}}, {}, processes.get());
  const auto step = [](Optimizer* optimizer, const Tensor& weight, int number) {
    (weight * Numbers({3, 5}, number)).sum().backward();
    optimizer->Step(0.5);
  };
  for (int i = 0; i < 5; ++i) step(&first, one, i);
  second.Load(first.State());
  for (int i = 5; i < 10; ++i) {
    step(&first, one, i);
    step(&second, two, i);
  }
  EXPECT_TRUE(at::equal(one.detach(), two.detach()));
  std::map<std::string, Tensor> state = first.State();
  state.erase("Float.square");
  EXPECT_THAT(ErrorOf([&] { second.Load(state); }),
              HasSubstr("nothing for \"Float.square\", expected"));
  state["Float.square"] = at::zeros({3});
  EXPECT_THAT(ErrorOf([&] { second.Load(state); }), HasSubstr("3 for \"Float.square\""));
}

TEST(Optimizer, RefusesNothingAndTheSameTwice) {
  const auto processes = Alone();
  EXPECT_THAT(ErrorOf([&] { Optimizer({}, {}, processes.get()); }), HasSubstr("nothing to train"));
  Tensor weight = Numbers({3}, 1);
  EXPECT_THAT(ErrorOf([&] {
                Optimizer({{"a", 1, 0, {{"w", weight}}}, {"b", 1, 0, {{"v", weight}}}}, {},
                          processes.get());
              }),
              HasSubstr("v: a parameter of two groups"));
}

// The same with bf16 working copies, whose micro-batches each come together on the way.
TEST(Optimizer, TwoProcessesWithNarrowWorkingCopies) {
  const auto run = [](ProcessGroup* processes) {
    Tensor weight = Numbers({30, 5}, 1).to(at::kBFloat16);
    Optimizer optimizer({{"a", 0.01, 0.1, {{"w", weight}}}}, {}, processes);
    for (int step = 0; step < 10; ++step) {
      for (int micro = 0; micro < 4; ++micro) {
        if (processes->size() == 2 && processes->rank() != micro % 2) continue;
        (weight * Numbers({30, 5}, 10 * step + micro).to(at::kBFloat16)).sum().backward();
        optimizer.AccumulateGradients();
      }
      optimizer.Step(1);
    }
    return weight.detach().to(at::kFloat);
  };
  const Tensor one = run(Alone().get());
  AsTwoProcesses(29735, [&](ProcessGroup* processes) {
    // Gradients of two micro-batches are rounded when they meet; steps are 1e-2 at most.
    EXPECT_TRUE(at::allclose(run(processes), one, 2e-2, 2e-3)) << processes->rank();
  });
}

// Each parameter's part of the masters, also where shards end inside of one; fp32 parameters have
// no other copy than their own.
TEST(Optimizer, MastersComeTogetherByName) {
  const auto run = [](ProcessGroup* processes) {
    Tensor one = Numbers({30, 5}, 1).to(at::kBFloat16), two = Numbers({7}, 2).to(at::kBFloat16);
    Tensor wide = Numbers({9}, 3);
    Optimizer optimizer(
        {{"a", 1e-4, 0, {{"one", one}, {"wide", wide}}}, {"b", 1e-3, 0, {{"two", two}}}}, {},
        processes);
    for (int step = 0; step < 3; ++step) {
      (one * Numbers({30, 5}, step).to(at::kBFloat16)).sum().backward();
      (two.sum() + wide.sum()).backward();
      optimizer.Step(1);
    }
    std::map<std::string, Tensor> masters = optimizer.Masters();
    for (const auto& [name, master] : masters) {
      const Tensor& working = name == "one" ? one : two;
      EXPECT_TRUE(at::equal(master.to(at::kBFloat16), working.detach())) << name;
      EXPECT_FALSE(at::equal(master, working.detach().to(at::kFloat))) << name;
    }
    return masters;
  };
  const std::map<std::string, Tensor> alone = run(Alone().get());
  EXPECT_EQ(alone.size(), 2u);
  AsTwoProcesses(29739, [&](ProcessGroup* processes) {
    const std::map<std::string, Tensor> masters = run(processes);
    EXPECT_EQ(masters.size(), processes->rank() == 0 ? 2u : 0u);
    for (const auto& [name, master] : masters) {
      EXPECT_TRUE(at::allclose(master, alone.at(name), 0, 1e-6)) << name;
    }
  });
}

// Two processes that each have half of a step's micro-batches end up where one with all of them
// does, each with half of the state.
TEST(Optimizer, TwoProcessesMoveAsOneDoes) {
  const auto run = [](ProcessGroup* processes) {
    Tensor one = Numbers({30, 5}, 1), two = Numbers({7}, 2);
    if (processes->rank() == 1) {
      // Begins elsewhere and must be brought in line.
      one.zero_();
    }
    Optimizer optimizer({{"a", 0.01, 0.1, {{"one", one}}}, {"b", 0.03, 0, {{"two", two}}}}, {},
                        processes);
    for (int step = 0; step < 10; ++step) {
      for (int micro = 0; micro < 2; ++micro) {
        if (processes->size() == 2 && processes->rank() != micro) continue;
        (one * Numbers({30, 5}, 10 * step + micro)).sum().backward();
        (two * Numbers({7}, 1000 + 10 * step + micro)).sum().backward();
        optimizer.AccumulateGradients();
      }
      optimizer.Step(1);
    }
    const int64_t state = optimizer.State().at("Float.average").numel();
    return std::make_tuple(one.detach().clone(), two.detach().clone(), state);
  };
  const auto alone = Alone();
  const auto [one, two, whole_state] = run(alone.get());
  AsTwoProcesses(29731,
                 [&, one = one, two = two, whole_state = whole_state](ProcessGroup* processes) {
                   const auto [found_one, found_two, state] = run(processes);
                   EXPECT_TRUE(at::allclose(found_one, one, 1e-6, 1e-7)) << processes->rank();
                   EXPECT_TRUE(at::allclose(found_two, two, 1e-6, 1e-7)) << processes->rank();
                   EXPECT_LE(state, whole_state / 2 + 64);
                 });
}

}  // namespace
}  // namespace mambad::trainer
