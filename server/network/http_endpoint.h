// A small HTTP server for what operators fetch: short answers to GET, each on a connection of its
// own, from one thread that never waits for anyone.
//
// Servers with a thread a connection, such as the one in prometheus-cpp, are held up by as many
// silent peers as they have threads. This one gives every peer a fixed time to ask and to read, and
// when it has too many, hangs up on the one that has kept it waiting longest.

#ifndef MAMBAD_SERVER_NETWORK_HTTP_ENDPOINT_H_
#define MAMBAD_SERVER_NETWORK_HTTP_ENDPOINT_H_

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "server/network/listener.h"

namespace mambad::server {

struct HttpAnswer {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};

class HttpEndpoint {
 public:
  // On the endpoint's thread: must be quick. `path` begins with a slash and has no query.
  using Handler = std::function<HttpAnswer(const std::string& path)>;
  struct Limits {
    size_t connections = 64;
    size_t request_bytes = 8192;                 // request line and headers
    absl::Duration patience = absl::Seconds(5);  // to ask; and again to read the answer
  };

  HttpEndpoint(Listener listener, const Limits& limits, Handler handler);
  ~HttpEndpoint();  // closes the port and what is open

 private:
  struct Connection {
    enum class Phase { kReading, kWriting, kClosing };
    Descriptor socket;
    absl::Time deadline;
    Phase phase = Phase::kReading;
    std::string text;    // of the request, then of what is left of the answer
    size_t written = 0;  // of the answer
  };

  void Run();
  void Accept(int listening);
  // Whether the connection lives on.
  bool Serve(Connection* connection);
  bool Read(Connection* connection);
  bool Write(Connection* connection);
  bool Close(Connection* connection);
  std::string AnswerTo(const std::string& request) const;

  const Limits limits_;
  const Handler handler_;
  Descriptor wake_;  // readable: stop
  // The thread's.
  Listener listener_;
  std::vector<Connection> connections_;             // oldest first
  absl::Time accept_again_ = absl::InfinitePast();  // after a failure
  std::thread thread_;
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_NETWORK_HTTP_ENDPOINT_H_
