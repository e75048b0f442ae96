// The safetensors format: 8 bytes of header length (little endian), a JSON header {"name":
// {"dtype", "shape", "data_offsets": [begin, end]}, ..., "__metadata__"}, then the tensors' bytes.

#ifndef MAMBAD_ENGINE_CHECKPOINT_SAFETENSORS_H_
#define MAMBAD_ENGINE_CHECKPOINT_SAFETENSORS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/mapped_file.h"

namespace mambad::checkpoint {

struct StoredTensor {
  StorageType type = StorageType::kFloat32;
  std::vector<int64_t> shape;
  absl::Span<const std::byte> data;  // into the mapped file
  int file = 0;                      // which of a checkpoint's files
};

struct SafetensorsFile {
  std::map<std::string, StoredTensor> tensors;
  // Tensors of other types than F32, F16 and BF16, with their type: integer leftovers do no harm.
  std::map<std::string, std::string> ignored;
};

// The tensors of one file's bytes. Checks everything before it is used: a header of at most 16 MiB,
// its depth, every offset inside the file and in agreement with shape and type, tensors neither
// overlapping nor leaving gaps. INVALID_ARGUMENT begins with `source`.
absl::StatusOr<SafetensorsFile> ParseSafetensors(const std::string& source,
                                                 absl::Span<const std::byte> bytes);

// One tensor to be written; the caller keeps `data` alive. Row-major, little endian.
struct TensorToWrite {
  std::string name;
  StorageType type = StorageType::kFloat32;  // kFloat32, kFloat16 or kBFloat16
  std::vector<int64_t> shape;
  absl::Span<const std::byte> data;
};

// Writes `path` whole or not at all: a temporary file beside it, fsync, rename. Metadata {"format":
// "pt"}.
absl::Status WriteSafetensors(const std::string& path, absl::Span<const TensorToWrite> tensors);

// Writes model.safetensors, or shards of at most `shard_bytes` (one tensor at least) with
// model.safetensors.index.json. shard_bytes 0: one file.
absl::Status WriteShardedSafetensors(const std::string& directory,
                                     absl::Span<const TensorToWrite> tensors, int64_t shard_bytes);

// Writes a small file whole or not at all.
absl::Status WriteFileAtomically(const std::string& path,
                                 absl::Span<const absl::Span<const std::byte>> pieces);

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_SAFETENSORS_H_
