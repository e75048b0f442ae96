// Any bytes as a model directory: config.json, model.safetensors.index.json and a safetensors file,
// one after another with a NUL byte between them. With an index the file is there under two names,
// without one as model.safetensors. An error, or a model whose every tensor can be read.

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/checkpoint.h"

namespace {

using namespace mambad::checkpoint;

constexpr char kIndex[] = "/model.safetensors.index.json";

// One folder a process, gone with it.
class ScratchFolder {
 public:
  ScratchFolder()
      : path_(absl::StrCat(std::filesystem::temp_directory_path().string(), "/fuzz-", getpid())) {
    std::filesystem::create_directory(path_);
  }
  ~ScratchFolder() { std::filesystem::remove_all(path_); }
  void Write(const char* name, std::string_view contents) const {
    std::FILE* file = std::fopen(absl::StrCat(path_, name).c_str(), "wb");
    const bool written =
        file != nullptr &&
        (contents.empty() ||  // whose data() may be null, which fwrite must not be given
         std::fwrite(contents.data(), 1, contents.size(), file) == contents.size());
    if (!written || std::fclose(file) != 0) std::abort();
  }
  void Remove(const char* name) const { unlink(absl::StrCat(path_, name).c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::string_view TakeText(std::string_view& input) {
  const size_t end = input.find('\0');
  const std::string_view text = input.substr(0, end);
  input = end == std::string_view::npos ? std::string_view() : input.substr(end + 1);
  return text;
}

void ReadEverything(const Checkpoint& checkpoint) {
  for (const Parameter& parameter : checkpoint.table().parameters()) {
    if (!checkpoint.Has(parameter)) continue;
    int64_t numbers = 1;
    for (const int64_t extent : parameter.shape) numbers *= extent;
    // Buffers of exactly the promised size, so that a write beyond it is seen.
    std::vector<float> wide(numbers);
    std::vector<uint16_t> narrow(numbers);
    checkpoint.Read(parameter, 0, parameter.shape[0], absl::MakeSpan(wide));
    checkpoint.ReadBFloat16(parameter, 0, parameter.shape[0], absl::MakeSpan(narrow));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const ScratchFolder folder;
  std::string_view input(reinterpret_cast<const char*>(data), size);
  folder.Write("/config.json", TakeText(input));
  const std::string_view index = TakeText(input);
  if (index.empty()) {
    folder.Remove(kIndex);
    folder.Write("/model.safetensors", input);
  } else {
    folder.Write(kIndex, index);
    folder.Write("/a.safetensors", input);
    folder.Write("/b.safetensors", input);
  }
  const auto checkpoint = Checkpoint::Open(folder.path());
  if (!checkpoint.ok()) {
    const absl::string_view message = checkpoint.status().message();
    if (message.size() > 2000 || message.find('\n') != absl::string_view::npos) std::abort();
    return 0;
  }
  ReadEverything(**checkpoint);
  return 0;
}
