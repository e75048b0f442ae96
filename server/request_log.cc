#include "server/request_log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
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

std::shared_ptr<spdlog::logger> StandardErrorLogger(LogFormat format, LogLevel level) {
  auto logger =
      std::make_shared<spdlog::logger>("mambad", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_level(SpdlogLevel(level));
  logger->set_pattern(format == LogFormat::kJson ? "%v" : "%Y-%m-%dT%H:%M:%S.%e%z %l %v");
  logger->flush_on(spdlog::level::info);
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

}  // namespace

RequestLog::RequestLog(LogFormat format, LogLevel level)
    : RequestLog(format, StandardErrorLogger(format, level)) {}

RequestLog::RequestLog(LogFormat format, std::shared_ptr<spdlog::logger> logger)
    : format_(format), logger_(std::move(logger)) {}

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
    line["code"] = std::string(CodeName(summary.status.code()));
    if (!summary.finish_reasons.empty()) line["finish_reason"] = summary.finish_reasons;
    line["prompt_tokens"] = stats.prompt_tokens;
    line["completion_tokens"] = stats.completion_tokens;
    line["queue_ms"] = static_cast<double>(stats.queue_microseconds) * 1e-3;
    line["first_token_ms"] = static_cast<double>(stats.first_token_microseconds) * 1e-3;
    line["total_ms"] = milliseconds;
    line["drafted"] = stats.speculation.drafted;
    line["accepted"] = stats.speculation.accepted;
    logger_->info("{}", Dump(line));
    return;
  }
  std::string line =
      absl::StrFormat("request end: method=%s id=%d", summary.method, summary.engine_id);
  if (!summary.request_id.empty())
    absl::StrAppend(&line, " request_id=\"", summary.request_id, "\"");
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
  logger_->info("{}", line);
}

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
