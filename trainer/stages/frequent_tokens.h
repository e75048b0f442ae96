// Which tokens a text consists of, most frequent first: what a draft is worth proposing.

#ifndef MAMBAD_TRAINER_STAGES_FREQUENT_TOKENS_H_
#define MAMBAD_TRAINER_STAGES_FREQUENT_TOKENS_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "trainer/token_store.h"

namespace mambad::trainer {

struct FrequentTokens {
  std::vector<int32_t> ids;  // ascending
  double share = 0;          // of the counted tokens that are among them
};

// The `count` most frequent of [0, vocabulary) among the store's trained tokens, those that a model
// learns to write (the lower id first among equals, those that never occur last), and `always`.
// Reads the store piece by piece. Throws std::runtime_error for a token beyond the vocabulary.
FrequentTokens MostFrequentTokens(const TokenStore& store, int64_t count, int64_t vocabulary,
                                  absl::Span<const int32_t> always);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_STAGES_FREQUENT_TOKENS_H_
