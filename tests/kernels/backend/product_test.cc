// Products with weights of each type, through Head; rows of a packed matrix, through Embed; the
// gated product of Mlp. Against doubles, and their promise: a row's bits do not depend on the
// number of rows, its place among them or the number of threads.

#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/kernels/backend/device_array.h"
#include "tests/kernels/backend/reference.h"
#include "tests/kernels/backend/step_rows.h"
#include "tests/kernels/backend/tested_backend.h"

namespace mambad::kernels {
namespace {

using ::testing::HasSubstr;

struct ProductCase {
  const char* name;
  ElementType weights, activations;
};

struct Shape {
  int64_t rows, columns;
};
constexpr Shape kShapes[] = {{1, 1},    {16, 2},    {17, 33},  {80, 97},  {64, 64},
                             {48, 7},   {130, 256}, {63, 65},  {200, 48}, {96, 193},
                             {33, 700}, {271, 31},  {15, 1300}};

std::vector<int32_t> Range(int64_t begin, int64_t end) {
  std::vector<int32_t> ids;
  for (int64_t id = begin; id < end; ++id) ids.push_back(static_cast<int32_t>(id));
  return ids;
}

// `layers` over the rows of `ids`, one sequence: the residual stream afterwards, and logits of all.
struct Pass {
  Rows residual, logits;
};
template <typename Layers>
Pass RunPass(Backend& backend, const TestMatrix& embedding, const std::vector<int32_t>& ids,
             int64_t widest, int64_t vocabulary, const Layers& layers) {
  const int count = static_cast<int>(ids.size());
  WorkspaceShape shape = SmallWorkspace(count, embedding.columns, vocabulary);
  shape.max_projection = shape.max_inner = widest;
  const auto workspace = backend.CreateWorkspace(shape);
  BatchArrays arrays(backend);
  StepRows rows;
  rows.Add(0, 0, ids);
  rows.logit_rows = Range(0, count);
  const Batch batch = arrays.Write(rows);
  RunRound(backend, [&] {
    backend.Embed(batch, embedding.packed, *workspace);
    layers(batch, *workspace);
  });
  return {ReadRows(backend, workspace->residual, count),
          ReadRows(backend, workspace->logits, count)};
}

class ProductTest : public OnBackend<std::tuple<std::string, ProductCase>> {
 protected:
  ElementType weights() const { return std::get<1>(GetParam()).weights; }
  ElementType Activations() const override { return std::get<1>(GetParam()).activations; }
  double tolerance() { return ProductTolerance(backend().Activations(weights())); }

  std::unique_ptr<TestMatrix> Matrix(Backend& on, int64_t rows, int64_t columns, uint32_t seed) {
    std::mt19937 random(seed);
    return std::make_unique<TestMatrix>(on, rows, columns, weights(),
                                        RandomRow(random, rows * columns));
  }

  // RMSNorm of the rows, times `head`.
  Rows Products(Backend& on, const TestMatrix& embedding, const std::vector<int32_t>& ids,
                const TestMatrix& head) {
    const DeviceArray<float> norm(on, NormOf(embedding));
    return RunPass(on, embedding, ids, embedding.columns, head.rows,
                   [&](const Batch& batch, Workspace& workspace) {
                     on.Head(batch, {norm.data(), 1e-5f}, head.packed, workspace);
                   })
        .logits;
  }

  static std::vector<Numbers> Expected(const TestMatrix& embedding, const std::vector<int32_t>& ids,
                                       const TestMatrix& head) {
    std::vector<Numbers> expected;
    for (const int32_t id : ids) {
      expected.push_back(
          head.TimesNorm(Row(embedding.At(id), embedding.At(id + 1)), NormOf(embedding), 1e-5));
    }
    return expected;
  }

