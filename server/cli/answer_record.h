// A request with its answers as one JSON object, from which the answers can be made again and
// compared: {"request": GenerateRequest, "answers": [GenerateResponse, ...]}.

#ifndef MAMBAD_SERVER_CLI_ANSWER_RECORD_H_
#define MAMBAD_SERVER_CLI_ANSWER_RECORD_H_

#include <string>
#include <vector>

#include "mambad/v1/generation.pb.h"

namespace mambad::cli {

struct AnswerRecord {
  v1::GenerateRequest request;
  std::vector<v1::GenerateResponse> answers;  // by index, each whole and with its receipt
};

// The record of `request` on a server whose default sampling is `defaults`, so that it does not
// depend on them any more. `answers`: by index, whole.
AnswerRecord MakeRecord(const v1::GenerateRequest& request, const v1::Sampling& defaults,
                        const std::vector<v1::GenerateResponse>& answers);

// On one line, with the field names of the proto.
std::string RecordJson(const AnswerRecord& record);

// Field names as in the proto or as protobuf's JSON has them ("token_ids", "tokenIds"). "answers"
// may be the messages of a stream, or one answer of GenerateOnce. Empty, or what is wrong.
std::string ParseRecord(const std::string& text, AnswerRecord* record);

// What became of one sample when it was made again.
struct SampleComparison {
  int index = 0;
  bool equal = false;
  int tokens = 0;             // as recorded; 0 where only their digest was
  int first_difference = -1;  // the first token that differs, from 0; -1: none, or not known
  // -1: it had ended before.
  int recorded_token = -1, new_token = -1;
};

// `answer`: the sample of the same index, now.
SampleComparison CompareAnswers(const v1::GenerateResponse& recorded,
                                const v1::GenerateResponse& answer);

// Why answers may differ: a line for each thing in which the receipts do not agree.
std::vector<std::string> CompareReceipts(const v1::Receipt& recorded, const v1::Receipt& now);

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_ANSWER_RECORD_H_
