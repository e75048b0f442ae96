#include "trainer/corpus.h"

#include <stdexcept>
#include <utility>

#include "engine/text/chat_template_file.h"
#include "nlohmann/json.hpp"
#include "trainer/json_record.h"
#include "trainer/line_reader.h"

namespace mambad::trainer {
namespace {

using nlohmann::json;

[[noreturn]] void Refuse(const std::string& what) { throw std::runtime_error(what); }

std::string Spelling(const CorpusTokenizer& tokenizer, std::optional<text::TokenId> id) {
  return id ? tokenizer.tokenizer->IdToToken(*id) : std::string();
}

void AppendText(const std::string& words, bool trained, bool first,
                const CorpusTokenizer& tokenizer, TokenizedDocument* document, bool parse_special) {
  text::Tokenizer::EncodeOptions encode;
  encode.add_special_tokens = first;
  encode.parse_special = parse_special;
  auto ids = tokenizer.tokenizer->Encode(words, encode);
  if (!ids.ok()) Refuse(std::string(ids.status().message()));
  document->tokens.insert(document->tokens.end(), ids->begin(), ids->end());
  document->trained.resize(document->tokens.size(), trained);
}

// Drops an end-of-text token that the tokenizer adds by itself, then puts one at the end if wanted.
void Finish(const CorpusTokenizer& tokenizer, const CorpusOptions& options, bool end_of_text,
            TokenizedDocument* document) {
  const std::optional<text::TokenId> end = tokenizer.tokenizer->eos_id();
  if (end_of_text && options.append_end_of_text && end &&
      (document->tokens.empty() || document->tokens.back() != *end)) {
    document->tokens.push_back(*end);
    document->trained.push_back(true);
  }
  if (options.train_on_prompts) document->trained.assign(document->tokens.size(), true);
  if (options.maximum_tokens > 0 &&
      static_cast<int64_t>(document->tokens.size()) > options.maximum_tokens) {
    document->tokens.resize(options.maximum_tokens);
    document->trained.resize(options.maximum_tokens);
  }
}

std::string Render(const std::vector<text::ChatMessage>& messages, size_t count,
                   bool generation_prompt, const CorpusTokenizer& tokenizer) {
  text::ChatTemplate::Variables variables;
  if (tokenizer.chat_variables != nullptr) {
    variables = *tokenizer.chat_variables;
  } else {
    variables.bos_token = Spelling(tokenizer, tokenizer.tokenizer->bos_id());
    variables.eos_token = Spelling(tokenizer, tokenizer.tokenizer->eos_id());
  }
  variables.add_generation_prompt = generation_prompt;
  auto prompt =
      tokenizer.chat_template->Render(absl::MakeConstSpan(messages.data(), count), variables);
  if (!prompt.ok()) Refuse(std::string(prompt.status().message()));
  return *std::move(prompt);
}

const std::string& TextField(const json& record, const char* name) {
  const auto field = record.find(name);
  if (field == record.end() || !field->is_string()) {
    Refuse(std::string("\"") + name + "\": expected a text, found " +
           (field == record.end() ? "nothing" : field->type_name()));
  }
  return field->get_ref<const std::string&>();
}

std::vector<text::ChatMessage> Messages(const json& list, const char* name) {
  if (!list.is_array() || list.empty()) {
    Refuse(std::string("\"") + name + "\": expected a list of messages, found " +
           (list.is_array() ? "an empty one" : list.type_name()));
  }
  std::vector<text::ChatMessage> messages;
  for (const json& message : list) {
    if (!message.is_object()) Refuse(std::string("\"") + name + "\": a message is no object");
    messages.push_back({TextField(message, "role"), TextField(message, "content")});
  }
  return messages;
}

TokenizedDocument PlainDocument(const std::string& words, const CorpusTokenizer& tokenizer,
                                const CorpusOptions& options) {
  TokenizedDocument document;
  AppendText(words, true, true, tokenizer, &document, false);
  Finish(tokenizer, options, true, &document);
  return document;
}

TokenizedDocument Conversation(const std::vector<text::ChatMessage>& messages, size_t first_trained,
                               const CorpusTokenizer& tokenizer, const CorpusOptions& options) {
  if (tokenizer.chat_template == nullptr) {
    Refuse(
        "\"messages\" need a chat template, and the model's directory has none: finetune and "
        "pretrain "
        "take one with the setting chat_template: FILE, and it goes with the model");
  }
  TokenizedDocument document;
  std::string done;  // text that is already tokens
  const auto append = [&](const std::string& longer, bool trained) {
    if (longer.compare(0, done.size(), done) != 0) {
      Refuse("the chat template changes earlier turns when later ones follow");
    }
    // A begin-of-text token is the template's business where it writes one.
    if (longer.size() > done.size()) {
      AppendText(longer.substr(done.size()), trained, false, tokenizer, &document, true);
    }
    done = longer;
  };
  for (size_t index = 0; index < messages.size(); ++index) {
    if (messages[index].role != "assistant") continue;
    append(Render(messages, index, true, tokenizer), false);
    append(Render(messages, index + 1, false, tokenizer), index >= first_trained);
  }
  if (messages.back().role != "assistant") {
    append(Render(messages, messages.size(), false, tokenizer), false);
  }
  Finish(tokenizer, options, false, &document);
  return document;
}

// `prompt` is a text or, in a chat, the messages so far.
TokenizedDocument Answered(const json& prompt, const std::string& answer,
                           const CorpusTokenizer& tokenizer, const CorpusOptions& options) {
  if (!prompt.is_array()) {
    return TokenizeAnswer(prompt.get_ref<const std::string&>(), answer, tokenizer, options);
  }
  std::vector<text::ChatMessage> messages = Messages(prompt, "prompt");
  messages.push_back({"assistant", answer});
  // What the assistant said before is part of the prompt.
  return Conversation(messages, messages.size() - 1, tokenizer, options);
}

std::vector<TokenizedDocument> RecordDocuments(const json& record, const CorpusTokenizer& tokenizer,
                                               const CorpusOptions& options) {
  std::vector<TokenizedDocument> documents;
  if (record.contains("messages")) {
    documents.push_back(
        TokenizeConversation(Messages(record["messages"], "messages"), tokenizer, options));
  } else if (record.contains("prompt")) {
    const json& prompt = record["prompt"];
    if (!prompt.is_array()) TextField(record, "prompt");
    if (record.contains("chosen") || record.contains("rejected")) {
      documents.push_back(Answered(prompt, TextField(record, "chosen"), tokenizer, options));
      documents.push_back(Answered(prompt, TextField(record, "rejected"), tokenizer, options));
    } else {
      documents.push_back(Answered(prompt, TextField(record, "completion"), tokenizer, options));
    }
  } else if (record.contains("text")) {
    documents.push_back(PlainDocument(TextField(record, "text"), tokenizer, options));
  } else {
    Refuse("expected \"text\", \"messages\" or \"prompt\", found none of them");
  }
  for (const TokenizedDocument& document : documents) {
    if (document.tokens.empty()) Refuse("an empty document");
  }
  return documents;
}

// State of one file's reading: counts, and what kind of records it holds.
struct Reading {
  const std::string& path;
  const CorpusOptions& options;
  const std::function<void(std::vector<TokenizedDocument>)>& take;
  CorpusCounts counts;
  size_t documents_per_record = 0;

