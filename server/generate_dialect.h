// How the streaming calls of one service say what they ask, and how they are told what they are
// answered: the difference between services, all else of a call is GenerateStream's.

#ifndef MAMBAD_SERVER_GENERATE_DIALECT_H_
#define MAMBAD_SERVER_GENERATE_DIALECT_H_

#include <grpcpp/support/byte_buffer.h>

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "engine/options.h"
#include "mambad/v1/generation.pb.h"

namespace mambad::server {

// Of one call, which uses it from one thread at a time.
class GenerateDialect {
 public:
  virtual ~GenerateDialect() = default;

  // The service's full name, as it stands in the paths of calls.
  virtual absl::string_view service() const = 0;
  // Reads the request, as mambad.v1 would say it. Errors with google.rpc.BadRequest.
  virtual absl::Status Read(grpc::ByteBuffer* bytes, const v1::Limits& limits,
                            v1::GenerateRequest* request) = 0;

  // After Read. Whether request_id names an answer, which is told again to who asks again
  // (named_answers.h), instead of the call, which can be aborted by it (call_names.h).
  virtual bool names_answers() const = 0;
  // Whether the answer is told with its text and its tokens' bytes, and not in ids alone.
  virtual bool tells_text() const = 0;
  // Whether each sample is told when it has ended, all at once.
  virtual bool tells_whole_samples() const = 0;

  // Before the first Tell of an answer that this call began: its prompt.
  virtual void BeginAnswer(const std::vector<TokenId>& prompt) = 0;
  // Puts the messages, at least one, that tell this part of the answer behind `messages`.
  virtual void Tell(const v1::GenerateResponse& part, std::vector<grpc::ByteBuffer>* messages) = 0;
};

// Of mambad.v1.Generation itself.
std::unique_ptr<GenerateDialect> MakeOwnDialect();

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_GENERATE_DIALECT_H_
