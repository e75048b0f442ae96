#include "trainer/formats/embedding_projection.h"

#include <algorithm>
#include <cmath>

namespace mambad::trainer {
namespace {

// Columns that are worked on together: enough to fill the machine's vectors.
constexpr int64_t kTile = 8;

// out [m, n] += a^T b for rows of a [m] and b [n].
void AddOuterProduct(const float* a, const float* b, int64_t m, int64_t n, double* out) {
  for (int64_t i = 0; i < m; ++i) {
    const double scale = a[i];
    double* const row = out + i * n;
    for (int64_t j = 0; j < n; ++j) row[j] += scale * b[j];
  }
}

// The lower factor of a symmetric matrix [n, n], in place. A pivot that is nothing beside the
// matrix' own entry marks a dependent column: its row and column become zero.
void Cholesky(int64_t n, std::vector<double>* matrix) {
  constexpr double kDependent = 1e-12;
  std::vector<double>& l = *matrix;
  for (int64_t j = 0; j < n; ++j) {
    double pivot = l[j * n + j];
    const double before = pivot;
    for (int64_t k = 0; k < j; ++k) pivot -= l[j * n + k] * l[j * n + k];
    const bool dependent = !(pivot > kDependent * before);
    const double root = dependent ? 0 : std::sqrt(pivot);
    l[j * n + j] = root;
    for (int64_t i = j + 1; i < n; ++i) {
      double value = l[i * n + j];
      for (int64_t k = 0; k < j; ++k) value -= l[i * n + k] * l[j * n + k];
      l[i * n + j] = dependent ? 0 : value / root;
    }
  }
}

// Solves L L^T x = b for every column of b [n, width], in place.
void SolveFactored(const std::vector<double>& l, int64_t n, int64_t width, std::vector<double>* b) {
  const auto subtract = [&](int64_t to, int64_t from, double scale) {
    for (int64_t c = 0; c < width; ++c) (*b)[to * width + c] -= scale * (*b)[from * width + c];
  };
  const auto divide = [&](int64_t row) {
    const double pivot = l[row * n + row];
    for (int64_t c = 0; c < width; ++c) {
      (*b)[row * width + c] = pivot > 0 ? (*b)[row * width + c] / pivot : 0;
    }
  };
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t k = 0; k < i; ++k) subtract(i, k, l[i * n + k]);
    divide(i);
  }
  for (int64_t i = n; i-- > 0;) {
    for (int64_t k = i + 1; k < n; ++k) subtract(i, k, l[k * n + i]);
    divide(i);
  }
}

}  // namespace

std::vector<float> ProjectEmbedding(absl::Span<const float> base,
                                    absl::Span<const float> projection, int64_t rows,
                                    int64_t base_width, int64_t width) {
  std::vector<float> out(rows * width);
  // A tile of the projection, widened, its missing columns zero.
  std::vector<double> tile(base_width * kTile);
  for (int64_t begin = 0; begin < width; begin += kTile) {
    const int64_t columns = std::min(kTile, width - begin);
    for (int64_t k = 0; k < base_width; ++k) {
      for (int64_t c = 0; c < kTile; ++c) {
        tile[k * kTile + c] = c < columns ? projection[k * width + begin + c] : 0;
      }
    }
    for (int64_t row = 0; row < rows; ++row) {
      double sums[kTile] = {};
      const float* const from = base.data() + row * base_width;
      for (int64_t k = 0; k < base_width; ++k) {
        const double scale = from[k];
        for (int64_t c = 0; c < kTile; ++c) sums[c] += scale * tile[k * kTile + c];
      }
      for (int64_t c = 0; c < columns; ++c) {
        out[row * width + begin + c] = static_cast<float>(sums[c]);
      }
    }
  }
  return out;
}

std::vector<float> SolveProjection(absl::Span<const float> base, absl::Span<const float> embedding,
                                   int64_t rows, int64_t base_width, int64_t width) {
  std::vector<double> normal(base_width * base_width), right(base_width * width);
  for (int64_t row = 0; row < rows; ++row) {
    const float* const b = base.data() + row * base_width;
    AddOuterProduct(b, b, base_width, base_width, normal.data());
    AddOuterProduct(b, embedding.data() + row * width, base_width, width, right.data());
  }
  Cholesky(base_width, &normal);
  SolveFactored(normal, base_width, width, &right);
  return {right.begin(), right.end()};
}

double RelativeDistance(absl::Span<const float> found, absl::Span<const float> expected) {
  double distance = 0, length = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double difference = static_cast<double>(found[i]) - expected[i];
    distance += difference * difference;
    length += static_cast<double>(expected[i]) * expected[i];
  }
  return length > 0 ? std::sqrt(distance / length) : std::sqrt(distance);
}

}  // namespace mambad::trainer
