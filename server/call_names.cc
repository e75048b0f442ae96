#include "server/call_names.h"

namespace mambad::server {

void CallNames::Add(const std::string& principal, const std::string& name,
                    const std::shared_ptr<AbortableCall>& call) {
  MutexLock lock(&mutex_);
  calls_.emplace(std::pair(principal, name), Entry{call.get(), call});
}

void CallNames::Remove(const std::string& principal, const std::string& name,
                       const AbortableCall* call) {
  MutexLock lock(&mutex_);
  auto [entry, last] = calls_.equal_range({principal, name});
  while (entry != last && entry->second.address != call) ++entry;
  if (entry != last) calls_.erase(entry);
}

void CallNames::Abort(const std::string& principal, const std::string& name) {
  std::vector<std::shared_ptr<AbortableCall>> found;
  {
    MutexLock lock(&mutex_);
    const auto [first, last] = calls_.equal_range({principal, name});
    for (auto entry = first; entry != last; ++entry)
      if (auto call = entry->second.call.lock()) found.push_back(std::move(call));
  }
  for (const auto& call : found) call->Abort();
}

}  // namespace mambad::server
