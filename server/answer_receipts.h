// The receipts of one request: what its answers follow from, and digests of prompt and answers, put
// together as the tokens come.

#ifndef MAMBAD_SERVER_ANSWER_RECEIPTS_H_
#define MAMBAD_SERVER_ANSWER_RECEIPTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "engine/digest/sha256.h"
#include "engine/engine.h"
#include "engine/request.h"
#include "mambad/v1/generation.pb.h"

namespace mambad::server {

// What an answer's receipts say before it has begun.
struct AnswerStart {
  uint64_t seed = 0;
  int samples = 1;
  std::string prompt_digest;
  bool keeps_session = false;
};

// Of a request that is about to be submitted, with its prompt's tokens.
AnswerStart StartOf(const Request& request);

// Not for several threads at once.
class AnswerReceipts {
 public:
  // Of no request; nothing may be asked of it.
  AnswerReceipts() = default;
  // `model`: the engine's.
  AnswerReceipts(const ModelInfo& model, const AnswerStart& start);

  uint64_t seed() const { return start_.seed; }
  // All events of a sample, in order.
  void Add(const TokenEvent& event);
  // Once, after the sample's last event.
  void Fill(int index, v1::Receipt* receipt);

 private:
  const ModelInfo* model_ = nullptr;
  AnswerStart start_;
  std::vector<Sha256> answers_;  // by sample
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_ANSWER_RECEIPTS_H_
