// A failed call in words for people: flags for fields, units for bare numbers, each thing once.

#ifndef MAMBAD_SERVER_CLI_CALL_FAILURE_H_
#define MAMBAD_SERVER_CLI_CALL_FAILURE_H_

#include <optional>
#include <string>
#include <vector>

#include "grpcpp/support/status.h"

namespace mambad::cli {

// The flags by which one command takes what the wire calls text, conversation and token_ids.
struct InputNames {
  std::string text = "--prompt";
  std::string conversation = "--messages";
  std::string token_ids = "--token-ids";
  std::string choices = "--prompt, --user, --messages or --token-ids";  // of which one is needed
};

// What is wrong with one field of a request.
struct FieldFault {
  std::string field;        // the wire's name
  std::string flag;         // the flag that sets it, with its entry; the field where none does
  std::string description;  // what was given, what is allowed
};

// The BadRequest that came with the status; empty: none did.
std::vector<FieldFault> FieldFaults(const grpc::Status& status, const InputNames& names);

// The status's message, with flags for fields' names, its code and when to try again.
std::string DescribeFailure(const grpc::Status& status, const InputNames& names);

// Seconds after which the server wants to be asked again; nothing where it does not say.
std::optional<double> RetryDelay(const grpc::Status& status);

std::string CodeText(grpc::StatusCode code);  // "INVALID_ARGUMENT"

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_CALL_FAILURE_H_
