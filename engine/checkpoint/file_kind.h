// What a file is, told by its first bytes: names lie (a blob of a store has none, a download that
// went wrong has the model's).

#ifndef MAMBAD_ENGINE_CHECKPOINT_FILE_KIND_H_
#define MAMBAD_ENGINE_CHECKPOINT_FILE_KIND_H_

#include <cstddef>
#include <string>

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

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_FILE_KIND_H_
