// Asks a mambad for the continuation of a text, and prints it as it comes: ask PROMPT [HOST:PORT]
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <iostream>
#include <string>

#include "mambad/v1/generation.grpc.pb.h"

int main(int argument_count, char** arguments) {
  if (argument_count < 2) {
    std::cerr << "usage: ask PROMPT [HOST:PORT]\n";
    return 2;
  }
  const std::string address = argument_count > 2 ? arguments[2] : "127.0.0.1:50051";
  const auto channel = grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
  const auto stub = mambad::v1::Generation::NewStub(channel);

  mambad::v1::GenerateRequest request;
  request.set_text(arguments[1]);
  request.mutable_stopping()->set_max_tokens(40);

  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  const auto reader = stub->Generate(&context, request);
  for (mambad::v1::GenerateResponse response; reader->Read(&response);) {
    std::cout << response.text() << std::flush;
  }
  const grpc::Status status = reader->Finish();
  std::cout << "\n";
  if (status.ok()) return 0;
  std::cerr << "code " << status.error_code() << ": " << status.error_message() << "\n";
  return 1;
}
