// Any bytes as a safetensors file: an error, or tensors that lie inside the bytes and are as long
// as their shapes say.

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "engine/checkpoint/dequantise.h"
#include "engine/checkpoint/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mambad::checkpoint;
  const absl::Span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  const auto file = ParseSafetensors("fuzz", bytes);
  if (!file.ok()) {
    // One line, not too long, whatever is in the file.
    const absl::string_view message = file.status().message();
    if (message.size() > 2000 || message.find('\n') != absl::string_view::npos) std::abort();
    return 0;
  }
  for (const auto& [name, tensor] : file->tensors) {
    uint64_t numbers = 1;
    for (const int64_t extent : tensor.shape) numbers *= static_cast<uint64_t>(extent);
    if (numbers * BlockOf(tensor.type).bytes != tensor.data.size()) std::abort();
    if (tensor.data.empty()) continue;
    if (tensor.data.begin() < bytes.begin() || tensor.data.end() > bytes.end()) std::abort();
    float first, last;
    Dequantise(tensor.type, tensor.data.data(), 1, &first);
    Dequantise(tensor.type, tensor.data.data() + tensor.data.size() - BlockOf(tensor.type).bytes, 1,
               &last);
  }
  return 0;
}
