#include "server/request_log.h"

#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <mutex>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "server/status_details.h"

namespace mambad::server {
namespace {

spdlog::level::level_enum SpdlogLevel(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

// Formatted lines go to the writer's queue.
class WriterSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit WriterSink(LogWriter* writer) : writer_(writer) {}

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    writer_->Write(std::string(line.data(), line.size()));
  }
  void flush_() override {}

  LogWriter* const writer_;
};

std::shared_ptr<spdlog::logger> WriterLogger(LogFormat format, LogLevel level, LogWriter* writer) {
  auto logger = std::make_shared<spdlog::logger>("mambad", std::make_shared<WriterSink>(writer));
  logger->set_level(SpdlogLevel(level));
  logger->set_pattern(format == LogFormat::kJson ? "%v" : "%Y-%m-%dT%H:%M:%S.%e%z %l %v");
  return logger;
}

const char* LevelName(LogLevel level) {
  static constexpr const char* kNames[] = {"debug", "info", "warning", "error"};
  return kNames[static_cast<int>(level)];
}

nlohmann::ordered_json JsonLine(LogLevel level) {
  nlohmann::ordered_json line;
  line["time"] = absl::FormatTime("%Y-%m-%dT%H:%M:%E3S%Ez", absl::Now(), absl::LocalTimeZone());
  line["level"] = LevelName(level);
  return line;
}

// Invalid UTF-8 (of a path, say) must not throw.
std::string Dump(const nlohmann::ordered_json& line) {
  return line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

// One line, whatever a message contains.
std::string OneLine(absl::string_view message) {
  std::string line(message);
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < ' ') c = ' ';
  }
  return line;
}

// A line that spdlog has no part in.
std::string PlainLine(LogLevel level, absl::string_view message) {
  return absl::StrCat(
      absl::FormatTime("%Y-%m-%dT%H:%M:%E3S%Ez", absl::Now(), absl::LocalTimeZone()), " ",
      LevelName(level), " ", OneLine(message), "\n");
}

std::string DropNotice(LogFormat format, int64_t lines) {
  const std::string message = absl::StrCat(lines, " lines dropped: nobody read the log");
  if (format == LogFormat::kPlain) return PlainLine(LogLevel::kWarning, message);
  nlohmann::ordered_json line = JsonLine(LogLevel::kWarning);
  line["message"] = message;
  line["dropped_lines"] = lines;
  return Dump(line) + "\n";
}

// Why a call did not end well, in words that hold nothing of its texts.
struct Refusal {
  std::string field;   // of the request; empty: none is to blame
  std::string reason;  // one line

  explicit Refusal(const absl::Status& status) : field(FirstField(status)) {
    absl::string_view message = status.message();
    if (!field.empty()) absl::ConsumePrefix(&message, absl::StrCat(field, ": "));
    // A template words its refusals itself, and may quote the conversation in them.
    reason = field == "conversation" ? "the chat template refused it" : OneLine(message);
  }
};

}  // namespace

RequestLog::RequestLog(LogFormat format, LogLevel level, int descriptor)
    : format_(format),
      descriptor_(descriptor),
      writer_(std::make_unique<LogWriter>(
          descriptor, [format](int64_t lines) { return DropNotice(format, lines); })),
      logger_(WriterLogger(format, level, writer_.get())) {}

RequestLog::RequestLog(LogFormat format, std::shared_ptr<spdlog::logger> logger)
    : format_(format), descriptor_(-1), logger_(std::move(logger)) {}

