// Where a backend applies the scale of a norm before a product whose activations are rounded:
// before it rounds, or to the sums of the product, which then need not wait for the norm. Both are
// right; a reference that is to meet the same roundings must know.

#ifndef MAMBAD_TESTS_KERNELS_BACKEND_NORM_ORDER_H_
#define MAMBAD_TESTS_KERNELS_BACKEND_NORM_ORDER_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>

#include "kernels/backend.h"
#include "tests/kernels/backend/device_array.h"
#include "tests/kernels/backend/step_rows.h"

namespace mambad::kernels {

// As a backend shows by the norm of a row times the identity: what was rounded behind the scale is
// a bfloat16, what was scaled last is not.
inline bool ScalesSums(Backend& backend, ElementType weights) {
  if (backend.Activations(weights) == ElementType::kFloat32) return false;
  static auto* const known = new std::map<std::string, bool>;
  const auto [entry, is_new] = known->emplace(backend.Numerics(weights, weights), false);
  if (!is_new) return entry->second;

  constexpr int kColumns = 4;
  const auto pack = [&](int64_t rows, const std::array<uint16_t, kColumns * kColumns>& numbers) {
    MatrixSource source;
    source.bfloat16 = [&](int64_t begin, int64_t end, uint16_t* out) {
      std::copy(numbers.begin() + begin * kColumns, numbers.begin() + end * kColumns, out);
    };
    return backend.Pack(rows, kColumns, ElementType::kBFloat16, source);
  };
  constexpr uint16_t kOne = 0x3f80, kTwo = 0x4000, kThree = 0x4040, kFive = 0x40a0;
  const WeightMatrix embedding = pack(1, {kOne, kTwo, kThree, kFive});
  const WeightMatrix identity =
      pack(kColumns, {kOne, 0, 0, 0, 0, kOne, 0, 0, 0, 0, kOne, 0, 0, 0, 0, kOne});
  const auto workspace = backend.CreateWorkspace(SmallWorkspace(1, kColumns, kColumns));
  StepRows rows;
  rows.Add(0, 0, {0});
  rows.logit_rows = {0};
  BatchArrays arrays(backend);
  const Batch batch = arrays.Write(rows);
  const NormWeights norm;
  RunRound(backend, [&] {
    backend.Embed(batch, embedding, *workspace);
    backend.Head(batch, norm, identity, *workspace);
  });
  const Rows logits = ReadRows(backend, workspace->logits, 1);
  for (const float value : logits[0]) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    entry->second |= (bits & 0xffff) != 0;
  }
  return entry->second;
}

}  // namespace mambad::kernels

#endif  // MAMBAD_TESTS_KERNELS_BACKEND_NORM_ORDER_H_
