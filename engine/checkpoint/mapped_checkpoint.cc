#include "engine/checkpoint/mapped_checkpoint.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/checkpoint/dequantise.h"
#include "engine/checkpoint/error_text.h"
#include "engine/checkpoint/model_fingerprint.h"

namespace mambad::checkpoint {
namespace {

// Numbers of one row; a vector's rows are its numbers.
int64_t RowWidth(const Parameter& parameter) {
  int64_t numbers = 1;
  for (size_t i = 1; i < parameter.shape.size(); ++i) numbers *= parameter.shape[i];
  return numbers;
}

// Sizes of one do not count: [heads] and [heads, 1], [channels, 1, W] and [channels, W] are the
// same numbers in the same order.
std::vector<int64_t> WithoutOnes(const std::vector<int64_t>& shape) {
  std::vector<int64_t> out;
  std::copy_if(shape.begin(), shape.end(), std::back_inserter(out),
               [](int64_t size) { return size != 1; });
  return out;
}

bool Fits(const std::vector<int64_t>& found, const Parameter& parameter,
          const ModelConfig& config) {
  if (WithoutOnes(found) == WithoutOnes(parameter.shape)) return true;
  // llama.cpp cuts the gated norm's weight into its groups.
  const bool grouped = config.layout == Layout::kGguf && parameter.role == Role::kMamba2Norm;
  const int64_t groups = std::max(1, config.mamba2.groups);
  return grouped && found == std::vector<int64_t>{groups, parameter.shape[0] / groups};
}

// Tensors that writers leave behind and that mean nothing to us: tables that follow from the
// configuration. A GGUF file's rope_freqs.weight was understood, or refused, with its metadata.
bool IsLeftover(absl::string_view name, Layout layout) {
  if (layout == Layout::kGguf) {
    return name == "rope_freqs.weight" || absl::StrContains(name, ".attn_rot_embd");
  }
  return absl::EndsWith(name, "rotary_emb.inv_freq");
}

}  // namespace

MappedCheckpoint::MappedCheckpoint(CheckpointParts parts)
    : Checkpoint(parts.config, ParameterTable(parts.config)),
      path_(std::move(parts.path)),
      files_(std::move(parts.files)),
      tensors_(std::move(parts.tensors)),
      ignored_(std::move(parts.ignored)),
      identity_(std::move(parts.identity)) {
  text_ = std::move(parts.text);
}

absl::StatusOr<std::unique_ptr<const Checkpoint>> MappedCheckpoint::Create(CheckpointParts parts) {
  auto checkpoint = std::unique_ptr<MappedCheckpoint>(new MappedCheckpoint(std::move(parts)));
  if (absl::Status status = checkpoint->CheckTensors(); !status.ok()) return status;
  checkpoint->ChooseNativeType();
  return checkpoint;
}

// ---- checks ------------------------------------------------------------------------------------

absl::Status MappedCheckpoint::CheckTensors() const {
  std::set<std::string> known;
  for (const Parameter& parameter : table_.parameters()) {
    known.insert(parameter.name);
    const auto it = tensors_.find(parameter.name);
    if (it != tensors_.end()) {
      if (absl::Status status = CheckTensor(parameter, it->second); !status.ok()) return status;
    } else if (const auto other = ignored_.find(parameter.name); other != ignored_.end()) {
      return absl::UnimplementedError(
          absl::StrCat(path_, ": tensor ", Quoted(parameter.name), ": type ", Quoted(other->second),
                       " is not implemented; F32, F16 and BF16 are: convert the model to one of "
                       "them, or give a GGUF file of it"));
    } else if (!parameter.optional) {
      return absl::InvalidArgumentError(absl::StrCat(path_, ": tensor ", Quoted(parameter.name),
                                                     " of shape ", ShapeText(parameter.shape),
                                                     " expected, none found"));
    }
  }
  for (const auto& [name, tensor] : tensors_) {
    if (known.contains(name) || IsLeftover(name, config_.layout)) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        files_[tensor.file].path(), ": tensor ", Quoted(name), " of shape ",
        ShapeText(tensor.shape), " found, which a model of this configuration has not"));
  }
  return absl::OkStatus();
}

absl::Status MappedCheckpoint::CheckTensor(const Parameter& parameter,
                                           const StoredTensor& tensor) const {
  const std::string where =
      absl::StrCat(files_[tensor.file].path(), ": tensor ", Quoted(parameter.name));
  if (!Fits(tensor.shape, parameter, config_)) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": shape ", ShapeText(tensor.shape),
                                                   " found, ", ShapeText(parameter.shape),
                                                   " expected"));
  }
  // Rows are read one by one; a vector has rows of one number.
  if (RowWidth(parameter) % BlockOf(tensor.type).numbers != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        where, ": type ", StorageTypeName(tensor.type), " found, in blocks of ",
        BlockOf(tensor.type).numbers, "; F32, F16 or BF16 expected of a tensor of shape ",
        ShapeText(parameter.shape)));
  }
  return CheckDecay(parameter, tensor);
}

