// Any bytes as a PyTorch checkpoint, or as the pickle inside of one: an error of one line, or
// tensors whose every byte can be read.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "trainer/formats/pytorch_model.h"
#include "trainer/formats/tensor_pickle.h"

namespace {

void Check(const std::exception& error) {
  if (std::strlen(error.what()) > 2000 || std::strchr(error.what(), '\n') != nullptr) std::abort();
}

void ReadArchive(absl::Span<const std::byte> bytes) {
  mambad::trainer::RearrangedTensors rearranged;
  const auto read = mambad::trainer::ReadPytorchFile("file", bytes, &rearranged);
  unsigned sum = 0;
  for (const auto& [name, tensor] : read.tensors) {
    for (const std::byte byte : tensor.data) sum += static_cast<unsigned>(byte);
  }
  if (sum == 0xffffffff) std::abort();  // keeps the reading
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::Span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  try {
    if (size >= 2 && data[0] == 'P' && data[1] == 'K') {
      ReadArchive(bytes);
    } else {
      mambad::trainer::ReadTensorPickle("file", bytes);
    }
  } catch (const std::runtime_error& error) {
    Check(error);
  }
  return 0;
}