 private:
  // With a weight there is something to round on either side of the norm's scale.
  static Row NormOf(const TestMatrix& embedding) {
    std::mt19937 random(9);
    return RandomRow(random, embedding.columns);
  }
};

TEST_P(ProductTest, AgreesWithDoublePrecision) {
  for (const Shape& shape : kShapes) {
    const auto head = Matrix(backend(), shape.rows, shape.columns, 1),
               embedding = Matrix(backend(), 130, shape.columns, 2);
    for (int64_t rows : {1, 2, 5, 6, 7, 31, 130}) {
      const std::vector<int32_t> ids = Range(0, rows);
      // Sums of K cost at most a few units in the last place.
      EXPECT_LT(RelativeError(Products(backend(), *embedding, ids, *head),
                              Expected(*embedding, ids, *head)),
                tolerance())
          << shape.rows << " x " << shape.columns << ", rows " << rows;
    }
  }
}

TEST_P(ProductTest, RoundsActivationsOnlyWhereItSaysSo) {
  const auto head = Matrix(backend(), 40, 96, 3), embedding = Matrix(backend(), 3, 96, 4);
  const bool rounds = backend().Activations(weights()) == ElementType::kBFloat16;
  EXPECT_THAT(backend().Numerics(weights(), ElementType::kFloat32),
              HasSubstr(rounds ? "/activations-bf16/" : "/activations-f32/"));
  const Rows products = Products(backend(), *embedding, Range(0, 3), *head);
  head->activations = ElementType::kFloat32;
  const double exact = RelativeError(products, Expected(*embedding, Range(0, 3), *head));
  EXPECT_LT(exact, rounds ? 1e-2 : 1e-6);
  if (rounds) {
    EXPECT_GT(exact, 1e-4);
  }
}

TEST_P(ProductTest, RowsDoNotKnowTheirCompany) {
  constexpr int64_t kRows = 40;
  for (const Shape& shape : kShapes) {
    std::unique_ptr<TestMatrix> heads[3], embeddings[3];
    for (int i = 0; i < 3; ++i) {
      heads[i] = Matrix(tested().WithThreads(i + 1), shape.rows, shape.columns, 5);
      embeddings[i] = Matrix(tested().WithThreads(i + 1), kRows, shape.columns, 6);
    }
    Rows alone;
    for (int32_t r = 0; r < kRows; ++r) {
      alone.push_back(Products(tested().WithThreads(1), *embeddings[0], {r}, *heads[0])[0]);
    }
    for (int64_t rows = 1; rows <= kRows; ++rows) {
      const int64_t first = (kRows - rows) / 2;  // another row begins the batch every time
      const int i = rows % 3;
      const Rows together = Products(tested().WithThreads(i + 1), *embeddings[i],
                                     Range(first, first + rows), *heads[i]);
      for (int64_t r = 0; r < rows; ++r) {
        ASSERT_TRUE(SameBits(together[r], alone[first + r]))
            << shape.rows << " x " << shape.columns << ", row " << r << " of " << rows;
      }
    }
  }
}

TEST_P(ProductTest, LongPromptsAgreeWithSingleRows) {
  constexpr Shape kLong[] = {{100, 1100}, {70, 577}};
  for (const Shape& shape : kLong) {
    constexpr int64_t kRows = 213;
    const auto head = Matrix(backend(), shape.rows, shape.columns, 7),
               embedding = Matrix(backend(), kRows, shape.columns, 8);
    const Rows together = Products(backend(), *embedding, Range(0, kRows), *head);
    for (int32_t r = 0; r < kRows; r += 7) {
      ASSERT_TRUE(SameBits(Products(backend(), *embedding, {r}, *head)[0], together[r])) << r;
    }
  }
}

TEST_P(ProductTest, EmbedGivesRowsOfTheMatrix) {
  for (const Shape& shape : kShapes) {
    const auto embedding = Matrix(backend(), shape.rows, shape.columns, 15);
    std::vector<int32_t> ids;  // each of them, in no order, the first twice
    for (int64_t r = 0; r <= shape.rows; ++r) {
      ids.push_back(static_cast<int32_t>(r * 17 % shape.rows));
    }
    const Rows rows =
        RunPass(backend(), *embedding, ids, 1, 1, [](const Batch&, Workspace&) {}).residual;
    for (size_t r = 0; r < ids.size(); ++r) {
      ASSERT_TRUE(SameBits(rows[r], Row(embedding->At(ids[r]), embedding->At(ids[r] + 1)))) << r;
    }
  }
}

// An MLP from `seed`, with biases or without.
struct TestMlp {
  TestMlp(Backend& backend, int64_t width, int mlp_width, ElementType weights, bool biases)
      : random(17),
        norm(RandomRow(random, width)),
        in_bias(RandomRow(random, 2 * mlp_width)),
        out_bias(RandomRow(random, width)),
        in(backend, 2 * mlp_width, width, weights, RandomWeights(random, 2 * mlp_width, width, 3)),
        out(backend, width, mlp_width, weights, RandomWeights(random, width, mlp_width)),
        device_norm(backend, norm),
        device_in_bias(backend, in_bias),
        device_out_bias(backend, out_bias),
        biases(biases) {
    layer = {mlp_width, {device_norm.data(), 1e-5f}, &in.packed, &out.packed};
    if (!biases) return;
    layer.in_bias = device_in_bias.data();
    layer.out_bias = device_out_bias.data();
  }

