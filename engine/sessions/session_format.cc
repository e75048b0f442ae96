#include "engine/sessions/session_format.h"

#include "engine/digest/sha256.h"

namespace mambad {

std::string SessionDigest(const SessionNames& names, absl::Span<const TokenId> tokens) {
  constexpr char kFirst[] = "mambad session 1\n";
  Sha256 digest;
  digest.Add(kFirst, sizeof(kFirst) - 1);
  digest.AddText(names.model);
  digest.AddText(names.tokenizer);
  digest.AddText(names.numerics);
  digest.AddNumber(tokens.size());
  digest.AddTokens(tokens);
  return digest.FinishAsDigits();
}

}  // namespace mambad
