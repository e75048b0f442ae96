// Every method of the service over a real connection, against answers computed by hand.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/digest/sha256.h"
#include "tests/server/test_daemon.h"

namespace mambad::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(GenerateTest, StreamsTheAnswerWithCompletionInTheLastMessage) {
  TestDaemon daemon;
  const Streamed result = daemon.Generate(TextRequest("hello", 10));
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.text(), FakeText("hello", 0, 10));
  ASSERT_NE(result.completion(), nullptr);
  EXPECT_TRUE(result.messages.back().has_completion());
  EXPECT_EQ(result.completion()->finish_reason(), v1::LENGTH);
  EXPECT_EQ(result.completion()->usage().prompt_tokens(), 6);
  EXPECT_EQ(result.completion()->usage().completion_tokens(), 10);
  EXPECT_EQ(result.completion()->speculation().drafted(), 2);
  std::string from_ids;
  for (const auto& message : result.messages) {
    for (int32_t id : message.token_ids()) from_ids += static_cast<char>(id);
  }
  EXPECT_EQ(from_ids, result.text());
}

// What protobuf refuses without a word to the caller is named here, on every method.
TEST(GenerateTest, BytesThatAreNoRequestAreRefusedWithTheField) {
  TestDaemon daemon;
  const auto channel = daemon.Channel();
  const auto call = [&](const std::string& name, const std::string& bytes) {
    const std::string path = "/mambad.v1.Generation/" + name;
    // A stream of answers holds one as well.
    const grpc::internal::RpcMethod method(path.c_str(), nullptr,
                                           grpc::internal::RpcMethod::SERVER_STREAMING);
    grpc::Slice slice(bytes);
    const grpc::ByteBuffer request(&slice, 1);
    grpc::ByteBuffer response;
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReader<grpc::ByteBuffer>> reader(
        grpc::internal::ClientReaderFactory<grpc::ByteBuffer>::Create(channel.get(), method,
                                                                      &context, request));
    while (reader->Read(&response)) {
    }
    return reader->Finish();
  };
  for (const char* name : {"Generate", "GenerateOnce", "Score", "Tokenize"}) {
    const grpc::Status status = call(name,
                                     "\x0a\x03"
                                     "ab\xff");
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << name;
    EXPECT_THAT(Violation(status), HasSubstr("text: text is not valid UTF-8")) << name;
  }
  for (const char* name :
       {"Generate", "GenerateOnce", "Score", "Tokenize", "Detokenize", "GetModelInfo", "GetLoad"}) {
    const grpc::Status status = call(name, "\x0a\x7f");
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << name;
    EXPECT_THAT(status.error_message(), HasSubstr("no mambad.v1.")) << name;
  }
}

TEST(GenerateTest, TextsAreRefusedByTheirBytesBeforeTheyAreTokenized) {
  TestDaemon daemon(TestDaemon::Options(), {.context = 100});
  v1::GetModelInfoResponse info;
  grpc::ClientContext asking;
  ASSERT_TRUE(daemon.stub().GetModelInfo(&asking, {}, &info).ok());
  EXPECT_EQ(info.limits().text_bytes(), 400);  // the longest token is "</s>"
  // The zero byte is what the fake tokenizer refuses: it must not have seen it.
  const Streamed result = daemon.Generate(TextRequest(std::string(401, '\0'), 10));
  EXPECT_EQ(Violation(result.status),
            "text: 401 bytes given, allowed at most 400: 100 tokens of at most 4 bytes");
  const Streamed seen = daemon.Generate(TextRequest(std::string(400, '\0'), 10));
  EXPECT_THAT(Violation(seen.status), HasSubstr("text: the zero byte"));
  v1::GenerateRequest talk;
  for (int i = 0; i < 3; ++i) {
    auto* message = talk.mutable_conversation()->add_messages();
    message->set_role("user");
    message->set_content(std::string(150, 'x'));
  }
  EXPECT_THAT(Violation(daemon.Generate(talk).status), HasSubstr("conversation: 450 bytes given"));
}

TEST(GenerateTest, FinishReasonsAndStops) {
  TestDaemon daemon;
  const Streamed eos = daemon.Generate(TextRequest("hello.", 10));
  EXPECT_EQ(eos.completion()->finish_reason(), v1::EOS);
  EXPECT_EQ(eos.completion()->stop_token_id(), kFakeEos);
  EXPECT_EQ(eos.text().size(), 5u);
  v1::GenerateRequest request = TextRequest("hello", 100);
  const std::string stop = FakeText("hello", 0, 8).substr(5, 3);
  request.mutable_stopping()->add_stop_strings(stop);
  const Streamed stopped = daemon.Generate(request);
  EXPECT_EQ(stopped.completion()->finish_reason(), v1::STOP);
  EXPECT_EQ(stopped.completion()->stop_string(), stop);
}

