// The log's way out: it never waits for a reader, and says what it lost.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <google/protobuf/stubs/logging.h>
#include <grpc/grpc.h>
#include <grpc/support/log.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/internal/raw_logging.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "engine/steady_time.h"
#include "server/library_logs.h"
#include "server/log_writer.h"
#include "server/request_log.h"
#include "server/status_details.h"

namespace mambad::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

std::string Notice(int64_t lines) { return absl::StrCat("<", lines, ">\n"); }

struct Pipe {
  Pipe() {
    int ends[2];
    if (pipe(ends) != 0) std::abort();
    read_end = ends[0];
    write_end = ends[1];
  }
  ~Pipe() {
    close(read_end);
    close(write_end);
  }
  // Leaves no room in it.
  void Fill() const {
    fcntl(write_end, F_SETFL, O_NONBLOCK);
    const std::string text(4096, '\n');
    while (write(write_end, text.data(), text.size()) > 0) {
    }
    fcntl(write_end, F_SETFL, 0);
  }
  // What lies in it.
  std::string Drain() const {
    fcntl(read_end, F_SETFL, O_NONBLOCK);
    std::string text;
    char buffer[65536];
    for (ssize_t size; (size = read(read_end, buffer, sizeof(buffer))) > 0;) {
      text.append(buffer, static_cast<size_t>(size));
    }
    return text;
  }
  int read_end, write_end;
};

std::vector<std::string> Lines(const std::string& text) {
  return absl::StrSplit(text, '\n', absl::SkipEmpty());
}

TEST(LogWriterTest, WritesLinesInTheirOrder) {
  Pipe pipe;
  LogWriter writer(pipe.write_end, Notice);
  for (const char* line : {"a\n", "b\n", "c\n"}) writer.Write(line);
  ASSERT_TRUE(writer.Flush(SteadyNow() + absl::Seconds(30)));
  EXPECT_EQ(pipe.Drain(), "a\nb\nc\n");
  EXPECT_EQ(writer.dropped_lines(), 0);
}

TEST(LogWriterTest, AFullPipeDropsTheOldestLinesAndSaysHowMany) {
  Pipe pipe;
  pipe.Fill();
  LogWriter writer(pipe.write_end, Notice, 10000);
  // Who waited for the pipe would never return.
  constexpr int kLines = 20000;
  for (int i = 0; i < kLines; ++i) writer.Write(absl::StrCat("a line with the number ", i, "\n"));
  EXPECT_GT(writer.dropped_lines(), 0);
  EXPECT_FALSE(writer.Flush(SteadyNow() + absl::Milliseconds(20)));
  std::string text;
  for (bool flushed = false; !flushed;) {
    text += pipe.Drain();
    flushed = writer.Flush(SteadyNow() + absl::Milliseconds(20));
  }
  text += pipe.Drain();
  int64_t lines = 0, told = 0;
  for (const std::string& line : Lines(text)) {
    if (line[0] == '<') {
      told += std::stoll(line.substr(1));
    } else {
      EXPECT_THAT(line, HasSubstr("a line with the number "));
      ++lines;
    }
  }
  EXPECT_EQ(told, writer.dropped_lines());
  EXPECT_EQ(lines + told, kLines);
  EXPECT_THAT(text, HasSubstr(absl::StrCat("number ", kLines - 1, "\n")));
}

TEST(LogWriterTest, CutsALineThatIsTooLong) {
  Pipe pipe;
  LogWriter writer(pipe.write_end, Notice);
  writer.Write(std::string(20000, 'x') + "\n");
  writer.Write("next\n");
  ASSERT_TRUE(writer.Flush(SteadyNow() + absl::Seconds(30)));
  EXPECT_EQ(pipe.Drain(), std::string(16383, 'x') + "\nnext\n");
}

TEST(LogWriterTest, ItsEndDoesNotWaitForAReader) {
  Pipe pipe;
  pipe.Fill();
  const absl::Time start = absl::Now();
  {
    LogWriter writer(pipe.write_end, Notice);
    for (int i = 0; i < 5000; ++i) writer.Write(std::string(99, 'x') + "\n");
  }
  // Two waits of half a second are promised; a hang would be for ever.
  EXPECT_LT(absl::Now() - start, absl::Seconds(20));
}

TEST(LogWriterTest, LosesLinesToABrokenDescriptor) {
  signal(SIGPIPE, SIG_IGN);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  close(ends[0]);
  LogWriter writer(ends[1], Notice);
  writer.Write("lost\n");
  EXPECT_TRUE(writer.Flush(SteadyNow() + absl::Seconds(30)));
  EXPECT_EQ(writer.dropped_lines(), 1);
  close(ends[1]);
}

RequestSummary Refused() {
  RequestSummary summary;
  summary.method = "Generate";
  summary.request_id = "order-1";
  FieldViolations violations;
  violations.Add("sampling.top_p", "2 given, allowed 0 to 1");
  summary.status = violations.ToStatus();
  summary.peer = "ipv4:192.0.2.1:40000";
  return summary;
}

