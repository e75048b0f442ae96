// Runs a training operation of the CPU on tensors of double, in float or double, on memory where
// every mistake shows: rows are slices of wider ones, all that is to be written holds a NaN before,
// what lies between the slices must stay what it was.

#ifndef MAMBAD_TESTS_KERNELS_TRAINING_RUN_H_
#define MAMBAD_TESTS_KERNELS_TRAINING_RUN_H_

#include <cmath>
#include <limits>
#include <list>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/training/scan.h"
#include "tests/kernels/training/reference.h"

namespace mambad::kernels {

struct TrainingResult {
  Numbers y;
  Tensors gradients;

  bool operator==(const TrainingResult&) const = default;
};

// Tensors in memory of type T for one call.
template <typename T>
class TrainingMemory {
 public:
  explicit TrainingMemory(int64_t rows) : rows_(rows) {}

  // `values` as rows of a slice.
  InputRows In(const Numbers& values) {
    Slice& slice = Add(static_cast<int64_t>(values.size()) / rows_);
    for (size_t i = 0; i < values.size(); ++i) slice.at(i) = static_cast<T>(values[i]);
    return {&slice.at(0), slice.stride};
  }

  OutputRows Out(int64_t columns) {
    Slice& slice = Add(columns);
    return {&slice.at(0), slice.stride};
  }

  // Dense.
  const void* Parameter(const Numbers& values) {
    parameters_.emplace_back(values.begin(), values.end());
    return parameters_.back().data();
  }
  void* ParameterOut(size_t count) {
    parameters_.emplace_back(count, std::numeric_limits<T>::quiet_NaN());
    return parameters_.back().data();
  }

  Numbers Read(const OutputRows& rows, int64_t columns) const {
    Numbers values;
    for (int64_t i = 0; i < rows_ * columns; ++i) {
      values.push_back(static_cast<const T*>(rows.data)[i / columns * rows.stride + i % columns]);
    }
    return values;
  }
  static Numbers Read(const void* data, size_t count) {
    const T* from = static_cast<const T*>(data);
    return Numbers(from, from + count);
  }

  void ExpectMarginsUntouched() const {
    for (const Slice& slice : slices_) {
      for (size_t i = 0; i < slice.memory.size(); ++i) {
        const int64_t column = static_cast<int64_t>(i) % slice.stride - kMargin;
        if (column >= 0 && column < slice.columns) continue;
        ASSERT_TRUE(std::isnan(slice.memory[i])) << "written beside a row, at " << i;
      }
    }
  }

 private:
  static constexpr int64_t kMargin = 3;
  struct Slice {
    int64_t columns = 0, stride = 0;
    std::vector<T> memory;

    T& at(int64_t i) { return memory[i / columns * stride + i % columns + kMargin]; }
  };

  Slice& Add(int64_t columns) {
    slices_.push_back({columns, columns + 2 * kMargin, {}});
    slices_.back().memory.assign(rows_ * slices_.back().stride,
                                 std::numeric_limits<T>::quiet_NaN());
    return slices_.back();
  }

