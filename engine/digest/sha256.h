// SHA-256 (FIPS 180-4), by OpenSSL: for fingerprints of models and receipts of answers.

#ifndef MAMBAD_ENGINE_DIGEST_SHA256_H_
#define MAMBAD_ENGINE_DIGEST_SHA256_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

struct evp_md_ctx_st;

namespace mambad {

// One digest in the making. Not for several threads at once.
class Sha256 {
 public:
  using Digest = std::array<unsigned char, 32>;

  Sha256();
  void Add(const void* data, size_t bytes);
  void AddNumber(uint64_t number);                // as 8 bytes, least significant first
  void AddText(absl::string_view text);           // its length as a number, then its bytes
  void AddTokens(absl::Span<const int32_t> ids);  // each as 4 bytes, least significant first
  // Ends it: nothing is added afterwards.
  Digest Finish();
  std::string FinishAsDigits();  // 64 hexadecimal digits

 private:
  struct Free {
    void operator()(evp_md_ctx_st* context) const;
  };
  std::unique_ptr<evp_md_ctx_st, Free> context_;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_DIGEST_SHA256_H_
