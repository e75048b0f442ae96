// What an engine has room for, and what one request takes of it: numbers that opening decided and
// the request's own, nothing that runs. Any thread.

#ifndef MAMBAD_ENGINE_CAPACITY_H_
#define MAMBAD_ENGINE_CAPACITY_H_

#include <cstdint>

#include "absl/status/status.h"
#include "engine/engine_facts.h"
#include "engine/field_errors.h"
#include "engine/request.h"
#include "engine/state/cache_size.h"
#include "engine/wait_forecast.h"

namespace mambad {

class Capacity {
 public:
  // `facts` outlive it. `draft`: the draft model's cache; without one, none.
  Capacity(const EngineFacts& facts, const CacheSize& target, const CacheSize& draft)
      : facts_(facts), target_(target), draft_(draft) {}

  // INVALID_ARGUMENT "field: what was given, what is allowed", the field as engine.h's Submit says.
  // What is OK fits an empty engine: it will not wait for ever.
  absl::Status Validate(const Request& request) const;

  // Of a request that is valid. The most tokens, those of the prompt counted in, that each of its
  // samples could have if it ran alone.
  int64_t TokenLimit(const Request& request) const;
  RequestSize SizeOf(const Request& request) const;
  // What it takes, from its beginning on, at this pace.
  ServiceDemand DemandOf(const Request& request, const ServicePace& pace) const;

  // Pages of the cache that has fewest to spare for `samples` sequences of `positions` positions
  // each, whose target shares those full before `forked_at`.
  int64_t PagesFor(int samples, int64_t positions, int64_t forked_at) const;
  int64_t pages_total() const { return target_.pages > 0 ? target_.pages : draft_.pages; }

 private:
  void CheckPrompt(const Request& request, FieldErrors* errors) const;
  void CheckSession(const Request& request, FieldErrors* errors) const;
  void CheckRoom(const Request& request, FieldErrors* errors) const;

  const EngineFacts& facts_;
  const CacheSize target_, draft_;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_CAPACITY_H_
