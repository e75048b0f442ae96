#include "trainer/stages/generated_record.h"

#include <zlib.h>

#include <algorithm>
#include <filesystem>
#include <stdexcept>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "engine/checkpoint/fingerprint.h"
#include "engine/text/chat_template_file.h"
#include "nlohmann/json.hpp"
#include "trainer/line_reader.h"
#include "trainer/token_store.h"

namespace mambad::trainer {
namespace {

using nlohmann::json;
using text::ChatMessage;
using text::TokenId;

// Stands for the words of a user in the template, to find where they begin.
constexpr char kPlaceholder[] = "\x02user\x03";

template <typename T>
T ValueOf(absl::StatusOr<T> value) {
  if (!value.ok()) throw std::runtime_error(std::string(value.status().message()));
  return *std::move(value);
}

std::string TextOf(const json& record, const char* key) {
  const auto value = record.find(key);
  if (value == record.end() || !value->is_string()) {
    throw std::runtime_error(absl::StrCat("\"", key, "\": a text expected"));
  }
  return value->get<std::string>();
}

// The messages up to the last one of the user.
std::vector<ChatMessage> MessagesOf(const json& list) {
  if (!list.is_array()) throw std::runtime_error("\"messages\": a list expected");
  std::vector<ChatMessage> messages;
  for (const json& message : list) {
    if (!message.is_object()) throw std::runtime_error("\"messages\": objects expected");
    messages.push_back({TextOf(message, "role"), TextOf(message, "content")});
  }
  while (!messages.empty() && messages.back().role != "user") messages.pop_back();
  if (messages.empty()) throw std::runtime_error("\"messages\": no turn of a user");
  return messages;
}

GenerationPrompt PromptOf(const json& record, bool chat) {
  if (!record.is_object()) throw std::runtime_error("a JSON object expected");
  GenerationPrompt prompt;
  if (record.contains("messages")) {
    if (!chat) throw std::runtime_error("\"messages\": the model has no chat template");
    prompt.messages = MessagesOf(record["messages"]);
    return prompt;
  }
  const char* key = record.contains("prompt") ? "prompt" : "text";
  if (record.contains("prompt") && record["prompt"].is_array() && chat) {
    prompt.messages = MessagesOf(record["prompt"]);
    return prompt;
  }
  std::string words = TextOf(record, key);
  if (absl::StripAsciiWhitespace(words).empty()) {
    throw std::runtime_error(absl::StrCat("\"", key, "\": empty"));
  }
  if (chat) {
    prompt.messages = {{"user", std::move(words)}};
  } else {
    prompt.text = std::move(words);
  }
  return prompt;
}

}  // namespace

// ---- prompts -----------------------------------------------------------------------------------

GenerationPrompts::GenerationPrompts(const std::string& model_directory,
                                     std::vector<TokenId> end_ids)
    : end_ids_(std::move(end_ids)) {
  if (!std::filesystem::is_directory(model_directory)) {
    throw std::runtime_error(
        absl::StrCat(model_directory, ": a model directory expected: convert the file first"));
  }
  tokenizer_ = ValueOf(text::OpenTokenizer(model_directory));
  if (const auto end = tokenizer_->eos_id(); end && !IsEnd(*end)) end_ids_.push_back(*end);
  if (end_ids_.empty()) {
    throw std::runtime_error(
        absl::StrCat(model_directory, ": neither model nor tokenizer names an end-of-text token"));
  }
  variables_ = text::ReadChatVariables(model_directory, *tokenizer_);
  identity_ = TokenizerFingerprint(model_directory);
  absl::StatusOr<text::ChatTemplate> opened = text::OpenChatTemplate(model_directory);
  if (!absl::IsNotFound(opened.status())) chat_template_ = ValueOf(std::move(opened));
}

void GenerationPrompts::Read(const std::string& path) {
  LineReader reader(path);
  checkpoint::Fingerprint sum;
  sum.Add(identity_);
  const size_t before = prompts_.size();
  std::string line;
  while (reader.Next(&line)) {
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    try {
      const json record = json::parse(line, nullptr, /*allow_exceptions=*/false);
      if (record.is_discarded()) throw std::runtime_error("no JSON");
      prompts_.push_back(PromptOf(record, chat()));
    } catch (const std::runtime_error& error) {
      throw std::runtime_error(absl::StrCat(path, ":", reader.line_number(), ": ", error.what()));
    }
    sum.Add(line);
  }
  if (prompts_.size() == before) throw std::runtime_error(absl::StrCat(path, ": no prompts"));
  identity_ = sum.Digits();
}

std::vector<TokenId> GenerationPrompts::Beginning(const GenerationPrompt& prompt) const {
  if (!prompt.messages.empty()) return Encode(Render(prompt.messages), /*special=*/false);
  if (chat()) {
    const std::string rendered = Render({{"user", kPlaceholder}});
    const size_t place = rendered.find(kPlaceholder);
    if (place == std::string::npos || place == 0) {
      throw std::runtime_error("the chat template does not show where a user's words begin");
    }
    return Encode(rendered.substr(0, place), /*special=*/false);
  }
  std::vector<TokenId> ids = Encode(prompt.text, /*special=*/true);
  // Models without a begin-of-text token see the end of one text before the next.
  if (ids.empty()) ids.push_back(tokenizer_->bos_id().value_or(end_ids_[0]));
  return ids;
}

bool GenerationPrompts::IsEnd(TokenId id) const {
  return std::find(end_ids_.begin(), end_ids_.end(), id) != end_ids_.end();
}

std::string GenerationPrompts::Identity() const { return identity_; }

std::string GenerationPrompts::Render(const std::vector<ChatMessage>& messages) const {
  return ValueOf(chat_template_->Render(messages, variables_));
}

// `special`: begin-of-text and its like are added; a template brings its own.
std::vector<TokenId> GenerationPrompts::Encode(const std::string& words, bool special) const {
  std::vector<TokenId> ids = ValueOf(
      tokenizer_->Encode(words, {.add_special_tokens = special, .parse_special = !special}));
  while (special && !ids.empty() && IsEnd(ids.back())) ids.pop_back();
  return ids;
}

double CompressionRatio(const std::string& text) {
  if (text.empty()) return 0;
  uLongf size = compressBound(text.size());
  std::string packed(size, '\0');
  const int result = compress2(reinterpret_cast<Bytef*>(packed.data()), &size,
                               reinterpret_cast<const Bytef*>(text.data()), text.size(), 9);
  if (result != Z_OK) throw std::runtime_error("zlib compresses nothing");
  return static_cast<double>(text.size()) / static_cast<double>(size);
}

// ---- records -----------------------------------------------------------------------------------

GeneratedRecord::GeneratedRecord(const GenerationPrompts* prompts, GenerationPrompt prompt,
                                 const GenerationLimits& limits)
    : prompts_(prompts),
      prompt_(std::move(prompt)),
      limits_(limits),
      writes_user_(prompts->chat() && prompt_.messages.empty()),
      ids_(prompts->Beginning(prompt_)) {
  if (static_cast<int64_t>(ids_.size()) >= limits_.maximum_tokens) outcome_ = Outcome::kUnfinished;
}

bool GeneratedRecord::TakeReset() { return std::exchange(reset_, false); }

void GeneratedRecord::Take(TokenId token) {
  const bool used = wants_token();
  ++fed_;
  if (!used) return;
  ++written_;
  if (prompts_->IsEnd(token)) return EndTurn();
  if (prompts_->tokenizer().IsSpecial(token)) {  // another turn within this one
    outcome_ = Outcome::kBroken;
    return;
  }
  ids_.push_back(token);
  turn_.push_back(token);
  if (static_cast<int64_t>(ids_.size()) >= limits_.maximum_tokens) outcome_ = Outcome::kUnfinished;
}

void GeneratedRecord::EndTurn() {
  std::string words = prompts_->tokenizer().Decode(turn_, /*skip_special=*/true);
  turn_.clear();
  if (absl::StripAsciiWhitespace(words).empty()) {
    outcome_ = Outcome::kEmpty;
  } else if (CompressionRatio(words) > limits_.most_compression) {
    outcome_ = Outcome::kLoop;
  } else if (!writes_user_) {
    answer_ = std::move(words);
    outcome_ = Outcome::kFinished;
  }
  if (outcome_ != Outcome::kRunning) return;

  // The user's turn is there: now the answer, behind the conversation as the template has it.
  writes_user_ = false;
  prompt_.messages = {{"user", std::move(words)}};
  std::vector<TokenId> whole = prompts_->Beginning(prompt_);
  const bool goes_on =
      whole.size() > ids_.size() && std::equal(ids_.begin(), ids_.end(), whole.begin());
  if (!goes_on) {  // what was fed is not how the template and the tokenizer spell it
    fed_ = 0;
    reset_ = true;
  }
  ids_ = std::move(whole);
  if (static_cast<int64_t>(ids_.size()) >= limits_.maximum_tokens) outcome_ = Outcome::kUnfinished;
}

nlohmann::json GeneratedRecord::State() const {
  nlohmann::json messages = nlohmann::json::array();
  for (const ChatMessage& message : prompt_.messages) {
    messages.push_back({{"role", message.role}, {"content", message.content}});
  }
  return {{"messages", messages}, {"text", prompt_.text}, {"writes_user", writes_user_},
          {"reset", reset_},      {"ids", ids_},          {"fed", fed_},
          {"turn", turn_},        {"written", written_}};
}

GeneratedRecord GeneratedRecord::FromState(const GenerationPrompts* prompts,
                                           const GenerationLimits& limits,
                                           const nlohmann::json& state) {
  try {
    GenerationPrompt prompt;
    for (const nlohmann::json& message : state.at("messages")) {
      prompt.messages.push_back({message.at("role"), message.at("content")});
    }
    prompt.text = state.at("text");
    GeneratedRecord record(prompts, std::move(prompt), limits);
    record.outcome_ = Outcome::kRunning;
    record.writes_user_ = state.at("writes_user");
    record.reset_ = state.at("reset");
    record.ids_ = state.at("ids").get<std::vector<TokenId>>();
    record.fed_ = state.at("fed");
    record.turn_ = state.at("turn").get<std::vector<TokenId>>();
    record.written_ = state.at("written");
    if (record.fed_ >= record.ids_.size()) throw std::runtime_error("more fed than there is");
    return record;
  } catch (const nlohmann::json::exception& error) {
    throw std::runtime_error(std::string("a saved record: ") + error.what());
  }
}

std::string GeneratedRecord::Line() const {
  nlohmann::ordered_json record;
  if (prompts_->chat()) {
    for (const ChatMessage& message : prompt_.messages) {
      record["messages"].push_back({{"role", message.role}, {"content", message.content}});
    }
    record["messages"].push_back({{"role", "assistant"}, {"content", answer_}});
  } else {
    record["text"] = prompt_.text + answer_;
  }
  return record.dump();
}

}  // namespace mambad::trainer
