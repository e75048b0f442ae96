#ifndef MAMBAD_ENGINE_TEXT_CHAT_TEMPLATE_H_
#define MAMBAD_ENGINE_TEXT_CHAT_TEMPLATE_H_

#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
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
  // `source` is the Jinja text. INVALID_ARGUMENT: it is no template, or larger than 256 KiB;
  // UNIMPLEMENTED: it uses a construct of Jinja that is not known here. Both name the construct,
  // line and column.
  static absl::StatusOr<ChatTemplate> Parse(std::string_view source);

  struct Variables {
    std::string bos_token;
    std::string eos_token;
    // Whether the prompt ends with the beginning of the assistant's answer.
    bool add_generation_prompt = true;
    // Further variables that hold text, such as "date_string" or "pad_token"; a name given here
    // wins over those above.
    std::vector<std::pair<std::string, std::string>> text_variables;
    // What the template's strftime_now(format) tells; without it that function is undefined.
    std::optional<std::tm> now;
  };

  // The prompt. `tools` and `documents` are none, as without them in transformers.
  // INVALID_ARGUMENT: the template rejected the conversation (then the message is the template's
  // own text), or failed; UNIMPLEMENTED: it came upon something that is not known here.
  absl::StatusOr<std::string> Render(absl::Span<const ChatMessage> messages,
                                     const Variables& variables) const;

 private:
  explicit ChatTemplate(std::shared_ptr<const jinja::ParsedTemplate> parsed);
  std::shared_ptr<const jinja::ParsedTemplate> parsed_;
};

// The template's source in tokenizer_config.json: its `chat_template`, which is a text or a list of
// {"name": ..., "template": ...} of which the one named "default" is taken.
// NOT_FOUND: there is none; INVALID_ARGUMENT: it has another form.
absl::StatusOr<std::string> ChatTemplateSource(const nlohmann::json& tokenizer_config);

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_CHAT_TEMPLATE_H_