// GGUF files hold A = -exp(A_log), whose logarithm must exist.
absl::Status MappedCheckpoint::CheckDecay(const Parameter& parameter,
                                          const StoredTensor& tensor) const {
  if (config_.layout != Layout::kGguf || parameter.role != Role::kMambaALog) {
    return absl::OkStatus();
  }
  const int64_t width = RowWidth(parameter);
  const StorageBlock block = BlockOf(tensor.type);
  std::vector<float> row(width);
  for (int64_t i = 0; i < parameter.shape[0]; ++i) {
    Dequantise(tensor.type, tensor.data.data() + i * width / block.numbers * block.bytes, width,
               row.data());
    for (const float a : row) {
      if (a <= 0) continue;  // not for NaN
      return absl::InvalidArgumentError(absl::StrCat(files_[tensor.file].path(), ": tensor ",
                                                     Quoted(parameter.name), ": ", a,
                                                     " found, negative numbers expected"));
    }
  }
  return absl::OkStatus();
}

// ---- what it is --------------------------------------------------------------------------------

void MappedCheckpoint::ChooseNativeType() {
  std::map<StorageType, int64_t> numbers;
  for (const Parameter& parameter : table_.parameters()) {
    const StoredTensor* tensor = parameter.keep_float32 ? nullptr : Find(parameter);
    if (tensor != nullptr) numbers[tensor->type] += parameter.shape[0] * RowWidth(parameter);
  }
  const auto most =
      std::max_element(numbers.begin(), numbers.end(),
                       [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most != numbers.end()) native_type_ = most->first;
}

// Leftovers are no part of the model.
const std::string& MappedCheckpoint::fingerprint() const {
  std::call_once(fingerprint_taken_, [this] {
    std::vector<FingerprintedTensor> tensors;
    for (const auto& [name, tensor] : tensors_) {
      if (table_.Find(name) == nullptr) continue;
      tensors.push_back({name, StorageTypeName(tensor.type), tensor.shape, tensor.data});
    }
    fingerprint_ = ModelFingerprint(identity_, tensors);
  });
  return fingerprint_;
}

// ---- reading -----------------------------------------------------------------------------------

const StoredTensor* MappedCheckpoint::Find(const Parameter& parameter) const {
  const auto it = tensors_.find(parameter.name);
  return it == tensors_.end() ? nullptr : &it->second;
}

bool MappedCheckpoint::Has(const Parameter& parameter) const { return Find(parameter) != nullptr; }

bool MappedCheckpoint::IsReordered(const Parameter& parameter) const {
  const Role role = parameter.role;
  return config_.attention.interleaved_rows &&
         (role == Role::kAttentionQuery || role == Role::kAttentionKey ||
          role == Role::kAttentionQueryBias || role == Role::kAttentionKeyBias);
}

int64_t MappedCheckpoint::SourceRow(int64_t row) const {
  const int64_t width = config_.attention.head_width, half = width / 2;
  const int64_t head_begin = row / width * width, in_head = row % width;
  return head_begin + (in_head < half ? 2 * in_head : 2 * (in_head - half) + 1);
}

// Rows as they stand in the file.
void MappedCheckpoint::Convert(const Parameter& parameter, int64_t row, int64_t rows,
                               float* out) const {
  const StoredTensor& tensor = *Find(parameter);
  const int64_t width = RowWidth(parameter);
  const StorageBlock block = BlockOf(tensor.type);
  const std::byte* data = tensor.data.data() + row * width / block.numbers * block.bytes;
  Dequantise(tensor.type, data, rows * width, out);
  if (config_.layout == Layout::kGguf && parameter.role == Role::kMambaALog) {
    for (int64_t i = 0; i < rows * width; ++i) {
      out[i] = static_cast<float>(std::log(-static_cast<double>(out[i])));
    }
  }
}

void MappedCheckpoint::Read(const Parameter& parameter, int64_t row_begin, int64_t row_end,
                            absl::Span<float> out) const {
  if (!IsReordered(parameter)) {
    return Convert(parameter, row_begin, row_end - row_begin, out.data());
  }
  const int64_t width = RowWidth(parameter);
  for (int64_t row = row_begin; row < row_end; ++row) {
    Convert(parameter, SourceRow(row), 1, out.data() + (row - row_begin) * width);
  }
}

void MappedCheckpoint::ReadBFloat16(const Parameter& parameter, int64_t row_begin, int64_t row_end,
                                    absl::Span<uint16_t> out) const {
  const StoredTensor& tensor = *Find(parameter);
  const int64_t width = RowWidth(parameter);
  const bool as_it_is = tensor.type == StorageType::kBFloat16 &&
                        !(config_.layout == Layout::kGguf && parameter.role == Role::kMambaALog);
  // Some thousand numbers at a time stay in the cache.
  const int64_t step = IsReordered(parameter) ? 1 : std::max<int64_t>(1, 8192 / width);
  std::vector<float> wide(as_it_is ? 0 : step * width);
  for (int64_t row = row_begin; row < row_end; row += step) {
    const int64_t rows = std::min(step, row_end - row);
    const int64_t from = IsReordered(parameter) ? SourceRow(row) : row;
    uint16_t* to = out.data() + (row - row_begin) * width;
    if (as_it_is) {
      std::memcpy(to, tensor.data.data() + from * width * 2, rows * width * 2);
      continue;
    }
    Convert(parameter, from, rows, wide.data());
    for (int64_t i = 0; i < rows * width; ++i) to[i] = RoundToBFloat16(wide[i]);
  }
}

}  // namespace mambad::checkpoint
