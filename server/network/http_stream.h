// What an HTTP answer goes on with after its head, bit by bit, from another thread.
//
//   auto stream = std::make_shared<HttpStream>(1 << 18);
//   answer.stream = stream;               // to the endpoint
//   while (stream->Write(more)) ...       // elsewhere
//   stream->End();

#ifndef MAMBAD_SERVER_NETWORK_HTTP_STREAM_H_
#define MAMBAD_SERVER_NETWORK_HTTP_STREAM_H_

#include <cstddef>
#include <functional>
#include <string>

#include "absl/strings/string_view.h"
#include "engine/mutex.h"
#include "server/network/listener.h"

namespace mambad::server {

// Thread-safe.
class HttpStream {
 public:
  // Holds so many bytes at most that the peer has not taken.
  explicit HttpStream(size_t most_unread_bytes);
  HttpStream(const HttpStream&) = delete;
  HttpStream& operator=(const HttpStream&) = delete;

  // ---- of who makes the answer

  // Whether there was room, and anybody who reads: when not, nothing more can be said.
  bool Write(absl::string_view text);
  // Nothing more comes. Idempotent.
  void End();
  // What is called when the peer is gone before the end: at most once, at once where it is gone
  // already, else on the endpoint's thread, for which it must not wait.
  void OnAbandoned(std::function<void()> abandoned);

  // ---- of the endpoint

  // A descriptor that is readable when there may be something to take.
  int news() const { return news_.number(); }
  // What was written since. `ended`: it was the last.
  std::string Take(bool* ended);
  void Abandon();

 private:
  void Tell();

  const size_t most_unread_bytes_;
  const Descriptor news_;
  Mutex mutex_;
  std::string unread_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool is_abandoned_ ABSL_GUARDED_BY(mutex_) = false;
  std::function<void()> abandoned_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_NETWORK_HTTP_STREAM_H_
