// The room for one model's keys and values, counted in pages. Plain data, decided at opening; any
// thread.

#ifndef MAMBAD_ENGINE_STATE_CACHE_SIZE_H_
#define MAMBAD_ENGINE_STATE_CACHE_SIZE_H_

#include <cstdint>

#include "kernels/backend.h"

namespace mambad {

struct CacheSize {
  bool has_attention = false;  // without attention layers nothing takes pages
  int64_t pages = 0;           // in all

  // Pages that a sequence of `positions` positions takes.
  int64_t PagesFor(int64_t positions) const {
    return has_attention ? (positions + kernels::kPageTokens - 1) / kernels::kPageTokens : 0;
  }
  // Of them, those that a fork after `positions` positions shares: full ones, which nobody writes
  // again.
  int64_t PagesShared(int64_t positions) const {
    return has_attention ? positions / kernels::kPageTokens : 0;
  }
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_STATE_CACHE_SIZE_H_