TEST(RequestLogTest, RefusedRequestsSayWhatAndWhoAndWhy) {
  Pipe pipe;
  RequestLog plain(LogFormat::kPlain, LogLevel::kInfo, pipe.write_end);
  plain.RequestEnd(Refused());
  ASSERT_TRUE(plain.Flush(SteadyNow() + absl::Seconds(30)));
  EXPECT_THAT(pipe.Drain(), HasSubstr(" peer=ipv4:192.0.2.1:40000 field=sampling.top_p "
                                      "reason=\"2 given, allowed 0 to 1\"\n"));
  RequestLog json(LogFormat::kJson, LogLevel::kInfo, pipe.write_end);
  json.RequestEnd(Refused());
  ASSERT_TRUE(json.Flush(SteadyNow() + absl::Seconds(30)));
  const auto line = nlohmann::json::parse(pipe.Drain());
  EXPECT_EQ(line["request_id"], "order-1");
  EXPECT_EQ(line["peer"], "ipv4:192.0.2.1:40000");
  EXPECT_EQ(line["field"], "sampling.top_p");
  EXPECT_EQ(line["reason"], "2 given, allowed 0 to 1");
}

TEST(RequestLogTest, ATemplatesRefusalIsNotQuoted) {
  Pipe pipe;
  RequestLog log(LogFormat::kPlain, LogLevel::kInfo, pipe.write_end);
  RequestSummary summary;
  summary.method = "Generate";
  FieldViolations violations;
  violations.Add("conversation", "I do not talk about my secret");
  summary.status = violations.ToStatus();
  log.RequestEnd(summary);
  ASSERT_TRUE(log.Flush(SteadyNow() + absl::Seconds(30)));
  const std::string text = pipe.Drain();
  EXPECT_THAT(text, HasSubstr("field=conversation"));
  EXPECT_THAT(text, Not(HasSubstr("secret")));
}

TEST(LibraryLogsTest, ComeAsLinesOfTheLog) {
  grpc_init();  // which decides what gRPC logs
  Pipe pipe;
  // Outlives the test: gRPC's threads of other tests may still log.
  static auto* const log = new RequestLog(LogFormat::kJson, LogLevel::kWarning, pipe.write_end);
  SendLibraryLogsTo(log);
  gpr_log(GPR_ERROR, "a \"quoted\" line of gRPC: %s", "\xff");
  gpr_log(GPR_INFO, "below the level");
  GOOGLE_LOG(WARNING) << "a line of protobuf";
  ASSERT_TRUE(log->Flush(SteadyNow() + absl::Seconds(30)));
  std::vector<std::string> messages;
  for (const std::string& line : Lines(pipe.Drain())) {
    const auto object = nlohmann::json::parse(line);
    messages.push_back(object["level"].get<std::string>() + " " +
                       object["message"].get<std::string>());
  }
  gpr_set_log_function([](gpr_log_func_args*) {});
  google::protobuf::SetLogHandler(nullptr);
  grpc_shutdown();
  EXPECT_THAT(messages,
              ElementsAre(HasSubstr("error grpc: a \"quoted\" line of gRPC: "),
                          HasSubstr("warning protobuf: a line of protobuf (log_test.cc:")));
}

// The standard error of a process whose log is JSON: nothing but objects, one a line.
MATCHER_P(AreJsonLinesOf, message, "") {
  std::string messages;
  for (const std::string& line : Lines(arg)) {
    const auto object = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!object.is_object() || object["level"] != "error") {
      *result_listener << "no line of the log: " << line;
      return false;
    }
    messages += object["message"].get<std::string>() + "\n";
  }
  return testing::ExplainMatchResult(HasSubstr(message), messages, result_listener);
}

// Ends the process by `end`, on a thread of its own, where nobody catches.
template <typename End>
void EndWithJsonLog(End end) {
  grpc_init();  // which decides what gRPC logs
  SendLibraryLogsTo(new RequestLog(LogFormat::kJson, LogLevel::kWarning));
  std::thread(end).join();
}

TEST(LibraryLogsDeathTest, LastWordsAreLinesOfTheLog) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(EndWithJsonLog([] { ABSL_RAW_LOG(FATAL, "a \"quoted\" end: %d\n", 3); }),
               AreJsonLinesOf("abseil: a \"quoted\" end: 3 (log_test.cc:"));
  EXPECT_DEATH(EndWithJsonLog([] { ABSL_INTERNAL_LOG(FATAL, "an end"); }),
               AreJsonLinesOf("abseil: an end (log_test.cc:"));
  EXPECT_DEATH(EndWithJsonLog([] {
                 ABSL_RAW_LOG(ERROR, "not the end");
                 ABSL_RAW_CHECK(1 > 2, "the end");
               }),
               AreJsonLinesOf("abseil: Check 1 > 2 failed: the end (log_test.cc:"));
  EXPECT_DEATH(EndWithJsonLog([] { GPR_ASSERT(1 > 2); }),
               AreJsonLinesOf("grpc: assertion failed: 1 > 2 (log_test.cc:"));
  EXPECT_DEATH(EndWithJsonLog([] { GOOGLE_CHECK(1 > 2) << "in a word"; }),
               AreJsonLinesOf("protobuf: CHECK failed: 1 > 2: in a word (log_test.cc:"));
  EXPECT_DEATH(EndWithJsonLog([] { throw std::runtime_error("a \"quoted\" reason"); }),
               AreJsonLinesOf("an exception that nobody catches: a \"quoted\" reason"));
  EXPECT_DEATH(EndWithJsonLog([] { absl::StatusOr<int>(absl::NotFoundError("gone")).value(); }),
               AreJsonLinesOf("an exception that nobody catches: Bad StatusOr access: NOT_FOUND"));
}

}  // namespace
}  // namespace mambad::server