  Numbers Added(const Row& row) const {
    Numbers projected = in.TimesNorm(row, norm, 1e-5);
    for (size_t i = 0; i < projected.size() && biases; ++i) projected[i] += in_bias[i];
    Numbers gated(layer.mlp_width);
    for (int i = 0; i < layer.mlp_width; ++i) {
      gated[i] = SiLU(projected[i]) * projected[layer.mlp_width + i];
    }
    Numbers added = out.Times(gated);
    for (size_t i = 0; i < added.size() && biases; ++i) added[i] += out_bias[i];
    return added;
  }

  Rows Run(Backend& backend, const TestMatrix& embedding, const std::vector<int32_t>& ids) const {
    return RunPass(backend, embedding, ids, 2 * layer.mlp_width, 1,
                   [&](const Batch& batch, Workspace& workspace) {
                     backend.Mlp(batch, layer, workspace);
                   })
        .residual;
  }

  std::mt19937 random;
  Row norm, in_bias, out_bias;
  TestMatrix in, out;
  DeviceArray<float> device_norm, device_in_bias, device_out_bias;
  bool biases;
  MlpLayer layer;
};

TEST_P(ProductTest, MlpAddsTheGatedProduct) {
  for (const bool biases : {false, true}) {
    for (const Shape& shape : {Shape{40, 72}, Shape{33, 7}, Shape{128, 300}}) {
      const auto embedding = Matrix(backend(), 31, shape.rows, 18);
      const TestMlp mlp(backend(), shape.rows, static_cast<int>(shape.columns), weights(), biases);
      for (int64_t rows : {1, 3, 31}) {
        Rows residual = mlp.Run(backend(), *embedding, Range(0, rows));
        std::vector<Numbers> added, expected;
        for (int64_t r = 0; r < rows; ++r) {
          const Row row(embedding->At(r), embedding->At(r + 1));
          expected.push_back(mlp.Added(row));
          added.emplace_back(residual[r].begin(), residual[r].end());
          for (size_t i = 0; i < row.size(); ++i) added.back()[i] -= row[i];
        }
        EXPECT_LT(RelativeError(added, expected), LayerTolerance(backend().Activations(weights())))
            << shape.rows << ", " << shape.columns << ", rows " << rows;
      }
    }
  }
}

TEST_P(ProductTest, MlpRowsDoNotKnowTheirCompany) {
  constexpr int64_t kRows = 40, kWidth = 48;
  for (const int mlp_width : {100, 512}) {
    Rows alone;
    for (int threads : {1, 2, 3}) {
      Backend& on = tested().WithThreads(threads);
      const auto embedding = Matrix(on, kRows, kWidth, 19);
      const TestMlp mlp(on, kWidth, mlp_width, weights(), true);
      for (int32_t r = 0; r < kRows && threads == 1; ++r) {
        alone.push_back(mlp.Run(on, *embedding, {r})[0]);
      }
      for (int64_t rows = 1; rows <= kRows; ++rows) {
        const int64_t first = (kRows - rows) / 2;
        const Rows together = mlp.Run(on, *embedding, Range(first, first + rows));
        for (int64_t r = 0; r < rows; ++r) {
          ASSERT_TRUE(SameBits(together[r], alone[first + r])) << r << " of " << rows;
        }
      }
    }
  }
}

const auto kCases = ::testing::Values(
    ProductCase{"Float32Weights", ElementType::kFloat32, ElementType::kFloat32},
    ProductCase{"Bfloat16Weights", ElementType::kBFloat16, ElementType::kFloat32},
    ProductCase{"Float32WeightsBfloat16Activations", ElementType::kFloat32, ElementType::kBFloat16},
    ProductCase{"Bfloat16WeightsBfloat16Activations", ElementType::kBFloat16,
                ElementType::kBFloat16});
INSTANTIATE_TEST_SUITE_P(Variants, ProductTest,
                         ::testing::Combine(::testing::ValuesIn(TestedVariants()), kCases),
                         NameOfShape<ProductCase>);

}  // namespace
}  // namespace mambad::kernels
