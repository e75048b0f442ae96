#include "trainer/formats/llama2c_model.h"

#include <cstring>
#include <stdexcept>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/checkpoint/mapped_checkpoint.h"
#include "engine/checkpoint/mapped_file.h"
#include "engine/checkpoint/model_config_reader.h"
#include "trainer/formats/status_exception.h"

namespace mambad::trainer {
namespace {

using Bytes = absl::Span<const std::byte>;
using checkpoint::ModelConfig;
using checkpoint::Role;

constexpr uint32_t kLaterMagic = 0x616b3432;  // "ak42"
constexpr size_t kHeaderNumbers = 7;
constexpr size_t kFirstByteId = 3, kByteIds = 256;

[[noreturn]] void Fail(const std::string& path, const std::string& what) {
  throw std::runtime_error(absl::StrCat(path, ": ", what));
}

// Takes tensors off the front of the file, in the order of the format.
class Reader {
 public:
  Reader(std::string path, ModelSource* source) : path_(std::move(path)), source_(source) {}

  void Read() {
    checkpoint::CheckpointParts parts;
    parts.path = path_;
    parts.files.push_back(ValueOf(checkpoint::MappedFile::Open(path_)));
    rest_ = parts.files.back().bytes();
    const int64_t context = ReadHeader();
    ThrowUnlessOk(checkpoint::CheckModelConfig(path_, config_));
    CheckSize(context);
    TakeTensors(context);
    parts.config = config_;
    parts.identity = "llama2.c";
    parts.tensors = std::move(tensors_);
    source_->checkpoint = ValueOf(checkpoint::MappedCheckpoint::Create(std::move(parts)));
  }

 private:
  // Returns the context length.
  int64_t ReadHeader() {
    int32_t header[kHeaderNumbers];
    if (rest_.size() < sizeof(header)) Fail(path_, "too short for a llama2.c file");
    std::memcpy(header, rest_.data(), sizeof(header));
    if (static_cast<uint32_t>(header[0]) == kLaterMagic) {
      Fail(path_, absl::StrCat("llama2.c's format ", header[1], " is not read, only that without ",
                               "a version"));
    }
    const auto [width, mlp, layers, heads, key_heads, vocabulary, context] = header;
    const bool plausible = width > 0 && mlp > 0 && layers > 0 && heads > 0 && key_heads > 0 &&
                           vocabulary != 0 && vocabulary != INT32_MIN && context > 0 &&
                           width % heads == 0 && layers <= 1024;
    if (!plausible) {
      Fail(path_, absl::StrCat("no llama2.c file: width ", width, ", MLP width ", mlp, ", layers ",
                               layers, ", heads ", heads, " and ", key_heads, ", vocabulary ",
                               vocabulary, ", context ", context, " in its header"));
    }
    rest_.remove_prefix(sizeof(header));
    config_.width = width;
    config_.mlp_width = mlp;
    config_.layers = layers;
    config_.vocabulary = config_.padded_vocabulary = vocabulary < 0 ? -vocabulary : vocabulary;
    config_.tied_head = vocabulary > 0;
    config_.context_length = context;
    config_.mixers.assign(layers, checkpoint::MixerKind::kAttention);
    config_.fused_attention.assign(layers, false);
    config_.fused_mamba.assign(layers, false);
    config_.attention.query_heads = heads;
    config_.attention.key_value_heads = key_heads;
    config_.attention.head_width = width / heads;
    config_.bos_id = 1;
    config_.eos_ids = {1, 2};  // the program's models end a text with the beginning of the next
    return context;
  }

  // The bounds of CheckModelConfig keep every product below from overflowing.
  void CheckSize(int64_t context) const {
    const checkpoint::ParameterTable table(config_);
    unsigned __int128 numbers = static_cast<unsigned __int128>(context) * HeadWidth();
    for (const checkpoint::Parameter& parameter : table.parameters()) {
      if (parameter.role == Role::kHead && config_.tied_head) continue;
      unsigned __int128 size = 1;
      for (const int64_t extent : parameter.shape) size *= static_cast<uint64_t>(extent);
      numbers += size;
    }
    if (numbers * sizeof(float) != rest_.size()) {
      Fail(path_, absl::StrCat("no llama2.c file, or a truncated one: ", rest_.size(),
                               " bytes of tensors found, the header announces ",
                               static_cast<double>(numbers) * sizeof(float)));
    }
  }

