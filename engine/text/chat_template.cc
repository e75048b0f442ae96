#include "engine/text/chat_template.h"

#include <map>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/text/jinja/interpreter.h"
#include "engine/text/jinja/parser.h"
#include "nlohmann/json.hpp"

namespace mambad::text {

namespace jinja {
struct ParsedTemplate {
  std::string source;
  StatementList statements;
};
}  // namespace jinja

namespace {

using jinja::List;
using jinja::Value;
using jinja::Values;

Value ListValue(Values items, int depth) {
  auto list = std::make_shared<List>();
  list->depth = depth;
  list->items = std::move(items);
  return Value::Of(std::shared_ptr<const List>(std::move(list)));
}

// [{"role": ..., "content": ...}, ...]
Value MessagesValue(absl::Span<const ChatMessage> messages) {
  const Value role = Value::String("role");
  const Value content = Value::String("content");
  Values items;
  for (const ChatMessage& message : messages) {
    auto entry = std::make_shared<jinja::Dict>();
    entry->entries.emplace_back(role, Value::String(message.role));
    entry->entries.emplace_back(content, Value::String(message.content));
    items.push_back(Value::Of(std::shared_ptr<const jinja::Dict>(std::move(entry))));
  }
  return ListValue(std::move(items), 2);
}

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::Parse(std::string_view source) {
  absl::StatusOr<jinja::StatementList> statements = jinja::ParseTemplate(source);
  if (!statements.ok()) return statements.status();
  ChatTemplate result;
  result.parsed_ = std::make_shared<const jinja::ParsedTemplate>(
      jinja::ParsedTemplate{std::string(source), std::move(*statements)});
  return result;
}

std::string_view ChatTemplate::source() const {
  return parsed_ == nullptr ? std::string_view() : parsed_->source;
}

ChatTemplate ChatTemplate::Unusable(absl::Status fault) {
  ChatTemplate result;
  result.fault_ = std::move(fault);
  return result;
}

absl::StatusOr<std::string> ChatTemplate::Render(absl::Span<const ChatMessage> messages,
                                                 const Variables& variables) const {
  if (!fault_.ok()) return fault_;
  std::vector<std::pair<std::string, Value>> values;
  values.emplace_back("messages", MessagesValue(messages));
  values.emplace_back("tools", Value::None());
  values.emplace_back("documents", Value::None());
  values.emplace_back("add_generation_prompt", Value::Boolean(variables.add_generation_prompt));
  if (variables.bos_token) values.emplace_back("bos_token", Value::String(*variables.bos_token));
  if (variables.eos_token) values.emplace_back("eos_token", Value::String(*variables.eos_token));
  for (const auto& [name, text] : variables.text_variables) {
    values.emplace_back(name, Value::String(text));
  }
  for (const auto& [name, texts] : variables.list_variables) {
    Values items;
    for (const std::string& text : texts) items.push_back(Value::String(text));
    values.emplace_back(name, ListValue(std::move(items), 1));
  }
  return jinja::Interpret(parsed_->statements, std::move(values),
                          variables.now.has_value() ? *variables.now : jinja::LocalTimeNow());
}

namespace {

// The templates by name; INVALID_ARGUMENT for a value of another form.
absl::StatusOr<std::map<std::string, std::string>> NamedTemplates(const nlohmann::json& value) {
  std::map<std::string, std::string> templates;
  if (value.is_object()) {
    for (const auto& [name, source] : value.items()) {
      if (!source.is_string()) {
        return absl::InvalidArgumentError(
            absl::StrCat("the chat_template named '", name, "' is no text"));
      }
      templates[name] = source.get<std::string>();
    }
    return templates;
  }
  for (const nlohmann::json& entry : value) {
    const bool is_named = entry.is_object() && entry.contains("name") &&
                          entry["name"].is_string() && entry.contains("template") &&
                          entry["template"].is_string();
    if (!is_named) {
      return absl::InvalidArgumentError(
          "an element of chat_template has no text 'name' and 'template'");
    }
    templates[entry["name"].get<std::string>()] = entry["template"].get<std::string>();
  }
  return templates;
}

}  // namespace

absl::StatusOr<std::string> ChatTemplateSource(const nlohmann::json& config) {
  if (!config.is_object()) return absl::InvalidArgumentError("expected an object");
  const auto found = config.find("chat_template");
  if (found == config.end() || found->is_null()) return absl::NotFoundError("no chat_template");
  if (found->is_string()) return found->get<std::string>();
  if (!found->is_array() && !found->is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("chat_template is a ", found->type_name(),
                     ", expected a text, or a list or an object of named templates"));
  }
  absl::StatusOr<std::map<std::string, std::string>> templates = NamedTemplates(*found);
  if (!templates.ok()) return templates.status();
  const auto chosen = templates->find("default");
  if (chosen != templates->end()) return chosen->second;
  std::string names;
  for (const auto& [name, unused] : *templates)
    absl::StrAppend(&names, names.empty() ? "" : ", ", name);
  return absl::FailedPreconditionError(
      absl::StrCat("no chat_template is named 'default'; found: ", names.empty() ? "none" : names));
}

}  // namespace mambad::text
