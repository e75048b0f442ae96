#include "engine/text/token_table.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace mambad::text {

TokenTable::TokenTable(size_t expected_tokens)
    : largest_id_(
          static_cast<TokenId>(std::min<size_t>(kLargestTokenId, 4 * expected_tokens + 1024))) {
  entries_.reserve(std::min<size_t>(kLargestTokenId, expected_tokens));
}

absl::Status TokenTable::Add(TokenId id, std::string spelling, std::string bytes, bool special) {
  if (id < 0 || id > largest_id_) {
    return absl::InvalidArgumentError(absl::StrCat("token \"", absl::CHexEscape(spelling),
                                                   "\": expected an id from 0 to ", largest_id_,
                                                   ", found ", id));
  }
  if (static_cast<size_t>(id) >= entries_.size()) {
    if (static_cast<size_t>(id) >= entries_.capacity()) {
      entries_.reserve(static_cast<size_t>(id) + entries_.capacity() + 1);
    }
    entries_.resize(id + 1);
  }
  TokenEntry& entry = entries_[id];
  if (entry.present && entry.spelling != spelling) {
    return absl::InvalidArgumentError(absl::StrCat("id ", id, " belongs to two tokens: \"",
                                                   absl::CHexEscape(entry.spelling), "\" and \"",
                                                   absl::CHexEscape(spelling), "\""));
  }
  entry = {std::move(spelling), std::move(bytes), special, true};
  return absl::OkStatus();
}

absl::Status TokenTable::Replace(TokenId id, std::string spelling, std::string bytes,
                                 bool special) {
  if (id >= 0 && static_cast<size_t>(id) < entries_.size()) entries_[id] = {};
  return Add(id, std::move(spelling), std::move(bytes), special);
}

absl::Status TokenTable::BuildIndex(Repeats repeats) {
  ids_.clear();
  ids_.reserve(entries_.size());
  for (size_t id = 0; id < entries_.size(); ++id) {
    if (!entries_[id].present) continue;
    const auto [at, is_new] = ids_.emplace(entries_[id].spelling, static_cast<TokenId>(id));
    if (!is_new && repeats == Repeats::kRefused) {
      return absl::InvalidArgumentError(absl::StrCat("token \"",
                                                     absl::CHexEscape(entries_[id].spelling),
                                                     "\" has two ids: ", at->second, " and ", id));
    }
  }
  return absl::OkStatus();
}

const TokenEntry* TokenTable::Find(TokenId id) const {
  if (id < 0 || static_cast<size_t>(id) >= entries_.size() || !entries_[id].present) return nullptr;
  return &entries_[id];
}

std::optional<TokenId> TokenTable::IdOf(std::string_view spelling) const {
  const auto found = ids_.find(spelling);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

TableTokenizer::TableTokenizer(TokenTable table, TextBoundaries boundaries,
                               bool strips_leading_space, std::vector<std::string> warnings)
    : table_(std::move(table)),
      boundaries_(std::move(boundaries)),
      strips_leading_space_(strips_leading_space),
      warnings_(std::move(warnings)) {}

absl::StatusOr<std::vector<TokenId>> TableTokenizer::EncodeConversation(
    std::string_view prompt, const std::atomic<bool>* over) const {
  absl::StatusOr<std::vector<TokenId>> ids = Tokenizer::EncodeConversation(prompt, over);
  if (!ids.ok() || !boundaries_.conversations_begin_with_prefix) return ids;
  const std::vector<TokenId>& prefix = boundaries_.prefix;
  const bool written =
      ids->size() >= prefix.size() && std::equal(prefix.begin(), prefix.end(), ids->begin());
  if (!written) ids->insert(ids->begin(), prefix.begin(), prefix.end());
  return ids;
}

std::string TableTokenizer::TokenBytes(TokenId id) const {
  const TokenEntry* entry = table_.Find(id);
  return entry == nullptr ? std::string() : entry->bytes;
}

void TableTokenizer::AppendTokenBytes(TokenId id, std::string* out) const {
  if (const TokenEntry* entry = table_.Find(id)) out->append(entry->bytes);
}

bool TableTokenizer::IsSpecial(TokenId id) const {
  const TokenEntry* entry = table_.Find(id);
  return entry != nullptr && entry->special;
}

std::optional<TokenId> TableTokenizer::TokenToId(std::string_view token) const {
  return table_.IdOf(token);
}

std::string TableTokenizer::IdToToken(TokenId id) const {
  const TokenEntry* entry = table_.Find(id);
  return entry == nullptr ? std::string() : entry->spelling;
}

}  // namespace mambad::text
