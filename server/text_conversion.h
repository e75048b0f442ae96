// Text, token ids and conversations of the wire to token ids and back. Pure functions of request,
// engine and limits; any thread. What begins with Check is quick; the others compute: not for the
// network's threads.

#ifndef MAMBAD_SERVER_TEXT_CONVERSION_H_
#define MAMBAD_SERVER_TEXT_CONVERSION_H_

#include <grpcpp/support/byte_buffer.h>

#include <atomic>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/engine.h"
#include "mambad/v1/generation.pb.h"
#include "server/status_details.h"

namespace mambad::server {

// Bytes of the longest token: no text has fewer tokens than its bytes divided by it.
int64_t LongestPiece(const text::Tokenizer& tokenizer);

// Tokens of the longest prompt that anything is done with: a score takes the whole context, for
// nothing is generated.
inline int64_t MostScored(const v1::Limits& limits) {
  const bool whole = limits.prompt_tokens() == limits.context() - 1;
  return whole ? limits.context() : limits.prompt_tokens();
}

// More than `most` entries are a violation of the field.
void CheckCount(absl::string_view field, int count, int64_t most, FieldViolations* violations);

// A prompt in each of its forms, as far as can be told without work: its length in bytes is held to
// limits.text_bytes. INVALID_ARGUMENT with the field "token_ids.ids", "text" or "conversation...";
// FAILED_PRECONDITION without the tokenizer or the chat template it needs.
absl::Status CheckTokenIds(const v1::TokenIds& wire, const Engine& engine);
absl::Status CheckText(const std::string& text, const Engine& engine, const v1::Limits& limits);
absl::Status CheckConversation(const v1::Conversation& wire, const Engine& engine,
                               const v1::Limits& limits);

// Its tokens, after that; one that does not begin goes on where another ended. CANCELLED, some time
// after `over` came true; else errors as above.
absl::StatusOr<std::vector<TokenId>> ReadText(const std::string& text, const Engine& engine,
                                              const std::atomic<bool>& over, bool begins = true);
absl::StatusOr<std::vector<TokenId>> ReadConversation(const v1::Conversation& wire,
                                                      const Engine& engine,
                                                      const std::atomic<bool>& over);

// INVALID_ARGUMENT for the field "input".
absl::Status NoInput(absl::string_view choices);

// The calls of the same names. Errors as above. Tokenize leaves nothing in `wire`, and makes the
// bytes of a v1::TokenizeResponse.
absl::Status CheckTokenize(const v1::TokenizeRequest& wire, const Engine& engine,
                           const v1::Limits& limits);
absl::StatusOr<grpc::ByteBuffer> Tokenize(v1::TokenizeRequest* wire, const Engine& engine,
                                          const std::atomic<bool>& over);
absl::Status CheckDetokenize(const v1::DetokenizeRequest& wire, const Engine& engine,
                             const v1::Limits& limits);
v1::DetokenizeResponse Detokenize(const v1::DetokenizeRequest& wire, const Engine& engine);

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_TEXT_CONVERSION_H_
