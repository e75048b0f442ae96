// Text, token ids and conversations of the wire to token ids and back.
// Pure functions of request, engine and limits; any thread, but they compute: not for the network's
// threads.

#ifndef MAMBAD_SERVER_TEXT_CONVERSION_H_
#define MAMBAD_SERVER_TEXT_CONVERSION_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/engine.h"
#include "mambad/v1/generation.pb.h"
#include "server/server_options.h"
#include "server/status_details.h"

namespace mambad::server {

// The first id outside [0, vocabulary) is a violation of "field[i]".
template <typename Ids>
void CheckIds(absl::string_view field, const Ids& ids, int vocabulary,
              FieldViolations* violations) {
  for (int i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocabulary) {
      violations->Add(absl::StrCat(field, "[", i, "]"),
                      absl::StrCat(ids[i], " given, allowed 0 to ", vocabulary - 1));
      return;
    }
  }
}

// More than `most` entries are a violation of the field.
void CheckCount(absl::string_view field, int count, int64_t most, FieldViolations* violations);

// A prompt in each of its forms. INVALID_ARGUMENT with the field "token_ids.ids", "text" or
// "conversation..."; FAILED_PRECONDITION without the tokenizer or the chat template it needs.
absl::StatusOr<std::vector<TokenId>> ReadTokenIds(const v1::TokenIds& wire, const Engine& engine);
absl::StatusOr<std::vector<TokenId>> ReadText(const std::string& text, const Engine& engine);
absl::StatusOr<std::vector<TokenId>> ReadConversation(const v1::Conversation& wire,
                                                      const Engine& engine,
                                                      const v1::Limits& limits);

// INVALID_ARGUMENT for the field "input".
absl::Status NoInput(absl::string_view choices);

// The calls of the same names. Errors as above.
absl::StatusOr<v1::TokenizeResponse> Tokenize(const v1::TokenizeRequest& wire, const Engine& engine,
                                              const v1::Limits& limits);
absl::StatusOr<v1::DetokenizeResponse> Detokenize(const v1::DetokenizeRequest& wire,
                                                  const Engine& engine, const v1::Limits& limits);

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_TEXT_CONVERSION_H_
