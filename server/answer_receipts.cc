#include "server/answer_receipts.h"

namespace mambad::server {

AnswerReceipts::AnswerReceipts(const ModelInfo& model, const Request& request)
    : model_(&model),
      seed_(request.sampling.seed),
      answers_(static_cast<size_t>(request.output.samples)) {
  Sha256 prompt;
  prompt.AddTokens(request.prompt);
  prompt_digest_ = prompt.FinishAsDigits();
}

void AnswerReceipts::Add(const TokenEvent& event) {
  answers_[static_cast<size_t>(event.index)].AddTokens(event.tokens);
}

void AnswerReceipts::Fill(int index, v1::Receipt* receipt) {
  receipt->set_model_fingerprint(model_->fingerprint);
  receipt->set_numerics(model_->numerics);
  receipt->set_seed(seed_);
  receipt->set_index(index);
  receipt->set_prompt_digest(prompt_digest_);
  receipt->set_answer_digest(answers_[static_cast<size_t>(index)].FinishAsDigits());
}

}  // namespace mambad::server
