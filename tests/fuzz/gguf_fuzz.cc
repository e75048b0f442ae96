// Any bytes as a GGUF file: an error, or a model whose every row can be read.

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/checkpoint.h"

namespace {

// One file a process, gone with it.
class ScratchFile {
 public:
  ScratchFile()
      : path_(absl::StrCat(std::filesystem::temp_directory_path().string(), "/fuzz-", getpid(),
                           ".gguf")) {}
  ~ScratchFile() { unlink(path_.c_str()); }
  const std::string& Write(const uint8_t* data, size_t size) {
    std::FILE* file = std::fopen(path_.c_str(), "wb");
    if (file == nullptr || std::fwrite(data, 1, size, file) != size || std::fclose(file) != 0)
      std::abort();
    return path_;
  }

 private:
  std::string path_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mambad::checkpoint;
  static ScratchFile scratch;
  const auto checkpoint = Checkpoint::Open(scratch.Write(data, size));
  if (!checkpoint.ok()) {
    const absl::string_view message = checkpoint.status().message();
    if (message.size() > 2000 || message.find('\n') != absl::string_view::npos) std::abort();
    return 0;
  }
  for (const Parameter& parameter : (*checkpoint)->table().parameters()) {
    if (!(*checkpoint)->Has(parameter)) continue;
    int64_t columns = 1;
    for (size_t i = 1; i < parameter.shape.size(); ++i) columns *= parameter.shape[i];
    // Buffers of exactly the promised size, so that a write beyond it is seen.
    std::vector<float> row(columns);
    std::vector<uint16_t> narrow(columns);
    for (const int64_t at : {int64_t{0}, parameter.shape[0] - 1}) {
      (*checkpoint)->Read(parameter, at, at + 1, absl::MakeSpan(row));
      (*checkpoint)->ReadBFloat16(parameter, at, at + 1, absl::MakeSpan(narrow));
    }
  }
  return 0;
}