TEST(GenerateTest, SamplesAreToldApartByIndex) {
  TestDaemon daemon;
  v1::GenerateRequest request = TextRequest("hello", 20);
  request.mutable_output()->set_n(3);
  const Streamed result = daemon.Generate(request);
  ASSERT_TRUE(result.status.ok());
  std::set<std::string> texts;
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(result.text(i), FakeText("hello", i, 20));
    ASSERT_NE(result.completion(i), nullptr);
    texts.insert(result.text(i));
  }
  EXPECT_EQ(texts.size(), 3u);
}

TEST(GenerateTest, StreamIntervalGathersTokensAfterTheFirst) {
  TestDaemon daemon(TestDaemon::Options(), {.step = absl::Milliseconds(2)});
  v1::GenerateRequest request = TextRequest("hello", 21);
  request.mutable_output()->set_stream_interval(10);
  const Streamed result = daemon.Generate(request);
  EXPECT_EQ(result.text(), FakeText("hello", 0, 21));
  // 1, 10 and 10; where the network is slow, more than 10 and the rest.
  ASSERT_GE(result.messages.size(), 2u);
  ASSERT_LE(result.messages.size(), 3u);
  EXPECT_EQ(result.messages[0].token_ids_size(), 1);
  EXPECT_GE(result.messages[1].token_ids_size(), 10);
}

TEST(GenerateTest, EchoLogprobsAndPromptLogprobs) {
  TestDaemon daemon;
  v1::GenerateRequest request = TextRequest("abc", 4);
  request.mutable_output()->set_echo(true);
  request.mutable_output()->set_logprobs(2);
  request.mutable_output()->set_prompt_logprobs(0);
  v1::GenerateResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(daemon.stub().GenerateOnce(&context, request, &response).ok());
  EXPECT_EQ(response.text(), "abc" + FakeText("abc", 0, 4));
  ASSERT_EQ(response.logprobs_size(), 4);
  EXPECT_EQ(response.logprobs(1).id(), response.token_ids(1));
  EXPECT_EQ(response.logprobs(1).alternatives_size(), 2);
  ASSERT_EQ(response.prompt_logprobs_size(), 3);  // of four tokens, the first has none
  EXPECT_EQ(response.prompt_logprobs(0).id(), 'a');
  EXPECT_EQ(response.prompt_logprobs(0).alternatives_size(), 0);
}

TEST(GenerateTest, SeedIsDrawnAndTold) {
  TestDaemon daemon;
  const uint64_t first = daemon.Generate(TextRequest("a", 1)).completion()->seed();
  const uint64_t second = daemon.Generate(TextRequest("a", 1)).completion()->seed();
  EXPECT_NE(first, second);
  v1::GenerateRequest request = TextRequest("a", 1);
  request.mutable_sampling()->set_seed(77);
  EXPECT_EQ(daemon.Generate(request).completion()->seed(), 77u);
}

std::string DigestOf(const std::vector<int32_t>& ids) {
  Sha256 digest;
  digest.AddTokens(ids);
  return digest.FinishAsDigits();
}

// A stream whose tokens come in many messages and one whole answer have the same receipts.
TEST(GenerateTest, EverySampleHasAReceipt) {
  TestDaemon daemon;
  v1::GenerateRequest request = TextRequest("hello", 7);
  request.mutable_output()->set_n(2);
  request.mutable_sampling()->set_seed(77);
  v1::GenerateResponse whole;
  grpc::ClientContext context;
  ASSERT_TRUE(daemon.stub().GenerateOnce(&context, request, &whole).ok());
  const Streamed streamed = daemon.Generate(request);
  for (int index = 0; index < 2; ++index) {
    const v1::GenerateResponse& sample = index == 0 ? whole : whole.further_samples(0);
    const v1::Receipt& receipt = sample.completion().receipt();
    EXPECT_EQ(receipt.model_fingerprint(), "fake");
    EXPECT_EQ(receipt.numerics(), "by a script");
    EXPECT_EQ(receipt.seed(), 77u);
    EXPECT_EQ(receipt.index(), index);
    EXPECT_EQ(receipt.prompt_digest(), DigestOf({kFakeBos, 'h', 'e', 'l', 'l', 'o'}));
    EXPECT_EQ(receipt.answer_digest(),
              DigestOf({sample.token_ids().begin(), sample.token_ids().end()}));
    EXPECT_EQ(streamed.completion(index)->receipt().SerializeAsString(),
              receipt.SerializeAsString());
  }
  EXPECT_NE(whole.completion().receipt().answer_digest(),
            whole.further_samples(0).completion().receipt().answer_digest());
}

