#include "engine/sessions/prefix_cache.h"

#include <algorithm>
#include <random>
#include <utility>

#include "engine/scheduler.h"

namespace mambad {
namespace {

constexpr size_t kMostKnown = 1 << 16;  // borders, with a state or without

std::string DrawSalt() {
  std::random_device random;
  std::string salt;
  for (int i = 0; i < 8; ++i) {
    const uint32_t word = random();
    salt.append(reinterpret_cast<const char*>(&word), sizeof(word));
  }
  return salt;
}

}  // namespace

PrefixCache::PrefixCache(StatePool& target, kernels::Backend& backend, int64_t bytes)
    : target_(target),
      backend_(backend),
      memory_(std::make_shared<HostMemory>(bytes)),
      salt_(DrawSalt()) {}

// Of the borders that a prompt crosses before its last token, each after the one before it.
std::vector<std::string> PrefixCache::NamesOf(const std::string& principal,
                                              absl::Span<const TokenId> prompt) const {
  std::vector<std::string> names;
  std::string last = salt_ + principal;
  const auto end = static_cast<int64_t>(prompt.size());
  for (int64_t border = kPromptGrid; border < end; border += kPromptGrid) {
    Sha256 digest;
    digest.AddText(last);
    digest.AddTokens(prompt.subspan(border - kPromptGrid, kPromptGrid));
    const Sha256::Digest name = digest.Finish();
    last.assign(name.begin(), name.end());
    names.push_back(last);
  }
  return names;
}

PrefixCache::Known& PrefixCache::Use(const std::string& name) {
  const auto it = known_.find(name);
  if (it != known_.end()) {
    order_.splice(order_.begin(), order_, it->second);
  } else {
    order_.push_front({name, nullptr});
    known_[name] = order_.begin();
    if (known_.size() > kMostKnown) {
      known_.erase(order_.back().name);
      order_.pop_back();
    }
  }
  return order_.front();
}

PrefixCache::Places PrefixCache::Begin(const std::string& principal,
                                       absl::Span<const TokenId> prompt, Sequence& sequence) {
  Places places;
  if (memory_->limit() == 0) return places;
  ++lookups_;
  const std::vector<std::string> names = NamesOf(principal, prompt);
  size_t met = 0, held = 0;  // borders that a prompt came past, and the last that has a state
  for (; met < names.size(); ++met) {
    const auto it = known_.find(names[met]);
    if (it == known_.end()) break;
    if (it->second->state != nullptr) held = met + 1;
  }
  if (held > 0) {
    const std::shared_ptr<const SavedState> state = Use(names[held - 1]).state;
    target_.Restore(sequence.slot, state->target_read.fed, state->target_read.replay,
                    state->target().data());
    backend_.Synchronize();
    sequence.target = state->target_read;
    ++hits_;
    hit_tokens_ += state->target_read.fed;
  }
  // Where it parts from those before it, and where it ends.
  const auto add = [&](size_t borders) {
    if (borders <= held || (!places.left.empty() && places.left.back().name == names[borders - 1]))
      return;
    places.left.push_back({static_cast<int64_t>(borders) * kPromptGrid, names[borders - 1]});
  };
  add(met);
  add(names.size());
  for (size_t i = met; i < names.size(); ++i) Use(names[i]);
  return places;
}

void PrefixCache::AddCounters(SessionCounters* counters) const {
  counters->prefix_lookups = lookups_;
  counters->prefix_hits = hits_;
  counters->prefix_tokens = hit_tokens_;
  counters->prefix_bytes = memory_->used();
}

void PrefixCache::Keep(const Sequence& sequence, Places& places) {
  std::vector<Places::Place>& left = places.left;
  while (!left.empty() && left.front().position < sequence.target.fed) left.erase(left.begin());
  if (left.empty() || left.front().position != sequence.target.fed) return;
  const std::string name = std::move(left.front().name);
  left.erase(left.begin());
  const auto it = known_.find(name);
  if (it != known_.end() && it->second->state != nullptr) return;
  std::shared_ptr<SavedState> state;
  do {
    state = SavedState::Make(memory_, sequence.target, target_.image_size(), {}, nullptr);
  } while (state == nullptr && DropOldest());
  if (state == nullptr) return;
  target_.Save(sequence.slot, sequence.target.fed, sequence.target.replay, state->target().data());
  backend_.Synchronize();
  Use(name).state = std::move(state);
}

bool PrefixCache::DropOldest() {
  const auto holds = [](const Known& known) { return known.state != nullptr; };
  const auto oldest = std::find_if(order_.rbegin(), order_.rend(), holds);
  if (oldest == order_.rend()) return false;
  oldest->state = nullptr;
  return true;
}

}  // namespace mambad
