// What gRPC, protobuf, Abseil and the C++ runtime say by themselves, as lines of the daemon's log:
// in its format, at their level, and never straight to standard error. That goes for the last words
// of a process that ends by a failed check or an exception that nobody catches, too.
//
// Abseil's raw log has a hook for its fatal messages alone; of others the log tells their place.

#ifndef MAMBAD_SERVER_LIBRARY_LOGS_H_
#define MAMBAD_SERVER_LIBRARY_LOGS_H_

#include "server/request_log.h"

namespace mambad::server {

// For the whole process, before the first call into any of them. `log` must outlive every
// thread of theirs, which is to say the process.
void SendLibraryLogsTo(RequestLog* log);

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_LIBRARY_LOGS_H_
