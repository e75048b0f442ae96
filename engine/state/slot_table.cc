#include "engine/state/slot_table.h"

namespace mambad {

SlotTable::SlotTable(int slots, StatePool* target, StatePool* draft)
    : target_(*target), draft_(draft), total_(slots) {
  for (int slot = slots - 1; slot >= 0; --slot) free_.push_back(slot);
}

bool SlotTable::Fits(absl::Span<const Need> needs) const {
  if (static_cast<int>(needs.size()) > free()) return false;
  int64_t target = 0, draft = 0;
  for (const Need& need : needs) {
    target += target_.cache_size().PagesFor(need.positions) -
              target_.cache_size().PagesShared(need.forked_at);
    if (draft_ != nullptr) draft += draft_->cache_size().PagesFor(need.positions);
  }
  return target <= target_.pages_free() && (draft_ == nullptr || draft <= draft_->pages_free());
}

int SlotTable::Take(const Need& need) {
  const int slot = free_.back();
  free_.pop_back();
  target_.Acquire(slot, need.positions, need.forked_at, need.clean);
  if (draft_ != nullptr) draft_->Acquire(slot, need.positions, 0, need.clean);
  return slot;
}

bool SlotTable::Extend(int slot, int64_t needed, int64_t wished) {
  for (StatePool* pool : {&target_, draft_}) {
    if (pool == nullptr || pool->Reaches(slot, needed)) continue;
    if (!pool->Extend(slot, wished) && !pool->Extend(slot, needed)) return false;
  }
  return true;
}

void SlotTable::Shrink(int slot, int64_t positions) {
  target_.Shrink(slot, positions);
  if (draft_ != nullptr) draft_->Shrink(slot, positions);
}

bool SlotTable::CanExtend(int slot, int64_t positions) const {
  return target_.CanExtend(slot, positions) &&
         (draft_ == nullptr || draft_->CanExtend(slot, positions));
}

void SlotTable::Release(int slot) {
  target_.Release(slot);
  if (draft_ != nullptr) draft_->Release(slot);
  free_.push_back(slot);
}

}  // namespace mambad
