#include "server/library_logs.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>

#include "absl/base/config.h"
#include "absl/base/internal/raw_logging.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/steady_time.h"

// Where Abseil has its hooks: the name changed between those of Debian 12 and 13.
#if defined(ABSL_LTS_RELEASE_VERSION) && ABSL_LTS_RELEASE_VERSION < 20230125
namespace abseil_hooks = absl::raw_logging_internal;
#else
namespace abseil_hooks = absl::raw_log_internal;
#endif

namespace mambad::server {
namespace {

std::atomic<RequestLog*> destination{nullptr};

// Of the log's last lines, where the process ends next.
constexpr absl::Duration kLastLines = absl::Seconds(1);

// "grpc: MESSAGE (file.cc:12)", without the path of the machine it was built on.
std::string Line(absl::string_view library, absl::string_view message, const char* file, int line) {
  const char* const slash = file != nullptr ? std::strrchr(file, '/') : nullptr;
  return absl::StrCat(library, ": ", message, " (", slash != nullptr ? slash + 1 : file, ":", line,
                      ")");
}

// The process ends next.
void LogLast(RequestLog* log, const std::string& line) {
  log->Error(line);
  log->Flush(SteadyNow() + kLastLines);
}

void LogOfGrpc(gpr_log_func_args* arguments) {
  RequestLog* const log = destination.load();
  const std::string line = Line("grpc", arguments->message, arguments->file, arguments->line);
  switch (arguments->severity) {
    case GPR_LOG_SEVERITY_DEBUG:
      return log->Debug(line);
    case GPR_LOG_SEVERITY_INFO:
      return log->Info(line);
    case GPR_LOG_SEVERITY_ERROR:
      // GPR_ASSERT, which aborts next.
      if (absl::StartsWith(arguments->message, "assertion failed")) return LogLast(log, line);
      return log->Error(line);
  }
}

void LogOfProtobuf(google::protobuf::LogLevel level, const char* file, int line_number,
                   const std::string& message) {
  RequestLog* const log = destination.load();
  const std::string line = Line("protobuf", message, file, line_number);
  switch (level) {
    case google::protobuf::LOGLEVEL_INFO:
      return log->Info(line);
    case google::protobuf::LOGLEVEL_WARNING:
      return log->Warning(line);
    case google::protobuf::LOGLEVEL_ERROR:
      return log->Error(line);
    case google::protobuf::LOGLEVEL_FATAL:
      return LogLast(log, line);
  }
}

void LogOfAbseil(absl::LogSeverity severity, const char* file, int line_number,
                 const std::string& message) {
  RequestLog* const log = destination.load();
  const std::string line = Line("abseil", message, file, line_number);
  switch (severity) {
    case absl::LogSeverity::kInfo:
      return log->Info(line);
    case absl::LogSeverity::kWarning:
      return log->Warning(line);
    case absl::LogSeverity::kError:
      return log->Error(line);
    case absl::LogSeverity::kFatal:
      LogLast(log, line);
      std::abort();  // which Abseil leaves to its hook
  }
}

// The only hook there is for all of Abseil's raw messages comes before their text. So the text of a
// fatal one is sent where EndOfAbseil finds it, and what Abseil itself writes to standard error is
// empty; of others the place must do.
bool RawLineOfAbseil(absl::LogSeverity severity, const char* file, int line, char** text,
                     int* size) {
  static thread_local char last[3000];
  if (severity != absl::LogSeverity::kFatal) {
    LogOfAbseil(severity, file, line, "a message of the raw log");
    return false;
  }
  **text = '\0';
  *text = last;
  *size = sizeof(last);
  return true;
}

void EndOfAbseil(const char* file, int line, const char*, const char* text, const char*) {
  absl::string_view message(text);
  message = message.substr(0, message.find_last_not_of('\n') + 1);
  destination.load()->LastError(Line("abseil", message, file, line));
}

[[noreturn]] void EndByException() {
  std::string what = "ended without an exception";
  if (const std::exception_ptr exception = std::current_exception()) {
    try {
      std::rethrow_exception(exception);
    } catch (const std::exception& error) {
      what = absl::StrCat("an exception that nobody catches: ", error.what());
    } catch (...) {
      what = "an exception that nobody catches";
    }
  }
  LogLast(destination.load(), what);
  std::abort();
}

}  // namespace

void SendLibraryLogsTo(RequestLog* log) {
  destination.store(log);
  gpr_set_log_function(&LogOfGrpc);
  google::protobuf::SetLogHandler(&LogOfProtobuf);
  abseil_hooks::RegisterInternalLogFunction(&LogOfAbseil);
  abseil_hooks::RegisterLogFilterAndPrefixHook(&RawLineOfAbseil);
  abseil_hooks::RegisterAbortHook(&EndOfAbseil);
  std::set_terminate(&EndByException);
}

}  // namespace mambad::server
