// Sessions of an engine without a model: texts and where they were marked. They keep what
// engine/session.h promises, all of it in one table, with no states and no files.

#ifndef MAMBAD_TESTS_SERVER_FAKE_SESSIONS_H_
#define MAMBAD_TESTS_SERVER_FAKE_SESSIONS_H_

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "engine/session.h"
#include "engine/sessions/session_format.h"

namespace mambad {

class FakeSessions final : public Sessions, public std::enable_shared_from_this<FakeSessions> {
 public:
  FakeSessions(std::shared_ptr<const SessionFormat> format, int most)
      : format_(std::move(format)), most_(most) {}

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

  // A request has made this text of its session, going on from `position`.
  SessionFacts Rest(const SessionLease& lease, int64_t position, std::vector<TokenId> text);

 private:
  class Lease;
  struct Session {
    std::string id, principal;
    std::vector<TokenId> text;
    std::vector<int64_t> checkpoints;
    bool in_use = false, listed = false, exact = true;
  };

  // With mutex_ held.
  absl::StatusOr<std::shared_ptr<Session>> Find(const std::string& principal,
                                                const std::string& id) const;
  absl::StatusOr<std::shared_ptr<Session>> FindFree(const std::string& principal,
                                                    const std::string& id) const;
  absl::StatusOr<std::shared_ptr<Session>> Add(const std::string& principal);
  SessionInfo InfoOf(const Session& session) const;

  const std::shared_ptr<const SessionFormat> format_;
  const int most_;
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Session>> sessions_;  // guarded by mutex_
  int made_ = 0;                                              // guarded by mutex_
};

}  // namespace mambad

#endif  // MAMBAD_TESTS_SERVER_FAKE_SESSIONS_H_
