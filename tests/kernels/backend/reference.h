// Random numbers, the formulas of kernels/README.md in doubles, and comparisons.

#ifndef MAMBAD_TESTS_KERNELS_BACKEND_REFERENCE_H_
#define MAMBAD_TESTS_KERNELS_BACKEND_REFERENCE_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/backend.h"
#include "tests/kernels/backend/device_array.h"
#include "tests/kernels/backend/norm_order.h"

namespace mambad::kernels {

using Numbers = std::vector<double>;

inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

inline Row RandomRow(std::mt19937& random, int64_t count, float scale = 1) {
  std::normal_distribution<float> normal(0, scale);
  Row row(count);
  for (float& value : row) value = normal(random);
  return row;
}

inline Rows RandomRows(std::mt19937& random, int64_t rows, int64_t count, float scale = 1) {
  Rows result;
  for (int64_t r = 0; r < rows; ++r) result.push_back(RandomRow(random, count, scale));
  return result;
}

inline uint16_t ToBfloat16(float value) {  // nearest even; finite values
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float FromBfloat16(uint16_t value) {
  const uint32_t bits = uint32_t{value} << 16;
  float out;
  std::memcpy(&out, &bits, sizeof(out));
  return out;
}

inline float RoundedTo(ElementType type, float value) {
  return type == ElementType::kBFloat16 ? FromBfloat16(ToBfloat16(value)) : value;
}

inline double SiLU(double x) { return x / (1 + std::exp(-x)); }
inline double Softplus(double x) { return x > 20 ? x : std::log1p(std::exp(x)); }

// Without a weight, times 1.
template <typename Number>
Numbers RmsNorm(const std::vector<Number>& x, const Row& weight, double epsilon) {
  double mean = 0;
  for (const double value : x) mean += value * value / static_cast<double>(x.size());
  Numbers y(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    y[i] = x[i] / std::sqrt(mean + epsilon) * (weight.empty() ? 1 : weight[i]);
  }
  return y;
}

// sqrt(sum (a - b)^2 / sum b^2) over all rows; NaN or infinity anywhere gives NaN.
template <typename Number>
double RelativeError(const std::vector<std::vector<Number>>& a, const std::vector<Numbers>& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::quiet_NaN();
  double difference = 0, size = 0;
  for (size_t r = 0; r < b.size(); ++r) {
    for (size_t i = 0; i < b[r].size(); ++i) {
      difference += std::pow(a[r][i] - b[r][i], 2);
      size += b[r][i] * b[r][i];
    }
  }
  return std::sqrt(difference / size);
}

inline bool SameBits(const Row& a, const Row& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// ---- tolerances: relative L2 against doubles on the same weights --------------------------------

// `activations`: what they are rounded to before a product. The reference rounds them as well, but
// a last bit before it may tip a rounding.
inline double ProductTolerance(ElementType activations) {
  return activations == ElementType::kBFloat16 ? 1e-3 : 1e-6;
}
inline double LayerTolerance(ElementType activations) {
  return activations == ElementType::kBFloat16 ? 5e-3 : 1e-5;
}

// ---- weights ------------------------------------------------------------------------------------

// A matrix on the host, rounded to its type, and packed by a backend.
struct TestMatrix {
  TestMatrix(Backend& backend, int64_t rows, int64_t columns, ElementType type, Row numbers)
      : rows(rows),
        columns(columns),
        activations(backend.Activations(type)),
        scales_sums(ScalesSums(backend, type)),
        values(std::move(numbers)) {
    for (float& value : values) value = RoundedTo(type, value);
    MatrixSource source;
    source.float32 = [this](int64_t begin, int64_t end, float* out) {
      std::copy(At(begin), At(end), out);
    };
    source.bfloat16 = [this](int64_t begin, int64_t end, uint16_t* out) {
      std::transform(At(begin), At(end), out, ToBfloat16);
    };
    packed = backend.Pack(rows, columns, type, source);
  }
  TestMatrix(const TestMatrix&) = delete;
  TestMatrix& operator=(const TestMatrix&) = delete;

  // W RmsNorm(x), rounded where the backend rounds.
  template <typename Number>
  Numbers TimesNorm(const std::vector<Number>& x, const Row& weight, double epsilon) const {
    if (!scales_sums) return Times(RmsNorm(x, weight, epsilon));
    double mean = 0;
    for (const double value : x) mean += value * value / static_cast<double>(x.size());
    Numbers weighted(x.begin(), x.end());
    for (size_t i = 0; i < x.size() && !weight.empty(); ++i) weighted[i] *= weight[i];
    Numbers y = Times(weighted);
    for (double& value : y) value /= std::sqrt(mean + epsilon);
    return y;
  }

  // W x, x rounded as the backend rounds it.
  Numbers Times(const Numbers& x) const {
    Numbers y(rows);
    for (int64_t k = 0; k < columns; ++k) {
      const double value = activations == ElementType::kFloat32
                               ? x[k]
                               : double{FromBfloat16(ToBfloat16(static_cast<float>(x[k])))};
      for (int64_t i = 0; i < rows; ++i) y[i] += values[i * columns + k] * value;
    }
    return y;
  }

  Row::const_iterator At(int64_t row) const { return values.begin() + row * columns; }

  int64_t rows, columns;
  ElementType activations;
  bool scales_sums;  // norm_order.h
  Row values;
  WeightMatrix packed;
};

// Of products about as large as what they are taken of, times `scale`.
inline Row RandomWeights(std::mt19937& random, int64_t rows, int64_t columns, float scale = 1) {
  return RandomRow(random, rows * columns, scale / std::sqrt(static_cast<float>(columns)));
}

}  // namespace mambad::kernels

#endif  // MAMBAD_TESTS_KERNELS_BACKEND_REFERENCE_H_
