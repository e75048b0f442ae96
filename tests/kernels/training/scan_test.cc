// Training operations of the CPU against closed forms in double and their central differences, and
// what kernels/training_scan.h promises beyond the numbers.

#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/instruction_set.h"
#include "kernels/training_scan.h"
#include "tests/kernels/training/reference.h"
#include "tests/kernels/training/run.h"

namespace mambad::kernels {
namespace {

constexpr double kDoubleTolerance = 2e-8;  // of the central differences
constexpr double kFloatTolerance = 3e-6;

Tensors MakeTensors(const CausalConvolution& p, std::mt19937& random) {
  return {{"input", Random(random, p.batch.rows() * p.channels, -2, 2)},
          {"weight", Random(random, p.channels * p.taps, -1, 1)},
          {"bias", Random(random, p.channels, -1, 1)}};
}

Tensors MakeTensors(const SelectiveScan& p, std::mt19937& random) {
  const int64_t rows = p.batch.rows();
  return {{"x", Random(random, rows * p.channels, -1, 1)},
          {"delta", Random(random, rows * p.channels, -4, 1)},
          {"b", Random(random, rows * p.source_groups * p.state_size, -1, 1)},
          {"c", Random(random, rows * p.groups * p.state_size, -1, 1)},
          {"z", Random(random, rows * p.channels, -2, 2)},
          {"a_log", Random(random, p.channels * p.state_size, -1, 1)},
          {"skip", Random(random, p.channels, -1, 1)},
          {"dt_bias", Random(random, p.channels, -1, 1)}};
}

Tensors MakeTensors(const Mamba2Scan& p, std::mt19937& random) {
  const int64_t rows = p.batch.rows();
  return {{"x", Random(random, rows * p.source_heads * p.head_width, -1, 1)},
          {"b", Random(random, rows * p.source_groups * p.state_size, -1, 1)},
          {"c", Random(random, rows * p.groups * p.state_size, -1, 1)},
          {"dt", Random(random, rows * p.heads, -4, 1)},
          {"a_log", Random(random, p.heads, -1, 1)},
          {"skip", Random(random, p.heads, -1, 1)},
          {"dt_bias", Random(random, p.heads, -1, 1)}};
}

// A problem's sizes with its tensors, some documents and a gradient of the output.
template <typename Problem>
struct Case {
  Case(Problem sizes, uint32_t seed) : problem(sizes) {
    std::mt19937 random(seed);
    starts = std::make_shared<std::vector<uint8_t>>();
    for (int64_t i = 0; i < problem.batch.rows(); ++i) starts->push_back(random() % 7 == 0);
    problem.batch.document_start = starts->data();
    in = MakeTensors(problem, random);
    y_gradient = Random(random, static_cast<int64_t>(Reference(problem, in).size()), -1, 1);
  }

  Case Without(const std::string& tensor) const {
    Case other = *this;
    other.in.erase(tensor);
    return other;
  }

