// The second door to the engine, vllm.grpc.engine.VllmEngine: the same answers as through the
// first.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/message_reader.h"
#include "server/vllm/descriptions.h"
#include "server/vllm/dialect.h"
#include "server/vllm/zip_archive.h"
#include "tests/server/test_daemon.h"
#include "vllm/vllm_engine.grpc.pb.h"

namespace mambad::server {
namespace {

namespace vllm = ::vllm::grpc::engine;

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// As the fake engine's tokenizer reads it.
std::vector<TokenId> TokensOf(const std::string& text) {
  std::vector<TokenId> ids = {kFakeBos};
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

vllm::GenerateRequest TokenRequest(const std::string& prompt, uint32_t max_tokens, bool stream) {
  vllm::GenerateRequest request;
  for (const TokenId id : TokensOf(prompt)) request.mutable_tokenized()->add_input_ids(id);
  request.mutable_tokenized()->set_original_text(prompt);
  request.mutable_sampling_params()->set_max_tokens(max_tokens);
  request.set_stream(stream);
  return request;
}

struct Answer {
  std::vector<vllm::GenerateStreamChunk> chunks;
  std::vector<vllm::GenerateComplete> completes;
  grpc::Status status;

  std::string text(uint32_t index = 0) const {
    std::string text;
    for (const auto& chunk : chunks) {
      for (const uint32_t id : chunk.token_ids())
        if (chunk.index() == index) text.push_back(static_cast<char>(id));
    }
    return text;
  }
};

class VllmEngineServiceTest : public ::testing::Test {
 protected:
  explicit VllmEngineServiceTest(FakeOptions fake = {})
      : daemon_(TestDaemon::Options(), std::move(fake)),
        stub_(vllm::VllmEngine::NewStub(daemon_.Channel())) {}

  Answer Generate(const vllm::GenerateRequest& request) {
    grpc::ClientContext context;
    auto reader = stub_->Generate(&context, request);
    return Rest(*reader);
  }

  static Answer Rest(grpc::ClientReader<vllm::GenerateResponse>& reader) {
    Answer answer;
    for (vllm::GenerateResponse message; reader.Read(&message);) {
      if (message.has_chunk()) answer.chunks.push_back(message.chunk());
      if (message.has_complete()) answer.completes.push_back(message.complete());
    }
    answer.status = reader.Finish();
    return answer;
  }

  TestDaemon daemon_;
  std::unique_ptr<vllm::VllmEngine::Stub> stub_;
};

TEST_F(VllmEngineServiceTest, StreamsChunksAndThenTheEnd) {
  const Answer answer = Generate(TokenRequest("hello", 10, true));
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.text(), FakeText("hello", 0, 10));
  uint32_t told = 0;
  for (const auto& chunk : answer.chunks) {
    EXPECT_EQ(chunk.prompt_tokens(), 6u);
    told += chunk.completion_tokens();
  }
  EXPECT_EQ(told, 10u);
  ASSERT_EQ(answer.completes.size(), 1u);
  const vllm::GenerateComplete& end = answer.completes[0];
  EXPECT_EQ(end.finish_reason(), "length");
  EXPECT_EQ(end.output_ids_size(), 0);
  EXPECT_EQ(end.prompt_tokens(), 6u);
  EXPECT_EQ(end.completion_tokens(), 10u);
  EXPECT_TRUE(daemon_.BecomesIdle());
}

TEST_F(VllmEngineServiceTest, WithoutStreamEachSampleIsTheEndAlone) {
  vllm::GenerateRequest request = TokenRequest("hello", 10, false);
  request.mutable_sampling_params()->set_n(3);
  const Answer answer = Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_TRUE(answer.chunks.empty());
  ASSERT_EQ(answer.completes.size(), 3u);
  for (const vllm::GenerateComplete& end : answer.completes) {
    std::string text;
    for (const uint32_t id : end.output_ids()) text.push_back(static_cast<char>(id));
    EXPECT_EQ(text, FakeText("hello", static_cast<int>(end.index()), 10)) << end.index();
    EXPECT_EQ(end.completion_tokens(), 10u);
  }
}

// More than may wait for a slow reader of a stream: whole answers are not held to it.
TEST(VllmWholeAnswersTest, DoNotPause) {
  ServerOptions options = TestDaemon::Options();
  options.max_pending_bytes = 64;
  TestDaemon daemon(options);
  const auto stub = vllm::VllmEngine::NewStub(daemon.Channel());
  vllm::GenerateRequest request = TokenRequest("hello", 1000, false);
  request.mutable_sampling_params()->set_n(2);
  grpc::ClientContext context;
  auto reader = stub->Generate(&context, request);
  int ends = 0;
  for (vllm::GenerateResponse message; reader->Read(&message);) {
    ASSERT_TRUE(message.has_complete());
    EXPECT_EQ(message.complete().output_ids_size(), 1000);
    ++ends;
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(ends, 2);
}

TEST_F(VllmEngineServiceTest, TextAndStopsAreTheEngines) {
  vllm::GenerateRequest request;
  request.set_text("hello");
  request.set_stream(true);
  const std::string whole = FakeText("hello", 0, 20);
  request.mutable_sampling_params()->add_stop(whole.substr(4, 3));
  Answer answer = Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  ASSERT_EQ(answer.completes.size(), 1u);
  EXPECT_EQ(answer.completes[0].finish_reason(), "stop");
  EXPECT_EQ(answer.completes[0].matched_stop_str(), whole.substr(4, 3));

  // The model's own end of text: nothing that was asked for.
  answer = Generate(TokenRequest("hello.", 100, true));
  EXPECT_EQ(answer.completes[0].finish_reason(), "stop");
  EXPECT_EQ(answer.completes[0].matched_stop_case(), vllm::GenerateComplete::MATCHED_STOP_NOT_SET);
}

TEST_F(VllmEngineServiceTest, LogprobsStandByTheirTokens) {
  vllm::GenerateRequest request = TokenRequest("hello", 4, false);
  request.mutable_sampling_params()->set_logprobs(2);
  request.mutable_sampling_params()->set_prompt_logprobs(0);
  const Answer answer = Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  const vllm::OutputLogProbs& output = answer.completes[0].output_logprobs();
  EXPECT_EQ(output.token_ids_size(), 4);
  EXPECT_EQ(output.token_logprobs_size(), 4);
  ASSERT_EQ(output.top_logprobs_size(), 4);
  EXPECT_EQ(output.top_logprobs(0).token_ids_size(), 2);
  EXPECT_EQ(output.top_logprobs(0).values_size(), 2);
  const vllm::InputLogProbs& input = answer.completes[0].input_logprobs();
  EXPECT_THAT(input.token_ids(), ElementsAre(kFakeBos, 'h', 'e', 'l', 'l', 'o'));
  ASSERT_EQ(input.token_logprobs_size(), 6);
  EXPECT_FALSE(input.token_logprobs(0).has_value());
  EXPECT_TRUE(input.token_logprobs(1).has_value());
  EXPECT_EQ(input.top_logprobs_size(), 0);
}

TEST_F(VllmEngineServiceTest, RefusesWhatIsNotServedByName) {
  vllm::GenerateRequest request = TokenRequest("hello", 4, false);
  request.mutable_sampling_params()->set_json_schema("{}");
  Answer answer = Generate(request);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_THAT(Violation(answer.status), HasSubstr("sampling_params.json_schema: "));

  request = TokenRequest("hello", 4, false);
  request.mutable_mm_inputs();
  answer = Generate(request);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_THAT(Violation(answer.status), HasSubstr("mm_inputs: "));

  request = TokenRequest("hello", 4, false);
  request.set_data_parallel_rank(0);
  EXPECT_TRUE(Generate(request).status.ok());
  request.set_data_parallel_rank(1);
  EXPECT_EQ(Generate(request).status.error_code(), grpc::StatusCode::UNIMPLEMENTED);

  request = TokenRequest("hello", 4, false);
  request.mutable_sampling_params()->set_top_p(2);
  answer = Generate(request);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(Violation(answer.status), HasSubstr("sampling.top_p: "));

  answer = Generate(vllm::GenerateRequest());
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

// One whole answer in mambad.v1's words, as it is told.
vllm::GenerateComplete Told(const v1::GenerateResponse& part) {
  const std::unique_ptr<GenerateDialect> dialect = MakeVllmDialect();
  std::vector<grpc::ByteBuffer> messages;
  dialect->Tell(part, &messages);
  EXPECT_EQ(messages.size(), 1u);
  vllm::GenerateResponse response;
  EXPECT_TRUE(ReadMessage(&messages.front(), {}, &response).ok());
  return response.complete();
}

TEST(VllmDialectTest, TellsWhyAnAnswerEnded) {
  v1::GenerateResponse part;
  v1::Completion& completion = *part.mutable_completion();
  completion.set_finish_reason(v1::STOP);
  completion.set_stop_token_id(7);
  EXPECT_EQ(Told(part).finish_reason(), "stop");
  EXPECT_EQ(Told(part).matched_token_id(), 7u);
  completion.set_finish_reason(v1::EOS);
  EXPECT_EQ(Told(part).finish_reason(), "stop");
  EXPECT_FALSE(Told(part).has_matched_token_id());
  completion.set_finish_reason(v1::LENGTH);
  EXPECT_EQ(Told(part).finish_reason(), "length");
  for (const v1::FinishReason cut : {v1::CANCELLED, v1::DEADLINE}) {
    completion.set_finish_reason(cut);
    EXPECT_EQ(Told(part).finish_reason(), "abort");
  }
  completion.set_finish_reason(v1::FINISH_REASON_UNSPECIFIED);
  EXPECT_EQ(Told(part).finish_reason(), "error");
  completion.mutable_speculation()->set_drafted(9);
  completion.mutable_speculation()->set_accepted(5);
  EXPECT_EQ(Told(part).spec_draft_tokens(), 9u);
  EXPECT_EQ(Told(part).spec_accepted_tokens(), 5u);
}

TEST(FromVllmTest, UnsetFieldsAreDefaultsAndOthersAreSaid) {
  vllm::GenerateRequest wire = TokenRequest("a", 7, true);
  v1::GenerateRequest request;
  ASSERT_TRUE(FromVllm(wire, &request).ok());
  EXPECT_FALSE(request.sampling().has_temperature());
  EXPECT_FALSE(request.sampling().has_seed());
  EXPECT_EQ(request.sampling().top_p(), 1);
  EXPECT_EQ(request.sampling().top_k(), 0);
  EXPECT_EQ(request.sampling().repetition_penalty(), 1);
  EXPECT_EQ(request.output().n(), 1);
  EXPECT_FALSE(request.output().has_logprobs());
  EXPECT_EQ(request.stopping().max_tokens(), 7);

  vllm::SamplingParams& sampling = *wire.mutable_sampling_params();
  sampling.set_temperature(0);
  sampling.set_top_p(0.5);
  sampling.set_top_k(40);
  sampling.set_min_p(0.125);
  sampling.set_frequency_penalty(0.25);
  sampling.set_presence_penalty(0.75);
  sampling.set_repetition_penalty(1.5);
  sampling.set_min_tokens(3);
  sampling.add_stop("x");
  sampling.add_stop_token_ids(9);
  sampling.set_ignore_eos(true);
  sampling.set_n(2);
  sampling.set_logprobs(3);
  sampling.set_prompt_logprobs(4);
  sampling.set_seed(-1);
  sampling.set_include_stop_str_in_output(true);
  (*sampling.mutable_logit_bias())[5] = -6;
  wire.set_request_id("name");
  wire.set_text("prompt");
  request.Clear();
  ASSERT_TRUE(FromVllm(wire, &request).ok());
  v1::GenerateRequest expected;
  expected.set_request_id("name");
  expected.set_text("prompt");
  v1::Sampling& said = *expected.mutable_sampling();
  said.set_temperature(0);
  said.set_top_p(0.5);
  said.set_top_k(40);
  said.set_min_p(0.125);
  said.set_frequency_penalty(0.25);
  said.set_presence_penalty(0.75);
  said.set_repetition_penalty(1.5);
  said.set_seed(0xFFFFFFFF);
  (*said.mutable_logit_bias())[5] = -6;
  v1::Stopping& stopping = *expected.mutable_stopping();
  stopping.set_max_tokens(7);
  stopping.set_min_tokens(3);
  stopping.add_stop_strings("x");
  stopping.add_stop_token_ids(9);
  stopping.set_ignore_eos(true);
  stopping.set_include_stop(true);
  expected.mutable_output()->set_logprobs(3);
  expected.mutable_output()->set_prompt_logprobs(4);
  expected.mutable_output()->set_n(2);
  EXPECT_EQ(request.DebugString(), expected.DebugString());
}

TEST_F(VllmEngineServiceTest, TellsOfModelServerAndLoad) {
  grpc::ClientContext health_context, model_context, server_context, loads_context, rank_context;
  vllm::HealthCheckResponse health;
  ASSERT_TRUE(stub_->HealthCheck(&health_context, {}, &health).ok());
  EXPECT_TRUE(health.healthy());
  EXPECT_EQ(health.message(), "serving");

  vllm::GetModelInfoResponse model;
  ASSERT_TRUE(stub_->GetModelInfo(&model_context, {}, &model).ok());
  EXPECT_TRUE(model.is_generation());
  EXPECT_EQ(model.served_model_name(), "fake");
  EXPECT_THAT(model.model_path(), HasSubstr("/fake"));
  EXPECT_EQ(model.max_context_length(), 2048u);
  EXPECT_EQ(model.max_req_input_len(), 2047);
  EXPECT_EQ(model.vocab_size(), static_cast<uint32_t>(kFakeVocabulary));
  EXPECT_THAT(model.eos_token_ids(), ElementsAre(kFakeEos));
  EXPECT_EQ(model.bos_token_id(), kFakeBos);
  EXPECT_THAT(model.default_sampling_params_json(), HasSubstr("\"temperature\":"));

  vllm::GetServerInfoResponse server;
  ASSERT_TRUE(stub_->GetServerInfo(&server_context, {}, &server).ok());
  EXPECT_EQ(server.server_type(), "mambad");
  EXPECT_EQ(server.data_parallel_size(), 1);
  EXPECT_EQ(server.max_num_seqs(), 16);
  EXPECT_FALSE(server.is_paused());

  vllm::GetLoadsResponse loads;
  ASSERT_TRUE(stub_->GetLoads(&loads_context, {}, &loads).ok());
  ASSERT_EQ(loads.loads_size(), 1);
  EXPECT_EQ(loads.loads(0).max_running_requests(), 16);
  EXPECT_EQ(loads.dp_rank_count(), 1);
  EXPECT_THAT(loads.timestamp(), HasSubstr("T"));
  vllm::GetLoadsRequest other_rank;
  other_rank.set_dp_rank(1);
  ASSERT_TRUE(stub_->GetLoads(&rank_context, other_rank, &loads).ok());
  EXPECT_EQ(loads.loads_size(), 0);
}

TEST(ServedNameTest, IsTheGivenOneOrThePathsLastPart) {
  ModelInfo model;
  model.path = "/models/stories/target";
  EXPECT_EQ(ServedName("", model), "target");
  model.path = "/models/stories/target/";
  EXPECT_EQ(ServedName("", model), "target");
  model.path = "models/Smol-135M.gguf";
  EXPECT_EQ(ServedName("", model), "Smol-135M");
  EXPECT_EQ(ServedName("mine", model), "mine");
}

TEST(VllmHealthTest, IsToldWhileLoading) {
  TestDaemon daemon(TestDaemon::Options(), {}, /*load=*/false);
  const auto stub = vllm::VllmEngine::NewStub(daemon.Channel());
  const auto health = [&] {
    grpc::ClientContext context;
    vllm::HealthCheckResponse response;
    EXPECT_TRUE(stub->HealthCheck(&context, {}, &response).ok());
    return absl::StrCat(response.healthy(), " ", response.message());
  };
  EXPECT_EQ(health(), "0 loading");
  grpc::ClientContext context;
  vllm::GetLoadsResponse loads;
  EXPECT_EQ(stub->GetLoads(&context, {}, &loads).error_code(), grpc::StatusCode::UNAVAILABLE);
  ASSERT_TRUE(daemon.daemon().Load().ok());
  EXPECT_EQ(health(), "1 serving");
}

class VllmAbortTest : public VllmEngineServiceTest {
 protected:
  VllmAbortTest() : VllmEngineServiceTest({.step = absl::Milliseconds(1), .context = 1 << 20}) {}

  void Abort(const std::string& id) {
    grpc::ClientContext context;
    vllm::AbortRequest request;
    request.add_request_ids("another");
    request.add_request_ids(id);
    vllm::AbortResponse response;
    EXPECT_TRUE(stub_->Abort(&context, request, &response).ok());
  }
};

TEST_F(VllmAbortTest, EndsTheCallOfThatName) {
  for (const bool stream : {true, false}) {
    vllm::GenerateRequest request = TokenRequest("hello", 1 << 19, stream);
    request.set_request_id("mine");
    grpc::ClientContext context;
    auto reader = stub_->Generate(&context, request);
    while (daemon_.engine().Stats().running == 0) absl::SleepFor(absl::Milliseconds(1));
    Abort("mine");
    const Answer answer = Rest(*reader);
    EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::CANCELLED);
    ASSERT_EQ(answer.completes.size(), 1u);
    EXPECT_EQ(answer.completes[0].finish_reason(), "abort");
    EXPECT_TRUE(daemon_.BecomesIdle());
    Abort("mine");  // which is over
  }
}

TEST_F(VllmAbortTest, CallersWhoAreGoneAreNotWaitedFor) {
  // Names of mambad.v1 keep an answer for callers that come back; names here do not.
  vllm::GenerateRequest request = TokenRequest("hello", 1 << 19, true);
  request.set_request_id("mine");
  grpc::ClientContext context;
  auto reader = stub_->Generate(&context, request);
  vllm::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  context.TryCancel();
  Rest(*reader);
  EXPECT_TRUE(daemon_.BecomesIdle());
}

TEST_F(VllmAbortTest, OneNameMayBeThatOfSeveralCalls) {
  vllm::GenerateRequest request = TokenRequest("hello", 1 << 19, true);
  request.set_request_id("mine");
  grpc::ClientContext contexts[2];
  auto first = stub_->Generate(&contexts[0], request);
  auto second = stub_->Generate(&contexts[1], request);
  while (daemon_.engine().Stats().running < 2) absl::SleepFor(absl::Milliseconds(1));
  Abort("mine");
  EXPECT_EQ(Rest(*first).status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(Rest(*second).status.error_code(), grpc::StatusCode::CANCELLED);
}

// A drain lets what runs come to its end and takes nothing new.
TEST_F(VllmAbortTest, DrainsAsTheFirstDoorDoes) {
  grpc::ClientContext context;
  auto reader = stub_->Generate(&context, TokenRequest("hello", 300, true));
  while (daemon_.engine().Stats().running == 0) absl::SleepFor(absl::Milliseconds(1));
  auto drained = std::async(std::launch::async, [this] { daemon_.daemon().Drain(); });
  grpc::Status refused;
  while (refused.ok()) refused = Generate(TokenRequest("hello", 1, true)).status;
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  const Answer answer = Rest(*reader);
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  ASSERT_EQ(answer.completes.size(), 1u);
  EXPECT_EQ(answer.completes[0].completion_tokens(), 300u);
  drained.wait();
}

TEST_F(VllmEngineServiceTest, CallsAreCountedAndLoggedWithTheirTraces) {
  vllm::GenerateRequest request = TokenRequest("hello", 3, true);
  request.set_request_id("chatcmpl-1");
  grpc::ClientContext context;
  context.AddMetadata("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
  auto reader = stub_->Generate(&context, request);
  ASSERT_TRUE(Rest(*reader).status.ok());
  EXPECT_THAT(daemon_.log(), HasSubstr("request_id=\"chatcmpl-1\" "
                                       "trace_id=0af7651916cd43dd8448eb211c80319c "
                                       "parent_span_id=b7ad6b7169203331 code=OK"));
  EXPECT_TRUE(Generate(TokenRequest("hello", 3, true)).status.ok());
  EXPECT_THAT(daemon_.log().substr(daemon_.log().find("chatcmpl-1") + 200),
              Not(HasSubstr("trace_id")));
}

TEST(ZipArchiveTest, EqualFilesGiveEqualBytes) {
  const std::string zip = ZipArchive({{"a.json", std::string(1000, 'x')}, {"b", ""}});
  EXPECT_EQ(zip, ZipArchive({{"a.json", std::string(1000, 'x')}, {"b", ""}}));
  EXPECT_EQ(zip.substr(0, 4), std::string("PK\x03\x04"));
  EXPECT_LT(zip.size(), 300u);
}

}  // namespace
}  // namespace mambad::server
