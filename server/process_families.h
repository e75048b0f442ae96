// What is told about the process and its connections at every scrape.

#ifndef MAMBAD_SERVER_PROCESS_FAMILIES_H_
#define MAMBAD_SERVER_PROCESS_FAMILIES_H_

#include "server/metric_families.h"
#include "server/network/connection_acceptor.h"
#include "server/process_limits.h"

namespace mambad::server {

// The names of Prometheus' own client libraries.
void AddProcessFamilies(const ProcessUsage& usage, MetricFamilies* families);
void AddConnectionFamilies(const ConnectionCounts& counts, MetricFamilies* families);

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_PROCESS_FAMILIES_H_