  Problem problem;
  std::shared_ptr<std::vector<uint8_t>> starts;
  Tensors in;
  Numbers y_gradient;
};

CausalConvolution Convolution(int64_t sequences, int64_t tokens, int64_t channels, int64_t taps) {
  CausalConvolution problem;
  problem.batch.sequences = sequences;
  problem.batch.tokens = tokens;
  problem.channels = channels;
  problem.taps = taps;
  return problem;
}

SelectiveScan Selective(int64_t sequences, int64_t tokens, int64_t channels, int64_t state_size,
                        int64_t groups, int64_t source_groups) {
  SelectiveScan problem;
  problem.batch.sequences = sequences;
  problem.batch.tokens = tokens;
  problem.channels = channels;
  problem.state_size = state_size;
  problem.groups = groups;
  problem.source_groups = source_groups;
  return problem;
}

struct HeadSizes {
  int64_t heads, source_heads, groups, source_groups, width, state_size;
};

Mamba2Scan Mamba2(int64_t sequences, int64_t tokens, const HeadSizes& sizes) {
  Mamba2Scan problem;
  problem.batch.sequences = sequences;
  problem.batch.tokens = tokens;
  problem.heads = sizes.heads;
  problem.source_heads = sizes.source_heads;
  problem.groups = sizes.groups;
  problem.source_groups = sizes.source_groups;
  problem.head_width = sizes.width;
  problem.state_size = sizes.state_size;
  return problem;
}

std::vector<Case<CausalConvolution>> ConvolutionCases() {
  return {{Convolution(2, 11, 5, 4), 1},
          Case(Convolution(1, 6, 70, 2), 2).Without("bias"),
          {Convolution(3, 3, 2, 1), 3},
          {Convolution(1, 20, 17, 8), 4}};
}

// Chunks of 16 tokens, blocks of 16 channels, parts of 128, tiles of 16, 8, 4 and 1 state numbers:
// each has a case that crosses its border.
std::vector<Case<SelectiveScan>> SelectiveCases() {
  return {{Selective(2, 37, 5, 3, 1, 1), 1},
          Case(Selective(2, 9, 12, 4, 6, 3), 2).Without("z"),
          {Selective(1, 4, 40, 21, 2, 1), 3},
          {Selective(1, 3, 272, 2, 1, 1), 4},
          {Selective(19, 2, 3, 8, 3, 3), 5}};
}

// Chunks of 64 tokens, parts of 2 heads, tiles of 4 rows and up to 64 columns; shared x, B, C.
std::vector<Case<Mamba2Scan>> Mamba2Cases() {
  std::vector<Case<Mamba2Scan>> cases = {{Mamba2(2, 70, {4, 2, 2, 1, 5, 3}), 1},
                                         {Mamba2(1, 9, {3, 1, 3, 1, 4, 17}), 2},
                                         {Mamba2(3, 7, {5, 5, 1, 1, 9, 6}), 3},
                                         {Mamba2(1, 5, {1, 1, 1, 1, 6, 80}), 4},
                                         {Mamba2(19, 2, {2, 2, 2, 2, 3, 4}), 5}};
  Mamba2Scan limited = Mamba2(1, 20, {3, 3, 1, 1, 4, 4});
  limited.dt_minimum = 0.125f;
  limited.dt_maximum = 0.5f;
  cases.emplace_back(limited, 6);
  return cases;
}

void OnEveryInstructionSet(const std::function<void()>& body) {
  const std::vector<InstructionSet> sets = AvailableInstructionSets();
  for (const InstructionSet set : sets) {
    SCOPED_TRACE(Name(set));
    LimitInstructionSet(set);
    body();
  }
  LimitInstructionSet(sets.back());
}

void ExpectNear(const TrainingResult& ours, const Numbers& y, const Tensors& gradients,
                double tolerance) {
  EXPECT_LE(RelativeError(ours.y, y), tolerance) << "y";
  for (const auto& [name, gradient] : gradients) {
    EXPECT_LE(RelativeError(ours.gradients.at(name), gradient), tolerance) << "d " << name;
  }
}

template <typename Problem>
void FollowsTheFormulas(const std::vector<Case<Problem>>& cases) {
  for (size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE("case " + std::to_string(i));
    const auto& [problem, starts, in, y_gradient] = cases[i];
    const Numbers y = Reference(problem, in);
    const Tensors gradients = Differences(problem, in, y_gradient);
    OnEveryInstructionSet([&, &problem = problem, &in = in, &y_gradient = y_gradient] {
      const TrainingResult exact = RunTraining<double>(problem, in, y_gradient, 2);
      EXPECT_LE(RelativeError(exact.y, y), 1e-12);
      ExpectNear(exact, y, gradients, kDoubleTolerance);
      ExpectNear(RunTraining<float>(problem, in, y_gradient, 2), exact.y, exact.gradients,
                 kFloatTolerance);
    });
  }
}

TEST(TrainingScan, ConvolutionFollowsTheFormulas) { FollowsTheFormulas(ConvolutionCases()); }
TEST(TrainingScan, SelectiveScanFollowsTheFormulas) { FollowsTheFormulas(SelectiveCases()); }
TEST(TrainingScan, Mamba2ScanFollowsTheFormulas) { FollowsTheFormulas(Mamba2Cases()); }

bool IsOfRows(const std::string& name) {
  return name == "input" || name == "x" || name == "delta" || name == "b" || name == "c" ||
         name == "z" || name == "dt";
}

// Rows [begin, end) of a tensor.
Numbers Part(const Numbers& values, int64_t rows, int64_t begin, int64_t end) {
  const int64_t columns = static_cast<int64_t>(values.size()) / rows;
  return Numbers(values.begin() + begin * columns, values.begin() + end * columns);
}

// The documents of a problem each on its own give what they give together: rows bit for bit,
// parameters' gradients as a sum.
template <typename Problem>
void DocumentsStandAlone(const Case<Problem>& one) {
  const int64_t rows = one.problem.batch.rows();
  const TrainingResult together = RunTraining<float>(one.problem, one.in, one.y_gradient, 2);
  TrainingResult sum;
  int documents = 0;
  for (int64_t begin = 0, end = 0; begin < rows; begin = end, ++documents) {
    const TrainingBatch& batch = one.problem.batch;
    for (end = begin + 1; end < rows && !Begins(batch, end / batch.tokens, end % batch.tokens);) {
      ++end;
    }
    Problem problem = one.problem;
    problem.batch = {1, end - begin, nullptr, TrainingType::kFloat32};
    Tensors in = one.in;
    for (auto& [name, values] : in) {
      if (IsOfRows(name)) values = Part(values, rows, begin, end);
    }
    const TrainingResult alone =
        RunTraining<float>(problem, in, Part(one.y_gradient, rows, begin, end), 1);
    EXPECT_EQ(alone.y, Part(together.y, rows, begin, end)) << "rows from " << begin;
    for (const auto& [name, gradient] : alone.gradients) {
      const Numbers& whole = together.gradients.at(name);
      if (IsOfRows(name)) {
        EXPECT_EQ(gradient, Part(whole, rows, begin, end)) << "d " << name << " from " << begin;
        continue;
      }
      Numbers& total = sum.gradients[name];
      total.resize(gradient.size());
      for (size_t i = 0; i < gradient.size(); ++i) total[i] += gradient[i];
    }
  }
  EXPECT_GT(documents, 2);
  for (const auto& [name, total] : sum.gradients) {
    EXPECT_LE(RelativeError(together.gradients.at(name), total), kFloatTolerance) << "d " << name;
  }
}

TEST(TrainingScan, DocumentsStandAlone) {
  OnEveryInstructionSet([] {
    DocumentsStandAlone<CausalConvolution>({Convolution(2, 40, 19, 4), 11});
    DocumentsStandAlone<SelectiveScan>({Selective(2, 60, 20, 6, 2, 1), 12});
    DocumentsStandAlone<Mamba2Scan>({Mamba2(2, 150, {4, 2, 2, 1, 6, 20}), 13});
  });
}

template <typename Problem>
void ThreadsDoNotMatter(const Case<Problem>& one) {
  const TrainingResult alone = RunTraining<float>(one.problem, one.in, one.y_gradient, 1);
  for (const int threads : {1, 2, 3, 5}) {
    const TrainingResult shared = RunTraining<float>(one.problem, one.in, one.y_gradient, threads);
    EXPECT_EQ(alone, shared) << threads << " threads";
  }
}

TEST(TrainingScan, ThreadsDoNotMatter) {
  OnEveryInstructionSet([] {
    ThreadsDoNotMatter<CausalConvolution>({Convolution(3, 9, 200, 4), 21});
    ThreadsDoNotMatter<SelectiveScan>({Selective(3, 20, 300, 5, 1, 1), 22});
    ThreadsDoNotMatter<Mamba2Scan>({Mamba2(3, 70, {7, 7, 1, 1, 4, 4}), 23});
  });
}

// No document starts given: only the first token of a sequence begins one.
TEST(TrainingScan, StartsMayBeAbsent) {
  Case<SelectiveScan> one(Selective(2, 20, 4, 3, 1, 1), 31);
  std::fill(one.starts->begin(), one.starts->end(), uint8_t{0});
  const TrainingResult zeros = RunTraining<float>(one.problem, one.in, one.y_gradient, 2);
  one.problem.batch.document_start = nullptr;
  EXPECT_EQ(zeros, RunTraining<float>(one.problem, one.in, one.y_gradient, 2));
}

// Steps from almost nothing to a state that is gone at once: results follow, nothing overflows.
TEST(TrainingScan, ExtremeSteps) {
  std::mt19937 random(41);
  Case<SelectiveScan> one(Selective(1, 40, 6, 4, 1, 1), 42);
  one.in["delta"] = Random(random, 40 * 6, -90, 60);
  one.in["z"] = Random(random, 40 * 6, -100, 100);
  Case<Mamba2Scan> two(Mamba2(1, 80, {2, 2, 1, 1, 4, 4}), 43);
  two.in["dt"] = Random(random, 80 * 2, -90, 60);
  OnEveryInstructionSet([&] {
    const auto check = [](const auto& any) {
      const TrainingResult exact = RunTraining<double>(any.problem, any.in, any.y_gradient, 1);
      ExpectNear(RunTraining<float>(any.problem, any.in, any.y_gradient, 1),
                 Reference(any.problem, any.in), exact.gradients, kFloatTolerance);
    };
    check(one);
    check(two);
  });
}

TEST(TrainingScan, LimitsStopTheGradientOfSteps) {
  Mamba2Scan sizes = Mamba2(1, 3, {1, 1, 1, 1, 2, 2});
  sizes.dt_minimum = 0.25f;
  sizes.dt_maximum = 0.75f;
  Case<Mamba2Scan> one(sizes, 51);
  one.in["dt_bias"] = {0};
  one.in["dt"] = {-5, 0, 5};  // softplus: 0.007, 0.69, 5.007
  const Numbers gradient =
      RunTraining<float>(one.problem, one.in, one.y_gradient, 1).gradients.at("dt");
  EXPECT_EQ(gradient[0], 0);
  EXPECT_NE(gradient[1], 0);
  EXPECT_EQ(gradient[2], 0);
}

TEST(TrainingScan, RefusesWhatItCannotDo) {
  ThreadPool pool(1);
  float number = 0;
  CausalConvolution convolution = Convolution(1, 1, 1, 4);
  convolution.input = {&number, 1};
  convolution.weight = &number;
  const OutputRows out{&number, 1};
  convolution.batch.type = TrainingType::kBFloat16;
  EXPECT_STREQ(cpu::CausalConvolutionForward(convolution, out, pool),
               "convolution: the CPU has float and double only");
  convolution.taps = 9;
  EXPECT_STREQ(cpu::CausalConvolutionForward(convolution, out, pool),
               "convolution: taps not in 1..8");
  SelectiveScan selective = Selective(1, 1, 6, 4, 4, 1);
  EXPECT_STREQ(cpu::SelectiveScanForward(selective, out, nullptr, &number, pool),
               "selective scan: groups do not divide channels");
  selective.groups = 3;
  EXPECT_STREQ(cpu::SelectiveScanForward(selective, out, nullptr, &number, pool),
               "selective scan: input absent or stride too small");
  Mamba2Scan heads = Mamba2(1, 1, {4, 3, 1, 1, 4, 4});
  EXPECT_STREQ(cpu::Mamba2ScanForward(heads, out, nullptr, &number, pool),
               "Mamba-2 scan: source heads do not divide heads");
}

}  // namespace
}  // namespace mambad::kernels
