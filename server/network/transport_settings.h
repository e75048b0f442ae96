// What gRPC is told about its transport: every bound that it can hold by itself. server/README.md
// says which it cannot.

#ifndef MAMBAD_SERVER_NETWORK_TRANSPORT_SETTINGS_H_
#define MAMBAD_SERVER_NETWORK_TRANSPORT_SETTINGS_H_

#include <grpcpp/server_builder.h>

#include "server/network/connection_acceptor.h"
#include "server/server_options.h"

namespace mambad::server {

// Of one call's headers, each with 32 more, as HTTP/2 counts them: room for a long token of a
// bearer. Clients that have not acknowledged it yet are not held to it by gRPC: CheckMetadata.
inline constexpr int kMostMetadataBytes = 16 << 10;

void SetTransport(const ServerOptions& options, grpc::ServerBuilder* builder);

// Connections at most, as set and as this process's limit of descriptors leaves room for.
ConnectionLimits ChooseConnectionLimits(const ServerOptions& options, int64_t descriptors);

// What options.memory_quota_bytes stands for, on a machine with this much memory (0: unknown).
int64_t ChooseMemoryQuota(const ServerOptions& options, int64_t memory_bytes);

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_NETWORK_TRANSPORT_SETTINGS_H_
