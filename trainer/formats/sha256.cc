#include "trainer/formats/sha256.h"

#include <openssl/evp.h>

#include <stdexcept>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"

namespace mambad::trainer {
namespace {

void Check(int succeeded) {
  if (succeeded != 1) throw std::runtime_error("OpenSSL computes no SHA-256");
}

}  // namespace

struct Sha256::Context {
  EVP_MD_CTX* digest = EVP_MD_CTX_new();
  ~Context() { EVP_MD_CTX_free(digest); }
};

Sha256::Sha256() : context_(new Context) {
  Check(EVP_DigestInit_ex(context_->digest, EVP_sha256(), nullptr));
}

Sha256::~Sha256() = default;

void Sha256::Add(absl::Span<const std::byte> bytes) {
  Check(EVP_DigestUpdate(context_->digest, bytes.data(), bytes.size()));
}

void Sha256::Add(const std::string& text) {
  Add({reinterpret_cast<const std::byte*>(text.data()), text.size()});
}

std::string Sha256::Digits() {
  unsigned char bytes[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  Check(EVP_DigestFinal_ex(context_->digest, bytes, &size));
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(bytes), size));
}

}  // namespace mambad::trainer
