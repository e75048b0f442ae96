// What a daemon that has loaded its models tells its operator.

#ifndef MAMBAD_SERVER_START_REPORT_H_
#define MAMBAD_SERVER_START_REPORT_H_

#include <string>
#include <vector>

#include "engine/engine.h"

namespace mambad::server {

// Lines for the log, one a subject: model, draft model, device, memory, text, speculation.
std::vector<std::string> StartReport(const Engine& engine);
// What looks like a mistake: the engine's warnings, and a self-check that failed.
std::vector<std::string> StartWarnings(const Engine& engine);

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_START_REPORT_H_
