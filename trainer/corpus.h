// Documents of a corpus file: what is text, and which part of it a model learns to write.

#ifndef MAMBAD_TRAINER_CORPUS_H_
#define MAMBAD_TRAINER_CORPUS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"

namespace mambad::trainer {

// How a file is read.
struct CorpusOptions {
  // Plain text only: the line that ends a document; empty: the whole file is one document.
  std::string separator = "<|endoftext|>";
  // A malformed record is counted and left out instead of being an error.
  bool skip_malformed = false;
  // {"prompt", ...} is a user's turn of the chat template (when there is one), not plain text.
  bool prompts_are_chat = true;
  // The end-of-text token follows plain text and completions, where the tokenizer has one.
  bool append_end_of_text = true;
  // Every token is a target, those of prompts and users' turns too.
  bool train_on_prompts = false;
  // Documents with more tokens are cut (never split); 0: no bound.
  int64_t maximum_tokens = 0;
};

struct TokenizedDocument {
  std::vector<text::TokenId> tokens;
  std::vector<bool> trained;  // as many; true: the token is a target of the loss
};

// What turns records into tokens. Not owned; both outlive the reading.
struct CorpusTokenizer {
  const text::Tokenizer* tokenizer = nullptr;
  const text::ChatTemplate* chat_template = nullptr;  // needed for {"messages"} only
  // What the template can use; null: begin and end of text, from the tokenizer.
  const text::ChatTemplate::Variables* chat_variables = nullptr;
};

// The tokenizer and, where there is one, the chat template of a model directory.
struct ModelText {
  std::unique_ptr<const text::Tokenizer> tokenizer;
  std::optional<text::ChatTemplate> chat_template;
  text::ChatTemplate::Variables chat_variables;

  CorpusTokenizer corpus() const {
    return {tokenizer.get(), chat_template ? &*chat_template : nullptr, &chat_variables};
  }
};
// Throws std::runtime_error: no tokenizer, or files that are not what they should be.
ModelText OpenModelText(const std::string& directory);

struct CorpusCounts {
  int64_t records = 0;
  int64_t skipped = 0;
  std::string first_skipped;  // the message of the first one left out
};

// Calls `take` for every record of `path` in the file's order: one document, or two (chosen, then
// rejected) for a preference pair. JSON Lines (LineReader::json_lines) have one object a line:
//   {"text"}, {"messages": [{"role", "content"}]}, {"prompt", "completion"},
//   {"prompt", "chosen", "rejected"} (prompt: text, or messages; answers: text);
// anything else is plain text. Throws std::runtime_error "path:line: what" for a malformed record
// unless they are skipped; in any case for a file that cannot be read or has malformed records
// only, and what `take` throws. Preference pairs and other records do not mix in one file.
CorpusCounts ReadCorpus(const std::string& path, const CorpusTokenizer& tokenizer,
                        const CorpusOptions& options,
                        const std::function<void(std::vector<TokenizedDocument>)>& take);

// A conversation in the template's words; answers of the assistant are trained, from behind the
// generation prompt to the end of the turn. Throws std::runtime_error when the template refuses, or
// when a turn changes the text of those before it.
TokenizedDocument TokenizeConversation(const std::vector<text::ChatMessage>& messages,
                                       const CorpusTokenizer& tokenizer,
                                       const CorpusOptions& options);

// An answer to a prompt: a user's turn and the assistant's where there is a chat template (and
// options.prompts_are_chat), else the two texts one after the other. Throws std::runtime_error.
TokenizedDocument TokenizeAnswer(const std::string& prompt, const std::string& answer,
                                 const CorpusTokenizer& tokenizer, const CorpusOptions& options);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_CORPUS_H_
