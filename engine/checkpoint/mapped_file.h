// A file mapped for reading.

#ifndef MAMBAD_ENGINE_CHECKPOINT_MAPPED_FILE_H_
#define MAMBAD_ENGINE_CHECKPOINT_MAPPED_FILE_H_

#include <cstddef>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace mambad::checkpoint {

// Move-only. A file that is cut short by another process while it is mapped, or that its disk
// cannot read, ends this one (SIGBUS): with a line on standard error that names the file and status
// 1, where nobody else handles that signal. Replace files by rename.
class MappedFile {
 public:
  // NOT_FOUND, PERMISSION_DENIED or INVALID_ARGUMENT (no regular file, empty) with the path.
  static absl::StatusOr<MappedFile> Open(const std::string& path);
  MappedFile(MappedFile&& other) noexcept { *this = std::move(other); }
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    path_.swap(other.path_);
    return *this;
  }
  ~MappedFile();

  absl::Span<const std::byte> bytes() const {
    return {static_cast<const std::byte*>(data_), size_};
  }
  const std::string& path() const { return path_; }

 private:
  MappedFile() = default;
  void* data_ = nullptr;
  size_t size_ = 0;
  std::string path_;
};

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_MAPPED_FILE_H_
