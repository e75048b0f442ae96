#include "server/text_conversion.h"

#include <algorithm>
#include <utility>

#include "server/wire_bytes.h"

namespace mambad::server {
namespace {

// Tokens of one part of a Tokenize answer.
constexpr size_t kTokensAPart = 8192;

// An encoding error is the text's fault: name its field.
absl::StatusOr<std::vector<TokenId>> NameField(absl::string_view field,
                                               absl::StatusOr<std::vector<TokenId>> ids) {
  if (ids.ok() || ids.status().code() != absl::StatusCode::kInvalidArgument) return ids;
  FieldViolations violations;
  violations.Add(field, ids.status().message());
  return violations.ToStatus();
}

absl::Status NeedsTokenizer(const Engine& engine) {
  if (engine.tokenizer() != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError("the model has no tokenizer: send token_ids");
}

// So that a text that is too long is refused before it is tokenized.
void CheckBytes(absl::string_view field, int64_t bytes, const v1::Limits& limits,
                FieldViolations* violations) {
  if (bytes <= limits.text_bytes()) return;
  violations->Add(field, absl::StrCat(bytes, " bytes given, allowed at most ", limits.text_bytes(),
                                      ": ", MostScored(limits), " tokens of at most ",
                                      limits.text_bytes() / MostScored(limits), " bytes"));
}

absl::Status CheckMessages(const v1::Conversation& wire, const Engine& engine,
                           const v1::Limits& limits) {
  FieldViolations violations;
  if (wire.messages().empty())
    violations.Add("conversation.messages", "no message given, allowed 1 or more");
  CheckCount("conversation.messages", wire.messages_size(), limits.messages(), &violations);
  for (int i = 0; i < wire.messages_size(); ++i) {
    if (wire.messages(i).role().empty()) {
      violations.Add(absl::StrCat("conversation.messages[", i, "].role"),
                     "0 bytes given, allowed 1 or more");
    }
  }
  if (!violations.empty()) return violations.ToStatus();
  if (engine.chat_template() == nullptr) {
    return absl::FailedPreconditionError("the model has no chat template: send text or token_ids");
  }
  return NeedsTokenizer(engine);
}

absl::StatusOr<std::string> RenderConversation(const v1::Conversation& wire, const Engine& engine) {
  std::vector<text::ChatMessage> messages;
  messages.reserve(static_cast<size_t>(wire.messages_size()));
  for (const v1::Message& message : wire.messages())
    messages.push_back({message.role(), message.content()});
  auto prompt = engine.chat_template()->Render(messages, engine.chat_variables());
  // Of the template, not of the call: UNIMPLEMENTED would say that the server has no such method.
  if (prompt.status().code() == absl::StatusCode::kUnimplemented) {
    return absl::FailedPreconditionError(
        absl::StrCat("the model's chat template cannot be rendered: ", prompt.status().message()));
  }
  if (prompt.ok() || prompt.status().code() != absl::StatusCode::kInvalidArgument) return prompt;
  FieldViolations violations;
  violations.Add("conversation", prompt.status().message());
  return violations.ToStatus();
}

absl::Status CheckNotOver(const std::atomic<bool>& over) {
  return over.load() ? absl::CancelledError("the call is over") : absl::OkStatus();
}

// The answer, a part after the other: put together, parts of a message are the message.
grpc::ByteBuffer TokenizeAnswer(const std::string& prompt, const std::vector<TokenId>& ids,
                                const text::Tokenizer& tokenizer) {
  std::vector<grpc::Slice> slices;
  const auto add = [&slices](const v1::TokenizeResponse& part) {
    std::string bytes = part.SerializeAsString();
    slices.emplace_back(bytes.data(), bytes.size());
  };
  v1::TokenizeResponse part;
  part.set_prompt(prompt);
  add(part);
  for (size_t begin = 0; begin < ids.size(); begin += kTokensAPart) {
    const size_t end = std::min(ids.size(), begin + kTokensAPart);
    part.Clear();
    part.mutable_token_ids()->Add(ids.begin() + static_cast<int64_t>(begin),
                                  ids.begin() + static_cast<int64_t>(end));
    for (size_t i = begin; i < end; ++i) tokenizer.AppendTokenBytes(ids[i], part.add_pieces());
    add(part);
  }
  return grpc::ByteBuffer(slices.data(), slices.size());
}

}  // namespace

int64_t LongestPiece(const text::Tokenizer& tokenizer) {
  std::string bytes;
  size_t longest = 1;
  for (TokenId id = 0; id < tokenizer.vocabulary_size(); ++id) {
    bytes.clear();
    tokenizer.AppendTokenBytes(id, &bytes);
    longest = std::max(longest, bytes.size());
  }
  return static_cast<int64_t>(longest);
}

void CheckCount(absl::string_view field, int count, int64_t most, FieldViolations* violations) {
  if (count > most)
    violations->Add(field, absl::StrCat(count, " entries given, allowed at most ", most));
}

absl::Status CheckTokenIds(const v1::TokenIds& wire, const Engine& engine) {
  FieldViolations violations;
  if (wire.ids().empty()) violations.Add("token_ids.ids", "0 tokens given, allowed 1 or more");
  violations.CheckIds("token_ids.ids", wire.ids(), engine.model().vocabulary);
  return violations.ToStatus();
}

absl::Status CheckText(const std::string& text, const Engine& engine, const v1::Limits& limits) {
  FieldViolations violations;
  if (text.empty()) violations.Add("text", "0 bytes given, allowed 1 or more");
  if (!violations.empty()) return violations.ToStatus();
  if (absl::Status status = NeedsTokenizer(engine); !status.ok()) return status;
  CheckBytes("text", static_cast<int64_t>(text.size()), limits, &violations);
  return violations.ToStatus();
}

absl::Status CheckConversation(const v1::Conversation& wire, const Engine& engine,
                               const v1::Limits& limits) {
  if (absl::Status status = CheckMessages(wire, engine, limits); !status.ok()) return status;
  size_t bytes = 0;
  for (const v1::Message& message : wire.messages()) bytes += message.content().size();
  FieldViolations violations;
  CheckBytes("conversation", static_cast<int64_t>(bytes), limits, &violations);
  return violations.ToStatus();
}

absl::StatusOr<std::vector<TokenId>> ReadText(const std::string& text, const Engine& engine,
                                              const std::atomic<bool>& over, bool begins) {
  return NameField("text",
                   engine.tokenizer()->Encode(
                       text, {.add_special_tokens = begins, .goes_on = !begins, .over = &over}));
}

absl::StatusOr<std::vector<TokenId>> ReadConversation(const v1::Conversation& wire,
                                                      const Engine& engine,
                                                      const std::atomic<bool>& over) {
  auto prompt = RenderConversation(wire, engine);
  if (!prompt.ok()) return prompt.status();
  if (absl::Status status = CheckNotOver(over); !status.ok()) return status;
  return NameField("conversation", engine.tokenizer()->EncodeConversation(*prompt, &over));
}

absl::Status NoInput(absl::string_view choices) {
  FieldViolations violations;
  violations.Add("input", absl::StrCat("none given, allowed one of ", choices));
  return violations.ToStatus();
}

absl::Status CheckTokenize(const v1::TokenizeRequest& wire, const Engine& engine,
                           const v1::Limits& limits) {
  if (wire.input_case() == v1::TokenizeRequest::kText) return NeedsTokenizer(engine);
  if (wire.input_case() != v1::TokenizeRequest::kConversation) return NoInput("text, conversation");
  FieldViolations violations;
  if (wire.has_add_special_tokens())
    violations.Add("add_special_tokens", "given, allowed with text only");
  if (wire.has_parse_special()) violations.Add("parse_special", "given, allowed with text only");
  if (!violations.empty()) return violations.ToStatus();
  return CheckMessages(wire.conversation(), engine, limits);
}

absl::StatusOr<grpc::ByteBuffer> Tokenize(v1::TokenizeRequest* wire, const Engine& engine,
                                          const std::atomic<bool>& over) {
  const bool is_text = wire->input_case() == v1::TokenizeRequest::kText;
  text::Tokenizer::EncodeOptions options{.add_special_tokens = is_text, .over = &over};
  if (wire->has_add_special_tokens()) options.add_special_tokens = wire->add_special_tokens();
  if (wire->has_parse_special()) options.parse_special = wire->parse_special();
  std::string rendered;
  if (!is_text) {
    auto prompt = RenderConversation(wire->conversation(), engine);
    if (!prompt.ok()) return prompt.status();
    rendered = *std::move(prompt);
    wire->Clear();
    if (absl::Status status = CheckNotOver(over); !status.ok()) return status;
  }
  auto ids =
      is_text ? NameField("text", engine.tokenizer()->Encode(wire->text(), options))
              : NameField("conversation", engine.tokenizer()->EncodeConversation(rendered, &over));
  wire->Clear();
  if (!ids.ok()) return ids.status();
  if (absl::Status status = CheckNotOver(over); !status.ok()) return status;
  return TokenizeAnswer(rendered, *ids, *engine.tokenizer());
}

absl::Status CheckDetokenize(const v1::DetokenizeRequest& wire, const Engine& engine,
                             const v1::Limits& limits) {
  if (absl::Status status = NeedsTokenizer(engine); !status.ok()) return status;
  FieldViolations violations;
  CheckCount("token_ids", wire.token_ids_size(), limits.context(), &violations);
  violations.CheckIds("token_ids", wire.token_ids(), engine.model().vocabulary);
  return violations.ToStatus();
}

v1::DetokenizeResponse Detokenize(const v1::DetokenizeRequest& wire, const Engine& engine) {
  const std::vector<TokenId> ids(wire.token_ids().begin(), wire.token_ids().end());
  v1::DetokenizeResponse response;
  response.set_text(
      engine.tokenizer()->Decode(ids, wire.has_skip_special() ? wire.skip_special() : true));
  return response;
}

}  // namespace mambad::server
