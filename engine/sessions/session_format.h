// What a session's text and state belong to, by name, and how large an engine's states are: what
// another engine's session is held to. Found at opening, immutable; any thread.

#ifndef MAMBAD_ENGINE_SESSIONS_SESSION_FORMAT_H_
#define MAMBAD_ENGINE_SESSIONS_SESSION_FORMAT_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/types/span.h"
#include "engine/options.h"
#include "engine/state/image_size.h"

namespace mambad {

// Equal names: the same text goes on with the same bits.
struct SessionNames {
  std::string model;      // fingerprint
  std::string tokenizer;  // fingerprint; "none"
  std::string numerics;   // kernels::Backend::Numerics
  std::string draft;      // the draft model's fingerprint and numerics; empty: none

  bool operator==(const SessionNames&) const = default;
};

struct SessionFormat {
  SessionNames names;
  int vocabulary = 0;
  int64_t context = 0;  // tokens of a text at most
  ImageSize target;
  std::optional<ImageSize> draft;
};

// Of a text of that model, 64 hexadecimal digits: SHA-256 of "mambad session 1\n", the names of
// model, tokenizer and numerics (each its length as 8 bytes and its bytes), the number of tokens as
// 8 bytes, and the tokens as 4 bytes each, all least significant first. Equal digests go on alike.
std::string SessionDigest(const SessionNames& names, absl::Span<const TokenId> tokens);

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SESSIONS_SESSION_FORMAT_H_
