#include "engine/text/bpe_merger.h"

#include <algorithm>
#include <utility>

namespace mambad::text {
namespace {

constexpr int32_t kGone = -1;  // a symbol that was merged into the one before it

// Order of a heap whose front is the best candidate: lowest rank, then leftmost.
bool IsWorse(const BpeMerger::Scratch::Candidate& a, const BpeMerger::Scratch::Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

uint64_t Key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// The symbol at one end of what a symbol is made of: `parts` says of a result its part at that end.
// False when a file's rules go in a circle.
bool FollowToTheEnd(absl::flat_hash_map<int32_t, int32_t>* parts, int32_t symbol, int32_t* end) {
  std::vector<int32_t> way;
  *end = symbol;
  for (auto part = parts->find(symbol); part != parts->end(); part = parts->find(*end)) {
    if (way.size() > parts->size()) return false;
    way.push_back(*end);
    *end = part->second;
  }
  for (const int32_t passed : way) (*parts)[passed] = *end;  // so that no way is gone twice
  return true;
}

}  // namespace

void BpeMerger::AddRule(int32_t left, int32_t right, int32_t rank, int32_t result) {
  rules_[Key(left, right)] = Rule{rank, result};
}

const BpeMerger::Rule* BpeMerger::Find(int32_t left, int32_t right) const {
  const auto found = rules_.find(Key(left, right));
  return found == rules_.end() ? nullptr : &found->second;
}

std::vector<BpeMerger::Pair> BpeMerger::Pairs() const {
  std::vector<std::pair<int32_t, uint64_t>> order;  // rank, key
  order.reserve(rules_.size());
  for (const auto& [key, rule] : rules_) order.emplace_back(rule.rank, key);
  std::sort(order.begin(), order.end());
  std::vector<Pair> pairs;
  pairs.reserve(order.size());
  for (const auto& [rank, key] : order) {
    pairs.push_back({static_cast<int32_t>(key >> 32), static_cast<int32_t>(key & 0xffffffff),
                     rules_.at(key).result});
  }
  return pairs;
}

void BpeMerger::Seal() {
  absl::flat_hash_map<int32_t, int32_t> first, last;
  for (const auto& [key, rule] : rules_) {
    first.emplace(rule.result, static_cast<int32_t>(key >> 32));
    last.emplace(rule.result, static_cast<int32_t>(key & 0xffffffff));
    if (rule.result >= static_cast<int32_t>(is_result_.size())) is_result_.resize(rule.result + 1);
    is_result_[rule.result] = true;
  }
  sealed_ = true;
  absl::flat_hash_map<int32_t, uint64_t> ends;  // of results: first and last
  for (const auto& [key, rule] : rules_) {
    const auto left = static_cast<int32_t>(key >> 32);
    const auto right = static_cast<int32_t>(key & 0xffffffff);
    int32_t begin = 0, before = 0, after = 0, end = 0;
    sealed_ = sealed_ && FollowToTheEnd(&first, left, &begin) &&
              FollowToTheEnd(&last, left, &before) && FollowToTheEnd(&first, right, &after) &&
              FollowToTheEnd(&last, right, &end);
    if (!sealed_) return;
    joined_.insert(Key(before, after));
    sealed_ = ends.emplace(rule.result, Key(begin, end)).first->second == Key(begin, end);
  }
}

bool BpeMerger::MayJoin(int32_t left, int32_t right) const {
  const auto is_result = [this](int32_t symbol) {
    return symbol < static_cast<int32_t>(is_result_.size()) && is_result_[symbol];
  };
  return !sealed_ || joined_.contains(Key(left, right)) || is_result(left) || is_result(right);
}

void BpeMerger::Consider(const int32_t* symbols, int32_t position, Scratch* scratch) const {
  if (position < 0) return;
  const int32_t next = scratch->next[position];
  if (next < 0) return;
  const Rule* rule = Find(symbols[position], symbols[next]);
  if (rule == nullptr) return;
  scratch->heap.push_back({rule->rank, position, symbols[position], symbols[next]});
  std::push_heap(scratch->heap.begin(), scratch->heap.end(), IsWorse);
}

void BpeMerger::Merge(std::vector<int32_t>* symbols, Scratch* scratch) const {
  int32_t* all = symbols->data();
  const size_t count = symbols->size();
  for (size_t begin = 0; begin < count;) {
    size_t end = begin + 1;
    while (end < count && MayJoin(all[end - 1], all[end])) ++end;
    MergeRun(all + begin, static_cast<int32_t>(end - begin), scratch);
    begin = end;
  }
  symbols->erase(std::remove(symbols->begin(), symbols->end(), kGone), symbols->end());
}

void BpeMerger::MergeRun(int32_t* symbols, int32_t count, Scratch* scratch) const {
  if (count < 2) return;
  scratch->previous.resize(count);
  scratch->next.resize(count);
  scratch->heap.clear();
  for (int32_t i = 0; i < count; ++i) {
    scratch->previous[i] = i - 1;
    scratch->next[i] = i + 1 < count ? i + 1 : -1;
  }
  for (int32_t i = 0; i < count; ++i) Consider(symbols, i, scratch);

  while (!scratch->heap.empty()) {
    const Scratch::Candidate best = scratch->heap.front();
    std::pop_heap(scratch->heap.begin(), scratch->heap.end(), IsWorse);
    scratch->heap.pop_back();
    // Neighbours may have changed since the candidate was listed; then it is out of date.
    if (symbols[best.position] != best.left) continue;
    const int32_t next = scratch->next[best.position];
    if (next < 0 || symbols[next] != best.right) continue;
    symbols[best.position] = Find(best.left, best.right)->result;
    symbols[next] = kGone;
    const int32_t after = scratch->next[next];
    scratch->next[best.position] = after;
    if (after >= 0) scratch->previous[after] = best.position;
    Consider(symbols, scratch->previous[best.position], scratch);
    Consider(symbols, best.position, scratch);
  }
}

}  // namespace mambad::text
