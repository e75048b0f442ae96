#include "server/process_families.h"

namespace mambad::server {

void AddProcessFamilies(const ProcessUsage& usage, MetricFamilies* families) {
  families->Counter("process_cpu_seconds_total", "User and system time, in seconds",
                    usage.cpu_seconds);
  families->Gauge("process_start_time_seconds", "Start, in seconds since the Unix epoch",
                  usage.start_seconds);
  families->Gauge("process_resident_memory_bytes", "Memory in use",
                  static_cast<double>(usage.resident_bytes));
  families->Gauge("process_virtual_memory_bytes", "Address space in use",
                  static_cast<double>(usage.virtual_bytes));
  families->Gauge("process_threads", "Threads", static_cast<double>(usage.threads));
  families->Gauge("process_open_fds", "Open descriptors",
                  static_cast<double>(usage.open_descriptors));
  families->Gauge("process_max_fds", "Descriptors that may be open",
                  static_cast<double>(usage.most_descriptors));
}

void AddConnectionFamilies(const ConnectionCounts& counts, MetricFamilies* families) {
  families->Gauge("mambad_connections", "Open connections to the gRPC port", counts.open);
  families->Counter("mambad_connections_accepted_total", "Connections to the gRPC port",
                    static_cast<double>(counts.accepted));
  const auto refused = [&](int64_t value, const char* reason) {
    families->Counter("mambad_connections_refused_total",
                      "Connections that were closed at once, by what there was too much of",
                      static_cast<double>(value), {{"reason", reason}});
  };
  refused(counts.refused_full, "connections");
  refused(counts.refused_peer, "connections_of_peer");
  refused(counts.refused_descriptors, "descriptors");
}

}  // namespace mambad::server
