// SHA-256 (FIPS 180-4), by OpenSSL.

#ifndef MAMBAD_TRAINER_FORMATS_SHA256_H_
#define MAMBAD_TRAINER_FORMATS_SHA256_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/types/span.h"

namespace mambad::trainer {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  void Add(absl::Span<const std::byte> bytes);
  void Add(const std::string& text);
  // 64 hexadecimal digits; nothing can be added afterwards.
  std::string Digits();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_FORMATS_SHA256_H_
