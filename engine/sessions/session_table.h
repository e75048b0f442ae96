// Who has which session: names, texts and leases, for any thread; and what the engine thread is
// asked to do with their states, until it does it. Knows no device.

#ifndef MAMBAD_ENGINE_SESSIONS_SESSION_TABLE_H_
#define MAMBAD_ENGINE_SESSIONS_SESSION_TABLE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "engine/mutex.h"
#include "engine/session.h"
#include "engine/sessions/kept_session.h"
#include "engine/sessions/session_format.h"

namespace mambad {

class SessionKeeper;

struct SessionLimits {
  int sessions = 0;          // at most
  int64_t text_bytes = 0;    // of all texts together, at most
  absl::Duration idle_time;  // unused for so long, a session goes; zero: never
};

class SessionTable final : public Sessions, public std::enable_shared_from_this<SessionTable> {
 public:
  // `memory`: of states that are imported.
  SessionTable(std::shared_ptr<const SessionFormat> format, std::shared_ptr<HostMemory> memory,
               const SessionLimits& limits)
      : format_(std::move(format)), memory_(std::move(memory)), limits_(limits) {}

  absl::StatusOr<std::shared_ptr<SessionLease>> Take(const std::string& principal,
                                                     const std::string& id) override;
  absl::StatusOr<std::shared_ptr<SessionLease>> Begin(const std::string& principal) override;
  void Create(const std::string& principal, std::vector<TokenId> tokens, Done done) override;
  absl::StatusOr<SessionInfo> Get(const std::string& principal, const std::string& id) override;
  std::vector<SessionInfo> List(const std::string& principal) override;
  SessionTotals Totals() const override;
  absl::Status Delete(const std::string& principal, const std::string& id,
                      std::function<void()> removed) override;
  void Fork(const std::string& principal, const std::string& id, Done done) override;
  void Checkpoint(const std::string& principal, const std::string& id, Done done) override;
  void Rewind(const std::string& principal, const std::string& id, int64_t position,
              Done done) override;
  void Export(const std::string& principal, const std::string& id, Exported done) override;
  std::unique_ptr<SessionTarget> NewTarget(const std::string& principal,
                                           bool other_numerics) override;
  void MakeRoom(const std::string& principal, SessionTarget& target,
                std::function<void(const absl::Status&)> done) override;
  void Import(const std::string& principal, std::unique_ptr<SessionTarget> target,
              Done done) override;

  // The session of a lease that this table gave.
  static const std::shared_ptr<KeptSession>& SessionOf(const SessionLease& lease);

  // For the engine thread.

  // Something to be done between two rounds, when the state of `session` (null: of none) is at
  // hand: its own, or that of its checkpoint `at`.
  struct Task {
    std::shared_ptr<KeptSession> session;
    int64_t at = KeptSession::kItself;
    std::function<void(SessionKeeper&)> run;
  };
  // Any thread.
  void Post(Task task);
  // Called on any thread whenever there is something to do; null: nobody asks.
  void SetWake(std::function<void()> wake);
  bool has_tasks() const;
  std::vector<Task> TakeTasks();
  // Sessions that nobody finds any more, whose states can go.
  std::vector<std::shared_ptr<KeptSession>> TakeGone();

  // The session has this text from now on, and is listed. Its info is made anew.
  void SetText(KeptSession& session, SessionText text);
  void SetText(KeptSession& session, SessionText text, std::string digest);  // SessionDigest
  SessionText TextOf(const KeptSession& session) const;
  // What others see of its state.
  void Publish(KeptSession& session);
  SessionInfo InfoOf(const KeptSession& session);
  // One that is there already, out of a file.
  void Add(const std::shared_ptr<KeptSession>& session, SessionText text);
  // It is not there: what was to make it has failed.
  void Forget(const KeptSession& session);
  // Notes what has been used by now, takes out what has not been for too long.
  void Expire(absl::Time now);
  // When it is to be looked again whether a session goes: not later than the first one does.
  absl::Time NextExpiry() const;
  const SessionFormat& format() const { return *format_; }

 private:
  class Lease;

  absl::StatusOr<std::shared_ptr<KeptSession>> Find(const std::string& principal,
                                                    const std::string& id) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Remove(const std::string& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Release(const std::shared_ptr<KeptSession>& session);
  // All sessions: takes out those that are late, finds when the next one goes.
  void RemoveLate(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Wake();
  // Takes the lease, then posts.
  void PostFor(const std::string& principal, const std::string& id, int64_t at,
               const std::function<void(absl::Status)>& refuse,
               std::function<void(SessionKeeper&, const std::shared_ptr<SessionLease>&)> run);

  const std::shared_ptr<const SessionFormat> format_;
  const std::shared_ptr<HostMemory> memory_;
  const SessionLimits limits_;
  mutable Mutex mutex_;
  std::map<std::string, std::shared_ptr<KeptSession>> sessions_ ABSL_GUARDED_BY(mutex_);
  std::random_device random_ ABSL_GUARDED_BY(mutex_);
  int64_t text_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // of those that are listed
  std::vector<Task> tasks_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<KeptSession>> gone_ ABSL_GUARDED_BY(mutex_);
  // Used, or added, since Expire last looked.
  std::vector<std::shared_ptr<KeptSession>> used_ ABSL_GUARDED_BY(mutex_);
  // No session goes before.
  absl::Time next_expiry_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  std::function<void()> wake_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SESSIONS_SESSION_TABLE_H_