TEST(GenerateTest, ConversationIsRenderedByTheTemplate) {
  TestDaemon daemon;
  v1::GenerateRequest request;
  auto* message = request.mutable_conversation()->add_messages();
  message->set_role("user");
  message->set_content("hi");
  request.mutable_stopping()->set_max_tokens(3);
  v1::TokenizeRequest tokenize;
  *tokenize.mutable_conversation() = request.conversation();
  v1::TokenizeResponse tokens;
  grpc::ClientContext context;
  ASSERT_TRUE(daemon.stub().Tokenize(&context, tokenize, &tokens).ok());
  EXPECT_EQ(tokens.prompt(), "[user]hi[assistant]");
  const Streamed result = daemon.Generate(request);
  ASSERT_TRUE(result.status.ok());
  EXPECT_EQ(result.completion()->usage().prompt_tokens(), tokens.token_ids_size());
  message->set_role("nobody");
  const Streamed refused = daemon.Generate(request);
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(Violation(refused.status), HasSubstr("conversation: "));
  EXPECT_THAT(Violation(refused.status), HasSubstr("nobody may not speak"));
}

TEST(GenerateTest, GenerateOnceHoldsAllSamples) {
  TestDaemon daemon;
  v1::GenerateRequest request = TextRequest("hello", 7);
  request.mutable_output()->set_n(3);
  v1::GenerateResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(daemon.stub().GenerateOnce(&context, request, &response).ok());
  EXPECT_EQ(response.text(), FakeText("hello", 0, 7));
  EXPECT_EQ(response.token_ids_size(), 7);
  EXPECT_EQ(response.completion().finish_reason(), v1::LENGTH);
  ASSERT_EQ(response.further_samples_size(), 2);
  EXPECT_EQ(response.further_samples(1).index(), 2);
  EXPECT_EQ(response.further_samples(1).text(), FakeText("hello", 2, 7));
  EXPECT_EQ(response.further_samples(1).completion().finish_reason(), v1::LENGTH);
}

TEST(GenerateTest, EngineFailureIsTheCallsStatus) {
  TestDaemon daemon;
  const Streamed result = daemon.Generate(TextRequest("hello!", 10));
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(result.status.error_message(), "the fake failed as asked");
  EXPECT_EQ(result.text().size(), 3u);
}

TEST(GenerateTest, WhatOnlyTheEngineKnowsBecomesDetailsToo) {
  TestDaemon daemon;
  v1::GenerateRequest request = TextRequest("hello", 10);
  request.mutable_sampling()->set_top_k(13);
  const Streamed result = daemon.Generate(request);
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Violation(result.status), "sampling.top_k: 13 given, allowed anything else");
}

TEST(GenerateTest, WhereNoneAreServedSessionsAreRefusedByName) {
  TestDaemon daemon(TestDaemon::Options(), {.has_sessions = false});
  v1::GenerateRequest request = TextRequest("hello", 10);
  request.set_session_id("s");
  Streamed result = daemon.Generate(request);
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_THAT(Violation(result.status), HasSubstr("session_id: "));
  request.clear_session_id();
  request.set_keep_session(true);
  EXPECT_THAT(Violation(daemon.Generate(request).status), HasSubstr("keep_session: "));
  request.set_keep_session(false);
  EXPECT_TRUE(daemon.Generate(request).status.ok());
}

