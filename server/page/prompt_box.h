// Answers the prompts of the page: as calls of Generate like all others, made inside the process.

#ifndef MAMBAD_SERVER_PAGE_PROMPT_BOX_H_
#define MAMBAD_SERVER_PAGE_PROMPT_BOX_H_

#include <grpcpp/channel.h>

#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "engine/mutex.h"
#include "mambad/v1/generation.grpc.pb.h"
#include "server/network/http_endpoint.h"

namespace mambad::server {

struct PromptBoxLimits {
  int calls = 4;                               // at a time
  absl::Duration deadline = absl::Minutes(2);  // of each
  size_t unread_bytes = 256 << 10;             // of an answer; beyond them it is cut off
};

// Thread-safe. Calls are counted, admitted, limited, logged and drained as those that come over the
// network; without tokens all of them are one caller's.
class PromptBox {
 public:
  // `channel`: to the daemon's own services.
  explicit PromptBox(const std::shared_ptr<grpc::Channel>& channel,
                     const PromptBoxLimits& limits = PromptBoxLimits());
  ~PromptBox();  // cancels what runs, and waits for its end

  // `request`: a POST whose body is a GenerateRequest as JSON, and whose Authorization, if any, is
  // the call's. The answer is one line of JSON for each GenerateResponse, and one with "error",
  // which has "code" and "message", where the call fails. Refused: 400, what is no GenerateRequest;
  // 429, too many calls of the page run. A peer that goes, or does not read, cancels its call.
  HttpAnswer Answer(const HttpRequest& request);

 private:
  class Call;

  bool Enter();
  void Leave();

  const PromptBoxLimits limits_;
  const std::unique_ptr<v1::Generation::Stub> stub_;
  Mutex mutex_;
  Condition none_;
  int calls_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::weak_ptr<Call>> running_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_PAGE_PROMPT_BOX_H_
