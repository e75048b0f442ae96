// SmolLM2-135M-Instruct through the trainer's forward pass, against answers computed elsewhere.
// Optional data: MAMBAD_SHARED_DATA is the folder with smollm2/expected.json, MAMBAD_SMOLLM2_GGUF
// the file.

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/trainer/modules/batches.h"
#include "trainer/modules/decode_state.h"
#include "trainer/modules/language_model.h"

namespace mambad::trainer::testing {
namespace {

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// Every greedy token at once: the pass over prompt and answer chooses each next one; and the first
// few once more one by one.
TEST(SmolLM2, GreedyTokensAreTheExpectedOnes) {
  const std::string gguf = Environment("MAMBAD_SMOLLM2_GGUF");
  std::ifstream file(Environment("MAMBAD_SHARED_DATA") + "/smollm2/expected.json");
  if (gguf.empty() || !file) {
    GTEST_SKIP() << "MAMBAD_SMOLLM2_GGUF or MAMBAD_SHARED_DATA/smollm2/expected.json is absent";
  }
  at::NoGradGuard no_grad;
  const auto model = LanguageModel::Load(gguf, at::kCPU, at::kFloat);
  const nlohmann::json cases = nlohmann::json::parse(file);
  ASSERT_FALSE(cases.empty());
  for (const nlohmann::json& expected : cases) {
    SCOPED_TRACE(expected["user"].get<std::string>());
    auto tokens = expected["prompt_ids"].get<std::vector<int32_t>>();
    const auto answer = expected["greedy_ids"].get<std::vector<int64_t>>();
    const int64_t prompt = static_cast<int64_t>(tokens.size());
    tokens.insert(tokens.end(), answer.begin(), answer.end());
    const at::Tensor hidden = model->Hidden(PackedRows({{tokens}}))[0].narrow(
        0, prompt - 1, static_cast<int64_t>(answer.size()));
    const at::Tensor chosen = at::mm(hidden, model->Head().t()).argmax(-1);
    EXPECT_EQ(std::vector<int64_t>(chosen.data_ptr<int64_t>(),
                                   chosen.data_ptr<int64_t>() + chosen.numel()),
              answer);
  }
}

TEST(SmolLM2, DecodingWritesTheExpectedAnswer) {
  const std::string gguf = Environment("MAMBAD_SMOLLM2_GGUF");
  std::ifstream file(Environment("MAMBAD_SHARED_DATA") + "/smollm2/expected.json");
  if (gguf.empty() || !file) {
    GTEST_SKIP() << "MAMBAD_SMOLLM2_GGUF or MAMBAD_SHARED_DATA/smollm2/expected.json is absent";
  }
  const auto model = LanguageModel::Load(gguf, at::kCPU, at::kFloat);
  const nlohmann::json expected = nlohmann::json::parse(file)[0];
  const auto prompt = expected["prompt_ids"].get<std::vector<int64_t>>();
  const auto answer = expected["greedy_ids"].get<std::vector<int64_t>>();
  DecodeState state(model.get(), 1, static_cast<int64_t>(prompt.size() + answer.size()));
  int64_t next = 0;
  for (const int64_t token : prompt) next = state.Step({token}).argmax().item<int64_t>();
  std::vector<int64_t> written = {next};
  while (written.size() < answer.size()) {
    written.push_back(state.Step({written.back()}).argmax().item<int64_t>());
  }
  EXPECT_EQ(written, answer);
}

}  // namespace
}  // namespace mambad::trainer::testing
