// What a file is, told by its first bytes: names lie (a blob of a store has none, a download that
// went wrong has the model's).

#ifndef MAMBAD_ENGINE_CHECKPOINT_FILE_KIND_H_
#define MAMBAD_ENGINE_CHECKPOINT_FILE_KIND_H_

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace mambad::checkpoint {

enum class FileKind {
  kOther,
  kGguf,
  kSafetensors,  // eight bytes of length, then a JSON object
  kOldGgml,      // GGML, GGMF and GGJT: before GGUF
  kJson,         // an object
  kZip,
  kPickle,
  kGzip,
  kCompressed,  // xz, zstd, bzip2, 7z
  kTar,
  kHdf5,
  kNumpy,
  kMarkup,      // HTML or XML: the page of a server, not its file
  kLfsPointer,  // the few lines that git has in place of a large file
  kZeros,       // nothing but zero bytes at the beginning: a download that was never filled
  kExecutable,
};

// Looks at no more than the first 4 KiB.
FileKind RecogniseFile(absl::Span<const std::byte> bytes);

// What it is and the way out, as the middle of a sentence: "a Git LFS pointer found: run git lfs
// pull". Empty for kOther.
std::string WhatFileIs(FileKind kind);

// The first 4 KiB of a file, or all of a smaller one. Errors as MappedFile::Open's; a pipe or a
// socket does not stop it.
absl::StatusOr<std::string> ReadFileBeginning(const std::string& path);
// The same; empty when it cannot be read.
std::string FileBeginning(const std::string& path);
// `status` with what WhatFileIs says of the file at `path`, when the file is of a kind that
// explains why it could not be understood.
absl::Status Explained(const absl::Status& status, const std::string& path);

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_FILE_KIND_H_
