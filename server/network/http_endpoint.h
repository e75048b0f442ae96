// A small HTTP server for what operators fetch: short answers, each on a connection of its own,
// from one thread that never waits for anyone; and answers that other threads make bit by bit.
//
// Servers with a thread a connection, such as the one in prometheus-cpp, are held up by as many
// silent peers as they have threads. This one gives every peer a fixed time to ask and to read, and
// when it has too many, hangs up on the one that has kept it waiting longest.

#ifndef MAMBAD_SERVER_NETWORK_HTTP_ENDPOINT_H_
#define MAMBAD_SERVER_NETWORK_HTTP_ENDPOINT_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "server/network/http_request.h"
#include "server/network/http_stream.h"
#include "server/network/listener.h"

namespace mambad::server {

struct HttpAnswer {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers = {};  // beside those of its length
  // Of a POST alone: goes on after the body, which then has no length that is told. The peer that
  // takes nothing of what is there for Limits::patience is hung up on, as is one that says goodbye.
  std::shared_ptr<HttpStream> stream = nullptr;
};

class HttpEndpoint {
 public:
  // On the endpoint's thread: must be quick. Of methods there are GET, HEAD (answered as GET; the
  // body is left out afterwards), and POST where bodies are taken.
  using Handler = std::function<HttpAnswer(const HttpRequest& request)>;
  struct Limits {
    size_t connections = 64;
    size_t request_bytes = 8192;                 // request line and headers
    size_t body_bytes = 0;                       // of a POST; 0: there is no POST
    absl::Duration patience = absl::Seconds(5);  // to ask; and again to read the answer
  };

  HttpEndpoint(Listener listener, const Limits& limits, Handler handler);
  // Takes no more requests; closes what is open when answers that are under way have gone out, or
  // after half a second.
  ~HttpEndpoint();

 private:
  // A connection's share of a stream, which is told when it goes.
  class StreamReader {
   public:
    explicit StreamReader(std::shared_ptr<HttpStream> stream = nullptr)
        : stream_(std::move(stream)) {}
    ~StreamReader() {
      if (stream_ != nullptr) stream_->Abandon();
    }
    StreamReader(StreamReader&& other) noexcept : stream_(std::move(other.stream_)) {}
    StreamReader& operator=(StreamReader&& other) noexcept {
      std::swap(stream_, other.stream_);
      return *this;
    }
    explicit operator bool() const { return stream_ != nullptr; }
    HttpStream* operator->() const { return stream_.get(); }

   private:
    std::shared_ptr<HttpStream> stream_;
  };

  struct Connection {
    enum class Phase { kReading, kWriting, kStreaming, kClosing };
    Descriptor socket;
    absl::Time deadline;
    Phase phase = Phase::kReading;
    std::string text;  // of the request, then of what is left of the answer
    std::optional<HttpRequest> request = std::nullopt;  // once its head has come
    size_t head_size = 0;                               // of the request's text
    size_t written = 0;                                 // of the answer
    StreamReader stream{};

    // All that was to be sent so far is.
    bool waits_for_news() const { return phase == Phase::kStreaming && written == text.size(); }
  };

  void Run();
  bool IsAnswering() const;
  // What to wait for on it, with poll.
  int16_t WaitsFor(const Connection& connection) const;
  void Accept(int listening);
  void MakeRoom();
  // Whether the connection lives on.
  bool Serve(Connection* connection);
  bool Read(Connection* connection);
  bool Write(Connection* connection);
  bool Stream(Connection* connection);
  bool Close(Connection* connection);
  bool Send(Connection* connection);  // what there is of the answer
  void BeginClosing(Connection* connection);
  // What there is to say to the request so far; nothing: more of it must come.
  std::optional<HttpAnswer> AnswerTo(Connection* connection) const;
  std::optional<HttpAnswer> ReadHead(Connection* connection) const;  // its refusal

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
