// Tokens of the fake engine: one a byte, and what a conversation is written as.

#ifndef MAMBAD_TESTS_SERVER_FAKE_TOKENIZER_H_
#define MAMBAD_TESTS_SERVER_FAKE_TOKENIZER_H_

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/text/tokenizer.h"
#include "tests/server/fake_engine.h"

namespace mambad {

class ByteTokenizer : public text::Tokenizer {
 public:
  explicit ByteTokenizer(std::function<void()> on_encode) : on_encode_(std::move(on_encode)) {}
  absl::StatusOr<std::vector<TokenId>> Encode(std::string_view text,
                                              const EncodeOptions& options) const override {
    if (on_encode_) on_encode_();
    std::vector<TokenId> ids;
    if (options.add_special_tokens) ids.push_back(kFakeBos);
    for (char c : text) {
      if (c == '\0') return absl::InvalidArgumentError("the zero byte cannot be tokenized");
      ids.push_back(static_cast<unsigned char>(c));
    }
    return ids;
  }
  std::string TokenBytes(TokenId id) const override { return IdToToken(id); }
  void AppendTokenBytes(TokenId id, std::string* out) const override { out->append(IdToToken(id)); }
  std::string Decode(absl::Span<const TokenId> ids, bool skip_special) const override {
    std::string text;
    for (TokenId id : ids) {
      if (!skip_special || id < 256) text += IdToToken(id);
    }
    return text;
  }
  int vocabulary_size() const override { return kFakeVocabulary; }
  bool IsSpecial(TokenId id) const override { return id >= 256; }
  std::optional<TokenId> TokenToId(std::string_view token) const override {
    if (token.size() == 1) return static_cast<unsigned char>(token[0]);
    return std::nullopt;
  }
  std::string IdToToken(TokenId id) const override {
    if (id == kFakeBos) return "<s>";
    if (id == kFakeEos) return "</s>";
    return id >= 0 && id < 256 ? std::string(1, static_cast<char>(id)) : "";
  }
  std::optional<TokenId> bos_id() const override { return kFakeBos; }
  std::optional<TokenId> eos_id() const override { return kFakeEos; }
  bool strips_leading_space() const override { return false; }

 private:
  const std::function<void()> on_encode_;
};

inline constexpr char kFakeTemplate[] =
    "{% for m in messages %}{% if m['role'] == 'nobody' %}{{ raise_exception('nobody may not "
    "speak') }}{% endif %}"
    "[{{ m['role'] }}]{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}[assistant]{% "
    "endif %}";

}  // namespace mambad

#endif  // MAMBAD_TESTS_SERVER_FAKE_TOKENIZER_H_
