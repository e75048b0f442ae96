// The token ids that a draft model proposes, where it proposes some only: proposed_tokens.json
// beside its weights, one JSON array of ids, ascending and each once, at least one. A draft reads
// the rows of its head for these alone; what it never proposes costs acceptance, never exactness.
//
// Read for a draft model only. A target must be able to write every token of its vocabulary, so
// that the file means nothing there and is left unread.

#ifndef MAMBAD_ENGINE_CHECKPOINT_PROPOSED_TOKENS_H_
#define MAMBAD_ENGINE_CHECKPOINT_PROPOSED_TOKENS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace mambad::checkpoint {

// The ids as they are used. INVALID_ARGUMENT, beginning with `source` and naming the entry, unless
// they are ascending, each once, within [0, vocabulary), and at least one.
absl::StatusOr<std::vector<int32_t>> CheckedProposedTokens(const std::string& source,
                                                           absl::Span<const int64_t> ids,
                                                           int64_t vocabulary);

// What the directory's file says; empty when there is none: all tokens. A model without a directory
// (a GGUF file: directory "") has none. A file of at most 64 MiB
// with nothing but the list in it; reading ends at the first entry that is wrong, which is an
// INVALID_ARGUMENT with the file, the entry, what was found and what was expected.
absl::StatusOr<std::vector<int32_t>> ReadProposedTokens(const std::string& directory,
                                                        int64_t vocabulary);

// Makes the directory's file say `ids`, whole or not at all; an empty list removes it.
absl::Status WriteProposedTokens(const std::string& directory, absl::Span<const int32_t> ids);

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_PROPOSED_TOKENS_H_
