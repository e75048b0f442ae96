#include "trainer/text_file.h"

#include <cstddef>
#include <stdexcept>

#include "absl/types/span.h"
#include "engine/checkpoint/safetensors.h"

namespace mambad::trainer {

void WriteText(const std::string& path, const std::string& text) {
  const absl::Span<const std::byte> piece(reinterpret_cast<const std::byte*>(text.data()),
                                          text.size());
  const absl::Status written = checkpoint::WriteFileAtomically(path, {piece});
  if (!written.ok()) throw std::runtime_error(std::string(written.message()));
}

}  // namespace mambad::trainer