void RequestLog::RequestEnd(const RequestSummary& summary) {
  if (!logger_->should_log(spdlog::level::info)) return;
  const RequestStats& stats = summary.stats;
  const double milliseconds = absl::ToDoubleMilliseconds(summary.duration);
  if (format_ == LogFormat::kJson) {
    nlohmann::ordered_json line = JsonLine(LogLevel::kInfo);
    line["event"] = "request_end";
    line["method"] = std::string(summary.method);
    if (!summary.request_id.empty()) line["request_id"] = summary.request_id;
    line["id"] = summary.engine_id;
    if (!summary.principal.empty()) line["principal"] = summary.principal;
    if (!summary.trace.trace_id.empty()) {
      line["trace_id"] = summary.trace.trace_id;
      line["parent_span_id"] = summary.trace.span_id;
    }
    line["code"] = std::string(CodeName(summary.status.code()));
    if (!summary.finish_reasons.empty()) line["finish_reason"] = summary.finish_reasons;
    line["prompt_tokens"] = stats.prompt_tokens;
    line["completion_tokens"] = stats.completion_tokens;
    line["queue_ms"] = static_cast<double>(stats.queue_microseconds) * 1e-3;
    line["first_token_ms"] = static_cast<double>(stats.first_token_microseconds) * 1e-3;
    line["total_ms"] = milliseconds;
    line["drafted"] = stats.speculation.drafted;
    line["accepted"] = stats.speculation.accepted;
    if (!summary.status.ok()) {
      const Refusal refusal(summary.status);
      line["peer"] = summary.peer;
      if (!refusal.field.empty()) line["field"] = refusal.field;
      line["reason"] = refusal.reason;
    }
    logger_->info("{}", Dump(line));
    return;
  }
  std::string line =
      absl::StrFormat("request end: method=%s id=%d", summary.method, summary.engine_id);
  if (!summary.request_id.empty())
    absl::StrAppend(&line, " request_id=\"", summary.request_id, "\"");
  if (!summary.principal.empty())
    absl::StrAppend(&line, " principal=\"", OneLine(summary.principal), "\"");
  if (!summary.trace.trace_id.empty()) {
    absl::StrAppend(&line, " trace_id=", summary.trace.trace_id,
                    " parent_span_id=", summary.trace.span_id);
  }
  absl::StrAppend(&line, " code=", CodeName(summary.status.code()));
  if (!summary.finish_reasons.empty())
    absl::StrAppend(&line, " finish_reason=", summary.finish_reasons);
  absl::StrAppendFormat(
      &line,
      " prompt_tokens=%d completion_tokens=%d queue_ms=%.1f first_token_ms=%.1f total_ms=%.1f",
      stats.prompt_tokens, stats.completion_tokens,
      static_cast<double>(stats.queue_microseconds) * 1e-3,
      static_cast<double>(stats.first_token_microseconds) * 1e-3, milliseconds);
  absl::StrAppend(&line, " drafted=", stats.speculation.drafted,
                  " accepted=", stats.speculation.accepted);
  if (!summary.status.ok()) {
    const Refusal refusal(summary.status);
    absl::StrAppend(&line, " peer=", summary.peer);
    if (!refusal.field.empty()) absl::StrAppend(&line, " field=", refusal.field);
    absl::StrAppend(&line, " reason=\"", refusal.reason, "\"");
  }
  logger_->info("{}", line);
}

void RequestLog::LastError(absl::string_view message) {
  std::string text;
  if (format_ == LogFormat::kPlain) {
    text = PlainLine(LogLevel::kError, message);
  } else {
    nlohmann::ordered_json line = JsonLine(LogLevel::kError);
    line["message"] = std::string(message);
    text = Dump(line) + "\n";
  }
  // Whether it comes through is nobody's to know any more.
  [[maybe_unused]] const ssize_t written = write(descriptor_, text.data(), text.size());
}

bool RequestLog::Flush(absl::Time deadline) {
  return writer_ == nullptr || writer_->Flush(deadline);
}

int64_t RequestLog::dropped_lines() const { return writer_ ? writer_->dropped_lines() : 0; }

void RequestLog::Debug(absl::string_view message) { Write(LogLevel::kDebug, message); }
void RequestLog::Info(absl::string_view message) { Write(LogLevel::kInfo, message); }
void RequestLog::Warning(absl::string_view message) { Write(LogLevel::kWarning, message); }
void RequestLog::Error(absl::string_view message) { Write(LogLevel::kError, message); }

void RequestLog::Write(LogLevel level, absl::string_view message) {
  if (!logger_->should_log(SpdlogLevel(level))) return;
  if (format_ == LogFormat::kPlain) {
    logger_->log(SpdlogLevel(level), "{}", OneLine(message));
    return;
  }
  nlohmann::ordered_json line = JsonLine(level);
  line["message"] = std::string(message);
  logger_->log(SpdlogLevel(level), "{}", Dump(line));
}

}  // namespace mambad::server
