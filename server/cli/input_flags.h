// What a command reads: a text, token ids or a conversation, each given in one of several ways.

#ifndef MAMBAD_SERVER_CLI_INPUT_FLAGS_H_
#define MAMBAD_SERVER_CLI_INPUT_FLAGS_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "mambad/v1/generation.pb.h"
#include "server/cli/call_failure.h"

namespace mambad::cli {

struct Input {
  enum class Kind { kNone, kText, kTokenIds, kConversation };
  Kind kind = Kind::kNone;
  std::string text;  // UTF-8
  std::vector<int32_t> token_ids;
  v1::Conversation conversation;
  InputNames names;  // how it was given, for what the server says about it
};

class InputFlags {
 public:
  struct Kinds {
    bool token_ids = true, conversation = true;
  };
  // Texts are always taken.
  void Register(CLI::App* app, const Kinds& kinds);

  // Reads files and standard input where the flags say so. Empty, or what is wrong.
  std::string Read(Input* input) const;

 private:
  std::string ReadText(Input* input) const;
  std::string ReadConversation(Input* input) const;

  Kinds kinds_;
  std::optional<std::string> prompt_, prompt_file_, token_ids_, messages_, user_, system_;
};

// As the request's input; nothing where there is none.
void SetInput(const Input& input, v1::GenerateRequest* request);

// "1,2,3" -> ids. False when it is anything else; empty text: no ids.
bool ParseTokenIds(const std::string& text, std::vector<int32_t>* ids);

// JSON text [{"role": ..., "content": ...}, ...] or {"messages": [...]} -> conversation. Empty, or
// what is wrong.
std::string ParseMessages(const std::string& text, v1::Conversation* conversation);

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_INPUT_FLAGS_H_
