#include "tests/support/stories260k.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "nlohmann/json.hpp"

namespace mambad::testing {
namespace {

// Seven int32, then float32 tensors one after another.
struct Header {
  int32_t width, hidden, layers, heads, key_heads, vocabulary, context;
};

// Takes numbers off the front of a file's bytes.
class Bytes {
 public:
  static absl::StatusOr<Bytes> Read(const std::string& path) {
    std::ifstream stream(path, std::ios::binary);
    if (!stream) return absl::NotFoundError(absl::StrCat("cannot read ", path));
    return Bytes(std::string(std::istreambuf_iterator<char>(stream), {}));
  }

  template <typename T>
  T Take() {
    T value{};
    if (!Enough(sizeof(T))) return value;
    std::memcpy(&value, data_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }
  std::vector<float> TakeFloats(int64_t count) {
    std::vector<float> values(count);
    if (!Enough(4 * count)) return values;
    std::memcpy(values.data(), data_.data() + at_, 4 * count);
    at_ += 4 * count;
    return values;
  }
  std::string TakeText(int32_t length) {
    if (length < 0 || !Enough(length)) return "";
    at_ += length;
    return data_.substr(at_ - length, length);
  }
  bool short_of_data() const { return short_of_data_; }

 private:
  explicit Bytes(std::string data) : data_(std::move(data)) {}
  bool Enough(size_t size) {
    if (data_.size() - at_ < size) short_of_data_ = true;
    return !short_of_data_;
  }

  std::string data_;
  size_t at_ = 0;
  bool short_of_data_ = false;
};

// Rows of each head from the interleaved RoPE order (pairs beside each other) to rotate-half: even
// rows, then odd rows.
std::vector<float> EvenRowsFirst(const std::vector<float>& matrix, int heads, int columns) {
  const int rows = static_cast<int>(matrix.size()) / columns, head_rows = rows / heads;
  std::vector<float> result;
  for (int head = 0; head < heads; ++head) {
    for (int odd = 0; odd < 2; ++odd) {
      for (int i = odd; i < head_rows; i += 2) {
        const auto row = matrix.begin() + (head * head_rows + i) * columns;
        result.insert(result.end(), row, row + columns);
      }
    }
  }
  return result;
}

absl::StatusOr<Header> AddWeights(const std::string& path, ModelDirectory& directory) {
  auto file = Bytes::Read(path);
  if (!file.ok()) return file.status();
  const auto h = file->Take<Header>();
  if (h.width != 64 || h.layers != 5 || h.vocabulary != 512) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not the header of stories260K"));
  }
  const int key_width = h.key_heads * h.width / h.heads;
  const auto name = [](int layer, const char* what) {
    return absl::StrCat("model.layers.", layer, ".", what, ".weight");
  };
  // One tensor of all layers after another.
  const auto take = [&](const char* what, int64_t rows, int64_t columns, int permuted_heads) {
    for (int layer = 0; layer < h.layers; ++layer) {
      std::vector<float> values = file->TakeFloats(rows * columns);
      if (permuted_heads > 0) values = EvenRowsFirst(values, permuted_heads, columns);
      std::vector<int64_t> shape =
          rows == 1 ? std::vector<int64_t>{columns} : std::vector<int64_t>{rows, columns};
      directory.AddTensor(name(layer, what), std::move(shape), std::move(values));
    }
  };
  directory.AddTensor("model.embed_tokens.weight", {h.vocabulary, h.width},
                      file->TakeFloats(h.vocabulary * h.width));
  take("input_layernorm", 1, h.width, 0);
  take("self_attn.q_proj", h.width, h.width, h.heads);
  take("self_attn.k_proj", key_width, h.width, h.key_heads);
  take("self_attn.v_proj", key_width, h.width, 0);
  take("self_attn.o_proj", h.width, h.width, 0);
  take("post_attention_layernorm", 1, h.width, 0);
  take("mlp.gate_proj", h.hidden, h.width, 0);
  take("mlp.down_proj", h.width, h.hidden, 0);
  take("mlp.up_proj", h.hidden, h.width, 0);
  directory.AddTensor("model.norm.weight", {h.width}, file->TakeFloats(h.width));
  if (file->short_of_data()) return absl::InvalidArgumentError(absl::StrCat(path, ": too short"));
  return h;
}

// Protocol buffer fields, as far as SentencePiece's ModelProto needs them.
void AppendVarint(std::string& out, uint64_t value) {
  for (; value >= 128; value >>= 7) out.push_back(static_cast<char>(value | 128));
  out.push_back(static_cast<char>(value));
}
void AppendNumber(std::string& out, int field, uint64_t value) {
  AppendVarint(out, field << 3);
  AppendVarint(out, value);
}
void AppendBytes(std::string& out, int field, const std::string& value) {
  AppendVarint(out, field << 3 | 2);
  AppendVarint(out, value.size());
  out += value;
}
void AppendFloat(std::string& out, int field, float value) {
  AppendVarint(out, field << 3 | 5);
  out.append(reinterpret_cast<const char*>(&value), 4);
}

// A token of tok512.bin; spaces stand as spaces.
struct Piece {
  float score;
  std::string text;
};
absl::StatusOr<std::vector<Piece>> ReadPieces(const std::string& path) {
  auto file = Bytes::Read(path);
  if (!file.ok()) return file.status();
  file->Take<int32_t>();  // longest piece
  std::vector<Piece> pieces(512);
  for (Piece& piece : pieces) {
    piece.score = file->Take<float>();
    piece.text = file->TakeText(file->Take<int32_t>());
  }
  if (file->short_of_data()) return absl::InvalidArgumentError(absl::StrCat(path, ": too short"));
  return pieces;
}

constexpr int kNormal = 1, kUnknown = 2, kControl = 3, kByte = 6;  // SentencePiece.Type

absl::StatusOr<std::string> ConvertTokenizer(const std::string& path) {
  auto pieces = ReadPieces(path);
  if (!pieces.ok()) return pieces.status();
  std::string model;
  for (size_t id = 0; id < pieces->size(); ++id) {
    std::string text = absl::StrReplaceAll((*pieces)[id].text, {{" ", "\u2581"}});
    if (id <= 2) text = id == 0 ? "<unk>" : id == 1 ? "<s>" : "</s>";
    std::string piece;
    AppendBytes(piece, 1, text);
    AppendFloat(piece, 2, (*pieces)[id].score);
    AppendNumber(piece, 3,
                 id == 0        ? kUnknown
                 : id <= 2      ? kControl
                 : id < 3 + 256 ? kByte
                                : kNormal);
    AppendBytes(model, 1, piece);
  }
  std::string trainer;
  AppendNumber(trainer, 3, 2);  // model_type: BPE
  AppendNumber(trainer, 4, pieces->size());
  AppendNumber(trainer, 35, 1);             // byte_fallback
  AppendNumber(trainer, 40, 0);             // unk_id
  AppendNumber(trainer, 41, 1);             // bos_id
  AppendNumber(trainer, 42, 2);             // eos_id
  AppendNumber(trainer, 43, ~uint64_t{0});  // pad_id: -1, none
  std::string normalizer;
  AppendBytes(normalizer, 1, "identity");
  AppendNumber(normalizer, 3, 1);  // add_dummy_prefix
  AppendNumber(normalizer, 4, 0);  // remove_extra_whitespaces
  AppendNumber(normalizer, 5, 1);  // escape_whitespaces
  AppendBytes(model, 2, trainer);
  AppendBytes(model, 3, normalizer);
  return model;
}

}  // namespace

std::string FindStories260K() {
  const char* shared = std::getenv("MAMBAD_SHARED_DATA");
  if (shared == nullptr) return "";
  const std::string folder = absl::StrCat(shared, "/weights/stories260K");
  return std::filesystem::exists(folder + "/stories260K.bin") ? folder : "";
}

absl::Status WriteStories260K(const std::string& source, const std::string& directory,
                              StoredAs stored) {
  ModelDirectory model;
  auto header = AddWeights(source + "/stories260K.bin", model);
  if (!header.ok()) return header.status();
  auto tokenizer = ConvertTokenizer(source + "/tok512.bin");
  if (!tokenizer.ok()) return tokenizer.status();
  model.AddFile("tokenizer.model", *std::move(tokenizer));
  const nlohmann::json text = {{"tokenizer_class", "LlamaTokenizer"},
                               {"add_bos_token", true},
                               {"add_eos_token", false},
                               {"bos_token", "<s>"},
                               {"eos_token", "</s>"},
                               {"unk_token", "<unk>"}};
  model.AddFile("tokenizer_config.json", text.dump(2));
  const nlohmann::json config = {
      {"model_type", "llama"},
      {"architectures", {"LlamaForCausalLM"}},
      {"hidden_size", header->width},
      {"intermediate_size", header->hidden},
      {"num_hidden_layers", header->layers},
      {"num_attention_heads", header->heads},
      {"num_key_value_heads", header->key_heads},
      {"vocab_size", header->vocabulary},
      {"max_position_embeddings", header->context},
      {"rms_norm_eps", 1e-5},
      {"rope_theta", 10000.0},
      {"hidden_act", "silu"},
      {"tie_word_embeddings", true},
      {"bos_token_id", 1},
      {"eos_token_id", 2},
      {"torch_dtype", stored == StoredAs::kFloat32 ? "float32" : "bfloat16"}};
  model.AddFile("config.json", config.dump(2));
  model.Write(directory, stored);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> ReadStories260KPieces(const std::string& source) {
  auto pieces = ReadPieces(source + "/tok512.bin");
  if (!pieces.ok()) return pieces.status();
  std::vector<std::string> texts;
  for (Piece& piece : *pieces) texts.push_back(std::move(piece.text));
  return texts;
}

absl::StatusOr<std::string> ReadStories260KCardText(const std::string& source) {
  std::ifstream stream(source + "/stories260K.md");
  const std::string card(std::istreambuf_iterator<char>(stream), {});
  const std::string command = "-t 0.0\n";
  const size_t begin = card.find(command), end = card.find("\n```", begin);
  if (begin == std::string::npos || end == std::string::npos) {
    return absl::NotFoundError(absl::StrCat(source, "/stories260K.md: no greedy text"));
  }
  return card.substr(begin + command.size(), end - begin - command.size());
}

}  // namespace mambad::testing
