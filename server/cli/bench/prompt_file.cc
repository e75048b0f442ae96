#include "server/cli/bench/prompt_file.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/cli/terminal_text.h"

namespace mambad::cli {
namespace {

using nlohmann::json;

constexpr int64_t kMostTokens = int64_t{1} << 30;
constexpr double kLongestTrace = 1e9;  // seconds
constexpr char kGzip[] = "\x1f\x8b";

// A whole number from `least` to kMostTokens; nothing: it is something else.
std::optional<int64_t> WholeNumber(const json& value, int64_t least) {
  if (!value.is_number_integer()) return std::nullopt;
  const auto number = value.get<int64_t>();
  if (value.is_number_unsigned() && number < 0) return std::nullopt;
  return number >= least && number <= kMostTokens ? std::optional(number) : std::nullopt;
}

std::string ReadTurns(const json& turns, std::vector<std::string>* texts) {
  if (!turns.is_array() || turns.empty()) return "\"turns\" is no list of texts";
  for (const json& turn : turns) {
    if (!turn.is_string()) return "\"turns\" is no list of texts";
    texts->push_back(turn.get<std::string>());
  }
  return "";
}

std::string ReadUserMessages(const json& messages, std::vector<std::string>* texts) {
  constexpr char kShape[] = "\"messages\" is no list of {\"role\": TEXT, \"content\": TEXT}";
  if (!messages.is_array()) return kShape;
  for (const json& message : messages) {
    const auto is_text = [&](const char* key) {
      return message.is_object() && message.contains(key) && message[key].is_string();
    };
    if (!is_text("role") || !is_text("content")) return kShape;
    if (message["role"] == "user") texts->push_back(message["content"].get<std::string>());
  }
  return texts->empty() ? "\"messages\" has none of a user" : "";
}

std::string ReadLengths(const json& line, PromptEntry* entry) {
  const std::optional<int64_t> tokens = WholeNumber(line["input_length"], 1);
  if (!tokens) return "\"input_length\" is no number of tokens";
  entry->prompt_tokens = *tokens;
  if (!line.contains("hash_ids")) return "";
  if (!line["hash_ids"].is_array()) return "\"hash_ids\" is no list of whole numbers";
  for (const json& id : line["hash_ids"]) {
    if (!id.is_number_integer()) return "\"hash_ids\" is no list of whole numbers";
    entry->blocks.push_back(id.get<int64_t>());
  }
  return "";
}

std::string ReadPrompt(const json& line, PromptEntry* entry) {
  if (line.contains("turns")) return ReadTurns(line["turns"], &entry->turns);
  if (line.contains("messages")) return ReadUserMessages(line["messages"], &entry->turns);
  for (const char* key : {"prompt", "question", "text"}) {
    if (!line.contains(key)) continue;
    if (!line[key].is_string()) return absl::StrCat("\"", key, "\" is no text");
    entry->turns.push_back(line[key].get<std::string>());
    return "";
  }
  if (line.contains("input_length")) return ReadLengths(line, entry);
  return "has none of \"turns\", \"prompt\", \"question\", \"text\", \"messages\", "
         "\"input_length\"";
}

std::string ReadEntry(const json& line, PromptEntry* entry) {
  if (!line.is_object()) return "is no JSON object";
  if (std::string problem = ReadPrompt(line, entry); !problem.empty()) return problem;
  for (const std::string& turn : entry->turns) {
    if (turn.empty()) return "holds an empty text";
  }
  if (line.contains("output_length")) {
    entry->answer_tokens = WholeNumber(line["output_length"], 1);
    if (!entry->answer_tokens) return "\"output_length\" is no number of tokens";
  }
  if (!line.contains("timestamp")) return "";
  const json& time = line["timestamp"];
  const double seconds = time.is_number() ? 1e-3 * time.get<double>() : -1;
  if (!(seconds >= 0) || seconds > kLongestTrace) return "\"timestamp\" is no milliseconds";
  entry->arrival = seconds;
  return "";
}

bool IsJsonLines(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  return first != std::string::npos && text[first] == '{';
}

}  // namespace

std::string ParsePrompts(const std::string& name, const std::string& text,
                         std::vector<PromptEntry>* entries) {
  if (absl::StartsWith(text, kGzip))
    return absl::StrCat(name, ": is compressed: give it unpacked, by zcat and -");
  const bool is_json = IsJsonLines(text);
  int number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::string where = absl::StrCat(name, ", line ", ++number);
    if (std::string problem = CheckUtf8(where, line); !problem.empty()) return problem;
    if (line.find_first_not_of(is_json ? " \t\r" : "") == absl::string_view::npos) continue;
    PromptEntry entry;
    if (is_json) {
      const json parsed = json::parse(line, nullptr, /*allow_exceptions=*/false);
      if (parsed.is_discarded()) return absl::StrCat(where, ": is no JSON");
      if (std::string problem = ReadEntry(parsed, &entry); !problem.empty())
        return absl::StrCat(where, ": ", problem);
    } else {
      entry.turns.emplace_back(line);
    }
    entries->push_back(std::move(entry));
  }
  return entries->empty() ? absl::StrCat(name, ": holds no prompt") : "";
}

std::string SortByArrival(const std::string& name, std::vector<PromptEntry>* entries) {
  for (size_t i = 0; i < entries->size(); ++i) {
    if (!(*entries)[i].arrival)
      return absl::StrCat(name, ": prompt ", i + 1, " has no \"timestamp\"");
  }
  std::stable_sort(entries->begin(), entries->end(),
                   [](const PromptEntry& one, const PromptEntry& other) {
                     return *one.arrival < *other.arrival;
                   });
  const double first = entries->empty() ? 0 : *entries->front().arrival;
  for (PromptEntry& entry : *entries) *entry.arrival -= first;
  return "";
}

}  // namespace mambad::cli
