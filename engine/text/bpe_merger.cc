#include "engine/text/bpe_merger.h"

#include <algorithm>

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

}  // namespace

void BpeMerger::AddRule(int32_t left, int32_t right, int32_t rank, int32_t result) {
  rules_[Key(left, right)] = Rule{rank, result};
}

const BpeMerger::Rule* BpeMerger::Find(int32_t left, int32_t right) const {
  const auto found = rules_.find(Key(left, right));
  return found == rules_.end() ? nullptr : &found->second;
}

void BpeMerger::Consider(const std::vector<int32_t>& symbols, int32_t position,
                         Scratch* scratch) const {
  if (position < 0) return;
  const int32_t next = scratch->next[position];
  if (next < 0) return;
  const Rule* rule = Find(symbols[position], symbols[next]);
  if (rule == nullptr) return;
  scratch->heap.push_back({rule->rank, position, symbols[position], symbols[next]});
  std::push_heap(scratch->heap.begin(), scratch->heap.end(), IsWorse);
}

void BpeMerger::Merge(std::vector<int32_t>* symbols, Scratch* scratch) const {
  const auto count = static_cast<int32_t>(symbols->size());
  if (count < 2) return;
  scratch->previous.resize(count);
  scratch->next.resize(count);
  scratch->heap.clear();
  for (int32_t i = 0; i < count; ++i) {
    scratch->previous[i] = i - 1;
    scratch->next[i] = i + 1 < count ? i + 1 : -1;
  }
  for (int32_t i = 0; i < count; ++i) Consider(*symbols, i, scratch);

  while (!scratch->heap.empty()) {
    const Scratch::Candidate best = scratch->heap.front();
    std::pop_heap(scratch->heap.begin(), scratch->heap.end(), IsWorse);
    scratch->heap.pop_back();
    // Neighbours may have changed since the candidate was listed; then it is out of date.
    if ((*symbols)[best.position] != best.left) continue;
    const int32_t next = scratch->next[best.position];
    if (next < 0 || (*symbols)[next] != best.right) continue;
    (*symbols)[best.position] = Find(best.left, best.right)->result;
    (*symbols)[next] = kGone;
    const int32_t after = scratch->next[next];
    scratch->next[best.position] = after;
    if (after >= 0) scratch->previous[after] = best.position;
    Consider(*symbols, scratch->previous[best.position], scratch);
    Consider(*symbols, best.position, scratch);
  }
  symbols->erase(std::remove(symbols->begin(), symbols->end(), kGone), symbols->end());
}

}  // namespace mambad::text
