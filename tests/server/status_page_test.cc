// The page of the metrics endpoint: who may see it, and the prompts that it takes.

#include "server/page/status_page.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "server/network/listener.h"
#include "server/security/token.h"
#include "server/security/token_file.h"
#include "server/server_options.h"
#include "tests/server/test_daemon.h"

namespace mambad::server {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using Json = nlohmann::json;

ServerOptions PageOptions(MetricsPage page) {
  ServerOptions options = TestDaemon::Options();
  options.metrics_listen = "127.0.0.1:0";
  options.metrics_page = page;
  return options;
}

// A connection to the endpoint that has sent this.
Descriptor Asking(int port, const std::string& request) {
  Descriptor client(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(client.number(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_EQ(send(client.number(), request.data(), request.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(request.size()));
  return client;
}

std::string ReadAll(const Descriptor& client) {
  std::string text;
  char buffer[4096];
  for (ssize_t size; (size = recv(client.number(), buffer, sizeof(buffer), 0)) > 0;)
    text.append(buffer, static_cast<size_t>(size));
  return text;
}

// As much of the answer as has some of its text: the call runs.
std::string ReadSome(const Descriptor& client) {
  std::string text;
  char buffer[4096];
  for (ssize_t size; !absl::StrContains(text, "\"text\"") &&
                     (size = recv(client.number(), buffer, sizeof(buffer), 0)) > 0;)
    text.append(buffer, static_cast<size_t>(size));
  return text;
}

std::string Ask(TestDaemon& daemon, const std::string& request) {
  return ReadAll(Asking(daemon.daemon().metrics_port(), request));
}

std::string Get(const std::string& path, const std::string& host) {
  return absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: ", host, "\r\n\r\n");
}

std::string Post(const std::string& body, const std::string& headers = "") {
  return absl::StrCat("POST /generate HTTP/1.1\r\nHost: 127.0.0.1:1\r\nContent-Type: ",
                      "application/json\r\nContent-Length: ", body.size(), "\r\n", headers, "\r\n",
                      body);
}

constexpr char kHello[] = R"({"text": "hello", "stopping": {"max_tokens": 20}})";

// The answer's lines.
std::vector<Json> Lines(const std::string& answer) {
  std::vector<Json> lines;
  const std::string body = answer.substr(answer.find("\r\n\r\n") + 4);
  for (const auto line : absl::StrSplit(body, '\n', absl::SkipEmpty()))
    lines.push_back(Json::parse(line.begin(), line.end()));
  return lines;
}

std::string ErrorCode(const std::string& answer) {
  const std::vector<Json> lines = Lines(answer);
  return lines.empty() ? "" : lines.back().value("error", Json::object()).value("code", "");
}

TEST(StatusPageTest, IsOffUnlessItIsEnabled) {
  ServerOptions options = TestDaemon::Options();
  options.metrics_listen = "127.0.0.1:0";
  TestDaemon daemon(options);
  EXPECT_THAT(Ask(daemon, Get("/", "localhost")), Not(HasSubstr("<html")));
  EXPECT_THAT(Ask(daemon, Post(kHello)), StartsWith("HTTP/1.1 405"));
}

TEST(StatusPageTest, IsOneDocumentThatMayLoadNothing) {
  TestDaemon daemon(PageOptions(MetricsPage::kStatus));
  const std::string answer = Ask(daemon, Get("/", "127.0.0.1:9464"));
  EXPECT_THAT(answer, AllOf(StartsWith("HTTP/1.1 200"), HasSubstr("<!doctype html>"),
                            HasSubstr("Content-Security-Policy: default-src 'none'; "
                                      "script-src 'sha256-"),
                            HasSubstr("data-prompt=\"no\"")));
  EXPECT_THAT(answer, Not(HasSubstr("unsafe")));
  EXPECT_THAT(answer, Not(HasSubstr("https:")));
  EXPECT_THAT(answer, Not(HasSubstr("Access-Control")));
  EXPECT_THAT(Ask(daemon, Post(kHello)), StartsWith("HTTP/1.1 405"));
  EXPECT_THAT(Ask(daemon, Get("/generate", "localhost")), StartsWith("HTTP/1.1 404"));
}

TEST(StatusPageTest, IsNotToldToNamesOfOthersChoosing) {
  TestDaemon daemon(PageOptions(MetricsPage::kPrompt));
  for (const char* host : {"evil.example", "evil.example:9464", "127.0.0.1.evil.example",
                           "localhost.evil.example", "", "[evil]", "[", "1.2.3"}) {
    EXPECT_THAT(Ask(daemon, Get("/", host)), StartsWith("HTTP/1.1 421")) << host;
  }
  EXPECT_THAT(Ask(daemon, "GET / HTTP/1.0\r\n\r\n"), StartsWith("HTTP/1.1 421"));
  std::string request = Post(kHello);
  request.replace(request.find("127.0.0.1:1"), 11, "evil.example:1");
  EXPECT_THAT(Ask(daemon, request), StartsWith("HTTP/1.1 421"));
  for (const char* host :
       {"127.0.0.1", "127.0.0.1:9464", "localhost", "LocalHost:1", "[::1]:9464", "192.0.2.7:80"}) {
    EXPECT_THAT(Ask(daemon, Get("/", host)), StartsWith("HTTP/1.1 200")) << host;
  }
  // Who scrapes metrics does so by any name.
  EXPECT_THAT(Ask(daemon, Get("/metrics", "replica-3.example")), StartsWith("HTTP/1.1 200"));
}

TEST(StatusPageTest, IsServedByTheNameThatItListensOn) {
  const StatusPage page("gpu-box.example", nullptr, false);
  HttpRequest request{.method = "GET", .path = "/", .headers = {{"host", "GPU-box.example:80"}}};
  EXPECT_EQ(page.Answer(request)->status, 200);
  request.headers[0].second = "gpu-box.example.org";
  EXPECT_EQ(page.Answer(request)->status, 421);
  request.path = "/metrics";
  EXPECT_FALSE(page.Answer(request).has_value());
}

TEST(StatusPageTest, PromptsOfOtherSitesAreRefused) {
  TestDaemon daemon(PageOptions(MetricsPage::kPrompt));
  EXPECT_THAT(Ask(daemon, Post(kHello, "Origin: http://evil.example\r\n")),
              StartsWith("HTTP/1.1 403"));
  EXPECT_THAT(Ask(daemon, Post(kHello, "Origin: null\r\n")), StartsWith("HTTP/1.1 403"));
  EXPECT_THAT(Ask(daemon, Post(kHello, "Sec-Fetch-Site: cross-site\r\n")),
              StartsWith("HTTP/1.1 403"));
  std::string simple = Post(kHello);
  simple.replace(simple.find("application/json"), 16, "text/plain      ");
  EXPECT_THAT(Ask(daemon, simple), StartsWith("HTTP/1.1 415"));
  EXPECT_THAT(Ask(daemon, "OPTIONS /generate HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n"),
              StartsWith("HTTP/1.1 405"));
  EXPECT_THAT(
      Ask(daemon, Post(kHello, "Origin: http://127.0.0.1:1\r\nSec-Fetch-Site: same-origin\r\n")),
      StartsWith("HTTP/1.1 200"));
}

TEST(StatusPageTest, APromptIsAnsweredAsACallOfGenerate) {
  TestDaemon daemon(PageOptions(MetricsPage::kPrompt));
  const std::string answer = Ask(daemon, Post(kHello));
  EXPECT_THAT(answer, AllOf(StartsWith("HTTP/1.1 200"),
                            HasSubstr("Content-Type: application/x-ndjson\r\n")));
  std::string text;
  for (const Json& line : Lines(answer)) text += line.value("text", "");
  EXPECT_EQ(text, FakeText("hello", 0, 20));
  EXPECT_EQ(Lines(answer).back()["completion"]["finish_reason"], "LENGTH");
  EXPECT_THAT(daemon.Metrics(),
              HasSubstr("mambad_grpc_calls_total{code=\"OK\",method=\"Generate\"} 1"));
}

TEST(StatusPageTest, APromptIsHeldToTheLimitsOfEveryCall) {
  ServerOptions options = PageOptions(MetricsPage::kPrompt);
  options.limits.samples = 2;
  TestDaemon daemon(options);
  const std::string answer = Ask(daemon, Post(R"({"text": "a", "output": {"n": 3}})"));
  EXPECT_EQ(ErrorCode(answer), "INVALID_ARGUMENT") << answer;
  EXPECT_THAT(answer, HasSubstr("output.n: 3 given, allowed 1 to 2"));
  EXPECT_EQ(ErrorCode(Ask(daemon, Post(R"({"text": "bad!", "stopping": {"max_tokens": 9}})"))),
            "INTERNAL");
}

TEST(StatusPageTest, WhatIsNoRequestIsRefused) {
  TestDaemon daemon(PageOptions(MetricsPage::kPrompt));
  for (const std::string& body :
       {std::string(), std::string("hello"), std::string("[]"), std::string(R"({"txt": "a"})"),
        std::string(R"({"text": 1, "text": 2})"), std::string("\"\xff\""),
        std::string(20000, '[')}) {
    const std::string answer = Ask(daemon, Post(body));
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 400")) << body.substr(0, 40);
    EXPECT_EQ(ErrorCode(answer), "INVALID_ARGUMENT") << body.substr(0, 40);
  }
  EXPECT_THAT(Ask(daemon, Post(std::string(kMostPromptBytes + 1, ' '))),
              StartsWith("HTTP/1.1 413"));
  EXPECT_THAT(Ask(daemon, Post(kHello, "Authorization: Bearer \x01\x7f\r\n")),
              StartsWith("HTTP/1.1 400"));
}

TEST(StatusPageTest, OnlySoManyPromptsRunAtATimeAndThoseWhosePeersGoAreCancelled) {
  TestDaemon daemon(PageOptions(MetricsPage::kPrompt),
                    {.step = absl::Milliseconds(1), .context = 1 << 20});
  const std::string endless = Post(R"({"text": "hello", "stopping": {"max_tokens": 500000}})");
  std::vector<Descriptor> running;
  for (int i = 0; i < PromptBoxLimits().calls; ++i) {
    running.push_back(Asking(daemon.daemon().metrics_port(), endless));
    ReadSome(running.back());
  }
  EXPECT_THAT(Ask(daemon, Post(kHello)), StartsWith("HTTP/1.1 429"));
  running.clear();
  ASSERT_TRUE(daemon.BecomesIdle());
  std::string answer;
  for (int i = 0; i < 500 && !absl::StartsWith(answer, "HTTP/1.1 200"); ++i) {
    answer = Ask(daemon, Post(kHello));
    absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(daemon.Metrics(), HasSubstr("mambad_request_failure_total{code=\"CANCELLED\"} 4"));
}

TEST(StatusPageTest, PromptsThatComeTooEarlyOrTooLateAreTold) {
  TestDaemon daemon(PageOptions(MetricsPage::kPrompt), {}, /*load=*/false);
  EXPECT_EQ(ErrorCode(Ask(daemon, Post(kHello))), "UNAVAILABLE");
}

TEST(StatusPageTest, ADrainLetsPromptsFinish) {
  TestDaemon daemon(PageOptions(MetricsPage::kPrompt), {.step = absl::Milliseconds(5)});
  Descriptor client = Asking(daemon.daemon().metrics_port(),
                             Post(R"({"text": "hello", "stopping": {"max_tokens": 100}})"));
  const std::string begin = ReadSome(client);
  daemon.daemon().Drain();
  std::string text;
  for (const Json& line : Lines(begin + ReadAll(client))) text += line.value("text", "");
  EXPECT_EQ(text, FakeText("hello", 0, 100));
}

TEST(StatusPageTest, ADrainThatIsCutShortEndsPrompts) {
  ServerOptions options = PageOptions(MetricsPage::kPrompt);
  options.drain_timeout = absl::Milliseconds(100);
  TestDaemon daemon(options, {.step = absl::Milliseconds(1), .context = 1 << 20});
  Descriptor client = Asking(daemon.daemon().metrics_port(),
                             Post(R"({"text": "hello", "stopping": {"max_tokens": 500000}})"));
  const std::string begin = ReadSome(client);
  daemon.daemon().Drain();
  EXPECT_EQ(ErrorCode(begin + ReadAll(client)), "UNAVAILABLE");
}

TEST(StatusPageTest, WhereTokensAreAskedForTheBoxNeedsOne) {
  ServerOptions options = PageOptions(MetricsPage::kPrompt);
  TokenEntry generates, administers;
  generates.principal = "alice";
  generates.scopes = kScopeGenerate;
  administers.principal = "bob";
  administers.scopes = kScopeAdmin;
  const std::string token = *MakeToken(&generates), other = *MakeToken(&administers);
  options.token_file = testing::TempDir() + "/page_tokens";
  std::ofstream(options.token_file) << FormatTokenEntry(generates) << FormatTokenEntry(administers);
  TestDaemon daemon(options);
  EXPECT_THAT(Ask(daemon, Get("/", "localhost")), HasSubstr("data-token=\"yes\""));
  const auto with = [](const std::string& shown) {
    return Post(kHello, absl::StrCat("Authorization: Bearer ", shown, "\r\n"));
  };
  EXPECT_EQ(ErrorCode(Ask(daemon, Post(kHello))), "UNAUTHENTICATED");
  EXPECT_EQ(ErrorCode(Ask(daemon, with("mbd_0_0"))), "UNAUTHENTICATED");
  EXPECT_EQ(ErrorCode(Ask(daemon, with(other))), "PERMISSION_DENIED");
  const std::string answer = Ask(daemon, with(token));
  EXPECT_EQ(ErrorCode(answer), "") << answer;
  EXPECT_THAT(daemon.log(), HasSubstr("alice"));
}

TEST(StatusPageTest, TheBoxIsNeverAWayAroundCredentials) {
  ServerOptions options = PageOptions(MetricsPage::kPrompt);
  options.tls = {"certificate", "key", "authority"};
  EXPECT_THAT(std::string(ValidateOptions(options).message()),
              HasSubstr("metrics.page: prompt would answer callers without the certificates"));
  options.metrics_page = MetricsPage::kStatus;
  EXPECT_TRUE(ValidateOptions(options).ok());
  options = PageOptions(MetricsPage::kPrompt);
  options.metrics_listen = "0.0.0.0:0";
  EXPECT_THAT(std::string(ValidateOptions(options).message()),
              HasSubstr("can be reached from other machines"));
  options.allow_insecure = true;
  EXPECT_TRUE(ValidateOptions(options).ok());
  options.metrics_listen = "";
  EXPECT_THAT(std::string(ValidateOptions(options).message()),
              HasSubstr("metrics.page: is served where metrics.listen says, which is empty"));
}

}  // namespace
}  // namespace mambad::server
