// Byte-pair merging (Sennrich et al. 2016): joins neighbouring symbols by rule, best rule first.
#ifndef MAMBAD_ENGINE_TEXT_BPE_MERGER_H_
#define MAMBAD_ENGINE_TEXT_BPE_MERGER_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"

namespace mambad::text {

// Immutable after Seal; Merge is then safe from any thread.
class BpeMerger {
 public:
  // Working memory, reusable from call to call by one thread at a time.
  struct Scratch {
    struct Candidate {
      int32_t rank, position;
      int32_t left, right;
    };
    std::vector<int32_t> previous, next;
    std::vector<Candidate> heap;
  };

  void Reserve(size_t rules) { rules_.reserve(rules); }

  // `left` followed by `right` (symbols >= 0) becomes `result`; lower ranks go first, equal ranks
  // from left to right. A second rule for the same pair replaces the first.
  void AddRule(int32_t left, int32_t right, int32_t rank, int32_t result);

  // After the last AddRule: finds out which symbols never end up in one, so that long texts fall
  // into runs that need not know of each other.
  void Seal();

  struct Pair {
    int32_t left, right, result;
  };
  // Of all rules, the best first.
  std::vector<Pair> Pairs() const;

  // Applies the rules to `symbols` until none fits. Time O(n log n) and working memory of 28 bytes
  // a symbol in the longest run of symbols that may be joined.
  void Merge(std::vector<int32_t>* symbols, Scratch* scratch) const;

 private:
  struct Rule {
    int32_t rank, result;
  };
  const Rule* Find(int32_t left, int32_t right) const;
  void Consider(const int32_t* symbols, int32_t position, Scratch* scratch) const;
  // Merges `count` symbols in place, with kGone where one was.
  void MergeRun(int32_t* symbols, int32_t count, Scratch* scratch) const;

  absl::flat_hash_map<uint64_t, Rule> rules_;  // by left << 32 | right
  // Whether a rule may join two symbols, or what they become, that come side by side.
  bool MayJoin(int32_t left, int32_t right) const;

  // Of symbols that are no results: the same keys. Only when `sealed_`: the symbols that a result
  // is made of begin and end alike whatever rules made it.
  absl::flat_hash_set<uint64_t> joined_;
  std::vector<bool> is_result_;  // by symbol; beyond its end: no
  bool sealed_ = false;
};

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_BPE_MERGER_H_
