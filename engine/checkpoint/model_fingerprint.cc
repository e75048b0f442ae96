#include "engine/checkpoint/model_fingerprint.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <thread>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"

namespace mambad::checkpoint {
namespace {

constexpr size_t kPieceBytes = size_t{8} << 20;
constexpr unsigned kMostThreads = 16;

using Digest = std::array<unsigned char, 32>;

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    // Only for want of memory, or in an OpenSSL without SHA-256.
    if (context_ == nullptr || EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) != 1) {
      std::abort();
    }
  }
  void Add(const void* data, size_t bytes) { EVP_DigestUpdate(context_.get(), data, bytes); }
  void AddNumber(uint64_t number) {
    unsigned char bytes[8];
    for (int i = 0; i < 8; ++i) bytes[i] = static_cast<unsigned char>(number >> (8 * i));
    Add(bytes, sizeof(bytes));
  }
  void AddText(const std::string& text) {
    AddNumber(text.size());
    Add(text.data(), text.size());
  }
  Digest Finish() {
    Digest digest;
    EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr);
    return digest;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context_;
};

// The digests of all pieces, in order.
std::vector<Digest> HashPieces(const std::vector<absl::Span<const std::byte>>& pieces) {
  std::vector<Digest> digests(pieces.size());
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t i = next++; i < pieces.size(); i = next++) {
      Sha256 sum;
      sum.Add(pieces[i].data(), pieces[i].size());
      digests[i] = sum.Finish();
    }
  };
  const size_t wanted = std::min<size_t>(
      {std::max(1u, std::thread::hardware_concurrency()), kMostThreads, pieces.size()});
  std::vector<std::thread> threads;
  for (size_t i = 1; i < wanted; ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  return digests;
}

}  // namespace

std::string ModelFingerprint(const std::string& configuration,
                             std::vector<FingerprintedTensor> tensors) {
  std::sort(tensors.begin(), tensors.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  std::vector<absl::Span<const std::byte>> pieces;
  for (const FingerprintedTensor& tensor : tensors) {
    for (size_t at = 0; at < tensor.data.size(); at += kPieceBytes) {
      pieces.push_back(tensor.data.subspan(at, kPieceBytes));
    }
  }
  const std::vector<Digest> digests = HashPieces(pieces);
  constexpr absl::string_view kFirstLine = "mambad model fingerprint 2\n";
  Sha256 sum;
  sum.Add(kFirstLine.data(), kFirstLine.size());
  sum.AddText(configuration);
  size_t piece = 0;
  for (const FingerprintedTensor& tensor : tensors) {
    sum.AddText(tensor.name);
    sum.AddText(tensor.type);
    sum.AddNumber(tensor.shape.size());
    for (const int64_t size : tensor.shape) sum.AddNumber(static_cast<uint64_t>(size));
    for (size_t at = 0; at < tensor.data.size(); at += kPieceBytes, ++piece) {
      sum.Add(digests[piece].data(), digests[piece].size());
    }
  }
  const Digest digest = sum.Finish();
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
}

}  // namespace mambad::checkpoint
