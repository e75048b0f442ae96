#include "server/network/http_endpoint.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/steady_time.h"

namespace mambad::server {
namespace {

// A failed accept (no descriptors) leaves its peer waiting: not in a hurry.
constexpr absl::Duration kAcceptPause = absl::Milliseconds(100);
// At the endpoint's end, for answers that are under way: other threads' end about then, too.
constexpr absl::Duration kLastAnswers = absl::Milliseconds(500);
// Time for the peer to close first, so that the system does not cut the answer's end off.
constexpr absl::Duration kClosePatience = absl::Seconds(1);

const char* Reason(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 411:
      return "Length Required";
    case 413:
      return "Content Too Large";
    case 415:
      return "Unsupported Media Type";
    case 421:
      return "Misdirected Request";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 503:
      return "Service Unavailable";
    default:
      return "Answer";
  }
}

std::string Format(const HttpAnswer& answer, bool with_body) {
  std::string text = absl::StrCat("HTTP/1.1 ", answer.status, " ", Reason(answer.status),
                                  "\r\nContent-Type: ", answer.content_type);
  if (answer.stream == nullptr) {
    absl::StrAppend(&text, "\r\nContent-Length: ", answer.body.size());
  }
  for (const auto& [name, value] : answer.headers) {
    absl::StrAppend(&text, "\r\n", name, ": ", value);
  }
  absl::StrAppend(&text, "\r\nConnection: close\r\n\r\n", with_body ? answer.body : "");
  return text;
}

HttpAnswer Refusal(int status, absl::string_view words) {
  return {status, "text/plain", absl::StrCat(words, "\n")};
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
  absl::Time end = absl::InfiniteFuture();  // once it is to stop
  for (std::vector<pollfd> waited;;) {
    const bool stopping = end != absl::InfiniteFuture();
    if (stopping && (!IsAnswering() || SteadyNow() >= end)) return;
    waited = {{stopping ? -1 : wake_.number(), POLLIN, 0}};
    absl::Time next = end;
    const bool accepting = !stopping && SteadyNow() >= accept_again_;
    if (!stopping && !accepting) next = accept_again_;
    for (const Descriptor& socket : listener_.sockets) {
      waited.push_back({accepting ? socket.number() : -1, POLLIN, 0});
    }
    const size_t first = waited.size();
    // Two entries a connection: its socket, and the news of what it is sent.
    for (const Connection& connection : connections_) {
      waited.push_back({connection.socket.number(), WaitsFor(connection), 0});
      waited.push_back({connection.waits_for_news() ? connection.stream->news() : -1, POLLIN, 0});
      next = std::min(next, connection.deadline);
    }
    const int64_t timeout =
        next == absl::InfiniteFuture()
            ? -1
            : std::max<int64_t>(absl::ToInt64Milliseconds(next - SteadyNow()) + 1, 0);
    if (poll(waited.data(), waited.size(), static_cast<int>(timeout)) < 0 && errno != EINTR) return;
    if (waited[0].revents != 0) end = SteadyNow() + kLastAnswers;
    const absl::Time now = SteadyNow();
    for (size_t i = 0; i < connections_.size(); ++i) {
      Connection& connection = connections_[i];
      const bool is_ready =
          (waited[first + 2 * i].revents | waited[first + 2 * i + 1].revents) != 0;
      const bool lives = is_ready ? Serve(&connection) : true;
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

bool HttpEndpoint::IsAnswering() const {
  return std::any_of(connections_.begin(), connections_.end(), [](const Connection& c) {
    return c.phase == Connection::Phase::kWriting || c.phase == Connection::Phase::kStreaming;
  });
}

int16_t HttpEndpoint::WaitsFor(const Connection& connection) const {
  if (connection.phase == Connection::Phase::kWriting) return POLLOUT;
  // A peer that goes is noticed at once, whatever is to be sent.
  if (connection.phase == Connection::Phase::kStreaming && !connection.waits_for_news())
    return POLLIN | POLLOUT;
  return POLLIN;
}

void HttpEndpoint::Accept(int listening) {
  const int descriptor = accept4(listening, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (descriptor < 0) {
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
      accept_again_ = SteadyNow() + kAcceptPause;
    }
    return;
  }
  if (connections_.size() >= limits_.connections) MakeRoom();
  Connection connection;
  connection.socket = Descriptor(descriptor);
  connection.deadline = SteadyNow() + limits_.patience;
  connections_.push_back(std::move(connection));
}

// Answers that are under way are the last to go: those who read them do not keep anybody waiting.
void HttpEndpoint::MakeRoom() {
  const auto silent = std::find_if(connections_.begin(), connections_.end(), [](const auto& c) {
    return c.phase != Connection::Phase::kStreaming;
  });
  connections_.erase(silent != connections_.end() ? silent : connections_.begin());
}

bool HttpEndpoint::Serve(Connection* connection) {
  switch (connection->phase) {
    case Connection::Phase::kReading:
      return Read(connection);
    case Connection::Phase::kWriting:
      return Write(connection);
    case Connection::Phase::kStreaming:
      return Stream(connection);
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
  const std::optional<HttpAnswer> answer = AnswerTo(connection);
  if (!answer.has_value()) return true;
  const bool is_head = connection->request.has_value() && connection->request->method == "HEAD";
  connection->text = Format(*answer, !is_head);
  connection->stream = StreamReader(answer->stream);
  connection->deadline = SteadyNow() + limits_.patience;
  connection->phase =
      connection->stream ? Connection::Phase::kStreaming : Connection::Phase::kWriting;
  return Serve(connection);
}

std::optional<HttpAnswer> HttpEndpoint::ReadHead(Connection* connection) const {
  const auto text = absl::string_view(connection->text);
  const size_t size = HttpHeadSize(text.substr(0, limits_.request_bytes));
  if (size == absl::string_view::npos) {
    if (text.size() < limits_.request_bytes) return std::nullopt;
    return Refusal(431, "the request is too long");
  }
  absl::StatusOr<HttpRequest> request = ParseHttpHead(text.substr(0, size));
  if (!request.ok()) return Refusal(400, request.status().message());
  const bool has_body = request->method == "POST" && limits_.body_bytes > 0;
  if (!has_body && request->method != "GET" && request->method != "HEAD") {
    HttpAnswer refusal = Refusal(405, "only GET and HEAD are served here");
    refusal.headers = {{"Allow", "GET, HEAD"}};
    return refusal;
  }
  if (has_body && !request->content_length.has_value())
    return Refusal(411, "expected a Content-Length");
  if (has_body && *request->content_length > limits_.body_bytes) {
    return Refusal(413, absl::StrCat("the body has ", *request->content_length,
                                     " bytes, allowed at most ", limits_.body_bytes));
  }
  if (!has_body) request->content_length.reset();
  connection->head_size = size;
  connection->request = *std::move(request);
  return std::nullopt;
}

std::optional<HttpAnswer> HttpEndpoint::AnswerTo(Connection* connection) const {
  std::optional<HttpRequest>& request = connection->request;
  if (!request.has_value()) {
    std::optional<HttpAnswer> refusal = ReadHead(connection);
    if (refusal.has_value() || !request.has_value()) return refusal;
  }
  const size_t body = request->content_length.value_or(0);
  if (connection->text.size() - connection->head_size < body) return std::nullopt;
  request->body = connection->text.substr(connection->head_size, body);
  return handler_(*request);
}

bool HttpEndpoint::Send(Connection* connection) {
  const absl::string_view rest = absl::string_view(connection->text).substr(connection->written);
  if (rest.empty()) return true;
  const ssize_t size =
      send(connection->socket.number(), rest.data(), rest.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (size < 0) return errno == EAGAIN || errno == EINTR;
  connection->written += static_cast<size_t>(size);
  return true;
}

void HttpEndpoint::BeginClosing(Connection* connection) {
  shutdown(connection->socket.number(), SHUT_WR);
  connection->phase = Connection::Phase::kClosing;
  connection->deadline = SteadyNow() + kClosePatience;
}

bool HttpEndpoint::Write(Connection* connection) {
  if (!Send(connection)) return false;
  if (connection->written == connection->text.size()) BeginClosing(connection);
  return true;
}

// The peer says nothing more, or that it is gone. It has limits_.patience for each bit of the
// answer, and as long as it takes to wait for the next.
bool HttpEndpoint::Stream(Connection* connection) {
  if (!Close(connection)) return false;
  const size_t before = connection->written;
  const bool waited = connection->waits_for_news();
  if (waited) {
    bool ended = false;
    connection->text = connection->stream->Take(&ended);
    connection->written = 0;
    if (ended) {
      connection->phase = Connection::Phase::kWriting;
      connection->deadline = SteadyNow() + limits_.patience;
      return Write(connection);
    }
  }
  if (!Send(connection)) return false;
  if (connection->waits_for_news()) {
    connection->deadline = absl::InfiniteFuture();
  } else if (waited || connection->written > before) {
    connection->deadline = SteadyNow() + limits_.patience;
  }
  return true;
}

bool HttpEndpoint::Close(Connection* connection) {
  char ignored[2048];
  const ssize_t size = recv(connection->socket.number(), ignored, sizeof(ignored), MSG_DONTWAIT);
  return size > 0 || (size < 0 && (errno == EAGAIN || errno == EINTR));
}

}  // namespace mambad::server
