#include "server/text_conversion.h"

#include <utility>

namespace mambad::server {
namespace {

// An encoding error is the text's fault: name its field.
absl::StatusOr<std::vector<TokenId>> EncodeText(absl::string_view field, const std::string& text,
                                                const text::Tokenizer& tokenizer,
                                                const text::Tokenizer::EncodeOptions& options) {
  auto ids = tokenizer.Encode(text, options);
  if (ids.ok() || ids.status().code() != absl::StatusCode::kInvalidArgument) return ids;
  FieldViolations violations;
  violations.Add(field, ids.status().message());
  return violations.ToStatus();
}

absl::Status NeedsTokenizer(const Engine& engine) {
  if (engine.tokenizer() != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError("the model has no tokenizer: send token_ids");
}

absl::StatusOr<std::string> RenderConversation(const v1::Conversation& wire, const Engine& engine,
                                               const v1::Limits& limits) {
  FieldViolations violations;
  if (wire.messages().empty())
    violations.Add("conversation.messages", "no message given, allowed 1 or more");
  CheckCount("conversation.messages", wire.messages_size(), limits.messages(), &violations);
  for (int i = 0; i < wire.messages_size(); ++i) {
    if (wire.messages(i).role().empty()) {
      violations.Add(absl::StrCat("conversation.messages[", i, "].role"), "empty");
    }
  }
  if (!violations.empty()) return violations.ToStatus();
  if (engine.chat_template() == nullptr) {
    return absl::FailedPreconditionError("the model has no chat template: send text or token_ids");
  }
  std::vector<text::ChatMessage> messages;
  messages.reserve(static_cast<size_t>(wire.messages_size()));
  for (const v1::Message& message : wire.messages())
    messages.push_back({message.role(), message.content()});
  auto prompt = engine.chat_template()->Render(messages, engine.chat_variables());
  // Of the template, not of the call: UNIMPLEMENTED would say that the server has no such method.
  if (prompt.status().code() == absl::StatusCode::kUnimplemented) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the model's chat template cannot be rendered: ", prompt.status().message()));
  }
  if (prompt.ok() || prompt.status().code() != absl::StatusCode::kInvalidArgument) return prompt;
  violations.Add("conversation", prompt.status().message());
  return violations.ToStatus();
}

}  // namespace

void CheckCount(absl::string_view field, int count, int64_t most, FieldViolations* violations) {
  if (count > most)
    violations->Add(field, absl::StrCat(count, " entries given, allowed at most ", most));
}

absl::StatusOr<std::vector<TokenId>> ReadTokenIds(const v1::TokenIds& wire, const Engine& engine) {
  FieldViolations violations;
  if (wire.ids().empty()) violations.Add("token_ids.ids", "empty prompt, allowed 1 token or more");
  CheckIds("token_ids.ids", wire.ids(), engine.model().vocabulary, &violations);
  if (!violations.empty()) return violations.ToStatus();
  return std::vector<TokenId>(wire.ids().begin(), wire.ids().end());
}

absl::StatusOr<std::vector<TokenId>> ReadText(const std::string& text, const Engine& engine) {
  if (text.empty()) {
    FieldViolations violations;
    violations.Add("text", "empty prompt");
    return violations.ToStatus();
  }
  if (absl::Status status = NeedsTokenizer(engine); !status.ok()) return status;
  return EncodeText("text", text, *engine.tokenizer(), {});
}

absl::StatusOr<std::vector<TokenId>> ReadConversation(const v1::Conversation& wire,
                                                      const Engine& engine,
                                                      const v1::Limits& limits) {
  auto prompt = RenderConversation(wire, engine, limits);
  if (!prompt.ok()) return prompt.status();
  if (absl::Status status = NeedsTokenizer(engine); !status.ok()) return status;
  return EncodeText("conversation", *prompt, *engine.tokenizer(),
                    {.add_special_tokens = false, .parse_special = true});
}

absl::Status NoInput(absl::string_view choices) {
  FieldViolations violations;
  violations.Add("input", absl::StrCat("not given, allowed: ", choices));
  return violations.ToStatus();
}

absl::StatusOr<v1::TokenizeResponse> Tokenize(const v1::TokenizeRequest& wire, const Engine& engine,
                                              const v1::Limits& limits) {
  if (absl::Status status = NeedsTokenizer(engine); !status.ok()) return status;
  v1::TokenizeResponse response;
  absl::StatusOr<std::vector<TokenId>> ids;
  if (wire.input_case() == v1::TokenizeRequest::kText) {
    text::Tokenizer::EncodeOptions options;
    if (wire.has_add_special_tokens()) options.add_special_tokens = wire.add_special_tokens();
    if (wire.has_parse_special()) options.parse_special = wire.parse_special();
    ids = EncodeText("text", wire.text(), *engine.tokenizer(), options);
  } else if (wire.input_case() == v1::TokenizeRequest::kConversation) {
    FieldViolations violations;
    if (wire.has_add_special_tokens())
      violations.Add("add_special_tokens", "given, allowed with text only");
    if (wire.has_parse_special()) violations.Add("parse_special", "given, allowed with text only");
    if (!violations.empty()) return violations.ToStatus();
    auto prompt = RenderConversation(wire.conversation(), engine, limits);
    if (!prompt.ok()) return prompt.status();
    ids = EncodeText("conversation", *prompt, *engine.tokenizer(),
                     {.add_special_tokens = false, .parse_special = true});
    response.set_prompt(*std::move(prompt));
  } else {
    return NoInput("text or conversation");
  }
  if (!ids.ok()) return ids.status();
  for (TokenId id : *ids) response.add_pieces(engine.tokenizer()->TokenBytes(id));
  response.mutable_token_ids()->Add(ids->begin(), ids->end());
  return response;
}

absl::StatusOr<v1::DetokenizeResponse> Detokenize(const v1::DetokenizeRequest& wire,
                                                  const Engine& engine, const v1::Limits& limits) {
  if (absl::Status status = NeedsTokenizer(engine); !status.ok()) return status;
  FieldViolations violations;
  CheckCount("token_ids", wire.token_ids_size(), limits.context(), &violations);
  CheckIds("token_ids", wire.token_ids(), engine.model().vocabulary, &violations);
  if (!violations.empty()) return violations.ToStatus();
  const std::vector<TokenId> ids(wire.token_ids().begin(), wire.token_ids().end());
  v1::DetokenizeResponse response;
  response.set_text(
      engine.tokenizer()->Decode(ids, wire.has_skip_special() ? wire.skip_special() : true));
  return response;
}

}  // namespace mambad::server
