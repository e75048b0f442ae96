#include "server/answer_receipts.h"

namespace mambad::server {

AnswerStart StartOf(const Request& request) {
  Sha256 prompt;
  prompt.AddTokens(request.prompt);
  return {request.sampling.seed, request.output.samples, prompt.FinishAsDigits(),
          request.keep_session};
}

AnswerReceipts::AnswerReceipts(const ModelInfo& model, const AnswerStart& start)
    : model_(&model), start_(start), answers_(static_cast<size_t>(start.samples)) {}

void AnswerReceipts::Add(const TokenEvent& event) {
  answers_[static_cast<size_t>(event.index)].AddTokens(event.tokens);
}

void AnswerReceipts::Fill(int index, v1::Receipt* receipt) {
  receipt->set_model_fingerprint(model_->fingerprint);
  receipt->set_numerics(model_->numerics);
  receipt->set_seed(start_.seed);
  receipt->set_index(index);
  receipt->set_prompt_digest(start_.prompt_digest);
  receipt->set_answer_digest(answers_[static_cast<size_t>(index)].FinishAsDigits());
}

}  // namespace mambad::server
