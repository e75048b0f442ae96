#include "trainer/formats/gguf_writer.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/dequantise.h"
#include "engine/checkpoint/error_text.h"
#include "trainer/formats/half_float.h"
#include "trainer/formats/status_exception.h"

namespace mambad::trainer {
namespace {

using checkpoint::StorageType;

constexpr size_t kAlignment = 32;
constexpr uint32_t kVersion = 3, kInt32Type = 5, kStringType = 8, kArrayType = 9;
constexpr int kBlock = 32;

template <typename T>
void Append(std::string* out, T value) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}
void AppendText(std::string* out, const std::string& text) {
  Append<uint64_t>(out, text.size());
  *out += text;
}

void AppendValue(std::string* out, const GgufMetadata::mapped_type& value) {
  if (const auto* text = std::get_if<std::string>(&value)) {
    Append<uint32_t>(out, kStringType);
    AppendText(out, *text);
    return;
  }
  const auto& numbers = std::get<std::vector<int32_t>>(value);
  Append<uint32_t>(out, kArrayType);
  Append<uint32_t>(out, kInt32Type);
  Append<uint64_t>(out, numbers.size());
  for (const int32_t number : numbers) Append<int32_t>(out, number);
}

// ggml's numbers.
uint32_t TypeNumber(StorageType type, const std::string& name) {
  switch (type) {
    case StorageType::kFloat32:
      return 0;
    case StorageType::kFloat16:
      return 1;
    case StorageType::kQ8_0:
      return 8;
    case StorageType::kBFloat16:
      return 30;
    default:
      throw std::runtime_error(absl::StrCat("tensor ", checkpoint::Quoted(name), ": type ",
                                            checkpoint::StorageTypeName(type), " is not written"));
  }
}

size_t Padding(size_t size) { return (kAlignment - size % kAlignment) % kAlignment; }

absl::Span<const std::byte> BytesOf(const std::string& text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

}  // namespace

void AppendQ8Blocks(const float* numbers, int64_t count, std::vector<std::byte>* out) {
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    float largest = 0;
    for (int i = 0; i < kBlock; ++i) largest = std::max(largest, std::fabs(numbers[begin + i]));
    const uint16_t half = RoundToFloat16(largest / 127);
    // By the scale that is stored: what it lost in rounding is not lost twice.
    float scale;
    checkpoint::Dequantise(StorageType::kFloat16, reinterpret_cast<const std::byte*>(&half), 1,
                           &scale);
    out->push_back(static_cast<std::byte>(half & 0xff));
    out->push_back(static_cast<std::byte>(half >> 8));
    for (int i = 0; i < kBlock; ++i) {
      const float steps = scale > 0 ? numbers[begin + i] / scale : 0;
      out->push_back(
          static_cast<std::byte>(static_cast<int8_t>(std::clamp(std::lround(steps), -127l, 127l))));
    }
  }
}

void WriteGguf(const std::string& path, const GgufMetadata& metadata,
               absl::Span<const checkpoint::TensorToWrite> tensors) {
  std::string head = "GGUF";
  Append<uint32_t>(&head, kVersion);
  Append<uint64_t>(&head, tensors.size());
  Append<uint64_t>(&head, metadata.size());
  for (const auto& [key, value] : metadata) {
    AppendText(&head, key);
    AppendValue(&head, value);
  }
  uint64_t offset = 0;
  for (const checkpoint::TensorToWrite& tensor : tensors) {
    AppendText(&head, tensor.name);
    Append<uint32_t>(&head, static_cast<uint32_t>(tensor.shape.size()));
    for (size_t i = tensor.shape.size(); i-- > 0;) Append<uint64_t>(&head, tensor.shape[i]);
    Append<uint32_t>(&head, TypeNumber(tensor.type, tensor.name));
    Append<uint64_t>(&head, offset);
    offset += tensor.data.size() + Padding(tensor.data.size());
  }
  head.append(Padding(head.size()), '\0');
  const std::string zeros(kAlignment, '\0');
  std::vector<absl::Span<const std::byte>> pieces = {BytesOf(head)};
  for (const checkpoint::TensorToWrite& tensor : tensors) {
    pieces.push_back(tensor.data);
    pieces.push_back(BytesOf(zeros).first(Padding(tensor.data.size())));
  }
  ThrowUnlessOk(checkpoint::WriteFileAtomically(path, pieces));
}

}  // namespace mambad::trainer
