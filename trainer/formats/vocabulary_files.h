// The tokenizer and chat template inside a GGUF file as the files of a Hugging Face directory.

#ifndef MAMBAD_TRAINER_FORMATS_VOCABULARY_FILES_H_
#define MAMBAD_TRAINER_FORMATS_VOCABULARY_FILES_H_

#include <map>
#include <string>

#include "engine/checkpoint/checkpoint.h"

namespace mambad::trainer {

// File name -> contents: tokenizer.json (byte-level BPE, with the pre-tokenizer that the file
// names) or tokenizer.model (scored pieces), and tokenizer_config.json. engine/text makes the same
// tokenizer of them as of the vocabulary itself. Throws std::runtime_error, beginning with
// `source`: no vocabulary, one that is not understood.
std::map<std::string, std::string> VocabularyFiles(const std::string& source,
                                                   const checkpoint::TextFiles& text);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_FORMATS_VOCABULARY_FILES_H_
