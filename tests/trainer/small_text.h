// A tokenizer small enough to see through, for tests: a token a byte, three special ones, a chat
// template.

#ifndef MAMBAD_TESTS_TRAINER_SMALL_TEXT_H_
#define MAMBAD_TESTS_TRAINER_SMALL_TEXT_H_

#include <cstdint>
#include <string>
#include <vector>

namespace mambad::testing {

inline constexpr int kSmallEndOfText = 256, kSmallTurnStart = 257, kSmallTurnEnd = 258;
inline constexpr int kSmallVocabulary = 259;

// tokenizer.json and tokenizer_config.json into an existing directory. Ids 0..255 are the bytes;
// "<|endoftext|>" ends a text, and a turn is "<|im_start|>role\ncontent<|im_end|>\n".
void WriteSmallTokenizer(const std::string& directory, bool chat_template);

void WriteText(const std::string& path, const std::string& content);
std::string ReadText(const std::string& path);

// Tokens as text, special ones as "[256]".
std::string Spelled(const std::vector<int64_t>& tokens);

}  // namespace mambad::testing

#endif  // MAMBAD_TESTS_TRAINER_SMALL_TEXT_H_
