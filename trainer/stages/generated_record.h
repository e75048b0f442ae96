// One conversation or text that a teacher writes, token by token: what is fed to the model, what
// its tokens mean, and whether the result is worth keeping. Knows no LibTorch.

#ifndef MAMBAD_TRAINER_STAGES_GENERATED_RECORD_H_
#define MAMBAD_TRAINER_STAGES_GENERATED_RECORD_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "nlohmann/json_fwd.hpp"

namespace mambad::trainer {

// What is asked of the teacher.
struct GenerationPrompt {
  std::vector<text::ChatMessage> messages;  // of a chat, the last one the user's
  std::string text;                         // of a model without chat template
};

struct GenerationLimits {
  int64_t maximum_tokens = 512;   // of the whole record
  double most_compression = 3.0;  // CompressionRatio of a turn; more is a loop
};

// Where prompts come from and how they become tokens. Immutable.
class GenerationPrompts {
 public:
  // The tokenizer and, when there is one, the chat template of a model directory; `end_ids`, any of
  // which ends a turn. Throws std::runtime_error.
  GenerationPrompts(const std::string& model_directory, std::vector<text::TokenId> end_ids);

  // JSON Lines (.gz, .xz too): {"messages"} (answers at the end are cut off), {"prompt"}: a user's
  // turn, or the beginning of a text where there is no chat template; {"text"}: likewise. Throws
  // std::runtime_error with file and line.
  void Read(const std::string& path);

  bool from_nothing() const { return prompts_.empty(); }
  int64_t size() const { return static_cast<int64_t>(prompts_.size()); }
  const GenerationPrompt& prompt(int64_t index) const { return prompts_[index]; }
  bool chat() const { return chat_template_.has_value(); }

  // What stands before the words that the teacher writes. With a chat template and no messages: all
  // up to the user's first word, so that the teacher invents it; else up to the answer.
  std::vector<text::TokenId> Beginning(const GenerationPrompt& prompt) const;
  bool IsEnd(text::TokenId id) const;
  const text::Tokenizer& tokenizer() const { return *tokenizer_; }
  // Of prompts, tokenizer and template: tells runs apart.
  std::string Identity() const;

 private:
  std::string Render(const std::vector<text::ChatMessage>& messages) const;
  std::vector<text::TokenId> Encode(const std::string& words, bool special) const;

  std::unique_ptr<const text::Tokenizer> tokenizer_;
  std::optional<text::ChatTemplate> chat_template_;
  text::ChatTemplate::Variables variables_;
  std::vector<text::TokenId> end_ids_;
  std::vector<GenerationPrompt> prompts_;
  std::string identity_;
};

// Bytes of a text over its bytes compressed by zlib's deflate at its best: about 2 for prose, far
// more for a text that repeats itself.
double CompressionRatio(const std::string& text);

// Use: feed next() to a model (after emptying its state when TakeReset() says so), give what it
// answers to Take(), until the outcome is there.
class GeneratedRecord {
 public:
  enum class Outcome {
    kRunning,
    kFinished,
    kUnfinished,  // longer than allowed
    kLoop,        // it repeats itself
    kEmpty,       // a turn without words
    kBroken,      // a special token in the middle of a turn
  };

  // `prompts` outlives this. An empty prompt: out of nothing.
  GeneratedRecord(const GenerationPrompts* prompts, GenerationPrompt prompt,
                  const GenerationLimits& limits);

  Outcome outcome() const { return outcome_; }
  text::TokenId next() const { return ids_[fed_]; }
  // True once before the first token, and again when what was fed must be forgotten.
  bool TakeReset();
  // Whether the token that follows next() will be used: draws are counted by these.
  bool wants_token() const { return fed_ + 1 == ids_.size(); }
  // The token that was drawn after next(); ignored unless wants_token().
  void Take(text::TokenId token);

  int64_t written_tokens() const { return written_; }
  // All that it has come to, and a record that goes on from there with the prompts and limits of
  // before. FromState throws std::runtime_error for what State did not make.
  nlohmann::json State() const;
  static GeneratedRecord FromState(const GenerationPrompts* prompts, const GenerationLimits& limits,
                                   const nlohmann::json& state);
  // kFinished: a line of JSON without line feed.
  std::string Line() const;

 private:
  void EndTurn();

  const GenerationPrompts* prompts_;
  GenerationPrompt prompt_;
  GenerationLimits limits_;
  Outcome outcome_ = Outcome::kRunning;
  bool writes_user_ = false;
  bool reset_ = true;
  std::vector<text::TokenId> ids_;  // of the record so far
  size_t fed_ = 0;                  // of them
  std::vector<text::TokenId> turn_;
  std::string answer_;
  int64_t written_ = 0;
};

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_STAGES_GENERATED_RECORD_H_
