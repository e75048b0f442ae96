#include "server/cli/answer_record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace mambad::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// SHA-256 of 7, 8 and 9 as four bytes each, by sha256sum.
constexpr char kSevenEightNine[] =
    "bcbc01a5036673e493422616677a83718edfe475d3e938b1a879903ffb2a05a0";

v1::GenerateResponse Answer(int index, const std::vector<int>& ids) {
  v1::GenerateResponse answer;
  answer.set_index(index);
  answer.set_text("text");
  answer.mutable_token_ids()->Add(ids.begin(), ids.end());
  answer.mutable_completion()->set_seed(uint64_t{1} << 63);
  return answer;
}

v1::GenerateRequest Request(int samples = 1) {
  v1::GenerateRequest request;
  request.set_text("a \"prompt\"");
  request.mutable_sampling()->set_temperature(0.7f);
  (*request.mutable_sampling()->mutable_logit_bias())[5] = 1.5f;
  request.mutable_output()->set_n(samples);
  return request;
}

TEST(AnswerRecord, IsReadAsItWasWritten) {
  v1::Sampling defaults;
  defaults.set_temperature(1);
  defaults.set_top_k(50);
  const AnswerRecord written =
      MakeRecord(Request(2), defaults, {Answer(0, {7, 8, 9}), Answer(1, {1})});
  AnswerRecord read;
  ASSERT_EQ(ParseRecord(RecordJson(written), &read), "");
  EXPECT_EQ(read.request.text(), "a \"prompt\"");
  EXPECT_EQ(read.request.sampling().temperature(), 0.7f);
  EXPECT_EQ(read.request.sampling().top_k(), 50);
  EXPECT_EQ(read.request.sampling().seed(), uint64_t{1} << 63);
  EXPECT_EQ(read.request.sampling().logit_bias().at(5), 1.5f);
  ASSERT_EQ(read.answers.size(), 2);
  EXPECT_THAT(read.answers[0].token_ids(), ElementsAre(7, 8, 9));
  EXPECT_THAT(read.answers[1].token_ids(), ElementsAre(1));
}

// What a client in another language keeps: protobuf's own names, numbers of 64 bits as strings, and
// a stream's messages.
TEST(AnswerRecord, MessagesOfAStreamInProtobufsJson) {
  AnswerRecord record;
  ASSERT_EQ(
      ParseRecord(R"({"request": {"tokenIds": {"ids": [1, 2]}, "output": {"n": 2}}, "answers": [
      {"tokenIds": [7], "text": "a", "logprobs": [{"id": 7, "piece": "YQ=="}]},
      {"index": 1, "tokenIds": [3], "completion": {"seed": "18446744073709551615"}},
      {"tokenIds": [8, 9], "text": "b", "completion": {"seed": "18446744073709551615"}}]})",
                  &record),
      "");
  EXPECT_THAT(record.answers[0].token_ids(), ElementsAre(7, 8, 9));
  EXPECT_EQ(record.answers[0].text(), "ab");
  EXPECT_EQ(record.request.sampling().seed(), ~uint64_t{0});
}

TEST(AnswerRecord, OneAnswerWithFurtherSamples) {
  AnswerRecord record;
  ASSERT_EQ(ParseRecord(R"({"request": {"text": "x", "output": {"n": 2}}, "answers":
      {"token_ids": [7], "completion": {}, "further_samples": [
          {"index": 1, "token_ids": [8], "completion": {}}]}})",
                        &record),
            "");
  ASSERT_EQ(record.answers.size(), 2);
  EXPECT_THAT(record.answers[1].token_ids(), ElementsAre(8));
}

TEST(AnswerRecord, WhatIsNoneIsRefusedWithTheReason) {
  const auto problem = [](const std::string& text) {
    AnswerRecord record;
    return ParseRecord(text, &record);
  };
  EXPECT_THAT(problem("{"), HasSubstr("not valid JSON"));
  EXPECT_THAT(problem("[]"), HasSubstr("expected {\"request\""));
  EXPECT_THAT(problem(R"({"request": {}})"), HasSubstr("expected {\"request\""));
  EXPECT_THAT(problem(R"({"request": {"txt": "x"}, "answers": []})"), HasSubstr("txt"));
  EXPECT_THAT(problem(R"({"request": {"text": "x"}, "answers": []})"),
              HasSubstr("0 found, 1 expected"));
  EXPECT_THAT(problem(R"({"request": {"text": "x"}, "answers": [7]})"), HasSubstr("no object"));
  EXPECT_THAT(problem(R"({"request": {"text": "x"}, "answers": [{"index": 1}]})"),
              HasSubstr("none of index 0"));
  EXPECT_THAT(problem(R"({"request": {"text": "x"}, "answers": [{"token_ids": [1]}]})"),
              HasSubstr("it broke off"));
  EXPECT_THAT(problem(R"({"request": {"text": "x"}, "answers": [{"completion": {}}]})"),
              HasSubstr("neither token_ids nor a receipt"));
  EXPECT_THAT(problem(R"({"request": {"text": "x"}, "answers": [{"token_ids": [1], "completion":
      {"receipt": {"answer_digest": "00"}}}]})"),
              HasSubstr("not those that its receipt was made of"));
}

TEST(AnswerRecord, TellsWhereAnswersDiffer) {
  const v1::GenerateResponse recorded = Answer(0, {7, 8, 9});
  EXPECT_TRUE(CompareAnswers(recorded, recorded).equal);
  const SampleComparison other = CompareAnswers(recorded, Answer(0, {7, 5, 9}));
  EXPECT_FALSE(other.equal);
  EXPECT_EQ(other.first_difference, 1);
  EXPECT_EQ(other.recorded_token, 8);
  EXPECT_EQ(other.new_token, 5);
  const SampleComparison shorter = CompareAnswers(recorded, Answer(0, {7, 8}));
  EXPECT_FALSE(shorter.equal);
  EXPECT_EQ(shorter.first_difference, 2);
  EXPECT_EQ(shorter.recorded_token, 9);
  EXPECT_EQ(shorter.new_token, -1);
  EXPECT_EQ(CompareAnswers(recorded, Answer(0, {7, 8, 9, 4})).recorded_token, -1);
}

TEST(AnswerRecord, AReceiptAloneIsEnoughToTell) {
  v1::GenerateResponse recorded = Answer(0, {});
  recorded.mutable_completion()->mutable_receipt()->set_answer_digest(kSevenEightNine);
  EXPECT_TRUE(CompareAnswers(recorded, Answer(0, {7, 8, 9})).equal);
  const SampleComparison other = CompareAnswers(recorded, Answer(0, {7, 8}));
  EXPECT_FALSE(other.equal);
  EXPECT_EQ(other.first_difference, -1);
}

TEST(AnswerRecord, SaysInWhatReceiptsDoNotAgree) {
  v1::Receipt recorded;
  recorded.set_model_fingerprint("ab");
  recorded.set_numerics("cpu-avx2");
  recorded.set_prompt_digest("cd");
  EXPECT_THAT(CompareReceipts(recorded, recorded), IsEmpty());
  EXPECT_THAT(CompareReceipts(v1::Receipt(), recorded), IsEmpty());  // nothing was recorded
  v1::Receipt now = recorded;
  now.set_numerics("cpu-avx512");
  EXPECT_THAT(CompareReceipts(recorded, now),
              ElementsAre("computed by other rules: recorded cpu-avx2, now cpu-avx512"));
  now.set_model_fingerprint("ef");
  now.set_prompt_digest("01");
  EXPECT_EQ(CompareReceipts(recorded, now).size(), 3);
}

}  // namespace
}  // namespace mambad::cli
