#include "engine/checkpoint/file_kind.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace mambad::checkpoint {
namespace {

constexpr size_t kLookedAt = 4096;

struct Magic {
  std::string_view bytes;
  FileKind kind;
};

using std::string_view_literals::operator""sv;

constexpr Magic kMagics[] = {
    {"GGUF"sv, FileKind::kGguf},
    {"lmgg"sv, FileKind::kOldGgml},
    {"fmgg"sv, FileKind::kOldGgml},
    {"tjgg"sv, FileKind::kOldGgml},
    {"ggla"sv, FileKind::kOldGgml},
    {"GGML"sv, FileKind::kOldGgml},
    {"PK\3\4"sv, FileKind::kZip},
    {"\x1f\x8b"sv, FileKind::kGzip},
    {"\xfd"
     "7zXZ"sv,
     FileKind::kCompressed},
    {"\x28\xb5\x2f\xfd"sv, FileKind::kCompressed},
    {"BZh"sv, FileKind::kCompressed},
    {"7z\xbc\xaf"sv, FileKind::kCompressed},
    {"\x89HDF"sv, FileKind::kHdf5},
    {"\x93NUMPY"sv, FileKind::kNumpy},
    {"version https://git-lfs"sv, FileKind::kLfsPointer},
    {"\x7f"
     "ELF"sv,
     FileKind::kExecutable},
};

bool IsSafetensors(std::string_view text) {
  uint64_t header = 0;
  if (text.size() < 9) return false;
  std::memcpy(&header, text.data(), 8);
  return header >= 2 && header < uint64_t{1} << 40 && text[8] == '{';
}

}  // namespace

FileKind RecogniseFile(absl::Span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()),
                              std::min(bytes.size(), kLookedAt));
  for (const Magic& magic : kMagics) {
    if (text.starts_with(magic.bytes)) return magic.kind;
  }
  if (IsSafetensors(text)) return FileKind::kSafetensors;
  if (text.size() > 262 && text.substr(257, 5) == "ustar") return FileKind::kTar;
  if (text.size() >= 2 && text[0] == '\x80' && text[1] >= 2 && text[1] <= 5) {
    return FileKind::kPickle;
  }
  if (!text.empty() && text.find_first_not_of('\0') == std::string_view::npos) {
    return FileKind::kZeros;
  }
  const size_t begin = text.find_first_not_of(" \t\r\n", text.starts_with("\xef\xbb\xbf") ? 3 : 0);
  if (begin == std::string_view::npos) return FileKind::kOther;
  if (text[begin] == '{') return FileKind::kJson;
  constexpr size_t kLongestWord = 16;
  const std::string word = absl::AsciiStrToLower(std::string(text.substr(begin, kLongestWord)));
  for (const char* markup : {"<!doctype", "<html", "<?xml", "<head", "<error"}) {
    if (word.starts_with(markup)) return FileKind::kMarkup;
  }
  return FileKind::kOther;
}

std::string WhatFileIs(FileKind kind) {
  switch (kind) {
    case FileKind::kOther:
      return "";
    case FileKind::kGguf:
      return "a GGUF file found";
    case FileKind::kSafetensors:
      return "a safetensors file found";
    case FileKind::kOldGgml:
      return "a GGML file of before GGUF found: convert the original model again, or download a "
             "GGUF file";
    case FileKind::kJson:
      return "a JSON file found";
    case FileKind::kZip:
      return "a zip archive found (a PyTorch checkpoint is one): trainer convert makes a model "
             "directory of a PyTorch one";
    case FileKind::kPickle:
      return "a Python pickle found (an old PyTorch checkpoint is one): trainer convert makes a "
             "model directory of a PyTorch one";
    case FileKind::kGzip:
      return "a gzip file found: unpack it first (gunzip, or tar -xzf)";
    case FileKind::kCompressed:
      return "a compressed file found: unpack it first";
    case FileKind::kTar:
      return "a tar archive found: unpack it first (tar -xf)";
    case FileKind::kHdf5:
      return "an HDF5 file found (Keras and TensorFlow write them): download the model as "
             "safetensors or GGUF";
    case FileKind::kNumpy:
      return "a NumPy array found: download the model as safetensors or GGUF";
    case FileKind::kMarkup:
      return "an HTML or XML page found: the download brought a web page, not the file; take the "
             "address that ends in /resolve/..., or the site's own download program";
    case FileKind::kLfsPointer:
      return "a Git LFS pointer found, which stands for the file: run git lfs pull in its folder";
    case FileKind::kZeros:
      return "zero bytes found: the download was not finished; download the file again";
    case FileKind::kExecutable:
      return "a program found";
  }
  return "";
}

absl::StatusOr<std::string> ReadFileBeginning(const std::string& path) {
  // Not blocking: somebody's pipe must not stop the start.
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0 && errno != ENXIO) {
    return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot be opened"));
  }
  struct stat info = {};
  std::string beginning(kLookedAt, '\0');
  ssize_t count = -1;
  if (descriptor >= 0 && fstat(descriptor, &info) == 0 && S_ISREG(info.st_mode)) {
    count = pread(descriptor, beginning.data(), beginning.size(), 0);
  }
  const int error = errno;
  if (descriptor >= 0) close(descriptor);
  if (count < 0 && descriptor >= 0 && S_ISREG(info.st_mode)) {
    return absl::ErrnoToStatus(error, absl::StrCat(path, ": cannot be read"));
  }
  if (count < 0) return absl::InvalidArgumentError(absl::StrCat(path, ": no regular file"));
  if (count == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": an empty file: download or copy it again"));
  }
  beginning.resize(static_cast<size_t>(count));
  return beginning;
}

std::string FileBeginning(const std::string& path) {
  return ReadFileBeginning(path).value_or(std::string());
}

absl::Status Explained(const absl::Status& status, const std::string& path) {
  if (status.ok()) return status;
  const std::string beginning = FileBeginning(path);
  const FileKind kind =
      RecogniseFile({reinterpret_cast<const std::byte*>(beginning.data()), beginning.size()});
  if (kind == FileKind::kJson || kind == FileKind::kSafetensors || kind == FileKind::kOther) {
    return status;
  }
  return absl::Status(status.code(),
                      absl::StrCat(std::string(status.message()), ": ", WhatFileIs(kind)));
}

}  // namespace mambad::checkpoint
