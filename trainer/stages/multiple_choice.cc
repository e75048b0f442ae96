#include "trainer/stages/multiple_choice.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <stdexcept>

#include "nlohmann/json.hpp"
#include "trainer/json_record.h"
#include "trainer/line_reader.h"
#include "trainer/losses.h"

namespace mambad::trainer {
namespace {

using at::Tensor;
using nlohmann::json;

ChoiceQuestion ReadQuestion(const std::string& line, const CorpusTokenizer& tokenizer,
                            const CorpusOptions& options) {
  const json record = ReadJsonRecord(line);
  if (!record.is_object() || !record.contains("prompt") || !record["prompt"].is_string() ||
      !record.contains("choices") || !record["choices"].is_array() || !record.contains("answer") ||
      !record["answer"].is_number_unsigned()) {
    throw std::runtime_error(
        "expected {\"prompt\": text, \"choices\": [texts], \"answer\": index}");
  }
  ChoiceQuestion question;
  question.answer = record["answer"].get<size_t>();
  if (record["choices"].size() < 2 || question.answer >= record["choices"].size()) {
    throw std::runtime_error("expected two choices or more, and \"answer\" an index of one");
  }
  for (const json& choice : record["choices"]) {
    if (!choice.is_string()) throw std::runtime_error("\"choices\": expected texts");
    const TokenizedDocument document =
        TokenizeAnswer(record["prompt"].get_ref<const std::string&>(),
                       choice.get_ref<const std::string&>(), tokenizer, options);
    const auto first = std::find(document.trained.begin(), document.trained.end(), true);
    question.rows.push_back(
        {{document.tokens.begin(), document.tokens.end()}, first - document.trained.begin()});
  }
  return question;
}

size_t Best(const Tensor& scores) { return static_cast<size_t>(scores.argmax().item<int64_t>()); }

}  // namespace

std::vector<ChoiceQuestion> ReadQuestions(const std::string& path, const CorpusTokenizer& tokenizer,
                                          const CorpusOptions& options) {
  std::vector<ChoiceQuestion> questions;
  LineReader reader(path);
  std::string line;
  while (reader.Next(&line)) {
    if (line.find_first_not_of(" \t") == std::string::npos) continue;
    try {
      questions.push_back(ReadQuestion(line, tokenizer, options));
    } catch (const std::runtime_error& error) {
      throw std::runtime_error(path + ":" + std::to_string(reader.line_number()) + ": " +
                               error.what());
    }
  }
  if (questions.empty()) throw std::runtime_error(path + ": no question in it");
  return questions;
}

ChoiceAccuracy MeasureChoices(const LanguageModel& model,
                              const std::vector<ChoiceQuestion>& questions) {
  at::NoGradGuard no_grad;
  const Tensor head = model.Head();
  int64_t right = 0, right_per_token = 0;
  for (const ChoiceQuestion& question : questions) {
    const TokenBatch batch = MoveToDevice(DocumentRows(question.rows), model.device());
    const Tensor hidden = model.Hidden(batch);
    const Tensor scores = TokenLogProbabilities(hidden.reshape({-1, hidden.size(-1)}), head,
                                                batch.target_ids.view({-1}))
                              .view(batch.target_ids.sizes()) *
                          batch.loss_mask;
    const Tensor sums = scores.sum(1), tokens = batch.loss_mask.sum(1).clamp_min(1);
    right += Best(sums) == question.answer;
    right_per_token += Best(sums / tokens) == question.answer;
  }
  const auto count = static_cast<double>(questions.size());
  return {static_cast<int64_t>(questions.size()), static_cast<double>(right) / count,
          static_cast<double>(right_per_token) / count};
}

}  // namespace mambad::trainer
