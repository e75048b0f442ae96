#include "server/network/transport_settings.h"

#include <grpcpp/resource_quota.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "server/process_limits.h"

namespace mambad::server {
namespace {

// Clients may ping this often, also while nothing runs; a little less is tolerated, because clocks
// and networks are not exact.
constexpr int kLeastPingIntervalMilliseconds = 9000;
constexpr int kPingAnswerMilliseconds = 20000;
// What a connection reads at a time. gRPC would go up to 4 MiB where much comes, and keep as much
// for the connection's next bytes for as long as it lives.
constexpr int kMostReadBytes = 64 << 10;
// Descriptors that are not connections: files, the metrics endpoint's, gRPC's own.
constexpr int64_t kOtherDescriptors = 160;

constexpr int64_t kLeastQuota = int64_t{64} << 20;
constexpr int64_t kMostQuota = int64_t{256} << 20;

// 0 stands for never.
int Milliseconds(absl::Duration duration) {
  if (duration <= absl::ZeroDuration()) return std::numeric_limits<int>::max();
  const int64_t milliseconds = absl::ToInt64Milliseconds(duration);
  return static_cast<int>(std::clamp<int64_t>(milliseconds, 1, std::numeric_limits<int>::max()));
}

}  // namespace

void SetTransport(const ServerOptions& options, grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(static_cast<int>(options.limits.message_bytes));
  // A message is inflated whole before its size is judged, outside of the quota: 4 MiB may become 4
  // GiB.
  for (const grpc_compression_algorithm algorithm : {GRPC_COMPRESS_DEFLATE, GRPC_COMPRESS_GZIP})
    builder->SetCompressionAlgorithmSupportStatus(algorithm, false);
  // Answers are bounded by the context and by what a request may ask for.
  builder->SetMaxSendMessageSize(-1);
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMostMetadataBytes);
  builder->AddChannelArgument(GRPC_ARG_TCP_MAX_READ_CHUNK_SIZE, kMostReadBytes);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_streams_per_connection);
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS,
                              Milliseconds(options.handshake_timeout));
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS,
                              Milliseconds(options.max_connection_idle));
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS,
                              Milliseconds(options.max_connection_age));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(options.keepalive_interval));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kPingAnswerMilliseconds);
  // Also where no call runs, and as often as need be without data in between.
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                              kLeastPingIntervalMilliseconds);
  grpc::ResourceQuota quota("mambad");
  quota.Resize(static_cast<size_t>(ChooseMemoryQuota(options, MemoryLimitBytes())));
  builder->SetResourceQuota(quota);
}

ConnectionLimits ChooseConnectionLimits(const ServerOptions& options, int64_t descriptors) {
  const int64_t room = descriptors - std::min(kOtherDescriptors, descriptors / 2);
  ConnectionLimits limits;
  limits.connections = static_cast<int>(std::clamp<int64_t>(room, 1, options.max_connections));
  limits.connections_per_peer = options.max_connections_per_peer > 0
                                    ? options.max_connections_per_peer
                                    : std::max(1, limits.connections / 2);
  return limits;
}

int64_t ChooseMemoryQuota(const ServerOptions& options, int64_t memory_bytes) {
  if (options.memory_quota_bytes > 0) return options.memory_quota_bytes;
  return std::clamp(memory_bytes / 64, kLeastQuota, kMostQuota);
}

}  // namespace mambad::server
