// The GGUF container, versions 2 and 3: metadata (key -> typed value) and tensors.

#ifndef MAMBAD_ENGINE_CHECKPOINT_GGUF_H_
#define MAMBAD_ENGINE_CHECKPOINT_GGUF_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/checkpoint/safetensors.h"

namespace mambad::checkpoint {

// Numbers are widened: all integers and booleans to int64, both float widths to double. Arrays hold
// one type.
using GgufValue = std::variant<int64_t, double, std::string, std::vector<int64_t>,
                               std::vector<double>, std::vector<std::string>>;

// A number of any type; nothing for texts and lists.
std::optional<double> GgufNumber(const GgufValue& value);
// A list of numbers of any type; nothing for what is no list, and for texts.
std::optional<std::vector<double>> GgufNumbers(const GgufValue& value);
// "a number", "a text", "a list of numbers", "a list of texts": for messages.
const char* GgufValueKind(const GgufValue& value);

struct GgufFile {
  std::map<std::string, GgufValue> metadata;
  std::map<std::string, StoredTensor>
      tensors;  // shapes in row-major order: the file's dimensions reversed
};

// Checks every length against what is left of the file before it is used; nested arrays, unknown
// types, repeated names, misaligned, overlapping or outlying tensors and rows that are no whole
// blocks are INVALID_ARGUMENT (unknown quantisations UNIMPLEMENTED), beginning with `source`.
absl::StatusOr<GgufFile> ParseGguf(const std::string& source, absl::Span<const std::byte> bytes);

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_GGUF_H_
