// mambactl info, load and health: what is served and how busy it is.

#include <google/protobuf/text_format.h>

#include <cstdio>
#include <memory>
#include <string>

#include "grpc/health/v1/health.grpc.pb.h"
#include "server/cli/client.h"

namespace mambad::cli {
namespace {

int Print(const Connection& connection, const grpc::Status& status,
          const google::protobuf::Message& response) {
  if (!status.ok()) return ReportFailure(connection, status);
  if (connection.json) {
    PrintJson(response);
  } else {
    std::string text;
    google::protobuf::TextFormat::PrintToString(response, &text);
    std::fputs(text.c_str(), stdout);
  }
  return kExitGood;
}

int Info(const Connection& connection) {
  auto stub = v1::Generation::NewStub(connection.Open());
  grpc::ClientContext context;
  connection.Prepare(&context);
  v1::GetModelInfoResponse response;
  const grpc::Status status = stub->GetModelInfo(&context, {}, &response);
  return Print(connection, status, response);
}

int Load(const Connection& connection) {
  auto stub = v1::Generation::NewStub(connection.Open());
  grpc::ClientContext context;
  connection.Prepare(&context);
  v1::GetLoadResponse response;
  const grpc::Status status = stub->GetLoad(&context, {}, &response);
  if (!status.ok() || connection.json) return Print(connection, status, response);
  std::printf("running %d, waiting %d (%ld tokens), slots %d of %d, pages %ld of %ld\n",
              response.running(), response.waiting(), static_cast<long>(response.waiting_tokens()),
              response.slots_used(), response.slots_total(),
              static_cast<long>(response.pages_used()), static_cast<long>(response.pages_total()));
  std::printf("%.1f tokens/s, acceptance %.2f, state %ld bytes, estimated wait %.3f s%s%s\n",
              response.tokens_per_second(), response.acceptance_rate(),
              static_cast<long>(response.state_bytes()),
              static_cast<double>(response.estimated_wait_us()) * 1e-6,
              response.speculation_enabled() ? "" : ", speculation off",
              response.draining() ? ", draining" : "");
  return kExitGood;
}

// SERVING is exit 0, anything else 1: fit for a container's probe.
int Health(const Connection& connection, const std::string& service) {
  auto stub = grpc::health::v1::Health::NewStub(connection.Open());
  grpc::ClientContext context;
  connection.Prepare(&context);
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  grpc::health::v1::HealthCheckResponse response;
  const grpc::Status status = stub->Check(&context, request, &response);
  if (!status.ok()) return ReportFailure(connection, status);
  if (connection.json) {
    PrintJson(response);
  } else {
    std::printf(
        "%s\n",
        grpc::health::v1::HealthCheckResponse::ServingStatus_Name(response.status()).c_str());
  }
  return response.status() == grpc::health::v1::HealthCheckResponse::SERVING ? kExitGood
                                                                             : kExitFailed;
}

}  // namespace

void AddServerCommands(CLI::App* app, const Connection* connection, int* result) {
  app->add_subcommand("info", "The served model and its limits")->callback([=] {
    *result = Info(*connection);
  });
  app->add_subcommand("load", "How busy the server is")->callback([=] {
    *result = Load(*connection);
  });
  CLI::App* health = app->add_subcommand("health", "Whether it serves; exit 0 only then");
  auto service = std::make_shared<std::string>();
  health->add_option("--service", *service,
                     "One service, for example mambad.v1.Generation (default: the whole server)");
  health->callback([=] { *result = Health(*connection, *service); });
}

}  // namespace mambad::cli
