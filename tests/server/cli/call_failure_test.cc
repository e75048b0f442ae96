#include "server/cli/call_failure.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "mambad/v1/generation.pb.h"

namespace mambad::cli {
namespace {

using testing::HasSubstr;

grpc::Status Refusal(const std::string& field, const std::string& description) {
  google::rpc::BadRequest bad_request;
  auto* violation = bad_request.add_field_violations();
  violation->set_field(field);
  violation->set_description(description);
  google::rpc::Status details;
  details.add_details()->PackFrom(bad_request);
  return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, field + ": " + description,
                      details.SerializeAsString());
}

std::string Explained(const std::string& field, const std::string& description) {
  const std::vector<FieldFault> faults = FieldFaults(Refusal(field, description), {});
  if (faults.size() != 1) return "not one fault";
  return faults[0].flag + ": " + faults[0].description;
}

TEST(CallFailureTest, FieldsBecomeFlagsAndNumbersGetUnits) {
  EXPECT_EQ(Explained("sampling.temperature", "101 given, allowed 0 to 100"),
            "--temperature: 101 given, allowed 0 to 100");
  EXPECT_EQ(Explained("stopping.stop_strings[2]", "0 given, allowed 1 to 256"),
            "--stop, number 3: 0 bytes given, allowed 1 to 256");
  EXPECT_EQ(Explained("stopping.stop_strings[2]", "0 bytes given, allowed 1 to 256"),
            "--stop, number 3: 0 bytes given, allowed 1 to 256");
  EXPECT_EQ(Explained("stopping.stop_strings", "20 entries given, allowed at most 16"),
            "--stop: 20 entries given, allowed at most 16");
  EXPECT_EQ(Explained("stopping.stop_strings", "the model has no tokenizer: use stop_token_ids"),
            "--stop: the model has no tokenizer: use --stop-token-ids");
  EXPECT_EQ(Explained("sampling.logit_bias[-7]", "id -7 given, allowed 0 to 9"),
            "--logit-bias, token -7: id -7 given, allowed 0 to 9");
  EXPECT_EQ(Explained("speculation.mode", "DRAFT_MODEL given, the server has none"),
            "--speculation: draft-model given, the server has none");
  EXPECT_EQ(Explained("conversation.messages[1].role", "empty"),
            "--messages, message 2, role: empty");
  EXPECT_EQ(Explained("token_ids.ids[0]", "9 given, allowed 0 to 8"),
            "--token-ids, number 1: 9 given, allowed 0 to 8");
}

TEST(CallFailureTest, NamesTheWayTheInputCame) {
  const InputNames names{.text = "--prompt-file", .choices = "this or that"};
  EXPECT_EQ(FieldFaults(Refusal("text", "empty prompt"), names)[0].flag, "--prompt-file");
  const FieldFault missing = FieldFaults(Refusal("input", "not given, allowed: text"), names)[0];
  EXPECT_EQ(missing.flag, "");
  EXPECT_EQ(missing.description, "give this or that");
}

TEST(CallFailureTest, UnknownFieldsStayAsTheyAre) {
  EXPECT_EQ(Explained("sampling.mirostat[3].tau", "1 given"), "sampling.mirostat[3].tau: 1 given");
}

// A field that the wire gets and this table does not would be shown to people by the wire's name.
TEST(CallFailureTest, KnowsEveryFieldThatRequestsHave) {
  const google::protobuf::Descriptor* const kParts[] = {
      v1::Sampling::descriptor(), v1::Stopping::descriptor(), v1::Output::descriptor(),
      v1::Speculation::descriptor()};
  const char* const kPrefixes[] = {"sampling.", "stopping.", "output.", "speculation."};
  for (size_t part = 0; part < std::size(kParts); ++part) {
    for (int i = 0; i < kParts[part]->field_count(); ++i) {
      const std::string field = kPrefixes[part] + kParts[part]->field(i)->name();
      EXPECT_TRUE(absl::StartsWith(Explained(field, "given"), "--")) << field;
    }
  }
}

TEST(CallFailureTest, OtherFailuresSayWhenToComeBack) {
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(83);
  retry.mutable_retry_delay()->set_nanos(900000000);
  google::rpc::Status details;
  details.add_details()->PackFrom(retry);
  const grpc::Status status(grpc::StatusCode::RESOURCE_EXHAUSTED, "the queue is full",
                            details.SerializeAsString());
  EXPECT_TRUE(FieldFaults(status, {}).empty());
  EXPECT_EQ(DescribeFailure(status, {}),
            "the queue is full (RESOURCE_EXHAUSTED); try again in 83.9 s");
}

TEST(CallFailureTest, SentencesNameFlags) {
  const auto words = [](const char* message) {
    return DescribeFailure(grpc::Status(grpc::StatusCode::FAILED_PRECONDITION, message), {});
  };
  EXPECT_EQ(words("the model has no tokenizer: send token_ids"),
            "the model has no tokenizer: send --token-ids (FAILED_PRECONDITION)");
  EXPECT_EQ(words("the model has no chat template: send text or token_ids"),
            "the model has no chat template: send --prompt or --token-ids (FAILED_PRECONDITION)");
  EXPECT_THAT(words(""), HasSubstr("gave no reason"));
}

TEST(CallFailureTest, BytesThatAreNoDetailsAreNone) {
  const grpc::Status status(grpc::StatusCode::INVALID_ARGUMENT, "bad", "\xff\xff\xff");
  EXPECT_TRUE(FieldFaults(status, {}).empty());
  EXPECT_EQ(DescribeFailure(status, {}), "bad (INVALID_ARGUMENT)");
}

}  // namespace
}  // namespace mambad::cli