  template <typename Make>
  void Record(int64_t line, const Make& make) {
    std::vector<TokenizedDocument> documents;
    try {
      documents = make();
      if (documents_per_record == 0) documents_per_record = documents.size();
      if (documents.size() != documents_per_record) {
        Refuse("preference pairs and other records in one file");
      }
    } catch (const std::runtime_error& error) {
      const std::string message = path + ":" + std::to_string(line) + ": " + error.what();
      if (!options.skip_malformed) throw std::runtime_error(message);
      if (counts.skipped++ == 0) counts.first_skipped = message;
      return;
    }
    // Not a record's fault, whatever goes wrong here.
    ++counts.records;
    take(std::move(documents));
  }
};

void ReadJsonLine(const std::string& line, int64_t number, const CorpusTokenizer& tokenizer,
                  const CorpusOptions& options, Reading* reading) {
  if (line.find_first_not_of(" \t") == std::string::npos) return;
  reading->Record(number, [&] {
    const json record = ReadJsonRecord(line);
    if (!record.is_object()) Refuse("expected JSON Lines: a whole JSON object on every line");
    return RecordDocuments(record, tokenizer, options);
  });
}

}  // namespace

TokenizedDocument TokenizeConversation(const std::vector<text::ChatMessage>& messages,
                                       const CorpusTokenizer& tokenizer,
                                       const CorpusOptions& options) {
  return Conversation(messages, 0, tokenizer, options);
}

TokenizedDocument TokenizeAnswer(const std::string& prompt, const std::string& answer,
                                 const CorpusTokenizer& tokenizer, const CorpusOptions& options) {
  if (tokenizer.chat_template != nullptr && options.prompts_are_chat) {
    return TokenizeConversation({{"user", prompt}, {"assistant", answer}}, tokenizer, options);
  }
  TokenizedDocument document;
  AppendText(prompt, false, true, tokenizer, &document, false);
  AppendText(answer, true, false, tokenizer, &document, false);
  Finish(tokenizer, options, true, &document);
  return document;
}

ModelText OpenModelText(const std::string& directory) {
  ModelText result;
  auto tokenizer = text::OpenTokenizer(directory);
  if (!tokenizer.ok()) Refuse(std::string(tokenizer.status().message()));
  result.tokenizer = *std::move(tokenizer);
  result.chat_variables = text::ReadChatVariables(directory, *result.tokenizer);
  absl::StatusOr<text::ChatTemplate> opened = text::OpenChatTemplate(directory);
  if (opened.ok()) {
    result.chat_template = *std::move(opened);
  } else if (!absl::IsNotFound(opened.status())) {
    // Plain text needs none; a conversation is refused with these words.
    result.chat_template = text::ChatTemplate::Unusable(opened.status());
  }
  return result;
}

CorpusCounts ReadCorpus(const std::string& path, const CorpusTokenizer& tokenizer,
                        const CorpusOptions& options,
                        const std::function<void(std::vector<TokenizedDocument>)>& take) {
  LineReader reader(path);
  Reading reading{path, options, take, {}, 0};
  std::string line, document;
  int64_t document_line = 1;
  const auto end_document = [&](int64_t next_line) {
    if (document.find_first_not_of(" \t\n") != std::string::npos) {
      reading.Record(document_line, [&] {
        return std::vector<TokenizedDocument>{PlainDocument(document, tokenizer, options)};
      });
    }
    document.clear();
    document_line = next_line;
  };
  while (reader.Next(&line)) {
    if (reader.json_lines()) {
      ReadJsonLine(line, reader.line_number(), tokenizer, options, &reading);
    } else if (!options.separator.empty() && line == options.separator) {
      end_document(reader.line_number() + 1);
    } else {
      if (!document.empty()) document += '\n';
      document += line;
    }
  }
  end_document(0);
  if (reading.counts.records == 0 && reading.counts.skipped > 0) {
    Refuse(reading.counts.first_skipped + "; the file has not one good record");
  }
  return reading.counts;
}

}  // namespace mambad::trainer
