#include "engine/text/chat_template_file.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/json/json_text.h"
#include "engine/text/json_reader.h"

namespace mambad::text {
namespace {

constexpr std::streamoff kMaximumBytes = 16 << 20;

// An error with the file's name before it.
absl::Status In(const std::string& path, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

absl::StatusOr<ChatTemplate> Parse(const std::string& path, const std::string& source) {
  absl::StatusOr<ChatTemplate> parsed = ChatTemplate::Parse(source);
  if (!parsed.ok()) return In(path, parsed.status());
  return parsed;
}

absl::StatusOr<Json> ReadJson(const std::string& path) {
  const absl::StatusOr<std::string> contents = ReadChatTemplateFile(path);
  if (!contents.ok()) return contents.status();
  return ParseJson(path, *contents);
}

absl::StatusOr<ChatTemplate> OpenFromJson(const std::string& path) {
  const absl::StatusOr<Json> config = ReadJson(path);
  if (!config.ok()) return config.status();
  const absl::StatusOr<std::string> source = ChatTemplateSource(*config);
  if (!source.ok()) return In(path, source.status());
  return Parse(path, *source);
}

// The names of the templates in the folder, without ".jinja", in order.
std::vector<std::string> NamesInFolder(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator at(folder, error), end; !error && at != end;
       at.increment(error)) {
    if (at->path().extension() == ".jinja") names.push_back(at->path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// Token names of the file: text, or an object around it.
std::optional<std::string> TokenText(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_object()) return std::nullopt;
  const auto content = value.find("content");
  if (content == value.end() || !content->is_string()) return std::nullopt;
  return content->get<std::string>();
}

void SetText(const std::string& name, const std::string& text, ChatTemplate::Variables* variables) {
  if (name == "bos_token" || name == "eos_token") {
    std::optional<std::string>& token =
        name == "bos_token" ? variables->bos_token : variables->eos_token;
    if (!token.has_value()) token = text;
    return;
  }
  for (const auto& [present, unused] : variables->text_variables) {
    if (present == name) return;
  }
  variables->text_variables.emplace_back(name, text);
}

// Adds what the file names and `variables` does not hold yet.
void AddTokens(const Json& config, ChatTemplate::Variables* variables) {
  if (!config.is_object()) return;
  for (const auto& [name, value] : config.items()) {
    const std::optional<std::string> text = TokenText(value);
    if (absl::EndsWith(name, "_token") && text.has_value()) {
      SetText(name, *text, variables);
    } else if (name == "extra_special_tokens" && value.is_object()) {
      for (const auto& [extra, token] : value.items()) {
        if (const auto spelling = TokenText(token)) SetText(extra, *spelling, variables);
      }
    } else if (name == "additional_special_tokens" && value.is_array() &&
               variables->list_variables.empty()) {
      std::vector<std::string> tokens;
      for (const Json& token : value) {
        if (const auto spelling = TokenText(token)) tokens.push_back(*spelling);
      }
      variables->list_variables.emplace_back(name, std::move(tokens));
    }
  }
}

}  // namespace

absl::StatusOr<std::string> ReadChatTemplateFile(const std::string& path) {
  std::error_code error;
  const auto type = std::filesystem::status(path, error).type();
  if (type == std::filesystem::file_type::not_found) {
    return absl::NotFoundError(absl::StrCat(path, ": no such file"));
  }
  // Opening a pipe would wait for its writer.
  if (type != std::filesystem::file_type::regular) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file"));
  }
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return absl::InvalidArgumentError(absl::StrCat(path, ": cannot be opened"));
  const std::streamoff size = file.tellg();
  if (size < 0 || size > kMaximumBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", static_cast<int64_t>(size), " bytes, at most ",
                     static_cast<int64_t>(kMaximumBytes), " expected"));
  }
  std::string contents(static_cast<size_t>(size), '\0');
  file.seekg(0);
  if (!file.read(contents.data(), size)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": cannot be read"));
  }
  return contents;
}

absl::StatusOr<ChatTemplate> OpenChatTemplate(const std::string& directory) {
  const std::string own = absl::StrCat(directory, "/chat_template.jinja");
  absl::StatusOr<std::string> source = ReadChatTemplateFile(own);
  if (source.ok()) return Parse(own, *source);
  if (!absl::IsNotFound(source.status())) return source.status();

  const std::string folder = absl::StrCat(directory, "/additional_chat_templates");
  const std::vector<std::string> names = NamesInFolder(folder);
  if (std::find(names.begin(), names.end(), "default") != names.end()) {
    const std::string path = absl::StrCat(folder, "/default.jinja");
    source = ReadChatTemplateFile(path);
    return source.ok() ? Parse(path, *source) : source.status();
  }
  if (!names.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(folder, ": no template is named 'default'; found: ", names.front(),
                     names.size() > 1 ? " and others" : ""));
  }
  absl::StatusOr<ChatTemplate> opened;
  for (const char* name :
       {"tokenizer_config.json", "chat_template.json", "processor_config.json"}) {
    opened = OpenFromJson(absl::StrCat(directory, "/", name));
    if (!absl::IsNotFound(opened.status())) break;
  }
  return opened;
}

ChatTemplate::Variables ReadChatVariables(const std::string& directory,
                                          const Tokenizer& tokenizer) {
  ChatTemplate::Variables variables;
  const absl::StatusOr<Json> config = ReadJson(absl::StrCat(directory, "/tokenizer_config.json"));
  const absl::StatusOr<Json> map = ReadJson(absl::StrCat(directory, "/special_tokens_map.json"));
  const bool lists_tokens = config.ok() && config->is_object() &&
                            !config->value("added_tokens_decoder", Json()).is_null();
  const absl::StatusOr<Json>& first = lists_tokens ? config : map;
  const absl::StatusOr<Json>& second = lists_tokens ? map : config;
  if (first.ok()) AddTokens(*first, &variables);
  if (second.ok()) AddTokens(*second, &variables);
  if (const auto id = tokenizer.bos_id(); id && !variables.bos_token) {
    variables.bos_token = tokenizer.IdToToken(*id);
  }
  if (const auto id = tokenizer.eos_id(); id && !variables.eos_token) {
    variables.eos_token = tokenizer.IdToToken(*id);
  }
  return variables;
}

}  // namespace mambad::text
