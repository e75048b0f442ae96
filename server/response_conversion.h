// Engine events to wire messages. Pure functions; any thread.

#ifndef MAMBAD_SERVER_RESPONSE_CONVERSION_H_
#define MAMBAD_SERVER_RESPONSE_CONVERSION_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "engine/engine.h"
#include "mambad/v1/generation.pb.h"
#include "server/answer_receipts.h"
#include "server/text_worker.h"

namespace mambad::server {

// Adds the news of `event` to what `message` already holds of the same sample. `receipts`: of the
// whole request. `tokenizer`: of the model, nullptr when it has none.
void AppendEvent(const TokenEvent& event, const text::Tokenizer* tokenizer,
                 AnswerReceipts* receipts, v1::GenerateResponse* message);

// A part of AppendEvent that scoring uses too.
void AppendLogprob(const TokenLogprob& logprob, const text::Tokenizer* tokenizer,
                   v1::TokenLogprob* wire);
void FillUsage(const RequestStats& stats, v1::Usage* wire);
void FillTiming(const RequestStats& stats, v1::Timing* wire);

// About how many bytes of memory and wire this event adds to a message.
int64_t EventBytes(const TokenEvent& event);

v1::FinishReason WireFinishReason(FinishReason reason);

// How the call ends when a sample ended like this: OK for EOS, STOP and LENGTH. `draining`: the
// server cancelled it.
absl::Status FinishStatus(FinishReason reason, const absl::Status& error, bool draining);

v1::GetModelInfoResponse DescribeModel(const Engine& engine, const v1::Limits& limits,
                                       absl::string_view version);
v1::GetLoadResponse DescribeLoad(const Engine& engine, const TextLoad& text, bool draining);

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_RESPONSE_CONVERSION_H_
