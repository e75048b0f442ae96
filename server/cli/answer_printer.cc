#include "server/cli/answer_printer.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/cli/json_output.h"
#include "server/cli/terminal_text.h"
#include "server/cli/token_table.h"

namespace mambad::cli {
namespace {

std::string Tokens(const v1::Usage& usage) {
  std::string text = absl::StrCat(usage.prompt_tokens(), " prompt");
  if (usage.cached_tokens() > 0) absl::StrAppend(&text, " (", usage.cached_tokens(), " cached)");
  return absl::StrCat(text, " + ", usage.completion_tokens(), " answer tokens");
}

std::string Drafts(const v1::SpeculationReport& report, const v1::GenerateRequest& request,
                   const v1::GetModelInfoResponse& info) {
  if (request.speculation().mode() == v1::Speculation::OFF) return "speculation off";
  if (report.drafted() > 0)
    return absl::StrCat(report.accepted(), " of ", report.drafted(), " drafts accepted");
  return info.limits().draft_length() > 0 ? "nothing drafted" : "speculation off";
}

}  // namespace

std::string StatusLine(const v1::Completion& completion, const v1::GenerateRequest& request,
                       const v1::GetModelInfoResponse& info, int sample) {
  std::string line = "[";
  if (sample > 0) absl::StrAppend(&line, "sample ", sample, ": ");
  absl::StrAppend(&line, v1::FinishReason_Name(completion.finish_reason()), ", ",
                  Tokens(completion.usage()));
  const double seconds = static_cast<double>(completion.timing().total_us()) * 1e-6;
  if (seconds > 0) {
    const double rate = static_cast<double>(completion.usage().completion_tokens()) / seconds;
    absl::StrAppend(&line, ", ", static_cast<int64_t>(rate + 0.5), " tokens/s");
  }
  absl::StrAppend(&line, ", ", Drafts(completion.speculation(), request, info));
  const float temperature = request.sampling().has_temperature()
                                ? request.sampling().temperature()
                                : info.default_sampling().temperature();
  if (temperature > 0) absl::StrAppend(&line, ", seed ", completion.seed());
  if (completion.has_session_id()) {
    absl::StrAppend(&line, ", session ", completion.session_id(), " at ",
                    GroupDigits(completion.position()));
  }
  return absl::StrCat(line, "]");
}

void PrintNote(const ClientOptions& options, const std::string& line) {
  std::fflush(stdout);  // both may be the same terminal
  std::fprintf(stderr, options.dims_status ? "\033[2m%s\033[0m\n" : "%s\n", line.c_str());
}

AnswerPrinter::AnswerPrinter(const ClientOptions& options, const v1::GenerateRequest& request,
                             const v1::GetModelInfoResponse& info)
    : options_(options),
      request_(request),
      info_(info),
      samples_(static_cast<size_t>(std::max(1, request.output().n()))) {}

void AnswerPrinter::Gather(const v1::GenerateResponse& message) {
  begun_ = true;
  v1::GenerateResponse& sample = samples_[static_cast<size_t>(message.index()) % samples_.size()];
  const std::string before = std::move(*sample.mutable_text());
  sample.MergeFrom(message);  // lists grow; the text would be replaced
  sample.set_text(before + message.text());
}

void AnswerPrinter::Add(const v1::GenerateResponse& message) {
  Gather(message);
  if (options_.json) {
    PrintJson(message);
  } else if (samples_.size() > 1) {
    PrintFinished();
  } else {
    PrintText(message);
    if (message.has_completion()) PrintEnd(samples_[0]);
  }
}

void AnswerPrinter::AddWhole(const v1::GenerateResponse& answer) {
  v1::GenerateResponse first = answer;
  first.clear_further_samples();
  const auto add = [this](const v1::GenerateResponse& sample) {
    options_.json ? Gather(sample) : Add(sample);
  };
  add(first);
  for (const v1::GenerateResponse& sample : answer.further_samples()) add(sample);
  if (options_.json) PrintJson(answer);
}

void AnswerPrinter::PrintText(const v1::GenerateResponse& part) {
  std::string text = part.text();
  if (!info_.has_tokenizer()) {
    for (int32_t id : part.token_ids()) absl::StrAppend(&text, id, " ");
  }
  if (text.empty()) return;
  if (options_.shows_text) text = SafeForTerminal(text);
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
  in_line_ = true;
}

void AnswerPrinter::EndLine() {
  if (in_line_) std::printf("\n");
  std::fflush(stdout);
  in_line_ = false;
}

void AnswerPrinter::PrintEnd(const v1::GenerateResponse& sample) {
  in_line_ = true;  // an empty answer is an empty line
  EndLine();
  const int64_t prompt_tokens = sample.completion().usage().prompt_tokens();
  if (sample.prompt_logprobs_size() > 0) {
    std::fprintf(stderr, "prompt\n%s", TokenTable(1, sample.prompt_logprobs()).c_str());
  }
  if (sample.logprobs_size() > 0) {
    std::fprintf(stderr, "answer\n%s", TokenTable(prompt_tokens, sample.logprobs()).c_str());
  }
  const bool several = samples_.size() > 1;
  PrintNote(options_,
            StatusLine(sample.completion(), request_, info_, several ? sample.index() + 1 : 0));
}

void AnswerPrinter::PrintFinished() {
  for (; next_ < samples_.size() && samples_[next_].has_completion(); ++next_) {
    std::printf("--- sample %zu of %zu\n", next_ + 1, samples_.size());
    PrintText(samples_[next_]);
    PrintEnd(samples_[next_]);
  }
}

}  // namespace mambad::cli
