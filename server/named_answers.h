// Answers to requests that their callers gave a name (request_id), so that a call may be repeated
// without anything being generated twice: who asks again is told what there is of the answer, and
// then the rest of it as it is made.
//
// An answer is kept from when its request goes to the engine. When its caller is gone, the engine
// goes on with it for a while, for a caller that comes back; one that ended well, or left a session
// behind, is kept for a while after its end. Others are forgotten at once: a call that failed may
// be tried anew. All of it lies in bounded memory: the answers that ended first go first, and one
// that is being made and finds no room is not kept, so that it cannot be told twice.

#ifndef MAMBAD_SERVER_NAMED_ANSWERS_H_
#define MAMBAD_SERVER_NAMED_ANSWERS_H_

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "engine/mutex.h"
#include "engine/request.h"
#include "mambad/v1/generation.pb.h"
#include "server/answer_receipts.h"
#include "server/metric_families.h"
#include "server/server_options.h"
#include "server/stall_timer.h"

namespace mambad::server {

// Which request is meant, and that it is the same one.
struct RequestName {
  std::string principal, request_id;  // the caller, and its name for the request; empty: none
  std::string digest;                 // of all that the request says
  bool empty() const { return request_id.empty(); }
};

// Before anything is taken out of `wire`.
RequestName NameOf(const v1::GenerateRequest& wire, const std::string& principal);

// A call that is told an answer.
class AnswerReader : public EventSink {
 public:
  // Another call is told the answer from now on; an event that is under way may come still.
  virtual void OnTakenOver() = 0;
};

class NamedAnswers;

// One answer: the sink of its engine request. Thread-safe; one call is told at a time.
class NamedAnswer final : public EventSink, public std::enable_shared_from_this<NamedAnswer> {
 public:
  NamedAnswer(NamedAnswers* table, RequestName name, AnswerStart start);

  const AnswerStart& start() const { return start_; }
  // Whether a call is told it now.
  bool is_told() const;
  absl::Duration take_over_pause() const;

  // Tells `reader` all that there is of it, then what comes; who was told before is told that it is
  // no longer. Not from an event.
  void Attach(std::shared_ptr<AnswerReader> reader);
  // `reader` is gone. `may_return`: the engine goes on for a while. Whether no event will come to
  // it any more, but one that may be under way; else the engine ends the answer.
  bool Detach(const AnswerReader* reader, bool may_return);
  // The same, where nothing went to the engine; whether it was told until now.
  bool Leave(const AnswerReader* reader);
  // For each pause that `reader` asked for.
  void Resume(const AnswerReader* reader);

  // What came of handing it to the engine.
  void Submitted(Engine* engine, RequestId id);
  void Failed(const absl::Status& status);
  RequestId id() const;

  bool OnEvent(const TokenEvent& event) override;

 private:
  friend class NamedAnswers;

  void Record(const TokenEvent& event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(telling_, mutex_);
  void End(const TokenEvent& event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ForgetReader() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CancelInEngine() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnNobodyCame(int absence);

  NamedAnswers* const table_;  // outlives the engine's requests, and calls
  const RequestName name_;
  const AnswerStart start_;

  // Held while a reader is told, so that events come in order: taken before mutex_. A reader may
  // call everything here but Attach meanwhile.
  Mutex telling_;
  mutable Mutex mutex_;
  // What was told so far, of each sample in order: a piece is many events put together.
  std::vector<TokenEvent> pieces_ ABSL_GUARDED_BY(telling_);
  std::vector<int> last_pieces_ ABSL_GUARDED_BY(telling_);  // by sample; -1: none
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;               // of them
  std::shared_ptr<AnswerReader> reader_ ABSL_GUARDED_BY(mutex_);
  bool is_kept_ ABSL_GUARDED_BY(mutex_) = true;  // false: there was no room for all of it
  int samples_left_ ABSL_GUARDED_BY(mutex_);     // that have not ended
  bool ended_well_ ABSL_GUARDED_BY(mutex_) = true;
  bool has_session_ ABSL_GUARDED_BY(mutex_) = false;
  // Pauses that the reader asked for and has not ended: of the engine, and those asked for while it
  // was told what there was, which the engine's next event brings about. Below 0: it ended one
  // before that was known here.
  bool replaying_ ABSL_GUARDED_BY(mutex_) = false;
  int pauses_ ABSL_GUARDED_BY(mutex_) = 0, owed_pauses_ ABSL_GUARDED_BY(mutex_) = 0;
  Engine* engine_ ABSL_GUARDED_BY(mutex_) = nullptr;  // until the last event
  RequestId id_ ABSL_GUARDED_BY(mutex_) = 0;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  // Numbers the times without a reader, so that an old timer finds that it is not meant any more.
  int absences_ ABSL_GUARDED_BY(mutex_) = 0;
  StallTimer timer_ ABSL_GUARDED_BY(mutex_);
};

// All of a daemon. Thread-safe.
class NamedAnswers {
 public:
  explicit NamedAnswers(const RetryOptions& options) : options_(options) {}

  // The answer to a request of this name; null: there is none. ALREADY_EXISTS: the name is another
  // request's; ABORTED: it is being made and was too long to be kept.
  absl::StatusOr<std::shared_ptr<NamedAnswer>> Find(const RequestName& name);
  // The same, but where there is none the answer is begun, and `*begun` says so; null: names mean
  // nothing here. Who begins an answer calls its Submitted or Failed.
  absl::StatusOr<std::shared_ptr<NamedAnswer>> FindOrBegin(const RequestName& name,
                                                           const AnswerStart& start, bool* begun);

  void AddFamilies(MetricFamilies* families) const;

  const RetryOptions& options() const { return options_; }

 private:
  friend class NamedAnswer;
  using Key = std::pair<std::string, std::string>;  // principal, request id
  struct Kept {
    Key key;
    absl::Time until;
  };

  static Key KeyOf(const RequestName& name) { return {name.principal, name.request_id}; }
  absl::StatusOr<std::shared_ptr<NamedAnswer>> Look(const RequestName& name)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether there is room for so many bytes more, which then are taken; else the answer is lost.
  bool Reserve(const RequestName& name, const NamedAnswer* answer, int64_t bytes);
  void Release(int64_t bytes);
  // Nobody finds it any more.
  void Drop(const RequestName& name, const NamedAnswer* answer);
  // Its last event came. `bytes`: those that it took.
  void Ended(const RequestName& name, const NamedAnswer* answer, bool keep, int64_t bytes);
  // What is too old, and what must go for so many bytes more.
  void ForgetOld(int64_t room) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  struct Entry {
    std::shared_ptr<NamedAnswer> answer;
    int64_t bytes = 0;     // once it has ended
    bool is_lost = false;  // it is being made and was too long
  };

  const RetryOptions options_;
  mutable Mutex mutex_;  // taken after an answer's own
  std::map<Key, Entry> answers_ ABSL_GUARDED_BY(mutex_);
  std::list<Kept> ended_ ABSL_GUARDED_BY(mutex_);  // the one that ended first is first
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t repeated_calls_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_NAMED_ANSWERS_H_
