#include "trainer/modules/random_values.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "trainer/counter_random.h"

namespace mambad::trainer {
namespace {

using at::Tensor;

// FNV-1a: tells names apart, on every machine in the same way.
uint64_t StreamOf(const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325ull;
  for (const char letter : name) {
    hash = (hash ^ static_cast<unsigned char>(letter)) * 0x100000001b3ull;
  }
  return hash;
}

template <typename Draw>
Tensor Drawn(const std::vector<int64_t>& shape, uint64_t seed, const std::string& stream,
             const Draw& draw) {
  Tensor result = at::empty(shape, at::kFloat);
  float* values = result.data_ptr<float>();
  const CounterRandom random(seed, StreamOf(stream));
  for (int64_t i = 0; i < result.numel(); ++i) values[i] = static_cast<float>(draw(random, i));
  return result;
}

}  // namespace

Tensor NormalValues(const std::vector<int64_t>& shape, double deviation, uint64_t seed,
                    const std::string& stream) {
  // Box and Muller 1958; 1 - u is never 0.
  return Drawn(shape, seed, stream, [&](const CounterRandom& random, int64_t i) {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - random.Uniform(2 * i)));
    return deviation * radius * std::cos(2.0 * M_PI * random.Uniform(2 * i + 1));
  });
}

Tensor UniformValues(const std::vector<int64_t>& shape, double low, double high, uint64_t seed,
                     const std::string& stream) {
  return Drawn(shape, seed, stream, [&](const CounterRandom& random, int64_t i) {
    return low + (high - low) * random.Uniform(i);
  });
}

Tensor TimeStepBias(int64_t size, uint64_t seed, const std::string& stream) {
  const double low = std::log(1e-3), high = std::log(1e-1);
  return Drawn({size}, seed, stream, [&](const CounterRandom& random, int64_t i) {
    const double step = std::max(std::exp(low + (high - low) * random.Uniform(i)), 1e-4);
    return step + std::log(-std::expm1(-step));
  });
}

Tensor CountingDecay(int64_t channels, int64_t state_size) {
  return at::arange(1, state_size + 1, at::kFloat).log().repeat({channels, 1});
}

Tensor UniformDecay(int64_t heads, uint64_t seed, const std::string& stream) {
  return UniformValues({heads}, 1.0, 16.0, seed, stream).log();
}

}  // namespace mambad::trainer
