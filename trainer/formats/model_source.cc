#include "trainer/formats/model_source.h"

#include <cstring>
#include <filesystem>
#include <stdexcept>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/gguf_checkpoint.h"
#include "engine/checkpoint/mapped_file.h"
#include "trainer/formats/llama2c_model.h"
#include "trainer/formats/pytorch_model.h"
#include "trainer/formats/status_exception.h"
#include "trainer/formats/zip_archive.h"

namespace mambad::trainer {
namespace {

namespace fs = std::filesystem;

ModelSource OpenDirectory(const std::string& path) {
  const bool safetensors = fs::exists(fs::path(path) / "model.safetensors") ||
                           fs::exists(fs::path(path) / "model.safetensors.index.json");
  if (!safetensors && IsPytorchDirectory(path)) return OpenPytorchDirectory(path);
  ModelSource source;
  source.path = path;
  source.checkpoint = ValueOf(checkpoint::Checkpoint::Open(path));
  return source;
}

ModelSource OpenFile(const std::string& path) {
  const checkpoint::MappedFile file = ValueOf(checkpoint::MappedFile::Open(path));
  const absl::Span<const std::byte> bytes = file.bytes();
  if (bytes.size() >= 4 && std::memcmp(bytes.data(), "GGUF", 4) == 0) {
    ModelSource source;
    source.kind = SourceKind::kGguf;
    source.path = path;
    source.checkpoint = ValueOf(checkpoint::OpenGgufFile(path));
    return source;
  }
  if (IsZipArchive(bytes) || IsLegacyPytorchFile(bytes)) {
    throw std::runtime_error(
        absl::StrCat(path, ": a PyTorch checkpoint needs its config.json: give the directory"));
  }
  return OpenLlama2cModel(path);
}

}  // namespace

const char* SourceKindName(SourceKind kind) {
  switch (kind) {
    case SourceKind::kModelDirectory:
      return "safetensors directory";
    case SourceKind::kPytorchDirectory:
      return "PyTorch directory";
    case SourceKind::kGguf:
      return "GGUF file";
    case SourceKind::kLlama2c:
      return "llama2.c file";
  }
  return "";
}

ModelSource OpenModelSource(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) throw std::runtime_error(absl::StrCat(path, ": does not exist"));
  return fs::is_directory(status) ? OpenDirectory(path) : OpenFile(path);
}

}  // namespace mambad::trainer
