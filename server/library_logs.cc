#include "server/library_logs.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>

#include <atomic>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/steady_time.h"

namespace mambad::server {
namespace {

std::atomic<RequestLog*> destination{nullptr};

// "grpc: MESSAGE (file.cc:12)", without the path of the machine it was built on.
std::string Line(absl::string_view library, absl::string_view message, const char* file, int line) {
  const char* const slash = file != nullptr ? std::strrchr(file, '/') : nullptr;
  return absl::StrCat(library, ": ", message, " (", slash != nullptr ? slash + 1 : file, ":", line,
                      ")");
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
      log->Error(line);
      log->Flush(SteadyNow() + absl::Seconds(1));  // the process ends next
      return;
  }
}

}  // namespace

void SendLibraryLogsTo(RequestLog* log) {
  destination.store(log);
  gpr_set_log_function(&LogOfGrpc);
  google::protobuf::SetLogHandler(&LogOfProtobuf);
}

}  // namespace mambad::server
