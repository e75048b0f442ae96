#include "server/network/http_endpoint.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/steady_time.h"

namespace mambad::server {
namespace {

// A failed accept (no descriptors) leaves its peer waiting: not in a hurry.
constexpr absl::Duration kAcceptPause = absl::Milliseconds(100);
// Time for the peer to close first, so that the system does not cut the answer's end off.
constexpr absl::Duration kClosePatience = absl::Seconds(1);

const char* Reason(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 431:
      return "Request Header Fields Too Large";
    case 503:
      return "Service Unavailable";
    default:
      return "Answer";
  }
}

std::string Format(const HttpAnswer& answer, bool with_body) {
  return absl::StrCat("HTTP/1.1 ", answer.status, " ", Reason(answer.status),
                      "\r\nContent-Type: ", answer.content_type,
                      "\r\nContent-Length: ", answer.body.size(),
                      answer.status == 405 ? "\r\nAllow: GET, HEAD" : "",
                      "\r\nConnection: close\r\n\r\n", with_body ? answer.body : "");
}

bool IsWhole(absl::string_view request) {
  return absl::StrContains(request, "\r\n\r\n") || absl::StrContains(request, "\n\n");
}

// The target without scheme, host and query.
std::string PathOf(absl::string_view target) {
  if (const size_t scheme = target.find("://"); scheme != absl::string_view::npos) {
    const size_t slash = target.find('/', scheme + 3);
    target = slash == absl::string_view::npos ? "/" : target.substr(slash);
  }
  return std::string(target.substr(0, target.find_first_of("?#")));
}

}  // namespace

HttpEndpoint::HttpEndpoint(Listener listener, const Limits& limits, Handler handler)
    : limits_(limits),
      handler_(std::move(handler)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      listener_(std::move(listener)),
      thread_([this] { Run(); }) {}

HttpEndpoint::~HttpEndpoint() {
  const uint64_t one = 1;
  if (write(wake_.number(), &one, sizeof(one)) > 0) thread_.join();  // the counter is far from full
}

void HttpEndpoint::Run() {
  for (std::vector<pollfd> waited;;) {
    waited = {{wake_.number(), POLLIN, 0}};
    absl::Time next = absl::InfiniteFuture();
    const bool accepting = SteadyNow() >= accept_again_;
    if (!accepting) next = accept_again_;
    for (const Descriptor& socket : listener_.sockets) {
      waited.push_back({accepting ? socket.number() : -1, POLLIN, 0});
    }
    const size_t first = waited.size();
    for (const Connection& connection : connections_) {
      const bool writes = connection.phase == Connection::Phase::kWriting;
      waited.push_back(
          {connection.socket.number(), static_cast<int16_t>(writes ? POLLOUT : POLLIN), 0});
      next = std::min(next, connection.deadline);
    }
    const int64_t timeout =
        next == absl::InfiniteFuture()
            ? -1
            : std::max<int64_t>(absl::ToInt64Milliseconds(next - SteadyNow()) + 1, 0);
    if (poll(waited.data(), waited.size(), static_cast<int>(timeout)) < 0 && errno != EINTR) return;
    if (waited[0].revents != 0) return;
    const absl::Time now = SteadyNow();
    for (size_t i = 0; i < connections_.size(); ++i) {
      Connection& connection = connections_[i];
      const bool lives = waited[first + i].revents != 0 ? Serve(&connection) : true;
      if (!lives || connection.deadline <= now) connection.socket.Close();
    }
    connections_.erase(std::remove_if(connections_.begin(), connections_.end(),
                                      [](const Connection& c) { return c.socket.number() < 0; }),
                       connections_.end());
    for (size_t i = 1; i < first; ++i) {
      if (waited[i].revents != 0) Accept(waited[i].fd);
    }
  }
}

void HttpEndpoint::Accept(int listening) {
  const int descriptor = accept4(listening, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (descriptor < 0) {
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
      accept_again_ = SteadyNow() + kAcceptPause;
    }
    return;
  }
  if (connections_.size() >= limits_.connections) connections_.erase(connections_.begin());
  Connection connection;
  connection.socket = Descriptor(descriptor);
  connection.deadline = SteadyNow() + limits_.patience;
  connections_.push_back(std::move(connection));
}

bool HttpEndpoint::Serve(Connection* connection) {
  switch (connection->phase) {
    case Connection::Phase::kReading:
      return Read(connection);
    case Connection::Phase::kWriting:
      return Write(connection);
    case Connection::Phase::kClosing:
      return Close(connection);
  }
  return false;
}

bool HttpEndpoint::Read(Connection* connection) {
  char buffer[2048];
  const ssize_t size = recv(connection->socket.number(), buffer, sizeof(buffer), MSG_DONTWAIT);
  if (size < 0) return errno == EAGAIN || errno == EINTR;
  if (size == 0) return false;
  connection->text.append(buffer, static_cast<size_t>(size));
  if (connection->text.size() > limits_.request_bytes) {
    connection->text = Format({431, "text/plain", "the request is too long\n"}, true);
  } else if (IsWhole(connection->text)) {
    connection->text = AnswerTo(connection->text);
  } else {
    return true;
  }
  connection->phase = Connection::Phase::kWriting;
  connection->deadline = SteadyNow() + limits_.patience;
  return Write(connection);
}

bool HttpEndpoint::Write(Connection* connection) {
  const absl::string_view rest = absl::string_view(connection->text).substr(connection->written);
  const ssize_t size =
      send(connection->socket.number(), rest.data(), rest.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (size < 0) return errno == EAGAIN || errno == EINTR;
  connection->written += static_cast<size_t>(size);
  if (connection->written < connection->text.size()) return true;
  shutdown(connection->socket.number(), SHUT_WR);
  connection->phase = Connection::Phase::kClosing;
  connection->deadline = SteadyNow() + kClosePatience;
  return true;
}

bool HttpEndpoint::Close(Connection* connection) {
  char ignored[2048];
  const ssize_t size = recv(connection->socket.number(), ignored, sizeof(ignored), MSG_DONTWAIT);
  return size > 0 || (size < 0 && (errno == EAGAIN || errno == EINTR));
}

std::string HttpEndpoint::AnswerTo(const std::string& request) const {
  const std::vector<std::string> words =
      absl::StrSplit(request.substr(0, request.find_first_of("\r\n")), ' ');
  if (words.size() != 3 || !absl::StartsWith(words[2], "HTTP/1.")) {
    return Format({400, "text/plain", "expected: GET PATH HTTP/1.1\n"}, true);
  }
  if (words[0] != "GET" && words[0] != "HEAD") {
    return Format({405, "text/plain", "only GET and HEAD are served here\n"}, true);
  }
  return Format(handler_(PathOf(words[1])), words[0] == "GET");
}

}  // namespace mambad::server
