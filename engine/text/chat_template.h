#ifndef MAMBAD_ENGINE_TEXT_CHAT_TEMPLATE_H_
#define MAMBAD_ENGINE_TEXT_CHAT_TEMPLATE_H_

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/text/jinja/local_time.h"
#include "nlohmann/json_fwd.hpp"

namespace mambad::text {

struct ChatMessage {
  std::string role;     // "system", "user", "assistant": the template says which it accepts
  std::string content;  // UTF-8
};

namespace jinja {
struct ParsedTemplate;
}

// A model's chat template: turns a conversation into the prompt text that the model was trained on,
// as apply_chat_template(tokenize=False) of Hugging Face transformers does, from the same Jinja
// source.
//
// Immutable; copies share the parsed template; Render may be called from any number of threads at
// once. Templates come from files and messages from callers, so both are held to bounds
// (jinja::kMaximumSourceBytes, jinja::Runtime): no template and no conversation takes more than a
// second or two, or about 1 GiB, or overflows the stack.
class ChatTemplate {
 public:
  // `source` is the Jinja text. INVALID_ARGUMENT, with line and column: it is no template, or
  // larger than 256 KiB. A construct that is not known here is no error but where a render comes
  // upon it.
  static absl::StatusOr<ChatTemplate> Parse(std::string_view source);

  // What stands for a template that cannot be used: every Render ends in `fault`, so that what
  // needs no template is served all the same.
  static ChatTemplate Unusable(absl::Status fault);
  // The Jinja text; empty for those.
  std::string_view source() const;
  // OK but for those.
  const absl::Status& fault() const { return fault_; }

  struct Variables {
    // Undefined for a template when absent, as every special token that a tokenizer does not have.
    std::optional<std::string> bos_token;
    std::optional<std::string> eos_token;
    // Whether the prompt ends with the beginning of the assistant's answer.
    bool add_generation_prompt = true;
    // Further variables that hold text, such as "date_string" or "pad_token"; a name given here
    // wins over those above.
    std::vector<std::pair<std::string, std::string>> text_variables;
    // Further variables that hold a list of texts, such as "additional_special_tokens".
    std::vector<std::pair<std::string, std::vector<std::string>>> list_variables;
    // What the template's strftime_now(format) tells; absent: the clock of this machine.
    std::optional<jinja::LocalTime> now;
  };

  // The prompt. `tools` and `documents` are none, as without them in transformers.
  // INVALID_ARGUMENT: the template rejected the conversation (then the message is the template's
  // own text), or failed; UNIMPLEMENTED: it came upon something that is not known here;
  // or the fault of an unusable one.
  absl::StatusOr<std::string> Render(absl::Span<const ChatMessage> messages,
                                     const Variables& variables) const;

 private:
  ChatTemplate() = default;
  std::shared_ptr<const jinja::ParsedTemplate> parsed_;  // null when there is a fault
  absl::Status fault_;
};

// The template's source in tokenizer_config.json or chat_template.json: its `chat_template`, which
// is a text, or several with names, as a list of {"name": ..., "template": ...} or as an object. Of
// several the one named "default" is taken, as transformers does for a conversation without tools.
// NOT_FOUND: there is none; FAILED_PRECONDITION: none of several is named "default";
// INVALID_ARGUMENT: it has another form.
absl::StatusOr<std::string> ChatTemplateSource(const nlohmann::json& config);

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_CHAT_TEMPLATE_H_
