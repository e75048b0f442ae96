// What gRPC and protobuf say by themselves, as lines of the daemon's log: in its format, at their
// level, and never straight to standard error.

#ifndef MAMBAD_SERVER_LIBRARY_LOGS_H_
#define MAMBAD_SERVER_LIBRARY_LOGS_H_

#include "server/request_log.h"

namespace mambad::server {

// For the whole process, before the first call into either library. `log` must outlive every
// thread of theirs, which is to say the process.
void SendLibraryLogsTo(RequestLog* log);

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_LIBRARY_LOGS_H_
