#include "engine/sessions/host_states.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"

namespace mambad {

std::shared_ptr<const SavedState>& HostStates::StateOf(const Entry& entry) {
  if (entry.at == KeptSession::kItself) return entry.session->saved;
  return entry.session->FindCheckpoint(entry.at)->saved;
}

bool HostStates::IsElsewhere(const Entry& entry) {
  if (entry.at == KeptSession::kItself) return entry.session->slot >= 0 || entry.session->in_file;
  return entry.session->FindCheckpoint(entry.at)->in_file;
}

void HostStates::Set(KeptSession& session, int64_t at, std::shared_ptr<const SavedState> saved) {
  const auto is_it = [&](const Entry& entry) {
    return entry.session == &session && entry.at == at;
  };
  entries_.erase(std::remove_if(entries_.begin(), entries_.end(), is_it), entries_.end());
  const Entry entry{&session, at};
  StateOf(entry) = std::move(saved);
  if (StateOf(entry) != nullptr) entries_.push_back(entry);
}

void HostStates::Clear(KeptSession& session) {
  Set(session, KeptSession::kItself, nullptr);
  for (const KeptSession::Checkpoint& checkpoint : session.checkpoints)
    Set(session, checkpoint.position, nullptr);
}

bool HostStates::MakeRoom(int64_t bytes, const std::string& principal, bool incoming) {
  if (bytes > memory_->limit()) return false;
  while (bytes > memory_->limit() - memory_->used()) {
    if (!DropOldest(incoming ? 0 : bytes, principal)) return false;
  }
  return true;
}

absl::Status HostStates::NoRoom() const {
  return absl::ResourceExhaustedError(
      absl::StrCat("sessions.host_memory_bytes: no room for the session's state, ", memory_->used(),
                   " of ", memory_->limit(), " bytes are used"));
}

bool HostStates::MayGo(const Entry& entry, bool lost) const {
  if (entry.session == held_) return false;
  return lost ? entry.at == KeptSession::kItself : IsElsewhere(entry);
}

bool HostStates::DropOldest(int64_t bytes, const std::string& principal) {
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (!MayGo(entries_[i], /*lost=*/false)) continue;
    Drop(i);
    return true;
  }
  // Whose states are all on their way in, or held, has none to give: then who wants room gives way.
  return DropOldestOf(WhoHasMost(bytes, principal)) || DropOldestOf(principal);
}

bool HostStates::DropOldestOf(const std::string& principal) {
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (entries_[i].session->principal != principal || !MayGo(entries_[i], /*lost=*/true)) continue;
    ++evictions_;
    Drop(i);
    return true;
  }
  return false;
}

void HostStates::Drop(size_t index) {
  const Entry entry = entries_[index];
  entries_.erase(entries_.begin() + static_cast<int64_t>(index));
  StateOf(entry) = nullptr;
  table_->Publish(*entry.session);
}

// With what `principal` wants; who wants it, where others have as much.
std::string HostStates::WhoHasMost(int64_t bytes, const std::string& principal) const {
  std::map<std::string, int64_t> held = memory_->incoming();
  held[principal] += bytes;
  for (const Entry& entry : entries_) held[entry.session->principal] += StateOf(entry)->bytes();
  const auto most = std::max_element(
      held.begin(), held.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return most->second > held[principal] ? most->first : principal;
}

}  // namespace mambad
