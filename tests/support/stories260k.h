// stories260K, a real Llama of 260,000 parameters in llama2.c's files, as an HF directory:
// config.json, model.safetensors, tokenizer.model (SentencePiece BPE), tokenizer_config.json.

#ifndef MAMBAD_TESTS_SUPPORT_STORIES260K_H_
#define MAMBAD_TESTS_SUPPORT_STORIES260K_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/support/model_directory.h"

namespace mambad::testing {

// The folder with stories260K.bin, tok512.bin and the model card, found through MAMBAD_SHARED_DATA;
// empty when absent.
std::string FindStories260K();

// Converts the files of `source` into the existing folder `directory`.
absl::Status WriteStories260K(const std::string& source, const std::string& directory,
                              StoredAs stored = StoredAs::kFloat32);

// What the model card says the greedy continuation of nothing is: up to 256 tokens after
// begin-of-text.
absl::StatusOr<std::string> ReadStories260KCardText(const std::string& source);

// The text of every token, spaces as spaces, byte tokens as their spelling "<0x0A>".
absl::StatusOr<std::vector<std::string>> ReadStories260KPieces(const std::string& source);

}  // namespace mambad::testing

#endif  // MAMBAD_TESTS_SUPPORT_STORIES260K_H_
