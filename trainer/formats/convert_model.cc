#include "trainer/formats/convert_model.h"

#include <filesystem>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/dequantise.h"
#include "engine/checkpoint/model_writer.h"
#include "trainer/formats/half_float.h"
#include "trainer/formats/model_text.h"
#include "trainer/formats/status_exception.h"

namespace mambad::trainer {
namespace {

namespace fs = std::filesystem;
using checkpoint::Checkpoint;
using checkpoint::ModelConfig;
using checkpoint::Parameter;
using checkpoint::Role;
using checkpoint::StorageType;

int64_t NumbersOf(const Parameter& parameter) {
  int64_t numbers = 1;
  for (const int64_t extent : parameter.shape) numbers *= extent;
  return numbers;
}

StorageType ChooseType(const ConvertOptions& options, const Checkpoint& checkpoint) {
  const StorageType type = options.type.value_or(checkpoint.native_type());
  const bool plain = type == StorageType::kFloat32 || type == StorageType::kFloat16;
  return plain ? type : StorageType::kBFloat16;
}

// ---- tensors -----------------------------------------------------------------------------------

// The output's tensors; their bytes live as long as this.
class Tensors {
 public:
  Tensors(const Checkpoint& checkpoint, const ModelConfig& config, StorageType type)
      : checkpoint_(checkpoint) {
    const checkpoint::ParameterTable table(config);
    for (const Parameter& parameter : table.parameters()) {
      const bool tied = parameter.role == Role::kHead && config.tied_head;
      if (!tied) Add(parameter, parameter.keep_float32 ? StorageType::kFloat32 : type);
    }
  }
  const std::vector<checkpoint::TensorToWrite>& list() const { return list_; }
  int64_t numbers() const { return numbers_; }

 private:
  void Add(const Parameter& parameter, StorageType type) {
    const Parameter& from = *checkpoint_.table().Find(parameter.role, parameter.layer);
    const int64_t numbers = NumbersOf(parameter), rows = parameter.shape[0];
    const size_t size = static_cast<size_t>(numbers) * checkpoint::BlockOf(type).bytes;
    std::byte* const out = bytes_.emplace_back(new std::byte[size]).get();
    if (type == StorageType::kFloat32) {
      checkpoint_.Read(from, 0, rows,
                       {reinterpret_cast<float*>(out), static_cast<size_t>(numbers)});
    } else if (type == StorageType::kBFloat16) {
      checkpoint_.ReadBFloat16(from, 0, rows,
                               {reinterpret_cast<uint16_t*>(out), static_cast<size_t>(numbers)});
    } else {
      ReadFloat16(from, rows, numbers / rows, reinterpret_cast<uint16_t*>(out));
    }
    list_.push_back({parameter.name, type, parameter.shape, {out, size}});
    numbers_ += numbers;
  }

  void ReadFloat16(const Parameter& from, int64_t rows, int64_t columns, uint16_t* out) {
    std::vector<float> row(columns);
    for (int64_t i = 0; i < rows; ++i) {
      checkpoint_.Read(from, i, i + 1, absl::MakeSpan(row));
      for (const float value : row) *out++ = RoundToFloat16(value);
    }
  }

  const Checkpoint& checkpoint_;
  std::vector<std::unique_ptr<std::byte[]>> bytes_;
  std::vector<checkpoint::TensorToWrite> list_;
  int64_t numbers_ = 0;
};

void MakeOutput(const ConvertOptions& options) {
  std::error_code error;
  fs::create_directories(options.output, error);
  if (error || !fs::is_directory(options.output)) {
    throw std::runtime_error(absl::StrCat(options.output, ": cannot be made a directory",
                                          error ? ": " + error.message() : ""));
  }
  if (fs::equivalent(options.input, options.output, error)) {
    throw std::runtime_error(
        absl::StrCat(options.output, ": the output is the input: name another directory"));
  }
}

}  // namespace

ModelConfig WrittenConfig(ModelConfig config) {
  if (config.layout != checkpoint::Layout::kMambaInLlama) {
    config.layout = checkpoint::Layout::kHuggingFace;
  }
  // Rows that no token has are never sampled; that layout cannot say so.
  config.padded_vocabulary = config.vocabulary;
  return config;
}

ConvertedModel ConvertModel(const ConvertOptions& options) {
  const ModelSource source = OpenModelSource(options.input);
  const Checkpoint& checkpoint = *source.checkpoint;
  ConvertedModel result;
  result.kind = source.kind;
  result.config = WrittenConfig(checkpoint.config());
  result.type = ChooseType(options, checkpoint);
  const TextFilesByName text = TextOfModel(source, options.tokenizer);
  result.has_tokenizer = HasTokenizer(text);
  MakeOutput(options);
  const Tensors tensors(checkpoint, result.config, result.type);
  result.parameters = tensors.numbers();
  WriteTextFiles(options.output, text);
  ThrowUnlessOk(checkpoint::WriteModelDirectory(options.output, result.config, tensors.list(),
                                                options.shard_bytes));
  return result;
}

}  // namespace mambad::trainer
