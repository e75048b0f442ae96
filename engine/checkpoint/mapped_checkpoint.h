// A checkpoint whose tensors lie in memory-mapped files: what directories and GGUF files have in
// common.

#ifndef MAMBAD_ENGINE_CHECKPOINT_MAPPED_CHECKPOINT_H_
#define MAMBAD_ENGINE_CHECKPOINT_MAPPED_CHECKPOINT_H_

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/mapped_file.h"
#include "engine/checkpoint/safetensors.h"

namespace mambad::checkpoint {

// Everything that was read, before it is checked against the configuration.
struct CheckpointParts {
  std::string path;  // begins messages that belong to no single file
  ModelConfig config;
  TextFiles text;
  std::vector<MappedFile> files;  // tensors' data lie in these
  std::map<std::string, StoredTensor> tensors;
  std::map<std::string, std::string> ignored;  // tensors of types that are not read
  std::string identity;                        // the configuration's text, for the fingerprint
};

class MappedCheckpoint : public Checkpoint {
 public:
  // Every parameter present with its shape and readable, nothing unknown beside them; otherwise
  // INVALID_ARGUMENT with file, tensor, expected and found.
  static absl::StatusOr<std::unique_ptr<const Checkpoint>> Create(CheckpointParts parts);

  bool Has(const Parameter& parameter) const override;
  void Read(const Parameter& parameter, int64_t row_begin, int64_t row_end,
            absl::Span<float> out) const override;
  void ReadBFloat16(const Parameter& parameter, int64_t row_begin, int64_t row_end,
                    absl::Span<uint16_t> out) const override;
  const std::string& fingerprint() const override;

 private:
  explicit MappedCheckpoint(CheckpointParts parts);
  const StoredTensor* Find(const Parameter& parameter) const;
  absl::Status CheckTensors() const;
  absl::Status CheckTensor(const Parameter& parameter, const StoredTensor& tensor) const;
  absl::Status CheckDecay(const Parameter& parameter, const StoredTensor& tensor) const;
  void ChooseNativeType();

  bool IsReordered(const Parameter& parameter) const;
  int64_t SourceRow(int64_t row) const;
  void Convert(const Parameter& parameter, int64_t row, int64_t rows, float* out) const;

  std::string path_;
  std::vector<MappedFile> files_;
  std::map<std::string, StoredTensor> tensors_;
  std::map<std::string, std::string> ignored_;
  std::string identity_;
  mutable std::once_flag fingerprint_taken_;
  mutable std::string fingerprint_;  // written once, under fingerprint_taken_
};

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_MAPPED_CHECKPOINT_H_