  void TakeTensors(int64_t context) {
    Take(Role::kEmbedding);
    Take(Role::kMixerNorm);
    Take(Role::kAttentionQuery, config_.attention.query_heads);
    Take(Role::kAttentionKey, config_.attention.key_value_heads);
    Take(Role::kAttentionValue);
    Take(Role::kAttentionOutput);
    Take(Role::kMlpNorm);
    Take(Role::kMlpGate);
    Take(Role::kMlpDown);
    Take(Role::kMlpUp);
    Take(Role::kFinalNorm);
    rest_.remove_prefix(static_cast<size_t>(context * HeadWidth()) * sizeof(float));
    if (!config_.tied_head) Take(Role::kHead);
  }

  // The tensor of every layer, or the one outside of them. `rotated_heads`: its rows are in the
  // interleaved rotary order and are put into halves.
  void Take(Role role, int rotated_heads = 0) {
    const checkpoint::ParameterTable table(config_);
    for (const checkpoint::Parameter& parameter : table.parameters()) {
      if (parameter.role != role) continue;
      size_t size = sizeof(float);
      for (const int64_t extent : parameter.shape) size *= static_cast<size_t>(extent);
      checkpoint::StoredTensor tensor;
      tensor.shape = parameter.shape;
      tensor.data = rest_.first(size);
      rest_.remove_prefix(size);
      if (rotated_heads > 0) tensor.data = EvenRowsFirst(parameter, rotated_heads, tensor.data);
      tensors_.emplace(parameter.name, std::move(tensor));
    }
  }

  // Of each head: even rows, then odd rows.
  Bytes EvenRowsFirst(const checkpoint::Parameter& parameter, int heads, Bytes data) {
    std::byte* const out = source_->rearranged.emplace_back(new std::byte[data.size()]).get();
    const int64_t rows = parameter.shape[0] / heads;
    const size_t row_bytes = static_cast<size_t>(parameter.shape[1]) * sizeof(float);
    for (int64_t head = 0; head < heads; ++head) {
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t from = row < rows / 2 ? 2 * row : 2 * (row - rows / 2) + 1;
        std::memcpy(out + (head * rows + row) * row_bytes,
                    data.data() + (head * rows + from) * row_bytes, row_bytes);
      }
    }
    return {out, data.size()};
  }

  int64_t HeadWidth() const { return config_.attention.head_width; }

  std::string path_;
  ModelSource* source_;
  Bytes rest_;
  ModelConfig config_;
  std::map<std::string, checkpoint::StoredTensor> tensors_;
};

}  // namespace

ModelSource OpenLlama2cModel(const std::string& path) {
  ModelSource source;
  source.kind = SourceKind::kLlama2c;
  source.path = path;
  Reader(path, &source).Read();
  return source;
}

SentencePieceFile ReadLlama2cTokenizer(const std::string& path, int64_t vocabulary) {
  const checkpoint::MappedFile file = ValueOf(checkpoint::MappedFile::Open(path));
  Bytes rest = file.bytes();
  const auto take = [&](void* out, size_t size) {
    if (rest.size() < size) {
      Fail(path, absl::StrCat("ends early: a tokenizer of ", vocabulary, " pieces expected"));
    }
    std::memcpy(out, rest.data(), size);
    rest.remove_prefix(size);
  };
  int32_t longest = 0;
  take(&longest, sizeof(longest));
  SentencePieceFile tokenizer;
  for (int64_t id = 0; id < vocabulary; ++id) {
    SentencePieceFile::Piece piece;
    int32_t length = 0;
    take(&piece.score, sizeof(piece.score));
    take(&length, sizeof(length));
    if (length < 0 || length > longest || static_cast<size_t>(length) > rest.size()) {
      Fail(path, absl::StrCat("piece ", id, ": a length of ", length, " found, 0 to ", longest,
                              " expected"));
    }
    piece.text.resize(length);
    take(piece.text.data(), piece.text.size());
    piece.text = absl::StrReplaceAll(piece.text, {{" ", kSpaceMarker}});
    if (static_cast<size_t>(id) < kFirstByteId) {  // the file spells them with line feeds
      static constexpr const char* kNames[] = {"<unk>", "<s>", "</s>"};
      piece.text = kNames[id];
      piece.type = id == 0 ? SentencePieceFile::kUnknown : SentencePieceFile::kControl;
    } else if (static_cast<size_t>(id) < kFirstByteId + kByteIds) {
      piece.type = SentencePieceFile::kByte;
    }
    tokenizer.pieces.push_back(std::move(piece));
  }
  if (!rest.empty()) {
    Fail(path, absl::StrCat(rest.size(), " bytes behind the last of ", vocabulary, " pieces"));
  }
  tokenizer.unknown_id = 0;
  tokenizer.bos_id = 1;
  tokenizer.eos_id = 2;
  return tokenizer;
}

}  // namespace mambad::trainer
