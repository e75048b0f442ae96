// What callers of the CPU's products rely on beside what tests/kernels/backend/product_test.cc
// holds every backend to: rows that lie apart in memory, sums that are added when complete, words
// for wrong shapes.

#include "kernels/cpu/linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/instruction_set.h"

namespace mambad::kernels {
namespace {

float FromBfloat16(uint16_t value) {
  const uint32_t bits = uint32_t{value} << 16;
  float out;
  std::memcpy(&out, &bits, sizeof(out));
  return out;
}

uint16_t ToBfloat16(float value) {  // nearest even; finite values
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// A random matrix in row-major order, and the source that packs it.
struct TestMatrix {
  TestMatrix(int64_t rows, int64_t columns, ElementType type, uint32_t seed)
      : rows(rows), columns(columns), type(type) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    values.resize(rows * columns);
    for (float& value : values) {
      value = normal(random);
      if (type == ElementType::kBFloat16) value = FromBfloat16(ToBfloat16(value));
    }
  }

  MatrixSource Source() const {
    MatrixSource source;
    source.float32 = [this](int64_t begin, int64_t end, float* out) {
      std::copy(values.begin() + begin * columns, values.begin() + end * columns, out);
    };
    source.bfloat16 = [this](int64_t begin, int64_t end, uint16_t* out) {
      for (int64_t i = begin * columns; i < end * columns; ++i) *out++ = ToBfloat16(values[i]);
    };
    return source;
  }

  int64_t rows, columns;
  ElementType type;
  std::vector<float> values;
};

std::vector<float> RandomNumbers(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

struct Case {
  InstructionSet set;
  ElementType type;
  ElementType activations;
};

std::string CaseName(const testing::TestParamInfo<Case>& info) {
  std::string name = Name(info.param.set);
  std::erase_if(name, [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); });
  name += info.param.type == ElementType::kBFloat16 ? "Bfloat16Weights" : "Float32Weights";
  return name + (info.param.activations == ElementType::kBFloat16 ? "Bfloat16Activations" : "");
}

std::vector<Case> AllCases() {
  std::vector<Case> cases;
  for (InstructionSet set : AvailableInstructionSets()) {
    for (ElementType type : {ElementType::kFloat32, ElementType::kBFloat16}) {
      for (ElementType activations : {ElementType::kFloat32, ElementType::kBFloat16})
        cases.push_back({set, type, activations});
    }
  }
  return cases;
}

class LinearTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    LimitInstructionSet(GetParam().set);
    settings_.activations = GetParam().activations;
  }
  void TearDown() override { LimitInstructionSet(kHighestInstructionSet); }

  // Rows of `x`, packed densely, through Linear; y starts as `before` (or zero). The rows stand
  // apart in memory, with NaN between them.
  std::vector<float> Run(ThreadPool& pool, const WeightMatrix& weights, const std::vector<float>& x,
                         int64_t rows, const std::vector<float>* before = nullptr) {
    const int64_t x_stride = weights.columns + 3, y_stride = weights.rows + 5;
    std::vector<float> spread(rows * x_stride, NAN), y(rows * y_stride, -7);
    for (int64_t r = 0; r < rows; ++r) {
      std::copy_n(x.data() + r * weights.columns, weights.columns, spread.data() + r * x_stride);
      for (int64_t i = 0; i < weights.rows; ++i)
        y[r * y_stride + i] = before ? (*before)[r * weights.rows + i] : NAN;
    }
    LinearScratch scratch = CreateLinearScratch(rows, weights.columns);
    Linear(pool, weights, {spread.data(), rows, weights.columns, x_stride}, nullptr,
           {y.data(), rows, weights.rows, y_stride},
           before ? LinearOutput::kAdd : LinearOutput::kStore, settings_, scratch);
    std::vector<float> dense(rows * weights.rows);
    for (int64_t r = 0; r < rows; ++r) {
      std::copy_n(y.data() + r * y_stride, weights.rows, dense.data() + r * weights.rows);
      for (int64_t i = weights.rows; i < y_stride; ++i)
        EXPECT_EQ(y[r * y_stride + i], -7) << "written beyond row " << r;
    }
    return dense;
  }

  WeightMatrix Pack(const TestMatrix& matrix, ThreadPool& pool) {
    return PackMatrix(matrix.rows, matrix.columns, matrix.type, matrix.Source(), pool);
  }

  bool Rounds() const {
    return settings_.activations == ElementType::kBFloat16 &&
           GetParam().type == ElementType::kBFloat16 &&
           GetParam().set >= InstructionSet::kAvx512Bfloat16;
  }

