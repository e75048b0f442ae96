// Who calls, what he may call, and how much of it at a time.
//
//   authenticator.Replace(entries);                                // the file's, again at any time
//   authenticator.Check("/mambad.v1.Generation/Generate", {"Bearer mbd_..."});   // before a message
//   auto pass = authenticator.Admit(..., end);                     // when the call begins
//   pass->Charge(tokens); pass.reset();                            // when it ends
//
// Knows tokens, but neither gRPC nor files.

#ifndef MAMBAD_SERVER_SECURITY_AUTHENTICATOR_H_
#define MAMBAD_SERVER_SECURITY_AUTHENTICATOR_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "engine/mutex.h"
#include "server/security/token.h"

namespace mambad::server {

class Authenticator;

// One call's leave to run. Thread-safe. The authenticator outlives it.
class CallPass {
 public:
  ~CallPass();  // the call is over and counts no more
  CallPass(const CallPass&) = delete;
  CallPass& operator=(const CallPass&) = delete;

  const std::string& principal() const { return principal_; }
  // Tokens that the call took, of prompt and answers: they count against tokens_per_minute.
  void Charge(int64_t tokens);

 private:
  friend class Authenticator;
  CallPass(Authenticator* owner, const TokenEntry& entry,
           std::function<void(const absl::Status&)> end)
      : owner_(owner), principal_(entry.principal), token_id_(entry.id), end_(std::move(end)) {}

  Authenticator* const owner_;
  const std::string principal_;
  const std::string token_id_;
  const std::function<void(const absl::Status&)> end_;
};

// What was refused so far. Counters never fall.
struct RefusalCounts {
  int64_t unauthenticated = 0;
  int64_t permission_denied = 0;
  int64_t over_limit = 0;  // max_calls and tokens_per_minute
};

// Thread-safe.
class Authenticator {
 public:
  // The values of a call's `authorization` headers.
  using Authorization = std::vector<absl::string_view>;

  // Whether the call of this path, "/package.Service/Method", may be made. UNAUTHENTICATED: no
  // token, or none that is known and valid; PERMISSION_DENIED: its scopes do not reach so far. The
  // words name at most the token's id. Calls that ask for health alone are
  // anybody's.
  absl::Status Check(absl::string_view path, const Authorization& authorization);

  // The same for a call that begins now and counts with its principal until its pass ends.
  // RESOURCE_EXHAUSTED with google.rpc.RetryInfo beyond max_calls or tokens_per_minute. `end` is
  // called, on another thread and perhaps as the pass ends, when the token is revoked or expires:
  // it must do no harm to a call that is over. Neither may it wait.
  absl::StatusOr<std::unique_ptr<CallPass>> Admit(absl::string_view path,
                                                  const Authorization& authorization,
                                                  std::function<void(const absl::Status&)> end);

  // From now on these tokens are valid and no others. Ends the calls of those that are gone.
  void Replace(const std::vector<TokenEntry>& entries);
  // Ends the calls whose tokens have expired by now.
  void EndExpired();

  RefusalCounts counts() const;

 private:
  friend class CallPass;
  // What is counted of a principal. Steady time.
  struct Usage {
    int64_t calls = 0;   // that run
    double balance = 0;  // tokens that may be taken; below 0: that must be waited for
    absl::Time balance_at = absl::InfinitePast();  // InfinitePast: nothing was taken yet
  };
  using Entries = std::map<std::string, TokenEntry, std::less<>>;

  absl::StatusOr<const TokenEntry*> Find(absl::string_view path,
                                         const Authorization& authorization) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckUsage(const TokenEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Refill(const TokenEntry& entry, Usage* usage) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Counted(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Calls without mutex_ what calls of tokens that are not valid want to be told.
  void EndInvalid() ABSL_LOCKS_EXCLUDED(mutex_);
  void Leave(CallPass* pass);
  void Charge(const CallPass& pass, int64_t tokens);

  const TokenEntry nobody_ = {};  // no secret is its
  mutable Mutex mutex_;
  Entries entries_ ABSL_GUARDED_BY(mutex_);                      // by id
  std::map<std::string, Usage> usages_ ABSL_GUARDED_BY(mutex_);  // by principal
  std::set<CallPass*> running_ ABSL_GUARDED_BY(mutex_);
  RefusalCounts counts_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_SECURITY_AUTHENTICATOR_H_
