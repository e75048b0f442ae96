#include "server/cli/call_failure.h"

#include <algorithm>
#include <cctype>
#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/status_details.h"

namespace mambad::cli {
namespace {

struct FlagOfField {
  absl::string_view field, flag;
  absl::string_view unit = "";  // of a bare number in its description
};

constexpr FlagOfField kFlags[] = {
    {"sampling.temperature", "--temperature"},
    {"sampling.top_p", "--top-p"},
    {"sampling.top_k", "--top-k", "tokens"},
    {"sampling.min_p", "--min-p"},
    {"sampling.repetition_penalty", "--repetition-penalty"},
    {"sampling.presence_penalty", "--presence-penalty"},
    {"sampling.frequency_penalty", "--frequency-penalty"},
    {"sampling.seed", "--seed"},
    {"sampling.logit_bias", "--logit-bias"},
    {"sampling.allowed_token_ids", "--allowed-token-ids"},
    {"stopping.max_tokens", "--max-tokens", "tokens"},
    {"stopping.min_tokens", "--min-tokens", "tokens"},
    {"stopping.stop_strings", "--stop", "bytes"},
    {"stopping.stop_token_ids", "--stop-token-ids"},
    {"stopping.ignore_eos", "--ignore-eos"},
    {"stopping.include_stop", "--include-stop"},
    {"output.logprobs", "--logprobs", "alternatives"},
    {"output.prompt_logprobs", "--prompt-logprobs", "alternatives"},
    {"output.echo", "--echo"},
    {"output.n", "--n", "samples"},
    {"output.stream_interval", "--stream-interval", "tokens"},
    {"speculation.mode", "--speculation"},
    {"speculation.draft_length", "--draft-length", "tokens"},
    {"priority", "--priority"},
    {"request_id", "--request-id"},
    {"from", "--from"},
    {"alternatives", "--alternatives", "alternatives"},
    {"add_special_tokens", "--plain"},
    {"parse_special", "--plain"},
    {"skip_special", "--keep-special"},
};

bool IsWordCharacter(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-';
}

// Replaces `word` where it stands alone.
void ReplaceWord(const std::string& word, const std::string& other, std::string* text) {
  for (size_t at = text->find(word); at != std::string::npos; at = text->find(word, at)) {
    const size_t end = at + word.size();
    const bool alone = (at == 0 || !IsWordCharacter((*text)[at - 1])) &&
                       (end == text->size() || !IsWordCharacter((*text)[end]));
    if (alone) text->replace(at, word.size(), other);
    at += alone ? other.size() : word.size();
  }
}

// The server's sentences name fields to use instead: their flags, then. Names with an underscore
// alone, which are no words of English.
std::string WithFlagNames(std::string text, const InputNames& names) {
  ReplaceWord("DRAFT_MODEL", "draft-model", &text);
  ReplaceWord("PROMPT_LOOKUP", "prompt-lookup", &text);
  ReplaceWord("token_ids", names.token_ids, &text);
  text = absl::StrReplaceAll(text, {{"send text or ", absl::StrCat("send ", names.text, " or ")}});
  for (const FlagOfField& entry : kFlags) {
    const absl::string_view name = entry.field.substr(entry.field.rfind('.') + 1);
    if (absl::StrContains(name, "_"))
      ReplaceWord(std::string(name), std::string(entry.flag), &text);
  }
  return text;
}

// "0 given, allowed 1 to 256" -> "0 bytes given, ..."; other descriptions stay.
std::string WithUnit(const std::string& text, absl::string_view unit) {
  const size_t end = text.find(" given,");
  double number = 0;
  if (unit.empty() || end == std::string::npos || !absl::SimpleAtod(text.substr(0, end), &number))
    return text;
  return absl::StrCat(text.substr(0, end), " ", unit, text.substr(end));
}

// "name[3].rest" -> "name", 3, "rest"; -1: no index.
void SplitIndex(const std::string& field, std::string* name, int64_t* index, std::string* rest) {
  *index = -1;
  *name = field;
  rest->clear();
  const size_t open = field.find('['), close = field.find(']');
  if (open == std::string::npos || close == std::string::npos || close < open) return;
  if (!absl::SimpleAtoi(field.substr(open + 1, close - open - 1), index)) return;
  *name = field.substr(0, open);
  *rest = std::string(absl::StripPrefix(field.substr(close + 1), "."));
}

FieldFault Explain(const google::rpc::BadRequest::FieldViolation& violation,
                   const InputNames& names) {
  FieldFault fault{violation.field(), violation.field(), violation.description()};
  if (fault.field == "input") {
    fault.flag = "";
    fault.description = absl::StrCat("give ", names.choices);
    return fault;
  }
  std::string name, rest;
  int64_t index = -1;
  SplitIndex(fault.field, &name, &index, &rest);
  absl::string_view entry_word = "number ", unit;
  if (name == "text") {
    fault.flag = names.text;
  } else if (name == "token_ids" || name == "token_ids.ids") {
    fault.flag = names.token_ids;
  } else if (name == "conversation" || name == "conversation.messages") {
    fault.flag = names.conversation;
    entry_word = "message ";
  } else {
    const auto* known = std::find_if(std::begin(kFlags), std::end(kFlags),
                                     [&](const auto& entry) { return entry.field == name; });
    if (known == std::end(kFlags)) return fault;
    fault.flag = std::string(known->flag);
    unit = known->unit;
    if (name == "sampling.logit_bias") {
      entry_word = "token ";
      --index;  // the token's id itself, not its place
    }
  }
  if (fault.field != name) absl::StrAppend(&fault.flag, ", ", entry_word, index + 1);
  if (!rest.empty()) absl::StrAppend(&fault.flag, ", ", rest);
  fault.description = WithFlagNames(WithUnit(fault.description, unit), names);
  return fault;
}

}  // namespace

std::vector<FieldFault> FieldFaults(const grpc::Status& status, const InputNames& names) {
  std::vector<FieldFault> faults;
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return faults;
  for (const auto& detail : details.details()) {
    google::rpc::BadRequest bad_request;
    if (!detail.UnpackTo(&bad_request)) continue;
    for (const auto& violation : bad_request.field_violations())
      faults.push_back(Explain(violation, names));
  }
  return faults;
}

std::optional<double> RetryDelay(const grpc::Status& status) {
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return std::nullopt;
  for (const auto& detail : details.details()) {
    google::rpc::RetryInfo retry;
    if (!detail.UnpackTo(&retry)) continue;
    return double(retry.retry_delay().seconds()) + retry.retry_delay().nanos() * 1e-9;
  }
  return std::nullopt;
}

std::string DescribeFailure(const grpc::Status& status, const InputNames& names) {
  const std::string code = CodeText(status.error_code());
  const std::string message = WithFlagNames(status.error_message(), names);
  const std::optional<double> delay = RetryDelay(status);
  const std::string hint = delay ? absl::StrFormat("; try again in %.3g s", *delay) : "";
  if (message.empty())
    return absl::StrCat("the server answered ", code, " and gave no reason", hint);
  return absl::StrCat(message, " (", code, ")", hint);
}

std::string CodeText(grpc::StatusCode code) {
  return std::string(server::CodeName(static_cast<absl::StatusCode>(code)));
}

}  // namespace mambad::cli
