// States at the beginnings of prompts, in host memory, for prompts that begin alike: what one has
// read another need not read again. A state is kept where a prompt crosses a border of the grid
// (kPromptGrid) for the last time, and where prompts that came one after another part: there the
// next one is likely to come past.
//
// Found by a digest of principal and tokens, salted at random: nobody finds, or times, another's.
// When there is no room, what has not been used for longest goes; a use is that of the one state a
// prompt goes on from, not of those before it, which are of no use as long as the longer one is
// there. Engine thread, between two rounds.

#ifndef MAMBAD_ENGINE_SESSIONS_PREFIX_CACHE_H_
#define MAMBAD_ENGINE_SESSIONS_PREFIX_CACHE_H_

#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "engine/digest/sha256.h"
#include "engine/engine_stats.h"
#include "engine/options.h"
#include "engine/sequence.h"
#include "engine/sessions/saved_state.h"
#include "engine/state/state_pool.h"
#include "kernels/backend.h"

namespace mambad {

class PrefixCache {
 public:
  // Both outlive it. `bytes`: of all states; 0: nothing is kept.
  PrefixCache(StatePool& target, kernels::Backend& backend, int64_t bytes);

  // Where states of a prompt are to be kept, by what names; the first is next.
  struct Places {
    struct Place {
      int64_t position = 0;
      std::string name;
    };
    std::vector<Place> left;
  };

  // A prompt begins to be read. Brings the state of its longest known beginning, short of its last
  // token, into the slot of `sequence`, whose read position it sets, and says where to keep others.
  Places Begin(const std::string& principal, absl::Span<const TokenId> prompt, Sequence& sequence);
  // Keeps the state of a sequence that stands at the next of its places.
  void Keep(const Sequence& sequence, Places& places);

  // Those of them that are about prefixes.
  void AddCounters(SessionCounters* counters) const;

 private:
  struct Known {
    std::string name;
    std::shared_ptr<const SavedState> state;  // null: a prompt came past
  };
  using Order = std::list<Known>;  // used last: first

  std::vector<std::string> NamesOf(const std::string& principal,
                                   absl::Span<const TokenId> prompt) const;
  Known& Use(const std::string& name);
  bool DropOldest();

  StatePool& target_;
  kernels::Backend& backend_;
  const std::shared_ptr<HostMemory> memory_;
  const std::string salt_;
  Order order_;
  absl::flat_hash_map<std::string, Order::iterator> known_;
  int64_t lookups_ = 0, hits_ = 0, hit_tokens_ = 0;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SESSIONS_PREFIX_CACHE_H_
