#include "engine/speculation/prompt_lookup.h"

#include <algorithm>

namespace mambad {
namespace {

// A table at half load needs a handful of probes. Text made to collide gets no more than this, and
// then forgets a run.
constexpr int kMaxProbes = 64;

static_assert(PromptLookup::kWindow < int64_t{1} << 29, "ends of runs fit an entry");

uint64_t Mix(uint64_t hash) {
  hash ^= hash >> 32;
  hash *= 0xd6e8feb86659fd93;
  return hash ^ hash >> 32;
}

// Hashes of the runs that end at `end`, in the order of kMatchLengths; those longer than the
// context are 0.
std::array<uint64_t, PromptLookup::kMatchLengths.size()> RunHashes(
    const std::vector<TokenId>& tokens, int64_t end) {
  std::array<uint64_t, PromptLookup::kMatchLengths.size()> hashes = {};
  uint64_t hash = 0x9e3779b97f4a7c15;
  int length = 0;
  for (int kind = static_cast<int>(hashes.size()) - 1; kind >= 0; --kind) {
    for (; length < PromptLookup::kMatchLengths[kind]; ++length) {
      if (length >= end) return hashes;
      hash = Mix((hash + static_cast<uint32_t>(tokens[end - 1 - length])) * 0x9fb21c651e98df25);
    }
    hashes[kind] = Mix(hash + kind);
  }
  return hashes;
}

}  // namespace

void PromptLookup::Reserve(int64_t tokens) {
  tokens = std::min(tokens, kWindow);
  tokens_.reserve(tokens);
  size_t slots = 64;
  while (slots < 2 * kMatchLengths.size() * static_cast<size_t>(tokens)) slots *= 2;
  if (slots > table_.size()) Grow(slots);
}

void PromptLookup::Append(absl::Span<const TokenId> tokens) {
  // Of a text longer than the window nothing but its end would be left.
  if (tokens.size() > static_cast<size_t>(kWindow)) tokens = tokens.last(kWindow);
  for (const TokenId token : tokens) AppendOne(token);
}

void PromptLookup::AppendOne(TokenId token) {
  if (static_cast<int64_t>(tokens_.size()) == kWindow) ForgetOlderHalf();
  tokens_.push_back(token);
  if (2 * (entries_ + kMatchLengths.size()) > table_.size())
    Grow(std::max<size_t>(64, 2 * table_.size()));
  NoteRuns(static_cast<int64_t>(tokens_.size()));
}

// Enters the runs that end at `end` and remembers where they ended before.
void PromptLookup::NoteRuns(int64_t end) {
  const auto hashes = RunHashes(tokens_, end);
  for (int kind = 0; kind < static_cast<int>(kMatchLengths.size()); ++kind) {
    earlier_[kind] = end < kMatchLengths[kind] ? -1 : Exchange(kind, hashes[kind], end);
  }
}

bool PromptLookup::Matches(uint32_t entry, int kind, int64_t end) const {
  if (static_cast<int>(entry & 7) != kind) return false;
  const int length = kMatchLengths[kind];
  const TokenId* stored = tokens_.data() + (entry >> 3) - length;
  return std::equal(stored, stored + length, tokens_.data() + end - length);
}

// Notes that the run of this kind ends at `end`; returns where it ended before, or -1.
int64_t PromptLookup::Exchange(int kind, uint64_t hash, int64_t end) {
  const size_t mask = table_.size() - 1;
  const auto mine = static_cast<uint32_t>(end) << 3 | static_cast<uint32_t>(kind);
  for (int probe = 0; probe < kMaxProbes; ++probe) {
    uint32_t& entry = table_[(hash + probe) & mask];
    if (entry == kEmpty) {
      entry = mine;
      ++entries_;
      return -1;
    }
    if (!Matches(entry, kind, end)) continue;
    const int64_t before = entry >> 3;
    entry = mine;
    return before;
  }
  table_[hash & mask] = mine;
  return -1;
}

void PromptLookup::Grow(size_t slots) {
  std::vector<uint32_t> old(slots, kEmpty);
  old.swap(table_);
  entries_ = 0;
  for (const uint32_t entry : old) {
    if (entry == kEmpty) continue;
    const int kind = static_cast<int>(entry & 7);
    Exchange(kind, RunHashes(tokens_, entry >> 3)[kind], entry >> 3);
  }
}

// Tokens move down, which all ends of runs are counted by: the table is made anew, in its place.
void PromptLookup::ForgetOlderHalf() {
  const auto kept = static_cast<int64_t>(tokens_.size()) / 2;
  std::move(tokens_.end() - kept, tokens_.end(), tokens_.begin());
  std::fill(table_.begin(), table_.end(), kEmpty);
  entries_ = 0;
  tokens_.resize(kept);
  for (int64_t end = 1; end <= kept; ++end) NoteRuns(end);
}

int PromptLookup::match_length() const {
  for (size_t kind = 0; kind < kMatchLengths.size(); ++kind) {
    if (earlier_[kind] >= 0) return kMatchLengths[kind];
  }
  return 0;
}

void PromptLookup::Propose(int max_length, std::vector<TokenId>& out) const {
  out.clear();
  const auto found =
      std::find_if(earlier_.begin(), earlier_.end(), [](int64_t end) { return end >= 0; });
  if (found == earlier_.end()) return;
  const auto size = static_cast<int64_t>(tokens_.size());
  for (int64_t i = 0; i < max_length; ++i) {
    const int64_t from = *found + i;
    out.push_back(from < size ? tokens_[from] : out[from - size]);
  }
}

}  // namespace mambad
