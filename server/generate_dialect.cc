#include "server/generate_dialect.h"

#include "server/call_environment.h"
#include "server/message_reader.h"
#include "server/request_conversion.h"
#include "server/wire_bytes.h"

namespace mambad::server {
namespace {

class OwnDialect final : public GenerateDialect {
 public:
  absl::string_view service() const override { return kGenerationService; }
  absl::Status Read(grpc::ByteBuffer* bytes, const v1::Limits& limits,
                    v1::GenerateRequest* request) override {
    return ReadMessage(bytes, EntryLimitsOf(limits), request);
  }
  bool names_answers() const override { return true; }
  bool tells_text() const override { return true; }
  bool tells_whole_samples() const override { return false; }
  void BeginAnswer(const std::vector<TokenId>& /*prompt*/) override {}
  void Tell(const v1::GenerateResponse& part, std::vector<grpc::ByteBuffer>* messages) override {
    messages->push_back(ToBytes(part));
  }
};

}  // namespace

std::unique_ptr<GenerateDialect> MakeOwnDialect() { return std::make_unique<OwnDialect>(); }

}  // namespace mambad::server
