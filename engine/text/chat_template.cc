#include "engine/text/chat_template.h"

#include "absl/status/status.h"
#include "engine/text/jinja/interpreter.h"
#include "engine/text/jinja/message.h"
#include "engine/text/jinja/parser.h"
#include "nlohmann/json.hpp"

namespace mambad::text {

namespace jinja {
struct ParsedTemplate {
  StatementList statements;
};
}  // namespace jinja

namespace {

using jinja::List;
using jinja::Value;
using jinja::Values;

// [{"role": ..., "content": ...}, ...]
Value MessagesValue(absl::Span<const ChatMessage> messages) {
  const Value role = Value::String("role");
  const Value content = Value::String("content");
  auto list = std::make_shared<List>();
  list->depth = 2;
  for (const ChatMessage& message : messages) {
    auto entry = std::make_shared<jinja::Dict>();
    entry->entries.emplace_back(role, Value::String(message.role));
    entry->entries.emplace_back(content, Value::String(message.content));
    list->items.push_back(Value::Of(std::shared_ptr<const jinja::Dict>(std::move(entry))));
  }
  return Value::Of(std::shared_ptr<const List>(std::move(list)));
}

}  // namespace

ChatTemplate::ChatTemplate(std::shared_ptr<const jinja::ParsedTemplate> parsed)
    : parsed_(std::move(parsed)) {}

absl::StatusOr<ChatTemplate> ChatTemplate::Parse(std::string_view source) {
  absl::StatusOr<jinja::StatementList> statements = jinja::ParseTemplate(source);
  if (!statements.ok()) return statements.status();
  return ChatTemplate(
      std::make_shared<const jinja::ParsedTemplate>(jinja::ParsedTemplate{std::move(*statements)}));
}

absl::StatusOr<std::string> ChatTemplate::Render(absl::Span<const ChatMessage> messages,
                                                 const Variables& variables) const {
  std::vector<std::pair<std::string, Value>> values;
  values.emplace_back("messages", MessagesValue(messages));
  values.emplace_back("tools", Value::None());
  values.emplace_back("documents", Value::None());
  values.emplace_back("add_generation_prompt", Value::Boolean(variables.add_generation_prompt));
  values.emplace_back("bos_token", Value::String(variables.bos_token));
  values.emplace_back("eos_token", Value::String(variables.eos_token));
  for (const auto& [name, text] : variables.text_variables) {
    values.emplace_back(name, Value::String(text));
  }
  return jinja::Interpret(parsed_->statements, std::move(values), variables.now);
}

absl::StatusOr<std::string> ChatTemplateSource(const nlohmann::json& tokenizer_config) {
  if (!tokenizer_config.is_object()) {
    return absl::InvalidArgumentError("tokenizer_config.json: expected an object");
  }
  const auto found = tokenizer_config.find("chat_template");
  if (found == tokenizer_config.end() || found->is_null()) {
    return absl::NotFoundError("tokenizer_config.json has no chat_template");
  }
  if (found->is_string()) return found->get<std::string>();
  if (!found->is_array()) {
    return absl::InvalidArgumentError(
        jinja::Message("tokenizer_config.json: chat_template is a ", found->type_name(),
                       ", expected a text or a list of named templates"));
  }
  std::string names;
  for (const nlohmann::json& entry : *found) {
    const bool is_named = entry.is_object() && entry.contains("name") &&
                          entry["name"].is_string() && entry.contains("template") &&
                          entry["template"].is_string();
    if (!is_named) {
      return absl::InvalidArgumentError(
          "tokenizer_config.json: an element of chat_template has no text 'name' and 'template'");
    }
    const std::string name = entry["name"].get<std::string>();
    if (name == "default") return entry["template"].get<std::string>();
    names += (names.empty() ? "" : ", ") + name;
  }
  return absl::InvalidArgumentError(jinja::Message(
      "tokenizer_config.json: chat_template has no template named 'default'; found: ",
      names.empty() ? "nothing" : names));
}

}  // namespace mambad::text
