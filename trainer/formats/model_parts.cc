#include "trainer/formats/model_parts.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <stdexcept>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/dequantise.h"
#include "engine/checkpoint/error_text.h"
#include "engine/checkpoint/gguf.h"
#include "engine/checkpoint/json_file.h"
#include "engine/checkpoint/mapped_file.h"
#include "engine/checkpoint/model_config_reader.h"
#include "engine/checkpoint/model_writer.h"
#include "engine/checkpoint/proposed_tokens.h"
#include "engine/digest/sha256.h"
#include "trainer/formats/embedding_projection.h"
#include "trainer/formats/gguf_writer.h"
#include "trainer/formats/half_float.h"
#include "trainer/formats/model_source.h"
#include "trainer/formats/model_text.h"
#include "trainer/formats/status_exception.h"

namespace mambad::trainer {
namespace {

namespace fs = std::filesystem;
using checkpoint::Checkpoint;
using checkpoint::GgufFile;
using checkpoint::ModelConfig;
using checkpoint::Parameter;
using checkpoint::Quoted;
using checkpoint::Role;
using checkpoint::StorageType;
using checkpoint::StoredTensor;
using checkpoint::TensorToWrite;

constexpr char kArchitecture[] = "mambad-parts", kVersion[] = "1";
constexpr char kProjection[] = "embedding_projection";
constexpr const char* kDigestKey = "mambad.parts.sha256";
constexpr const char* kProposedKey = "mambad.parts.proposed_tokens";

[[noreturn]] void Fail(const std::string& source, const std::string& what) {
  throw std::runtime_error(absl::StrCat(source, ": ", what));
}

int64_t NumbersOf(const std::vector<int64_t>& shape) {
  int64_t numbers = 1;
  for (const int64_t extent : shape) numbers *= extent;
  return numbers;
}

float Widen(uint16_t bfloat16) {
  const uint32_t bits = static_cast<uint32_t>(bfloat16) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// As an assembled model stores them.
void RoundMatrix(std::vector<float>* numbers) {
  for (float& number : *numbers) number = Widen(checkpoint::RoundToBFloat16(number));
}

// A parameter's numbers as an assembled model has them.
std::vector<float> ReadRounded(const Checkpoint& checkpoint, const Parameter& parameter,
                               int64_t rows) {
  std::vector<float> numbers(rows * NumbersOf(parameter.shape) / parameter.shape[0]);
  checkpoint.Read(parameter, 0, rows, absl::MakeSpan(numbers));
  if (!parameter.keep_float32) RoundMatrix(&numbers);
  return numbers;
}

// The teacher's parameter that may stand in for `parameter`; nullptr: there is none. The teacher's
// embedding may be padded.
const Parameter* Counterpart(const Checkpoint& teacher, const Parameter& parameter) {
  const Parameter* found = teacher.table().Find(parameter.role, parameter.layer);
  if (found == nullptr || !teacher.Has(*found) || found->shape[0] < parameter.shape[0]) {
    return nullptr;
  }
  std::vector<int64_t> shape = found->shape;
  const bool vocabulary = parameter.role == Role::kEmbedding || parameter.role == Role::kHead;
  if (vocabulary) shape[0] = parameter.shape[0];
  return shape == parameter.shape ? found : nullptr;
}

bool IsTied(const ModelConfig& config, const Parameter& parameter) {
  return parameter.role == Role::kHead && config.tied_head;
}

// ---- the whole model ---------------------------------------------------------------------------

// Tensors of an assembled model, in the order of the table.
class AssembledTensors {
 public:
  void Add(const Parameter& parameter, const std::vector<float>& numbers) {
    const StorageType type =
        parameter.keep_float32 ? StorageType::kFloat32 : StorageType::kBFloat16;
    const size_t size = numbers.size() * checkpoint::BlockOf(type).bytes;
    std::byte* const out = bytes_.emplace_back(new std::byte[size]).get();
    if (parameter.keep_float32) {
      std::memcpy(out, numbers.data(), size);
    } else {
      auto* const words = reinterpret_cast<uint16_t*>(out);
      for (size_t i = 0; i < numbers.size(); ++i) {
        words[i] = checkpoint::RoundToBFloat16(numbers[i]);
      }
    }
    list_.push_back({parameter.name, type, parameter.shape, {out, size}});
    numbers_ += static_cast<int64_t>(numbers.size());
  }

  const std::vector<TensorToWrite>& list() const { return list_; }
  int64_t numbers() const { return numbers_; }
  std::string Digest() const {
    Sha256 digest;
    for (const TensorToWrite& tensor : list_) {
      const std::string line = absl::StrCat(tensor.name, " ", checkpoint::ShapeText(tensor.shape),
                                            " ", checkpoint::StorageTypeName(tensor.type), "\n");
      digest.Add(line.data(), line.size());
      digest.Add(tensor.data.data(), tensor.data.size());
    }
    return digest.FinishAsDigits();
  }

 private:
  std::vector<std::unique_ptr<std::byte[]>> bytes_;
  std::vector<TensorToWrite> list_;
  int64_t numbers_ = 0;
};

std::vector<float> Dequantised(const StoredTensor& tensor) {
  std::vector<float> numbers(NumbersOf(tensor.shape));
  checkpoint::Dequantise(tensor.type, tensor.data.data(), static_cast<int64_t>(numbers.size()),
                         numbers.data());
  return numbers;
}

// The teacher's embedding for a model whose own is a projection of it.
std::vector<float> BaseEmbedding(const std::string& source, const Checkpoint& teacher,
                                 int64_t rows) {
  const Parameter& parameter = *teacher.table().Find(Role::kEmbedding, -1);
  if (parameter.shape[0] < rows) {
    Fail(source, absl::StrCat("a vocabulary of ", rows, " expected of the teacher, ",
                              parameter.shape[0], " found"));
  }
  return ReadRounded(teacher, parameter, rows);
}

std::vector<float> Projected(const std::string& source, const Checkpoint& teacher,
                             const StoredTensor& projection, const Parameter& parameter) {
  const int64_t rows = parameter.shape[0], width = parameter.shape[1];
  const int64_t base_width = teacher.config().width;
  if (projection.shape != std::vector<int64_t>{base_width, width}) {
    Fail(source, absl::StrCat("tensor ", Quoted(kProjection), ": shape ",
                              checkpoint::ShapeText(projection.shape), " found, ",
                              checkpoint::ShapeText({base_width, width}), " expected"));
  }
  return ProjectEmbedding(BaseEmbedding(source, teacher, rows), Dequantised(projection), rows,
                          base_width, width);
}

AssembledTensors Assemble(const std::string& source,
                          const std::map<std::string, StoredTensor>& parts,
                          const ModelConfig& config, const Checkpoint& teacher) {
  AssembledTensors result;
  size_t used = 0;
  const checkpoint::ParameterTable table(config);
  for (const Parameter& parameter : table.parameters()) {
    if (IsTied(config, parameter)) continue;
    const auto part = parts.find(parameter.name);
    const auto projection = parts.find(kProjection);
    if (part != parts.end()) {
      ++used;
      if (part->second.shape != parameter.shape) {
        Fail(source, absl::StrCat("tensor ", Quoted(parameter.name), ": shape ",
                                  checkpoint::ShapeText(part->second.shape), " found, ",
                                  checkpoint::ShapeText(parameter.shape), " expected"));
      }
      result.Add(parameter, Dequantised(part->second));
    } else if (parameter.role == Role::kEmbedding && projection != parts.end()) {
      ++used;
      result.Add(parameter, Projected(source, teacher, projection->second, parameter));
    } else if (const Parameter* from = Counterpart(teacher, parameter); from != nullptr) {
      result.Add(parameter, ReadRounded(teacher, *from, parameter.shape[0]));
    } else {
      Fail(source, absl::StrCat("tensor ", Quoted(parameter.name), " of shape ",
                                checkpoint::ShapeText(parameter.shape),
                                " is neither here nor in this teacher"));
    }
  }
  if (used != parts.size()) Fail(source, "tensors that a model of this configuration has not");
  return result;
}

// ---- packing -----------------------------------------------------------------------------------

// The tensors of a parts file that is being made.
class Parts {
 public:
  void Add(const Parameter& parameter, const std::vector<float>& numbers) {
    const int64_t width = NumbersOf(parameter.shape) / parameter.shape[0];
    for (const float number : numbers) {
      if (!std::isfinite(number)) {
        throw std::runtime_error(
            absl::StrCat("tensor ", Quoted(parameter.name), ": ", number, " in a trained model"));
      }
    }
    if (parameter.keep_float32) {
      Append(parameter.name, StorageType::kFloat32, parameter.shape, numbers);
    } else if (width % checkpoint::BlockOf(StorageType::kQ8_0).numbers == 0) {
      Append(parameter.name, StorageType::kQ8_0, parameter.shape, numbers);
      Compare(numbers);
    } else {
      Append(parameter.name, StorageType::kBFloat16, parameter.shape, numbers);
      Compare(numbers);
    }
  }
  void AddProjection(int64_t rows, int64_t columns, const std::vector<float>& numbers) {
    Append(kProjection, StorageType::kFloat16, {rows, columns}, numbers);
  }

  const std::vector<TensorToWrite>& list() const { return list_; }
  std::map<std::string, StoredTensor> Stored() const {
    std::map<std::string, StoredTensor> stored;
    for (const TensorToWrite& tensor : list_) {
      stored[tensor.name] = {tensor.type, tensor.shape, tensor.data, 0};
    }
    return stored;
  }
  std::vector<float> Last() const {
    const TensorToWrite& tensor = list_.back();
    return Dequantised({tensor.type, tensor.shape, tensor.data, 0});
  }
  int64_t numbers() const { return numbers_; }
  double rounding() const { return squares_ > 0 ? std::sqrt(errors_ / squares_) : 0; }

 private:
  void Append(const std::string& name, StorageType type, const std::vector<int64_t>& shape,
              const std::vector<float>& numbers) {
    auto data = std::make_unique<std::vector<std::byte>>();
    if (type == StorageType::kQ8_0) {
      AppendQ8Blocks(numbers.data(), static_cast<int64_t>(numbers.size()), data.get());
    } else {
      const int width = checkpoint::BlockOf(type).bytes;
      data->resize(numbers.size() * width);
      for (size_t i = 0; i < numbers.size(); ++i) {
        const uint16_t word = type == StorageType::kFloat16
                                  ? RoundToFloat16(numbers[i])
                                  : checkpoint::RoundToBFloat16(numbers[i]);
        const void* from = type == StorageType::kFloat32 ? static_cast<const void*>(&numbers[i])
                                                         : static_cast<const void*>(&word);
        std::memcpy(data->data() + i * width, from, width);
      }
    }
    list_.push_back({name, type, shape, *data});
    bytes_.push_back(std::move(data));
    numbers_ += static_cast<int64_t>(numbers.size());
  }
  void Compare(const std::vector<float>& numbers) {
    const std::vector<float> stored = Last();
    for (size_t i = 0; i < numbers.size(); ++i) {
      const double difference = static_cast<double>(stored[i]) - numbers[i];
      errors_ += difference * difference;
      squares_ += static_cast<double>(numbers[i]) * numbers[i];
    }
  }

  std::vector<std::unique_ptr<std::vector<std::byte>>> bytes_;
  std::vector<TensorToWrite> list_;
  int64_t numbers_ = 0;
  double errors_ = 0, squares_ = 0;
};

// The embedding as a projection of the teacher's, when it is one.
bool AddAsProjection(const Checkpoint& teacher, const Parameter& parameter,
                     const std::vector<float>& numbers, double most_distance, Parts* parts,
                     double* distance) {
  const int64_t rows = parameter.shape[0], width = parameter.shape[1];
  const int64_t base_width = teacher.config().width;
  const Parameter& base_parameter = *teacher.table().Find(Role::kEmbedding, -1);
  if (base_parameter.shape[0] < rows || rows < base_width || width >= base_width) return false;
  const std::vector<float> base = ReadRounded(teacher, base_parameter, rows);
  const std::vector<float> projection = SolveProjection(base, numbers, rows, base_width, width);
  *distance =
      RelativeDistance(ProjectEmbedding(base, projection, rows, base_width, width), numbers);
  if (!(*distance <= most_distance)) return false;
  parts->AddProjection(base_width, width, projection);
  return true;
}

GgufMetadata Metadata(const ModelConfig& config, const std::string& digest,
                      std::vector<int32_t> proposed_tokens) {
  const checkpoint::ConfigTexts texts =
      checkpoint::WriteModelConfig(config, StorageType::kBFloat16);
  GgufMetadata metadata = {{"general.architecture", kArchitecture},
                           {"mambad.parts.version", kVersion},
                           {"mambad.parts.config", texts.config},
                           {kDigestKey, digest}};
  if (!texts.mamba_config.empty()) metadata["mambad.parts.mamba_config"] = texts.mamba_config;
  if (!texts.generation_config.empty()) {
    metadata["mambad.parts.generation_config"] = texts.generation_config;
  }
  if (!proposed_tokens.empty()) metadata[kProposedKey] = std::move(proposed_tokens);
  return metadata;
}

// ---- reading -----------------------------------------------------------------------------------

std::string TextIn(const std::string& source, const GgufFile& file, const std::string& key,
                   bool required) {
  const auto it = file.metadata.find(key);
  if (it == file.metadata.end() && !required) return "";
  const std::string* text =
      it == file.metadata.end() ? nullptr : std::get_if<std::string>(&it->second);
  if (text == nullptr) Fail(source, absl::StrCat(key, ": a text expected: no file of model parts"));
  return *text;
}

// Empty: all.
std::vector<int32_t> ProposedTokensIn(const std::string& source, const GgufFile& file,
                                      int64_t vocabulary) {
  const auto it = file.metadata.find(kProposedKey);
  if (it == file.metadata.end()) return {};
  const auto* ids = std::get_if<std::vector<int64_t>>(&it->second);
  if (ids == nullptr) Fail(source, absl::StrCat(kProposedKey, ": a list of token ids expected"));
  return ValueOf(checkpoint::CheckedProposedTokens(absl::StrCat(source, ": ", kProposedKey), *ids,
                                                   vocabulary));
}

ModelConfig ConfigOf(const std::string& source, const GgufFile& file) {
  if (TextIn(source, file, "general.architecture", true) != kArchitecture ||
      TextIn(source, file, "mambad.parts.version", true) != kVersion) {
    Fail(source, absl::StrCat("general.architecture ", Quoted(kArchitecture), " of version ",
                              kVersion, " expected: no file of model parts"));
  }
  checkpoint::ConfigFiles files;
  files.directory = source;
  const auto parse = [&](const char* name, bool required) {
    const std::string key = absl::StrCat("mambad.parts.", name);
    const std::string text = TextIn(source, file, key, required);
    return text.empty()
               ? nlohmann::json()
               : ValueOf(checkpoint::ParseJsonObject(absl::StrCat(source, ": ", key), text));
  };
  files.config = parse("config", true);
  files.mamba_config = parse("mamba_config", false);
  files.generation_config = parse("generation_config", false);
  checkpoint::TensorShapes shapes;
  for (const auto& [name, tensor] : file.tensors) shapes[name] = tensor.shape;
  return ValueOf(checkpoint::ReadModelConfig(files, shapes));
}

}  // namespace

PackedModel PackModel(const std::string& model, const std::string& teacher,
                      const std::string& output, double most_distance) {
  const ModelSource student = OpenModelSource(model), base = OpenModelSource(teacher);
  const Checkpoint& trained = *student.checkpoint;
  const ModelConfig& config = trained.config();
  if (config.layout == checkpoint::Layout::kGguf ||
      config.layout == checkpoint::Layout::kStateSpaces) {
    Fail(model, "a model in the Hugging Face or MambaInLlama layout expected: convert it first");
  }
  PackedModel result;
  Parts parts;
  for (const Parameter& parameter : trained.table().parameters()) {
    if (IsTied(config, parameter)) continue;
    std::vector<float> numbers(NumbersOf(parameter.shape));
    trained.Read(parameter, 0, parameter.shape[0], absl::MakeSpan(numbers));
    const Parameter* shared = Counterpart(*base.checkpoint, parameter);
    if (shared != nullptr && ReadRounded(*base.checkpoint, *shared, parameter.shape[0]) ==
                                 ReadRounded(trained, parameter, parameter.shape[0])) {
      result.teacher_numbers += static_cast<int64_t>(numbers.size());
      continue;
    }
    double distance = -1;
    if (parameter.role == Role::kEmbedding &&
        AddAsProjection(*base.checkpoint, parameter, numbers, most_distance, &parts, &distance)) {
      result.projection_distance = distance;
      continue;
    }
    parts.Add(parameter, numbers);
  }
  result.shipped_numbers = parts.numbers();
  result.rounding = parts.rounding();
  result.sha256 = Assemble(output, parts.Stored(), config, *base.checkpoint).Digest();
  std::vector<int32_t> proposed = ValueOf(checkpoint::ReadProposedTokens(model, config.vocabulary));
  result.proposed_tokens = static_cast<int64_t>(proposed.size());
  WriteGguf(output, Metadata(config, result.sha256, std::move(proposed)), parts.list());
  result.bytes = static_cast<int64_t>(fs::file_size(output));
  return result;
}

AssembledModel AssembleModel(const std::string& parts, const std::string& teacher,
                             const std::string& output) {
  const checkpoint::MappedFile file = ValueOf(checkpoint::MappedFile::Open(parts));
  const GgufFile gguf = ValueOf(checkpoint::ParseGguf(parts, file.bytes()));
  const ModelConfig config = ConfigOf(parts, gguf);
  const std::string expected = TextIn(parts, gguf, kDigestKey, true);
  const std::vector<int32_t> proposed = ProposedTokensIn(parts, gguf, config.vocabulary);
  const ModelSource base = OpenModelSource(teacher);
  const TextFilesByName text = TextOfModel(base, "");
  if (!HasTokenizer(text)) Fail(teacher, "the teacher has no tokenizer");
  const AssembledTensors tensors = Assemble(parts, gguf.tensors, config, *base.checkpoint);
  AssembledModel result{tensors.numbers(), tensors.Digest()};
  if (result.sha256 != expected) {
    Fail(parts, absl::StrCat("assembled with ", teacher, " the digest is ", result.sha256, ", ",
                             expected, " expected: another teacher, or a damaged file"));
  }
  std::error_code error;
  fs::create_directories(output, error);
  if (error) Fail(output, absl::StrCat("cannot be made a directory: ", error.message()));
  WriteTextFiles(output, text);
  ThrowUnlessOk(checkpoint::WriteProposedTokens(output, proposed));
  ThrowUnlessOk(checkpoint::WriteModelDirectory(output, config, tensors.list(), 0));
  return result;
}

}  // namespace mambad::trainer
