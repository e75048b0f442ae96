#include "trainer/run_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <stdexcept>

namespace mambad::trainer {
namespace {

std::string Self() {
  std::array<char, HOST_NAME_MAX + 1> host = {};
  gethostname(host.data(), host.size() - 1);
  return "process " + std::to_string(getpid()) + " on " + host.data();
}

std::string WordsIn(int file) {
  std::array<char, 512> words = {};
  const ssize_t size = pread(file, words.data(), words.size() - 1, 0);
  std::string text(words.data(), size > 0 ? static_cast<size_t>(size) : 0);
  return text.substr(0, text.find('\n'));
}

// Whoever ends removes the file: what was opened may no longer be the one of that name.
bool HasName(int file, const std::string& path) {
  struct stat opened = {}, named = {};
  return fstat(file, &opened) == 0 && stat(path.c_str(), &named) == 0 &&
         opened.st_ino == named.st_ino && opened.st_dev == named.st_dev;
}

}  // namespace

RunLock::RunLock(const std::string& folder) : path_(folder + "/run.lock") {
  while (true) {
    file_ = open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (file_ < 0) throw std::runtime_error(path_ + ": cannot be made: " + std::strerror(errno));
    if (flock(file_, LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) return;  // locks are not known here
      const std::string words = WordsIn(file_);
      close(file_);
      throw std::runtime_error("output: " + folder + ": another trainer works there (" +
                               (words.empty() ? "see run.lock" : words) +
                               "): wait for its end, or give another output");
    }
    if (HasName(file_, path_)) break;
    close(file_);
  }
  const std::string words = Self() + "\n";
  // Without words the lock holds as well.
  if (ftruncate(file_, 0) != 0 || pwrite(file_, words.data(), words.size(), 0) < 0) errno = 0;
}

RunLock::~RunLock() {
  if (file_ < 0) return;
  if (HasName(file_, path_)) unlink(path_.c_str());
  close(file_);
}

}  // namespace mambad::trainer
