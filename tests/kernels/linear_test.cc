// Products against float64, and their promise: a row's bits do not depend on the number of rows,
// its place among them or the number of threads.

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
  void TearDown() override { LimitInstructionSet(InstructionSet::kAvx512Bfloat16); }

  // Rows of `x`, packed densely, through Linear; y starts as `before` (or zero). The rows stand
  // apart in memory, with NaN between them.
  std::vector<float> Run(ThreadPool& pool, const WeightMatrix& weights, const std::vector<float>& x,
                         int64_t rows, const NormWeights* norm = nullptr,
                         const std::vector<float>* before = nullptr) {
    const int64_t x_stride = weights.columns + 3, y_stride = weights.rows + 5;
    std::vector<float> spread(rows * x_stride, NAN), y(rows * y_stride, -7);
    for (int64_t r = 0; r < rows; ++r) {
      std::copy_n(x.data() + r * weights.columns, weights.columns, spread.data() + r * x_stride);
      for (int64_t i = 0; i < weights.rows; ++i)
        y[r * y_stride + i] = before ? (*before)[r * weights.rows + i] : NAN;
    }
    LinearScratch scratch = CreateLinearScratch(rows, weights.columns);
    Linear(pool, weights, {spread.data(), rows, weights.columns, x_stride}, norm,
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
           GetParam().set == InstructionSet::kAvx512Bfloat16;
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
constexpr Shape kShapes[] = {{1, 1},    {16, 2},    {17, 33},  {80, 97},  {64, 64},
                             {48, 7},   {130, 256}, {63, 65},  {200, 48}, {96, 193},
                             {33, 700}, {271, 31},  {15, 1300}};

TEST_P(LinearTest, AgreesWithFloat64) {
  ThreadPool pool(2);
  for (const Shape& shape : kShapes) {
    const TestMatrix matrix(shape.rows, shape.columns, GetParam().type, 1);
    const WeightMatrix weights = Pack(matrix, pool);
    for (int64_t rows : {1, 2, 5, 6, 7, 31, 130}) {
      const std::vector<float> x = RandomNumbers(rows * shape.columns, 2);
      // A product of one column is rounded once; sums of K cost at most a few units in the last
      // place more.
      EXPECT_LT(RelativeError(matrix, x, rows, Run(pool, weights, x, rows)), 1e-6)
          << shape.rows << " x " << shape.columns << ", rows " << rows;
    }
  }
}

TEST_P(LinearTest, RoundsActivationsOnlyWhenTold) {
  ThreadPool pool(1);
  const TestMatrix matrix(40, 96, GetParam().type, 3);
  const WeightMatrix weights = Pack(matrix, pool);
  const std::vector<float> x = RandomNumbers(3 * 96, 4);
  const std::vector<float> y = Run(pool, weights, x, 3);
  settings_.activations = ElementType::kFloat32;
  const double exact = RelativeError(matrix, x, 3, y);
  settings_.activations = GetParam().activations;
  if (Rounds()) {
    EXPECT_GT(exact, 1e-4);
    EXPECT_LT(exact, 1e-2);
  } else {
    EXPECT_LT(exact, 1e-6);
  }
}

TEST_P(LinearTest, RowsDoNotKnowTheirCompany) {
  ThreadPool one(1), two(2), three(3);
  ThreadPool* const pools[] = {&one, &two, &three};
  constexpr int64_t kRows = 40;
  for (const Shape& shape : kShapes) {
    const TestMatrix matrix(shape.rows, shape.columns, GetParam().type, 5);
    const WeightMatrix weights = Pack(matrix, one);
    const std::vector<float> x = RandomNumbers(kRows * shape.columns, 6);
    std::vector<float> alone;
    for (int64_t r = 0; r < kRows; ++r) {
      const std::vector<float> row(x.begin() + r * shape.columns,
                                   x.begin() + (r + 1) * shape.columns);
      const std::vector<float> y = Run(one, weights, row, 1);
      alone.insert(alone.end(), y.begin(), y.end());
    }
    for (int64_t rows = 1; rows <= kRows; ++rows) {
      const int64_t first = (kRows - rows) / 2;  // another row begins the batch every time
      const std::vector<float> part(x.begin() + first * shape.columns,
                                    x.begin() + (first + rows) * shape.columns);
      const std::vector<float> y = Run(*pools[rows % 3], weights, part, rows);
      ASSERT_EQ(std::memcmp(y.data(), alone.data() + first * shape.rows, y.size() * sizeof(float)),
                0)
          << shape.rows << " x " << shape.columns << ", rows " << rows;
    }
  }
}

TEST_P(LinearTest, LongPromptsAgreeWithSingleRows) {
  ThreadPool pool(2);
  constexpr Shape kLong[] = {{100, 1100}, {70, 577}};
  for (const Shape& shape : kLong) {
    const TestMatrix matrix(shape.rows, shape.columns, GetParam().type, 7);
    const WeightMatrix weights = Pack(matrix, pool);
    constexpr int64_t kRows = 213;
    const std::vector<float> x = RandomNumbers(kRows * shape.columns, 8);
    const std::vector<float> y = Run(pool, weights, x, kRows);
    for (int64_t r = 0; r < kRows; r += 7) {
      const std::vector<float> row(x.begin() + r * shape.columns,
                                   x.begin() + (r + 1) * shape.columns);
      const std::vector<float> single = Run(pool, weights, row, 1);
      ASSERT_EQ(
          std::memcmp(single.data(), y.data() + r * shape.rows, single.size() * sizeof(float)), 0)
          << r;
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
    EXPECT_EQ(Run(pool, weights, x, rows, nullptr, &before), expected) << rows;
  }
}

TEST_P(LinearTest, NormalisesRowsOnTheWayIn) {
  ThreadPool pool(2);
  for (int64_t columns : {33, 64, 577}) {
    const TestMatrix matrix(50, columns, GetParam().type, 12);
    const WeightMatrix weights = Pack(matrix, pool);
    const std::vector<float> scale = RandomNumbers(columns, 13);
    const NormWeights norm = {scale.data(), 1e-5f};
    constexpr int64_t kRows = 37;
    const std::vector<float> x = RandomNumbers(kRows * columns, 14);
    std::vector<float> normalised(x.size());
    for (int64_t r = 0; r < kRows; ++r) {
      double mean = 0;
      for (int64_t k = 0; k < columns; ++k)
        mean += double{x[r * columns + k]} * x[r * columns + k] / columns;
      for (int64_t k = 0; k < columns; ++k) {
        normalised[r * columns + k] =
            static_cast<float>(x[r * columns + k] / std::sqrt(mean + 1e-5) * scale[k]);
      }
    }
    const std::vector<float> y = Run(pool, weights, x, kRows, &norm);
    // Where activations are rounded to bf16, a last bit of the norm may tip a rounding.
    EXPECT_LT(RelativeError(matrix, normalised, kRows, y), Rounds() ? 1e-3 : 1e-6);
    const std::vector<float> row(x.end() - columns, x.end());
    const std::vector<float> single = Run(pool, weights, row, 1, &norm);
    EXPECT_EQ(
        std::memcmp(single.data(), y.data() + (kRows - 1) * 50, single.size() * sizeof(float)), 0);
  }
}

TEST_P(LinearTest, UnpacksWhatWasPacked) {
  ThreadPool pool(2);
  for (const Shape& shape : kShapes) {
    const TestMatrix matrix(shape.rows, shape.columns, GetParam().type, 15);
    const WeightMatrix weights = Pack(matrix, pool);
    std::vector<float> row(shape.columns);
    for (int64_t r = 0; r < shape.rows; ++r) {
      UnpackRow(weights, r, row.data());
      ASSERT_EQ(std::memcmp(row.data(), matrix.values.data() + r * shape.columns,
                            shape.columns * sizeof(float)),
                0)
          << r;
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
