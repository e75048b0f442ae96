#include "engine/checkpoint/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace mambad::checkpoint {

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  // Not blocking: somebody's pipe must not stop the start.
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0 && errno != ENXIO)
    return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot be opened"));
  struct stat info;
  // ENXIO: a socket. Left to itself it would read as "no such file".
  if (descriptor < 0 || fstat(descriptor, &info) != 0 || !S_ISREG(info.st_mode) ||
      info.st_size == 0) {
    if (descriptor >= 0) close(descriptor);
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a file with contents"));
  }
  MappedFile file;
  file.path_ = path;
  file.size_ = static_cast<size_t>(info.st_size);
  void* data = mmap(nullptr, file.size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
  const int error = errno;
  close(descriptor);
  if (data == MAP_FAILED)
    return absl::ErrnoToStatus(error, absl::StrCat(path, ": cannot be mapped"));
  file.data_ = data;
  madvise(data, file.size_, MADV_WILLNEED);
  return file;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(data_, size_);
}

}  // namespace mambad::checkpoint
