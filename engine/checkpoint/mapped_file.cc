#include "engine/checkpoint/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace mambad::checkpoint {
namespace {

// ---- what is mapped, for the handler of SIGBUS -------------------------------------------------

struct Mapping {
  std::atomic<uintptr_t> begin{0}, end{0};  // 0: free
  std::atomic<const char*> path{nullptr};
};

// Shards of several models; what does not fit goes unnamed.
constexpr size_t kMostMappings = 4096;
Mapping mappings[kMostMappings];
constexpr uintptr_t kTaken = 1;  // `begin` of one that is being filled in; no address

void Register(const void* data, size_t size, const std::string& path) {
  for (Mapping& mapping : mappings) {
    uintptr_t free = 0;
    if (!mapping.begin.compare_exchange_strong(free, kTaken)) continue;
    mapping.path = strdup(path.c_str());
    mapping.end = reinterpret_cast<uintptr_t>(data) + size;
    mapping.begin = reinterpret_cast<uintptr_t>(data);
    return;
  }
}

void Forget(const void* data) {
  for (Mapping& mapping : mappings) {
    if (mapping.begin != reinterpret_cast<uintptr_t>(data)) continue;
    mapping.end = 0;
    free(const_cast<char*>(mapping.path.exchange(nullptr)));
    mapping.begin = 0;
    return;
  }
}

// Calls nothing but what a signal handler may.
void OnBusError(int signal, siginfo_t* info, void*) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (const Mapping& mapping : mappings) {
    if (address < mapping.begin || address >= mapping.end || mapping.begin == 0) continue;
    const char* path = mapping.path;
    if (path == nullptr) continue;
    const auto say = [](const char* text) {
      return write(STDERR_FILENO, text, std::strlen(text)) >= 0;
    };
    const bool said = say("mambad: ") && say(path) &&
                      say(": cut short, or unreadable on its disk, while it was being read; "
                          "replace a model's files by renaming new ones into place\n");
    _exit(said ? 1 : 2);
  }
  ::signal(signal, SIG_DFL);  // another's fault: it happens again, and ends the process
}

void HandleBusErrors() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction before = {}, ours = {};
    if (sigaction(SIGBUS, nullptr, &before) != 0 || before.sa_handler != SIG_DFL) return;
    ours.sa_sigaction = OnBusError;
    ours.sa_flags = SA_SIGINFO;
    sigaction(SIGBUS, &ours, nullptr);
  });
}

}  // namespace

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  // Not blocking: somebody's pipe must not stop the start.
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0 && errno != ENXIO)
    return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot be opened"));
  struct stat info;
  // ENXIO: a socket. Left to itself it would read as "no such file".
  if (descriptor < 0 || fstat(descriptor, &info) != 0 || !S_ISREG(info.st_mode)) {
    if (descriptor >= 0) close(descriptor);
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a file with contents"));
  }
  if (info.st_size == 0) {
    close(descriptor);
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": not a file with contents: it is empty; download or copy it again"));
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
  HandleBusErrors();
  Register(data, file.size_, path);
  madvise(data, file.size_, MADV_WILLNEED);
  return file;
}

MappedFile::~MappedFile() {
  if (data_ == nullptr) return;
  Forget(data_);
  munmap(data_, size_);
}

}  // namespace mambad::checkpoint