  // || result - W x || / || W x ||, x rounded to bf16 where the machine is told to.
  double RelativeError(const TestMatrix& matrix, const std::vector<float>& x, int64_t rows,
                       const std::vector<float>& result) const {
    double error = 0, size = 0;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < matrix.rows; ++i) {
        double sum = 0;
        for (int64_t k = 0; k < matrix.columns; ++k) {
          const float value = x[r * matrix.columns + k];
          sum += double{matrix.values[i * matrix.columns + k]} *
                 (Rounds() ? FromBfloat16(ToBfloat16(value)) : value);
        }
        const double difference = result[r * matrix.rows + i] - sum;
        error += difference * difference;
        size += sum * sum;
      }
    }
    return std::sqrt(error / size);
  }

  LinearSettings settings_;
};

struct Shape {
  int64_t rows, columns;
};
constexpr Shape kShapes[] = {{1, 1}, {17, 33}, {63, 65}, {130, 256}};

TEST_P(LinearTest, RowsMayLieApart) {
  ThreadPool pool(2);
  for (const Shape& shape : kShapes) {
    const TestMatrix matrix(shape.rows, shape.columns, GetParam().type, 1);
    const WeightMatrix weights = Pack(matrix, pool);
    for (int64_t rows : {1, 2, 6, 7, 31}) {
      const std::vector<float> x = RandomNumbers(rows * shape.columns, 2);
      EXPECT_LT(RelativeError(matrix, x, rows, Run(pool, weights, x, rows)), 1e-6)
          << shape.rows << " x " << shape.columns << ", rows " << rows;
    }
  }
}

TEST_P(LinearTest, AddsTheSumAfterItIsComplete) {
  ThreadPool pool(2);
  const TestMatrix matrix(75, 300, GetParam().type, 9);
  const WeightMatrix weights = Pack(matrix, pool);
  for (int64_t rows : {1, 5, 20}) {
    const std::vector<float> x = RandomNumbers(rows * 300, 10),
                             before = RandomNumbers(rows * 75, 11);
    std::vector<float> expected = Run(pool, weights, x, rows);
    for (size_t i = 0; i < expected.size(); ++i) expected[i] = before[i] + expected[i];
    EXPECT_EQ(Run(pool, weights, x, rows, &before), expected) << rows;
  }
}

// Products down to where numbers are denormal, which some instructions flush: all rows alike, by
// whatever instructions few and many of them are multiplied.
TEST_P(LinearTest, Invariant3TinyNumbersAreTheSameBitsAlone) {
  ThreadPool pool(2);
  constexpr int64_t kRows = 37, kOutputs = 75, kColumns = 330;
  const TestMatrix matrix(kOutputs, kColumns, GetParam().type, 12);
  const WeightMatrix weights = Pack(matrix, pool);
  for (const float scale : {1.0f, 1e-36f, 1e-38f, 1e-39f}) {
    std::vector<float> x = RandomNumbers(kRows * kColumns, 13);
    for (size_t i = 0; i < x.size(); ++i) x[i] *= i % 3 == 0 ? scale : 1e-38f;
    const std::vector<float> together = Run(pool, weights, x, kRows);
    for (int64_t row = 0; row < kRows; row += 3) {
      const std::vector<float> one(x.begin() + row * kColumns, x.begin() + (row + 1) * kColumns);
      const std::vector<float> alone = Run(pool, weights, one, 1);
      ASSERT_EQ(std::memcmp(alone.data(), together.data() + row * kOutputs, 4 * kOutputs), 0)
          << "scale " << scale << ", row " << row;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(EveryInstructionSet, LinearTest, testing::ValuesIn(AllCases()), CaseName);

TEST(LinearDeathTest, WrongShapesEndTheProcessWithTheNumbers) {
  ThreadPool pool(1);
  const TestMatrix matrix(8, 16, ElementType::kFloat32, 16);
  const WeightMatrix weights = PackMatrix(8, 16, ElementType::kFloat32, matrix.Source(), pool);
  LinearScratch scratch = CreateLinearScratch(2, 16);
  std::vector<float> x(64), y(64);
  EXPECT_DEATH(Linear(pool, weights, {x.data(), 1, 15, 15}, nullptr, {y.data(), 1, 8, 8},
                      LinearOutput::kStore, {}, scratch),
               "Linear: .*15");
  EXPECT_DEATH(Linear(pool, weights, {x.data(), 3, 16, 16}, nullptr, {y.data(), 3, 8, 8},
                      LinearOutput::kStore, {}, scratch),
               "Linear: 3");
  EXPECT_DEATH(UnpackRow(weights, 8, x.data()), "UnpackRow");
}

}  // namespace
}  // namespace mambad::kernels
