#include "engine/text/tokenizer_bundle.h"

#include <filesystem>
#include <utility>

#include "engine/text/optional_file.h"
#include "nlohmann/json.hpp"

namespace mambad::text {
namespace {

// What the files leave out of tokenizer_config.json, or all of it where there is none.
nlohmann::json MakeConfig(const ChatTemplate::Variables& variables) {
  nlohmann::json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                           {"clean_up_tokenization_spaces", false}};
  if (variables.bos_token.has_value()) config["bos_token"] = *variables.bos_token;
  if (variables.eos_token.has_value()) config["eos_token"] = *variables.eos_token;
  for (const auto& [name, text] : variables.text_variables) config[name] = text;
  for (const auto& [name, texts] : variables.list_variables) config[name] = texts;
  return config;
}

}  // namespace

absl::StatusOr<std::vector<BundledFile>> BundleTokenizer(const std::string& model_path,
                                                         const Tokenizer& tokenizer,
                                                         const ChatTemplate* chat_template,
                                                         const ChatTemplate::Variables& variables) {
  const std::filesystem::path directory(model_path);
  std::string json, config_text;
  if (std::filesystem::is_directory(directory)) {
    absl::Status status = ReadOptionalFile(directory / "tokenizer.json", &json);
    if (status.ok()) status = ReadOptionalFile(directory / "tokenizer_config.json", &config_text);
    if (!status.ok()) return status;
  }
  if (json.empty()) {
    absl::StatusOr<std::string> made = tokenizer.ToJson();
    if (!made.ok()) return made.status();
    json = *std::move(made);
  }
  // Its errors are for whoever opens the model.
  nlohmann::json config = nlohmann::json::parse(config_text, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) config = MakeConfig(variables);
  config.erase("chat_template");
  if (chat_template != nullptr && !chat_template->source().empty())
    config["chat_template"] = chat_template->source();
  std::vector<BundledFile> files;
  files.push_back({"tokenizer.json", std::move(json)});
  files.push_back({"tokenizer_config.json",
                   config.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)});
  return files;
}

}  // namespace mambad::text
