// Running calls by the names that their callers gave them, for calls that end others.

#ifndef MAMBAD_SERVER_CALL_NAMES_H_
#define MAMBAD_SERVER_CALL_NAMES_H_

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/mutex.h"

namespace mambad::server {

class AbortableCall {
 public:
  virtual ~AbortableCall() = default;
  // Its caller wants no more: it ends soon. Any thread; also when it is over.
  virtual void Abort() = 0;
};

// Thread-safe. A name may be that of several calls.
class CallNames {
 public:
  // Until Remove, which must come: `call` lies in no other memory than when it was added.
  void Add(const std::string& principal, const std::string& name,
           const std::shared_ptr<AbortableCall>& call);
  void Remove(const std::string& principal, const std::string& name, const AbortableCall* call);
  // Aborts the calls of this name of the principal's.
  void Abort(const std::string& principal, const std::string& name);

 private:
  struct Entry {
    const AbortableCall* address;
    std::weak_ptr<AbortableCall> call;
  };
  Mutex mutex_;
  std::multimap<std::pair<std::string, std::string>, Entry> calls_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_CALL_NAMES_H_
