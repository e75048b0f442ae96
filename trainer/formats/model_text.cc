#include "trainer/formats/model_text.h"

#include <algorithm>
#include <filesystem>
#include <stdexcept>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/mapped_file.h"
#include "engine/checkpoint/safetensors.h"
#include "nlohmann/json.hpp"
#include "trainer/formats/llama2c_model.h"
#include "trainer/formats/status_exception.h"
#include "trainer/formats/vocabulary_files.h"

namespace mambad::trainer {
namespace {

namespace fs = std::filesystem;

constexpr const char* kNames[] = {
    "tokenizer.json",    "tokenizer.model",     "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "chat_template.json",    "processor_config.json",
    "vocab.json",        "merges.txt"};
// Templates beside the usual one, each under its own name.
constexpr char kMoreTemplates[] = "additional_chat_templates";

std::string ReadFile(const std::string& path) {
  const checkpoint::MappedFile file = ValueOf(checkpoint::MappedFile::Open(path));
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

TextFilesByName FilesOfDirectory(const std::string& directory) {
  TextFilesByName files;
  for (const std::string& name : TextFilesIn(directory)) {
    files[name] = ReadFile((fs::path(directory) / name).string());
  }
  return files;
}

TextFilesByName FilesOfLlama2c(const std::string& path, int64_t vocabulary) {
  const nlohmann::ordered_json config = {{"tokenizer_class", "LlamaTokenizer"},
                                         {"add_bos_token", true},
                                         {"add_eos_token", false},
                                         {"bos_token", "<s>"},
                                         {"eos_token", "</s>"},
                                         {"unk_token", "<unk>"}};
  return {{"tokenizer.model", ReadLlama2cTokenizer(path, vocabulary).Serialize()},
          {"tokenizer_config.json", config.dump(2) + "\n"}};
}

// llama2.c calls it tokenizer.bin, that of a model with another vocabulary tok512.bin and the like.
std::string TokenizerBeside(const ModelSource& source) {
  const fs::path folder = fs::path(source.path).parent_path();
  const std::string numbered = absl::StrCat("tok", source.checkpoint->config().vocabulary, ".bin");
  for (const std::string& name : {numbered, std::string("tokenizer.bin")}) {
    if (fs::exists(folder / name)) return (folder / name).string();
  }
  throw std::runtime_error(absl::StrCat(source.path, ": no ", numbered,
                                        " or tokenizer.bin beside it: name its tokenizer in the ",
                                        "setting \"tokenizer\""));
}

}  // namespace

std::vector<std::string> TextFilesIn(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (const char* name : kNames) {
    if (fs::exists(fs::path(directory) / name, error)) names.emplace_back(name);
  }
  for (fs::directory_iterator at(fs::path(directory) / kMoreTemplates, error), end;
       !error && at != end; at.increment(error)) {
    if (at->path().extension() != ".jinja") continue;
    names.push_back((fs::path(kMoreTemplates) / at->path().filename()).string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

TextFilesByName TextOfModel(const ModelSource& source, const std::string& tokenizer) {
  const int vocabulary = source.checkpoint->config().vocabulary;
  if (!tokenizer.empty()) {
    if (!fs::is_directory(tokenizer)) return FilesOfLlama2c(tokenizer, vocabulary);
    TextFilesByName files = FilesOfDirectory(tokenizer);
    if (HasTokenizer(files)) return files;
    throw std::runtime_error(
        absl::StrCat(tokenizer, ": tokenizer.json or tokenizer.model expected, neither found"));
  }
  if (source.kind == SourceKind::kLlama2c) {
    return FilesOfLlama2c(TokenizerBeside(source), vocabulary);
  }
  const checkpoint::TextFiles& text = source.checkpoint->text();
  if (source.kind == SourceKind::kGguf) return VocabularyFiles(source.path, text);
  return FilesOfDirectory(text.directory);
}

bool HasTokenizer(const TextFilesByName& files) {
  return files.contains("tokenizer.json") || files.contains("tokenizer.model");
}

void WriteTextFiles(const std::string& directory, const TextFilesByName& files) {
  for (const std::string& name : TextFilesIn(directory)) {
    if (!files.contains(name)) fs::remove(fs::path(directory) / name);
  }
  for (const auto& [name, contents] : files) {
    fs::create_directories((fs::path(directory) / name).parent_path());
    const absl::Span<const std::byte> piece(reinterpret_cast<const std::byte*>(contents.data()),
                                            contents.size());
    ThrowUnlessOk(checkpoint::WriteFileAtomically(absl::StrCat(directory, "/", name), {piece}));
  }
}

}  // namespace mambad::trainer