  int64_t rows_;
  std::list<Slice> slices_;
  std::list<std::vector<T>> parameters_;
};

template <typename T>
constexpr TrainingType kTrainingType =
    std::is_same_v<T, double> ? TrainingType::kFloat64 : TrainingType::kFloat32;

// Workspace that holds NaN, as memory of former calls may.
template <typename T>
Buffer PoisonedWorkspace(size_t bytes) {
  Buffer buffer = AllocateMemory(bytes + 64);
  T* numbers = static_cast<T*>(buffer.data());
  std::fill(numbers, numbers + (bytes + 64) / sizeof(T), std::numeric_limits<T>::quiet_NaN());
  return buffer;
}

template <typename T>
TrainingResult RunTraining(CausalConvolution problem, const Tensors& in, const Numbers& y_gradient,
                           int threads) {
  ThreadPool pool(threads);
  TrainingMemory<T> memory(problem.batch.rows());
  problem.batch.type = kTrainingType<T>;
  problem.input = memory.In(in.at("input"));
  problem.weight = memory.Parameter(in.at("weight"));
  const bool bias = in.count("bias") == 1;
  if (bias) problem.bias = memory.Parameter(in.at("bias"));
  const OutputRows y = memory.Out(problem.channels);
  EXPECT_STREQ(cpu::CausalConvolutionForward(problem, y, pool), nullptr);
  CausalConvolutionGradient gradient;
  gradient.output = memory.In(y_gradient);
  gradient.input = memory.Out(problem.channels);
  gradient.weight = memory.ParameterOut(in.at("weight").size());
  if (bias) gradient.bias = memory.ParameterOut(problem.channels);
  EXPECT_STREQ(cpu::CausalConvolutionBackward(problem, gradient, pool), nullptr);
  memory.ExpectMarginsUntouched();
  TrainingResult result{memory.Read(y, problem.channels),
                        {{"input", memory.Read(gradient.input, problem.channels)},
                         {"weight", memory.Read(gradient.weight, in.at("weight").size())}}};
  if (bias) result.gradients["bias"] = memory.Read(gradient.bias, problem.channels);
  return result;
}

// Forward without and with checkpoints (which must agree), then backward.
template <typename T, typename Problem, typename Gradient, typename Forward, typename Backward>
void RunPasses(const Problem& problem, const OutputRows& y, const Gradient& gradient,
               int64_t columns, const Forward& forward, const Backward& backward,
               const TrainingMemory<T>& memory, ThreadPool& pool) {
  const TrainingWorkspaceBytes bytes = cpu::WorkspaceBytes(problem, pool.threads());
  Buffer scratch = PoisonedWorkspace<T>(std::max(bytes.forward_scratch, bytes.backward_scratch));
  Buffer checkpoints = PoisonedWorkspace<T>(bytes.checkpoints);
  EXPECT_STREQ(forward(problem, y, nullptr, scratch.data(), pool), nullptr);
  const Numbers without = memory.Read(y, columns);
  EXPECT_STREQ(forward(problem, y, checkpoints.data(), scratch.data(), pool), nullptr);
  EXPECT_EQ(without, memory.Read(y, columns));
  scratch = PoisonedWorkspace<T>(std::max(bytes.forward_scratch, bytes.backward_scratch));
  EXPECT_STREQ(backward(problem, gradient, checkpoints.data(), scratch.data(), pool), nullptr);
  const auto still_poisoned = [](const Buffer& buffer, size_t used) {
    const T* end = reinterpret_cast<const T*>(static_cast<const char*>(buffer.data()) + used);
    return std::isnan(*end);
  };
  EXPECT_TRUE(still_poisoned(checkpoints, bytes.checkpoints));
  EXPECT_TRUE(still_poisoned(scratch, std::max(bytes.forward_scratch, bytes.backward_scratch)));
  memory.ExpectMarginsUntouched();
}

// Rows that a scan reads and those of their gradient; left out where `in` has none of that name.
struct ScanRows {
  const char* name;
  InputRows* input;
  OutputRows* gradient;
};

// `rows` are of `problem` and `gradient`; `columns` are those of y.
template <typename T, typename Problem, typename Gradient, typename Forward, typename Backward>
TrainingResult RunScan(Problem& problem, Gradient& gradient, const std::vector<ScanRows>& rows,
                       int64_t columns, const Forward& forward, const Backward& backward,
                       const Tensors& in, const Numbers& y_gradient, int threads) {
  ThreadPool pool(threads);
  TrainingMemory<T> memory(problem.batch.rows());
  const auto size = [&](const char* name) { return static_cast<int64_t>(in.at(name).size()); };
  problem.batch.type = kTrainingType<T>;
  for (const ScanRows& each : rows) {
    if (in.count(each.name) == 0) continue;
    *each.input = memory.In(in.at(each.name));
    *each.gradient = memory.Out(size(each.name) / problem.batch.rows());
  }
  problem.a_log = memory.Parameter(in.at("a_log"));
  problem.skip = memory.Parameter(in.at("skip"));
  problem.dt_bias = memory.Parameter(in.at("dt_bias"));
  gradient.a_log = memory.ParameterOut(size("a_log"));
  gradient.skip = memory.ParameterOut(size("skip"));
  gradient.dt_bias = memory.ParameterOut(size("dt_bias"));
  gradient.y = memory.In(y_gradient);
  const OutputRows y = memory.Out(columns);
  RunPasses(problem, y, gradient, columns, forward, backward, memory, pool);
  TrainingResult result{memory.Read(y, columns),
                        {{"a_log", memory.Read(gradient.a_log, size("a_log"))},
                         {"skip", memory.Read(gradient.skip, size("skip"))},
                         {"dt_bias", memory.Read(gradient.dt_bias, size("dt_bias"))}}};
  for (const ScanRows& each : rows) {
    if (in.count(each.name) == 0) continue;
    result.gradients[each.name] =
        memory.Read(*each.gradient, size(each.name) / problem.batch.rows());
  }
  return result;
}

template <typename T>
TrainingResult RunTraining(SelectiveScan problem, const Tensors& in, const Numbers& y_gradient,
                           int threads) {
  SelectiveScanGradient gradient;
  return RunScan<T>(problem, gradient,
                    {{"x", &problem.x, &gradient.x},
                     {"delta", &problem.delta, &gradient.delta},
                     {"b", &problem.b, &gradient.b},
                     {"c", &problem.c, &gradient.c},
                     {"z", &problem.z, &gradient.z}},
                    problem.channels, cpu::SelectiveScanForward, cpu::SelectiveScanBackward, in,
                    y_gradient, threads);
}

template <typename T>
TrainingResult RunTraining(Mamba2Scan problem, const Tensors& in, const Numbers& y_gradient,
                           int threads) {
  Mamba2ScanGradient gradient;
  return RunScan<T>(problem, gradient,
                    {{"x", &problem.x, &gradient.x},
                     {"b", &problem.b, &gradient.b},
                     {"c", &problem.c, &gradient.c},
                     {"dt", &problem.dt, &gradient.dt}},
                    problem.heads * problem.head_width, cpu::Mamba2ScanForward,
                    cpu::Mamba2ScanBackward, in, y_gradient, threads);
}

}  // namespace mambad::kernels

#endif  // MAMBAD_TESTS_KERNELS_TRAINING_RUN_H_