TEST(GenerateTest, AModelWithoutTokenizerTakesIdsOnly) {
  TestDaemon daemon(TestDaemon::Options(), {.has_tokenizer = false});
  EXPECT_EQ(daemon.Generate(TextRequest("hello", 3)).status.error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
  v1::GenerateRequest request;
  request.mutable_token_ids()->add_ids(5);
  request.mutable_stopping()->set_max_tokens(3);
  EXPECT_TRUE(daemon.Generate(request).status.ok());
}

TEST(ScoreTest, LogProbabilitiesFromThePositionOn) {
  TestDaemon daemon;
  v1::ScoreRequest request;
  for (int id : {1, 2, 3, 4, 5}) request.mutable_token_ids()->add_ids(id);
  request.set_from(2);
  request.set_alternatives(1);
  v1::ScoreResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(daemon.stub().Score(&context, request, &response).ok());
  ASSERT_EQ(response.logprobs_size(), 3);
  EXPECT_EQ(response.logprobs(0).id(), 3);
  EXPECT_DOUBLE_EQ(response.total_logprob(), -1.5);
  EXPECT_EQ(response.greedy_tokens(), 3);
  EXPECT_THAT(response.token_ids(), ElementsAre(1, 2, 3, 4, 5));
  EXPECT_EQ(response.usage().prompt_tokens(), 5);
}

TEST(ScoreTest, GreedyTokensAreThoseBeforeTheFirstThatIsNot) {
  TestDaemon daemon;
  v1::ScoreRequest request;
  for (int id : {1, 2, 3, kFakeSurprise, 5}) request.mutable_token_ids()->add_ids(id);
  request.set_alternatives(2);
  v1::ScoreResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(daemon.stub().Score(&context, request, &response).ok());
  ASSERT_EQ(response.logprobs_size(), 4);
  EXPECT_EQ(response.greedy_tokens(), 2);
}

TEST(TokenizeTest, ThereAndBack) {
  TestDaemon daemon;
  v1::TokenizeRequest request;
  request.set_text("hé");
  v1::TokenizeResponse tokens;
  grpc::ClientContext context;
  ASSERT_TRUE(daemon.stub().Tokenize(&context, request, &tokens).ok());
  EXPECT_THAT(tokens.token_ids(), ElementsAre(kFakeBos, 'h', 0xC3, 0xA9));
  EXPECT_EQ(tokens.pieces(2), "\xC3");
  v1::DetokenizeRequest back;
  *back.mutable_token_ids() = tokens.token_ids();
  v1::DetokenizeResponse text;
  grpc::ClientContext second;
  ASSERT_TRUE(daemon.stub().Detokenize(&second, back, &text).ok());
  EXPECT_EQ(text.text(), "hé");
}

TEST(InfoTest, ModelAndLimits) {
  ServerOptions options = TestDaemon::Options();
  options.engine.draft_model = "small";
  TestDaemon daemon(options);
  v1::GetModelInfoResponse info;
  grpc::ClientContext context;
  ASSERT_TRUE(daemon.stub().GetModelInfo(&context, {}, &info).ok());
  EXPECT_EQ(info.model().vocabulary(), kFakeVocabulary);
  EXPECT_THAT(info.model().eos_ids(), ElementsAre(kFakeEos));
  EXPECT_EQ(info.draft_model().path(), "small");
  EXPECT_EQ(info.limits().context(), 2048);
  EXPECT_EQ(info.limits().prompt_tokens(), 2047);
  EXPECT_EQ(info.limits().draft_length(), 8);
  EXPECT_EQ(info.memory().weights(), 3000);
  EXPECT_EQ(info.memory().states(), 200);
  EXPECT_EQ(info.memory().workspace(), 10);
  EXPECT_EQ(info.memory().free(), 5000);
  EXPECT_TRUE(info.has_tokenizer());
  EXPECT_TRUE(info.has_chat_template());
  EXPECT_FALSE(info.default_sampling().has_seed());
}

TEST(LogTest, OneLineARequestAndNoText) {
  TestDaemon daemon;
  v1::GenerateRequest request = TextRequest("a secret prompt", 5);
  request.set_request_id("call-7");
  const Streamed result = daemon.Generate(request);
  daemon.daemon().Drain();
  EXPECT_THAT(daemon.log(),
              HasSubstr("method=Generate id=1 request_id=\"call-7\" code=OK finish_reason=LENGTH"));
  EXPECT_THAT(daemon.log(), HasSubstr("prompt_tokens=16 completion_tokens=5"));
  EXPECT_THAT(daemon.log(), Not(HasSubstr("secret")));
  EXPECT_THAT(daemon.log(), Not(HasSubstr(result.text())));
}

TEST(LogTest, JsonLines) {
  ServerOptions options = TestDaemon::Options();
  options.log_format = LogFormat::kJson;
  TestDaemon daemon(options);
  v1::GenerateRequest bad = TextRequest("x", 5);
  bad.mutable_sampling()->set_temperature(-1);
  daemon.Generate(bad);
  daemon.daemon().Drain();
  EXPECT_THAT(daemon.log(), HasSubstr("\"event\":\"request_end\",\"method\":\"Generate\""));
  EXPECT_THAT(daemon.log(), HasSubstr("\"code\":\"INVALID_ARGUMENT\""));
}

}  // namespace
}  // namespace mambad::server
