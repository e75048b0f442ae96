#include "engine/checkpoint/model_fingerprint.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>

#include "absl/strings/string_view.h"
#include "engine/digest/sha256.h"

namespace mambad::checkpoint {
namespace {

constexpr size_t kPieceBytes = size_t{8} << 20;
constexpr unsigned kMostThreads = 16;

using Digest = Sha256::Digest;

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
  return sum.FinishAsDigits();
}

}  // namespace mambad::checkpoint
