// The text side of a model: tokenizer and chat template, as files of a directory.

#ifndef MAMBAD_TRAINER_FORMATS_MODEL_TEXT_H_
#define MAMBAD_TRAINER_FORMATS_MODEL_TEXT_H_

#include <map>
#include <string>
#include <vector>

#include "trainer/formats/model_source.h"

namespace mambad::trainer {

// By their paths in the directory: "tokenizer.json", "additional_chat_templates/rag.jinja".
using TextFilesByName = std::map<std::string, std::string>;

// The paths of those that lie in `directory`, in order: whatever a tokenizer or a chat template is
// read from, by us or by transformers.
std::vector<std::string> TextFilesIn(const std::string& directory);

// From `tokenizer` (a directory, or llama2.c's tokenizer file) or, when that is empty, from the
// model: what lies in its directory, what a GGUF file has inside, llama2.c's tokenizer beside its
// model. Empty when a directory has none; otherwise throws std::runtime_error.
TextFilesByName TextOfModel(const ModelSource& source, const std::string& tokenizer);

// Whether there is a tokenizer among them.
bool HasTokenizer(const TextFilesByName& files);

// Writes them, each whole or not at all, and removes those of an earlier model, which would be
// believed. Throws std::runtime_error.
void WriteTextFiles(const std::string& directory, const TextFilesByName& files);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_FORMATS_MODEL_TEXT_H_
