// Ports, connections and the HTTP endpoint, apart from the daemon.

#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <future>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/network/connection_acceptor.h"
#include "server/network/http_endpoint.h"
#include "server/network/listener.h"
#include "server/network/transport_settings.h"
#include "server/process_limits.h"

namespace mambad::server {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// A socket that is not connected yet.
Descriptor ClientSocket() { return Descriptor(socket(AF_INET, SOCK_STREAM, 0)); }

// From 127.0.0.`host`: on loopback a client may choose who it is.
void ConnectFrom(int host, int port, const Descriptor& client) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK - 1 + static_cast<uint32_t>(host));
  ASSERT_EQ(bind(client.number(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  ASSERT_EQ(connect(client.number(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
}

Descriptor Connected(int port, int host = 1) {
  Descriptor client = ClientSocket();
  ConnectFrom(host, port, client);
  return client;
}

void Send(const Descriptor& client, const std::string& text) {
  EXPECT_EQ(send(client.number(), text.data(), text.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(text.size()));
}

// All until the other side closes; stops after 30 s.
std::string ReadAll(const Descriptor& client) {
  std::string text;
  char buffer[4096];
  pollfd waited = {client.number(), POLLIN, 0};
  while (poll(&waited, 1, 30000) > 0) {
    const ssize_t size = recv(client.number(), buffer, sizeof(buffer), 0);
    if (size <= 0) break;
    text.append(buffer, static_cast<size_t>(size));
  }
  return text;
}

bool WaitFor(const std::function<bool()>& condition) {
  for (int i = 0; i < 3000 && !condition(); ++i) absl::SleepFor(absl::Milliseconds(10));
  return condition();
}

TEST(ListenerTest, ErrorsSayWhatTheSystemSaysAndTheWayOut) {
  absl::StatusOr<Listener> first = Listen("listen", "--listen", "127.0.0.1:0");
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_GT(first->port, 0);
  const std::string taken = absl::StrCat("127.0.0.1:", first->port);
  EXPECT_EQ(Listen("listen", "--listen", taken).status().message(),
            absl::StrCat("listen: cannot listen on ", taken,
                         ": Address already in use (another mambad? choose another with "
                         "--listen)"));
  EXPECT_THAT(std::string(Listen("listen", "--listen", "192.0.2.1:0").status().message()),
              HasSubstr("Cannot assign requested address (it is no address of this machine)"));
  EXPECT_THAT(
      std::string(
          Listen("metrics.listen", "--metrics", "no.such.host.invalid:0").status().message()),
      AllOf(StartsWith("metrics.listen: cannot listen on no.such.host.invalid:0: "),
            HasSubstr("\"no.such.host.invalid\" must be a name or an address of this machine")));
  EXPECT_EQ(Listen("listen", "--listen", "8080").status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(ListenerTest, AClosedPortCanBeHadAgain) {
  int port = 0;
  {
    absl::StatusOr<Listener> first = Listen("listen", "--listen", "localhost:0");
    ASSERT_TRUE(first.ok()) << first.status();
    port = first->port;
    Connected(port);
  }
  EXPECT_TRUE(Listen("listen", "--listen", absl::StrCat("localhost:", port)).ok());
}

// An acceptor that keeps what it gets.
class Acceptor {
 public:
  explicit Acceptor(const ConnectionLimits& limits) {
    Listener listener = *Listen("listen", "--listen", "127.0.0.1:0");
    port = listener.port;
    acceptor = std::make_unique<ConnectionAcceptor>(
        std::move(listener), limits,
        [this](int descriptor) {
          MutexLock lock(&mutex_);
          sockets_.emplace_back(descriptor);
        },
        [this](const absl::Status& reason) { failed.set_value(reason); });
  }
  void CloseAll() {
    MutexLock lock(&mutex_);
    sockets_.clear();
  }
  bool HasOpen(int count) {
    return WaitFor([&] { return acceptor->counts().open == count; });
  }
  // That it was given so many, without having the acceptor look which of them are open.
  bool HasReceived(size_t count) {
    return WaitFor([&] {
      MutexLock lock(&mutex_);
      return sockets_.size() == count;
    });
  }

  int port = 0;
  std::promise<absl::Status> failed;

 private:
  Mutex mutex_;
  std::vector<Descriptor> sockets_ ABSL_GUARDED_BY(mutex_);

 public:
  // Last: its thread uses the others until it is gone.
  std::unique_ptr<ConnectionAcceptor> acceptor;
};

TEST(ConnectionAcceptorTest, RefusesBeyondTheBoundAndRecovers) {
  Acceptor acceptor({.connections = 3, .connections_per_peer = 3});
  std::vector<Descriptor> clients;
  for (int i = 0; i < 3; ++i) clients.push_back(Connected(acceptor.port));
  ASSERT_TRUE(acceptor.HasOpen(3));
  EXPECT_EQ(ReadAll(Connected(acceptor.port)), "");
  EXPECT_EQ(acceptor.acceptor->counts().refused_full, 1);
  // What is closed makes room, without anybody telling the acceptor.
  acceptor.CloseAll();
  ASSERT_TRUE(acceptor.HasOpen(0));
  Descriptor later = Connected(acceptor.port);
  ASSERT_TRUE(acceptor.HasOpen(1));
  EXPECT_EQ(acceptor.acceptor->counts().accepted, 4);
}

TEST(ConnectionAcceptorTest, OnePeerDoesNotKeepOthersOut) {
  Acceptor acceptor({.connections = 10, .connections_per_peer = 2});
  Descriptor first = Connected(acceptor.port, 1), second = Connected(acceptor.port, 1);
  ASSERT_TRUE(acceptor.HasOpen(2));
  ReadAll(Connected(acceptor.port, 1));
  EXPECT_EQ(acceptor.acceptor->counts().refused_peer, 1);
  Descriptor other = Connected(acceptor.port, 2);
  EXPECT_TRUE(acceptor.HasOpen(3));
  EXPECT_EQ(acceptor.acceptor->counts().refused_full, 0);
}

// Nobody tells the acceptor of a connection that is gone; its number is soon another one's.
TEST(ConnectionAcceptorTest, ConnectionsThatAreGoneTakeNoPlaceOfTheirPeers) {
  Acceptor acceptor({.connections = 10, .connections_per_peer = 2});
  for (int i = 0; i < 5; ++i) {
    Descriptor client = Connected(acceptor.port);
    ASSERT_TRUE(acceptor.HasReceived(1)) << i;
    acceptor.CloseAll();
    EXPECT_EQ(ReadAll(client), "");
  }
  Descriptor client = Connected(acceptor.port);
  ASSERT_TRUE(acceptor.HasReceived(1));
  EXPECT_EQ(acceptor.acceptor->counts().refused_peer, 0);
}

TEST(ConnectionAcceptorTest, ClosesThePortWhenStopped) {
  Acceptor acceptor({.connections = 3, .connections_per_peer = 3});
  acceptor.acceptor->Stop();
  acceptor.acceptor->Stop();
  EXPECT_TRUE(Listen("listen", "--listen", absl::StrCat("127.0.0.1:", acceptor.port)).ok());
}

// Takes all descriptors that the process may open.
std::vector<Descriptor> TakeAllDescriptors() {
  std::vector<Descriptor> taken;
  for (;;) {
    Descriptor next(open("/dev/null", O_RDONLY));
    if (next.number() < 0) return taken;
    taken.push_back(std::move(next));
  }
}

class FewDescriptors {
 public:
  FewDescriptors() {
    getrlimit(RLIMIT_NOFILE, &before_);
    const rlimit few = {256, before_.rlim_max};
    setrlimit(RLIMIT_NOFILE, &few);
  }
  ~FewDescriptors() { setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_;
};

TEST(ConnectionAcceptorTest, WithoutDescriptorsItRefusesAndAcceptsAgainWhenThereAreSome) {
  FewDescriptors few;
  Acceptor acceptor({.connections = 100, .connections_per_peer = 100});
  Descriptor early[] = {ClientSocket(), ClientSocket(), ClientSocket()};
  std::vector<Descriptor> taken = TakeAllDescriptors();
  for (int i = 0; i < 3; ++i) {
    ConnectFrom(1, acceptor.port, early[i]);
    EXPECT_EQ(ReadAll(early[i]), "");
    EXPECT_EQ(acceptor.acceptor->counts().refused_descriptors, i + 1);
  }
  taken.clear();
  Descriptor later = Connected(acceptor.port);
  EXPECT_TRUE(acceptor.HasOpen(1));
}

TEST(ConnectionAcceptorTest, WantsOfDescriptorsWithAcceptedOnesBetweenThemAreNoFailure) {
  FewDescriptors few;
  Acceptor acceptor({.connections = 100,
                     .connections_per_peer = 100,
                     .failure_patience = absl::Milliseconds(200)});
  std::vector<Descriptor> clients;
  for (int i = 0; i < 3; ++i) {
    Descriptor refused = ClientSocket();
    std::vector<Descriptor> taken = TakeAllDescriptors();
    ConnectFrom(1, acceptor.port, refused);
    EXPECT_EQ(ReadAll(refused), "");
    taken.clear();
    clients.push_back(Connected(acceptor.port));
    ASSERT_TRUE(acceptor.HasReceived(clients.size()));
    absl::SleepFor(absl::Milliseconds(300));
  }
  EXPECT_EQ(acceptor.failed.get_future().wait_for(std::chrono::seconds(0)),
            std::future_status::timeout);
}

TEST(ConnectionAcceptorTest, GivesUpWhenDescriptorsDoNotComeBack) {
  FewDescriptors few;
  Acceptor acceptor({.connections = 100,
                     .connections_per_peer = 100,
                     .failure_patience = absl::Milliseconds(200)});
  std::vector<Descriptor> clients;
  for (int i = 0; i < 100; ++i) clients.push_back(ClientSocket());
  std::vector<Descriptor> taken = TakeAllDescriptors();
  for (const Descriptor& client : clients) ConnectFrom(1, acceptor.port, client);
  auto reason = acceptor.failed.get_future();
  ASSERT_EQ(reason.wait_for(std::chrono::seconds(30)), std::future_status::ready);
  EXPECT_THAT(std::string(reason.get().message()),
              HasSubstr("no connection could be accepted for 200ms: Too many open files"));
}

TEST(ConnectionLimitsTest, LeaveDescriptorsForOtherThings) {
  ServerOptions options;
  EXPECT_EQ(ChooseConnectionLimits(options, 1 << 20).connections, options.max_connections);
  EXPECT_EQ(ChooseConnectionLimits(options, 1 << 20).connections_per_peer,
            options.max_connections / 2);
  EXPECT_EQ(ChooseConnectionLimits(options, 1024).connections, 1024 - 160);
  EXPECT_EQ(ChooseConnectionLimits(options, 64).connections, 32);
  options.max_connections_per_peer = 7;
  EXPECT_EQ(ChooseConnectionLimits(options, 1024).connections_per_peer, 7);
}

TEST(MemoryQuotaTest, FollowsTheMachineUnlessSet) {
  ServerOptions options;
  EXPECT_EQ(ChooseMemoryQuota(options, 0), int64_t{64} << 20);
  EXPECT_EQ(ChooseMemoryQuota(options, int64_t{8} << 30), int64_t{128} << 20);
  EXPECT_EQ(ChooseMemoryQuota(options, int64_t{1} << 40), int64_t{256} << 20);
  options.memory_quota_bytes = 5000;
  EXPECT_EQ(ChooseMemoryQuota(options, int64_t{1} << 40), 5000);
}

TEST(ProcessLimitsTest, AreThoseOfThisProcess) {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  const rlimit lower = {std::min<rlim_t>(300, limit.rlim_max), limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &lower), 0);
  EXPECT_EQ(RaiseDescriptorLimit(), static_cast<int64_t>(limit.rlim_max));
  getrlimit(RLIMIT_NOFILE, &limit);
  EXPECT_EQ(limit.rlim_cur, limit.rlim_max);
  EXPECT_GT(MemoryLimitBytes(), 0);
  const ProcessUsage before = ReadProcessUsage();
  std::vector<Descriptor> sockets;
  for (int i = 0; i < 5; ++i) sockets.push_back(ClientSocket());
  const ProcessUsage usage = ReadProcessUsage();
  EXPECT_EQ(usage.open_descriptors, before.open_descriptors + 5);
  EXPECT_EQ(usage.most_descriptors, static_cast<int64_t>(limit.rlim_max));
  EXPECT_GE(usage.threads, 1);
  EXPECT_GT(usage.resident_bytes, 1 << 20);
  EXPECT_GT(usage.virtual_bytes, usage.resident_bytes);
  EXPECT_GE(usage.cpu_seconds, before.cpu_seconds);
  // This process has started, and not long ago (a day is much for a test).
  EXPECT_LT(usage.start_seconds, static_cast<double>(absl::ToUnixSeconds(absl::Now())) + 2);
  EXPECT_GT(usage.start_seconds, static_cast<double>(absl::ToUnixSeconds(absl::Now())) - 86400);
}

class HttpEndpointTest : public ::testing::Test {
 protected:
  void Start(const HttpEndpoint::Limits& limits, size_t body_size = 5) {
    Listener listener = *Listen("metrics.listen", "--metrics", "127.0.0.1:0");
    port_ = listener.port;
    endpoint_ = std::make_unique<HttpEndpoint>(
        std::move(listener), limits, [this, body_size](const HttpRequest& request) {
          if (request.path == "/body")
            return HttpAnswer{200, "text/plain", std::string(body_size, 'b')};
          if (request.path == "/echo") {
            return HttpAnswer{
                200, "text/plain",
                absl::StrCat(request.method, " ", request.Header("x-word"), " ", request.body)};
          }
          if (request.path == "/stream") {
            HttpAnswer answer{200, "text/plain", "begin "};
            answer.stream = stream_;
            return answer;
          }
          return HttpAnswer{404, "text/plain", absl::StrCat("no ", request.path)};
        });
  }
  std::string Ask(const std::string& request) {
    Descriptor client = Connected(port_);
    Send(client, request);
    return ReadAll(client);
  }
  // A client that has asked for the stream; and a future that is there once it is abandoned.
  Descriptor AskForStream() {
    Descriptor client = Connected(port_);
    Send(client, "POST /stream HTTP/1.1\r\nContent-Length: 0\r\n\r\n");
    return client;
  }
  std::future<void> Abandoned() {
    stream_->OnAbandoned([this] { abandoned_.set_value(); });
    return abandoned_.get_future();
  }

  int port_ = 0;
  std::promise<void> abandoned_;
  std::shared_ptr<HttpStream> stream_ = std::make_shared<HttpStream>(size_t{16} << 20);
  std::unique_ptr<HttpEndpoint> endpoint_;
};

TEST_F(HttpEndpointTest, AnswersGetAndHead) {
  Start({});
  EXPECT_EQ(Ask("GET /body HTTP/1.1\r\nHost: a\r\n\r\n"),
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n"
            "Connection: close\r\n\r\nbbbbb");
  EXPECT_EQ(Ask("HEAD /body HTTP/1.1\r\n\r\n"),
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n"
            "Connection: close\r\n\r\n");
  EXPECT_THAT(Ask("GET /body?a=b HTTP/1.0\r\n\r\n"), StartsWith("HTTP/1.1 200 OK"));
  EXPECT_THAT(Ask("GET http://host:1/body HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 200 OK"));
  EXPECT_THAT(Ask("GET /other HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 404 Not Found"));
}

TEST_F(HttpEndpointTest, RefusesWhatIsNoRequest) {
  Start({});
  EXPECT_THAT(Ask("POST /body HTTP/1.1\r\n\r\nx=y"),
              AllOf(StartsWith("HTTP/1.1 405"), HasSubstr("Allow: GET, HEAD")));
  EXPECT_THAT(Ask("hello\r\n\r\n"), StartsWith("HTTP/1.1 400"));
  EXPECT_THAT(Ask("GET /body HTTP/2.0\r\n\r\n"), StartsWith("HTTP/1.1 400"));
  EXPECT_THAT(Ask("GET /body HTTP/1.1\r\nA: " + std::string(9000, 'a')),
              StartsWith("HTTP/1.1 431"));
}

TEST_F(HttpEndpointTest, TakesBodiesWhereTheyAreTaken) {
  Start({.body_bytes = 10});
  EXPECT_THAT(Ask("POST /echo HTTP/1.1\r\nX-Word:  w \r\nContent-Length: 10\r\n\r\n0123456789ab"),
              HasSubstr("\r\n\r\nPOST w 0123456789"));
  EXPECT_THAT(Ask("GET /echo HTTP/1.1\nX-Word: v\nContent-Length: 99\n\n"),
              HasSubstr("\r\n\r\nGET v "));
  EXPECT_THAT(Ask("POST /echo HTTP/1.1\r\nContent-Length: 11\r\n\r\n"),
              AllOf(StartsWith("HTTP/1.1 413"), HasSubstr("11 bytes, allowed at most 10")));
  EXPECT_THAT(Ask("POST /echo HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 411"));
  EXPECT_THAT(Ask("POST /echo HTTP/1.1\r\nContent-Length: -1\r\n\r\n"), StartsWith("HTTP/1.1 400"));
  EXPECT_THAT(Ask("GET /echo HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n"),
              AllOf(StartsWith("HTTP/1.1 400"), HasSubstr("two headers host")));
  EXPECT_THAT(Ask("PUT /echo HTTP/1.1\r\nContent-Length: 1\r\n\r\na"), StartsWith("HTTP/1.1 405"));
}

TEST_F(HttpEndpointTest, ABodyMayComeInPieces) {
  Start({.body_bytes = 10});
  Descriptor client = Connected(port_);
  for (const char* piece : {"POST /echo HT", "TP/1.1\r\nContent-Length: 4\r\n\r", "\nab", "cd"}) {
    Send(client, piece);
    absl::SleepFor(absl::Milliseconds(20));
  }
  EXPECT_THAT(ReadAll(client), HasSubstr("POST  abcd"));
}

TEST_F(HttpEndpointTest, StreamsGoOutAsTheyAreMade) {
  Start({.body_bytes = 10, .patience = absl::Milliseconds(200)});
  Descriptor client = AskForStream();
  // Longer than anybody may take to read: who waits for news is not late.
  absl::SleepFor(absl::Milliseconds(500));
  EXPECT_TRUE(stream_->Write("middle "));
  absl::SleepFor(absl::Milliseconds(500));
  EXPECT_TRUE(stream_->Write("end"));
  stream_->End();
  const std::string answer = ReadAll(client);
  EXPECT_THAT(answer, HasSubstr("\r\n\r\nbegin middle end"));
  EXPECT_THAT(answer, ::testing::Not(HasSubstr("Content-Length")));
}

TEST_F(HttpEndpointTest, AStreamIsAbandonedWithItsPeer) {
  Start({.body_bytes = 10});
  std::future<void> abandoned = Abandoned();
  {
    Descriptor client = AskForStream();
    EXPECT_EQ(abandoned.wait_for(std::chrono::milliseconds(300)), std::future_status::timeout);
  }
  ASSERT_EQ(abandoned.wait_for(std::chrono::seconds(30)), std::future_status::ready);
  EXPECT_FALSE(stream_->Write("nobody reads this"));
}

TEST_F(HttpEndpointTest, AStreamIsAbandonedWhenItIsNotRead) {
  Start({.body_bytes = 10, .patience = absl::Milliseconds(200)});
  std::future<void> abandoned = Abandoned();
  Descriptor client = AskForStream();
  // More than the system's buffers hold.
  EXPECT_TRUE(stream_->Write(std::string(size_t{15} << 20, 's')));
  ASSERT_EQ(abandoned.wait_for(std::chrono::seconds(30)), std::future_status::ready);
  EXPECT_LT(ReadAll(client).size(), size_t{15} << 20);
}

TEST_F(HttpEndpointTest, AStreamHoldsNoMoreThanItMay) {
  Start({.body_bytes = 10});
  EXPECT_TRUE(stream_->Write(std::string(size_t{16} << 20, 's')));
  EXPECT_FALSE(stream_->Write("s"));
}

TEST_F(HttpEndpointTest, SilentPeersDoNotEndAStream) {
  Start({.connections = 4, .body_bytes = 10, .patience = absl::Hours(1)});
  Descriptor client = AskForStream();
  std::vector<Descriptor> silent;
  for (int i = 0; i < 20; ++i) silent.push_back(Connected(port_));
  EXPECT_THAT(Ask("GET /body HTTP/1.1\r\n\r\n"), HasSubstr("bbbbb"));
  EXPECT_TRUE(stream_->Write("still here"));
  stream_->End();
  EXPECT_THAT(ReadAll(client), HasSubstr("still here"));
}

TEST_F(HttpEndpointTest, TheEndOfTheEndpointAbandonsItsStreams) {
  Start({.body_bytes = 10});
  std::future<void> abandoned = Abandoned();
  Descriptor client = AskForStream();
  char byte = 0;
  ASSERT_EQ(recv(client.number(), &byte, 1, 0), 1);  // the stream is the connection's
  endpoint_.reset();
  EXPECT_EQ(abandoned.wait_for(std::chrono::seconds(0)), std::future_status::ready);
}

TEST_F(HttpEndpointTest, TheEndOfTheEndpointLetsAnswersGoOut) {
  Start({.body_bytes = 10});
  Descriptor client = AskForStream();
  char byte = 0;
  ASSERT_EQ(recv(client.number(), &byte, 1, 0), 1);
  std::thread late([this] {
    absl::SleepFor(absl::Milliseconds(100));
    stream_->Write("the last words");
    stream_->End();
  });
  endpoint_.reset();
  late.join();
  EXPECT_THAT(ReadAll(client), HasSubstr("the last words"));
}

TEST_F(HttpEndpointTest, SilentPeersHoldUpNobody) {
  Start({.connections = 8, .patience = absl::Hours(1)});
  std::vector<Descriptor> silent;
  for (int i = 0; i < 50; ++i) {
    silent.push_back(Connected(port_));
    if (i % 2 == 0) Send(silent.back(), "GET /bo");
  }
  // Their hour is not over: an endpoint that they held up would answer after it.
  for (int i = 0; i < 10; ++i) {
    EXPECT_THAT(Ask("GET /body HTTP/1.1\r\n\r\n"), HasSubstr("bbbbb"));
  }
}

TEST_F(HttpEndpointTest, PeersThatTakeTooLongAreCutOff) {
  Start({.connections = 8, .patience = absl::Milliseconds(100)}, size_t{64} << 20);
  Descriptor silent = Connected(port_), slow = Connected(port_);
  Send(silent, "GET /body");
  EXPECT_EQ(ReadAll(silent), "");
  // An answer that is not read does not fit into the system's buffers.
  Send(slow, "GET /body HTTP/1.1\r\n\r\n");
  absl::SleepFor(absl::Seconds(1));
  EXPECT_LT(ReadAll(slow).size(), size_t{64} << 20);
}

}  // namespace
}  // namespace mambad::server
