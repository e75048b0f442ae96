#include "engine/digest/sha256.h"

#include <openssl/evp.h>

#include <algorithm>
#include <cstdlib>

#include "absl/strings/escaping.h"

namespace mambad {

void Sha256::Free::operator()(evp_md_ctx_st* context) const { EVP_MD_CTX_free(context); }

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  // Only for want of memory, or in an OpenSSL without SHA-256.
  if (context_ == nullptr || EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) != 1) {
    std::abort();
  }
}

void Sha256::Add(const void* data, size_t bytes) { EVP_DigestUpdate(context_.get(), data, bytes); }

void Sha256::AddNumber(uint64_t number) {
  unsigned char bytes[8];
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<unsigned char>(number >> (8 * i));
  Add(bytes, sizeof(bytes));
}

void Sha256::AddText(absl::string_view text) {
  AddNumber(text.size());
  Add(text.data(), text.size());
}

void Sha256::AddTokens(absl::Span<const int32_t> ids) {
  constexpr size_t kAtOnce = 256;
  unsigned char bytes[4 * kAtOnce];
  for (size_t begin = 0; begin < ids.size(); begin += kAtOnce) {
    const size_t count = std::min(kAtOnce, ids.size() - begin);
    for (size_t i = 0; i < count; ++i) {
      const auto id = static_cast<uint32_t>(ids[begin + i]);
      for (int byte = 0; byte < 4; ++byte)
        bytes[4 * i + byte] = static_cast<unsigned char>(id >> (8 * byte));
    }
    Add(bytes, 4 * count);
  }
}

Sha256::Digest Sha256::Finish() {
  Digest digest;
  EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr);
  return digest;
}

std::string Sha256::FinishAsDigits() {
  const Digest digest = Finish();
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
}

}  // namespace mambad
