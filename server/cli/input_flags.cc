#include "server/cli/input_flags.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "engine/json/json_text.h"
#include "server/cli/terminal_text.h"
#include "server/cli/whole_file.h"

namespace mambad::cli {
namespace {

constexpr char kMessagesShape[] = "expected a list of {\"role\": ..., \"content\": ...}";

// "a, b or c".
std::string Choices(const std::vector<std::string>& flags) {
  if (flags.size() < 2) return absl::StrJoin(flags, "");
  const std::vector<std::string> first(flags.begin(), flags.end() - 1);
  return absl::StrCat(absl::StrJoin(first, ", "), " or ", flags.back());
}

bool IsJsonText(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  return first != std::string::npos && (text[first] == '[' || text[first] == '{');
}

}  // namespace

bool ParseTokenIds(const std::string& text, std::vector<int32_t>* ids) {
  ids->clear();
  if (text.empty()) return true;
  for (absl::string_view part : absl::StrSplit(text, ',')) {
    if (!absl::SimpleAtoi(part, &ids->emplace_back())) return false;
  }
  return true;
}

std::string ParseMessages(const std::string& text, v1::Conversation* conversation) {
  using nlohmann::json;
  // Whoever asks knows where the text comes from.
  absl::StatusOr<json> parsed = ParseJson("", text);
  if (!parsed.ok()) {
    return absl::StrCat(absl::StripPrefix(parsed.status().message(), ": "), "; ", kMessagesShape);
  }
  json& document = *parsed;
  if (document.is_object() && document.contains("messages")) {
    json messages = document["messages"];
    document = std::move(messages);
  }
  if (!document.is_array()) return kMessagesShape;
  if (document.empty()) return "the list has no message";
  const auto is_text = [](const json& entry, const char* key) {
    return entry.contains(key) && entry[key].is_string();
  };
  for (const json& entry : document) {
    if (!entry.is_object() || !is_text(entry, "role") || !is_text(entry, "content")) {
      return absl::StrCat("message ", conversation->messages_size() + 1,
                          " is not {\"role\": TEXT, \"content\": TEXT}");
    }
    v1::Message* message = conversation->add_messages();
    message->set_role(entry["role"].get<std::string>());
    message->set_content(entry["content"].get<std::string>());
  }
  return "";
}

void SetInput(const Input& input, v1::GenerateRequest* request) {
  switch (input.kind) {
    case Input::Kind::kText:
      request->set_text(input.text);
      break;
    case Input::Kind::kTokenIds:
      request->mutable_token_ids()->mutable_ids()->Add(input.token_ids.begin(),
                                                       input.token_ids.end());
      break;
    case Input::Kind::kConversation:
      *request->mutable_conversation() = input.conversation;
      break;
    case Input::Kind::kNone:
      break;
  }
}

void InputFlags::Register(CLI::App* app, const Kinds& kinds) {
  kinds_ = kinds;
  const std::string group = "What is read (one of these)";
  app->add_option("--prompt,--text", prompt_, "Text, as it is; - reads standard input")
      ->type_name("TEXT")
      ->group(group);
  app->add_option("--prompt-file", prompt_file_,
                  "File with the text; all of it counts, a line break at its end too")
      ->type_name("FILE")
      ->group(group);
  if (kinds.conversation) {
    app->add_option("--user", user_, "What a user says to a chat model; - reads standard input")
        ->type_name("TEXT")
        ->group(group);
    app->add_option("--system", system_, "With --user: the system message before it")
        ->type_name("TEXT")
        ->group(group);
    app->add_option(
           "--messages", messages_,
           "A conversation, a JSON list of {\"role\", \"content\"}: a file, - for standard "
           "input, or the JSON itself")
        ->type_name("FILE|-|JSON")
        ->group(group);
  }
  if (kinds.token_ids) {
    app->add_option("--token-ids", token_ids_, "Token ids: 1,2,3")->type_name("IDS")->group(group);
  }
}

std::string InputFlags::ReadText(Input* input) const {
  const bool is_user = user_.has_value();
  const std::string flag = is_user ? "--user" : prompt_ ? "--prompt" : "--prompt-file";
  const bool from_file = prompt_file_.has_value();
  std::string text = is_user ? *user_ : prompt_.value_or("");
  if (from_file || text == "-") {
    std::string problem = ReadWholeFile(from_file ? *prompt_file_ : "-", &text);
    if (!problem.empty()) return absl::StrCat(flag, ": ", problem);
  }
  if (std::string problem = CheckUtf8(flag, text); !problem.empty()) return problem;
  if (!is_user) {
    input->kind = Input::Kind::kText;
    input->names.text = flag;
    input->text = std::move(text);
    return "";
  }
  input->kind = Input::Kind::kConversation;
  input->names.conversation = flag;
  const auto say = [&](const char* role, std::string content) {
    v1::Message* message = input->conversation.add_messages();
    message->set_role(role);
    message->set_content(std::move(content));
  };
  if (system_) {
    if (std::string problem = CheckUtf8("--system", *system_); !problem.empty()) return problem;
    say("system", *system_);
  }
  say("user", std::move(text));
  return "";
}

std::string InputFlags::ReadConversation(Input* input) const {
  std::string text = *messages_, where = "--messages: ";
  if (!IsJsonText(text)) {
    const std::string path = text;
    std::string problem = ReadWholeFile(path, &text);
    if (!problem.empty()) {
      return absl::StrCat(where, problem,
                          " (give a file's name, - for standard input, or the JSON text itself)");
    }
    absl::StrAppend(&where, path == "-" ? "standard input" : path, ": ");
  }
  input->kind = Input::Kind::kConversation;
  std::string problem = ParseMessages(text, &input->conversation);
  return problem.empty() ? "" : absl::StrCat(where, problem);
}

std::string InputFlags::Read(Input* input) const {
  std::vector<std::string> flags = {"--prompt", "--prompt-file"}, given;
  if (kinds_.conversation) flags.insert(flags.end(), {"--user", "--messages"});
  if (kinds_.token_ids) flags.push_back("--token-ids");
  input->names.choices = Choices(flags);
  if (prompt_) given.push_back("--prompt");
  if (prompt_file_) given.push_back("--prompt-file");
  if (user_) given.push_back("--user");
  if (messages_) given.push_back("--messages");
  if (token_ids_) given.push_back("--token-ids");
  if (given.size() > 1) {
    return absl::StrCat(absl::StrJoin(given, " and "), " do not go together: give one of them");
  }
  if (system_ && !user_) return "--system goes with --user; --messages has its own system message";
  if (given.empty()) return "";
  if (messages_) return ReadConversation(input);
  if (!token_ids_) return ReadText(input);
  input->kind = Input::Kind::kTokenIds;
  if (ParseTokenIds(*token_ids_, &input->token_ids)) return "";
  return absl::StrCat("--token-ids: \"", *token_ids_, "\": expected numbers as in 1,2,3");
}

}  // namespace mambad::cli
