// Calls of vllm.grpc.engine.VllmEngine's Generate, which do as those of mambad.v1 do: what they ask
// is said in its words, its answers are told in theirs.

#ifndef MAMBAD_SERVER_VLLM_DIALECT_H_
#define MAMBAD_SERVER_VLLM_DIALECT_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "mambad/v1/generation.pb.h"
#include "server/generate_dialect.h"
#include "vllm/vllm_engine.pb.h"

namespace mambad::server {

// The service's full name, as it stands in the paths of calls.
inline constexpr absl::string_view kVllmService = "vllm.grpc.engine.VllmEngine";

std::unique_ptr<GenerateDialect> MakeVllmDialect();

// The same request in mambad.v1's words; lists are moved out of `wire`. UNIMPLEMENTED with
// google.rpc.BadRequest: it asks for what is not served. Whether values are in their ranges is not
// judged here.
absl::Status FromVllm(::vllm::grpc::engine::GenerateRequest& wire, v1::GenerateRequest* request);

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_VLLM_DIALECT_H_
