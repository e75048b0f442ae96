// What VllmEngine's callers are told of the server. Pure functions; any thread.

#ifndef MAMBAD_SERVER_VLLM_DESCRIPTIONS_H_
#define MAMBAD_SERVER_VLLM_DESCRIPTIONS_H_

#include <string>

#include "absl/time/time.h"
#include "engine/engine.h"
#include "mambad/v1/generation.pb.h"
#include "server/text_worker.h"
#include "vllm/vllm_engine.pb.h"

namespace mambad::server {

// What clients call the model: `name`, or else the last part of its path, without ".gguf".
std::string ServedName(const std::string& name, const ModelInfo& model);

// Share in use, 0 to 1, of what fills up first: slots, or pages of keys and values.
double ShareInUse(const EngineStats& stats);

::vllm::grpc::engine::GetModelInfoResponse DescribeForVllm(const Engine& engine,
                                                           const v1::Limits& limits,
                                                           const std::string& served_name);
::vllm::grpc::engine::GetServerInfoResponse DescribeServerForVllm(const Engine& engine,
                                                                  const TextLoad& text,
                                                                  bool draining,
                                                                  absl::Duration uptime);
// `now`: of the wall clock.
::vllm::grpc::engine::GetLoadsResponse DescribeLoadsForVllm(
    const ::vllm::grpc::engine::GetLoadsRequest& request, const Engine& engine,
    const TextLoad& text, absl::Time now);

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_VLLM_DESCRIPTIONS_H_
