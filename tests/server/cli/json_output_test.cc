#include "server/cli/json_output.h"

#include <gtest/gtest.h>

#include <limits>

#include "mambad/v1/generation.pb.h"

namespace mambad::cli {
namespace {

TEST(JsonOutputTest, NumbersAreNumbersAndDefaultsAreSpelledOut) {
  v1::Completion completion;
  completion.set_finish_reason(v1::LENGTH);
  completion.set_seed(std::numeric_limits<uint64_t>::max());
  completion.mutable_usage()->set_prompt_tokens(int64_t{1} << 53 | 1);
  EXPECT_EQ(ToJson(completion),
            R"({"finish_reason":"LENGTH","usage":{"prompt_tokens":9007199254740993,)"
            R"("cached_tokens":0,"completion_tokens":0},"seed":18446744073709551615})");
}

TEST(JsonOutputTest, AbsentIsNotZero) {
  v1::Sampling sampling;
  EXPECT_EQ(ToJson(sampling), R"({"logit_bias":{},"allowed_token_ids":[]})");
  sampling.set_temperature(0);
  sampling.set_top_p(0.1f);
  (*sampling.mutable_logit_bias())[7] = -1.5f;
  sampling.add_allowed_token_ids(3);
  EXPECT_EQ(ToJson(sampling),
            R"({"temperature":0.0,"top_p":0.1,"logit_bias":{"7":-1.5},"allowed_token_ids":[3]})");
}

TEST(JsonOutputTest, FloatsReadBackTheSame) {
  v1::TokenLogprob logprob;
  for (const float value :
       {-0.000123456789f, -1.17549435e-38f, 16777216.0f, -0.1f, 3.4028235e38f}) {
    logprob.set_logprob(value);
    const std::string text = ToJson(logprob);
    EXPECT_EQ(std::strtof(text.c_str() + text.find("logprob\":") + 9, nullptr), value) << text;
  }
  logprob.set_logprob(-std::numeric_limits<float>::infinity());
  EXPECT_NE(ToJson(logprob).find(R"("logprob":"-Infinity")"), std::string::npos);
}

TEST(JsonOutputTest, BytesAreTextWhereTheyAreText) {
  v1::TokenizeResponse response;
  response.add_pieces("<a> \"\n");
  response.add_pieces("\xf0\x9f");
  response.add_pieces("");
  EXPECT_EQ(ToJson(response), R"({"token_ids":[],"pieces":["<a> \"\n",[240,159],""],"prompt":""})");
}

}  // namespace
}  // namespace mambad::cli
