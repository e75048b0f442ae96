#include "tests/trainer/small_text.h"

#include <fstream>
#include <sstream>
#include <stdexcept>

#include "engine/text/byte_level.h"
#include "nlohmann/json.hpp"

namespace mambad::testing {
namespace {

using nlohmann::json;

json Special(int id, const std::string& content) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

constexpr char kTemplate[] =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ "
    "'<|im_start|>assistant\n' }}{% endif %}";

}  // namespace

void WriteSmallTokenizer(const std::string& directory, bool chat_template) {
  json vocabulary = json::object();
  for (int byte = 0; byte < 256; ++byte) vocabulary[text::ByteLevelCharacter(byte)] = byte;
  const json document = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens",
       {Special(kSmallEndOfText, "<|endoftext|>"), Special(kSmallTurnStart, "<|im_start|>"),
        Special(kSmallTurnEnd, "<|im_end|>")}},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
      {"post_processor", nullptr},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", json::array()}}}};
  WriteText(directory + "/tokenizer.json", document.dump());
  json config = {{"eos_token", "<|endoftext|>"}};
  if (chat_template) config["chat_template"] = kTemplate;
  WriteText(directory + "/tokenizer_config.json", config.dump());
}

void WriteText(const std::string& path, const std::string& content) {
  std::ofstream out(path, std::ios::binary);
  out << content;
  out.close();
  if (!out) throw std::runtime_error(path + ": cannot be written");
}

std::string ReadText(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error(path + ": cannot be read");
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

std::string Spelled(const std::vector<int64_t>& tokens) {
  std::string text;
  for (const int64_t token : tokens) {
    if (token < 256)
      text += static_cast<char>(token);
    else
      text += "[" + std::to_string(token) + "]";
  }
  return text;
}

}  // namespace mambad::testing
