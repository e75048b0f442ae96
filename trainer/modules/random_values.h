// Random numbers for parameters, the same on every machine and device: each is a pure function of
// (seed, stream, place).

#ifndef MAMBAD_TRAINER_MODULES_RANDOM_VALUES_H_
#define MAMBAD_TRAINER_MODULES_RANDOM_VALUES_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace mambad::trainer {

// Of matrices and embeddings before training.
inline constexpr double kEmbeddingDeviation = 0.02;

// fp32 on the CPU. `stream`: a name; streams have nothing to do with each other.
at::Tensor NormalValues(const std::vector<int64_t>& shape, double deviation, uint64_t seed,
                        const std::string& stream);
// In [low, high).
at::Tensor UniformValues(const std::vector<int64_t>& shape, double low, double high, uint64_t seed,
                         const std::string& stream);

// softplus^-1 of time steps drawn log-uniformly from [0.001, 0.1], not below 1e-4 (Gu and Dao
// 2023).
at::Tensor TimeStepBias(int64_t size, uint64_t seed, const std::string& stream);
// log(1..N) in each of the `channels` rows: Mamba-1's A_log [channels, N].
at::Tensor CountingDecay(int64_t channels, int64_t state_size);
// log of draws from U(1, 16): Mamba-2's A_log [heads].
at::Tensor UniformDecay(int64_t heads, uint64_t seed, const std::string& stream);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_MODULES_RANDOM_VALUES_H_
