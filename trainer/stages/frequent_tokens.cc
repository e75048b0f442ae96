#include "trainer/stages/frequent_tokens.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "absl/strings/str_format.h"

namespace mambad::trainer {
namespace {

std::vector<int64_t> CountTrainedTokens(const TokenStore& store, int64_t vocabulary) {
  constexpr int64_t kTokensAtOnce = 4096;
  std::vector<int64_t> counts(vocabulary), tokens(kTokensAtOnce);
  std::vector<uint8_t> trained(kTokensAtOnce);
  for (int64_t document = 0; document < store.documents(); ++document) {
    const int64_t length = store.Length(document);
    for (int64_t offset = 0; offset < length; offset += kTokensAtOnce) {
      const int64_t size = std::min(kTokensAtOnce, length - offset);
      store.Read(document, offset, size, tokens.data(), trained.data());
      for (int64_t i = 0; i < size; ++i) {
        if (trained[i] == 0) continue;
        if (tokens[i] >= vocabulary) {
          throw std::runtime_error(
              absl::StrFormat("token %d of a text for a vocabulary of %d", tokens[i], vocabulary));
        }
        ++counts[tokens[i]];
      }
    }
  }
  return counts;
}

}  // namespace

FrequentTokens MostFrequentTokens(const TokenStore& store, int64_t count, int64_t vocabulary,
                                  absl::Span<const int32_t> always) {
  const std::vector<int64_t> counts = CountTrainedTokens(store, vocabulary);
  FrequentTokens result;
  result.ids.resize(vocabulary);
  std::iota(result.ids.begin(), result.ids.end(), 0);
  std::stable_sort(result.ids.begin(), result.ids.end(),
                   [&](int32_t a, int32_t b) { return counts[a] > counts[b]; });
  result.ids.resize(std::min(count, vocabulary));
  result.ids.insert(result.ids.end(), always.begin(), always.end());
  std::sort(result.ids.begin(), result.ids.end());
  result.ids.erase(std::unique(result.ids.begin(), result.ids.end()), result.ids.end());
  int64_t among = 0, all = 0;
  for (const int32_t id : result.ids) among += counts[id];
  for (const int64_t one : counts) all += one;
  result.share = all > 0 ? static_cast<double>(among) / static_cast<double>(all) : 0;
  return result;
}

}  // namespace mambad::trainer
