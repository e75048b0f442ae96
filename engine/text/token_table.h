// Spelling, bytes and kind of every token; the part of a tokenizer that needs no algorithm.
#ifndef MAMBAD_ENGINE_TEXT_TOKEN_TABLE_H_
#define MAMBAD_ENGINE_TEXT_TOKEN_TABLE_H_

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/text/string_map.h"
#include "engine/text/tokenizer.h"

namespace mambad::text {

// Ids above this are refused, so that no file can ask for a huge table.
inline constexpr TokenId kLargestTokenId = (1 << 22) - 1;

struct TokenEntry {
  std::string spelling;  // as in the file
  std::string bytes;     // as in running text
  bool special = false;
  bool present = false;
};

// Filled by one thread, then only read.
class TokenTable {
 public:
  // Ids may leave some holes, but not so many that a small file makes a large table.
  explicit TokenTable(size_t expected_tokens = 0);
  TokenTable(TokenTable&&) = default;
  TokenTable& operator=(TokenTable&&) = default;

  // INVALID_ARGUMENT for an id out of range, or one that another spelling has already.
  absl::Status Add(TokenId id, std::string spelling, std::string bytes, bool special);
  // The same, but whatever the id had is gone. The index must be built anew.
  absl::Status Replace(TokenId id, std::string spelling, std::string bytes, bool special);
  // Of an id that has a token.
  void SetSpecial(TokenId id) { entries_[id].special = true; }
  enum class Repeats { kRefused, kFirstCounts };
  // After the last Add. kRefused: INVALID_ARGUMENT when two ids share a spelling. kFirstCounts: the
  // first id keeps the spelling, the others have bytes only.
  absl::Status BuildIndex(Repeats repeats = Repeats::kRefused);

  int size() const { return static_cast<int>(entries_.size()); }
  // By their spelling, as the index has them.
  TokenId different_tokens() const { return static_cast<TokenId>(ids_.size()); }
  // nullptr for an id without a token.
  const TokenEntry* Find(TokenId id) const;
  std::optional<TokenId> IdOf(std::string_view spelling) const;

 private:
  TokenId largest_id_;
  std::vector<TokenEntry> entries_;
  StringMap<std::string_view, TokenId> ids_;  // keys point into entries_
};

struct TextBoundaries {
  std::optional<TokenId> bos_id, eos_id;
  std::vector<TokenId> prefix, suffix;  // what add_special_tokens puts before and after
  // A conversation gets `prefix` too, unless its template wrote it. Otherwise the template's word
  // is the last one.
  bool conversations_begin_with_prefix = false;
};

// A tokenizer but for Encode.
class TableTokenizer : public Tokenizer {
 public:
  TableTokenizer(TokenTable table, TextBoundaries boundaries, bool strips_leading_space,
                 std::vector<std::string> warnings = {});

  absl::StatusOr<std::vector<TokenId>> EncodeConversation(
      std::string_view prompt, const std::atomic<bool>* over = nullptr) const override;

  std::string TokenBytes(TokenId id) const override;
  void AppendTokenBytes(TokenId id, std::string* out) const override;
  int vocabulary_size() const override { return table_.size(); }
  bool IsSpecial(TokenId id) const override;
  std::optional<TokenId> TokenToId(std::string_view token) const override;
  std::string IdToToken(TokenId id) const override;
  std::optional<TokenId> bos_id() const override { return boundaries_.bos_id; }
  std::optional<TokenId> eos_id() const override { return boundaries_.eos_id; }
  bool strips_leading_space() const override { return strips_leading_space_; }
  std::vector<std::string> warnings() const override { return warnings_; }

 protected:
  const TokenTable& table() const { return table_; }
  const TextBoundaries& boundaries() const { return boundaries_; }

 private:
  TokenTable table_;
  TextBoundaries boundaries_;
  bool strips_leading_space_;
  std::vector<std::string> warnings_;
};

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_TOKEN_TABLE_H_
