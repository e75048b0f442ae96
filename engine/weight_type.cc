#include "engine/weight_type.h"

#include <cstdint>
#include <vector>

#include "absl/base/casts.h"
#include "absl/types/span.h"

namespace mambad {

using checkpoint::Checkpoint;
using checkpoint::StorageType;

bool LosesFloat16(const Checkpoint& checkpoint) {
  if (checkpoint.native_type() != StorageType::kFloat16) return false;
  std::vector<float> row;
  std::vector<uint16_t> rounded;
  for (const checkpoint::Parameter& parameter : checkpoint.table().parameters()) {
    if (parameter.keep_float32 || parameter.shape.size() != 2) continue;
    if (!checkpoint.Has(parameter)) continue;
    row.resize(parameter.shape[1]);
    rounded.resize(row.size());
    checkpoint.Read(parameter, 0, 1, absl::MakeSpan(row));
    checkpoint.ReadBFloat16(parameter, 0, 1, absl::MakeSpan(rounded));
    for (size_t i = 0; i < row.size(); ++i) {
      if (absl::bit_cast<uint32_t>(row[i]) != uint32_t{rounded[i]} << 16) return true;
    }
  }
  return false;
}

bool ComputesInFloat32(const Checkpoint& checkpoint, ComputeType type) {
  if (type != ComputeType::kAuto) return type == ComputeType::kFloat32;
  return checkpoint.native_type() == StorageType::kFloat32 || LosesFloat16(checkpoint);
}

}  // namespace mambad
