// LanguageModel: from and to files.

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/model_writer.h"
#include "engine/checkpoint/proposed_tokens.h"
#include "trainer/formats/model_text.h"
#include "trainer/modules/language_model.h"

namespace mambad::trainer {

using at::Tensor;
using checkpoint::Checkpoint;
using checkpoint::Parameter;
using checkpoint::Role;
using checkpoint::StorageType;

namespace {

// As a host tensor: bf16 where that is wanted, else fp32.
Tensor ReadParameter(const Checkpoint& file, const Parameter& parameter, bool bfloat16) {
  Tensor host = at::empty(parameter.shape, bfloat16 ? at::kBFloat16 : at::kFloat);
  const size_t count = static_cast<size_t>(host.numel());
  const int64_t rows = parameter.shape[0];
  if (bfloat16) {
    file.ReadBFloat16(parameter, 0, rows,
                      absl::MakeSpan(static_cast<uint16_t*>(host.data_ptr()), count));
  } else {
    file.Read(parameter, 0, rows, absl::MakeSpan(host.data_ptr<float>(), count));
  }
  return host;
}

// What a model of this file is called when it is written again.
checkpoint::ModelConfig OwnConfig(const Checkpoint& file) {
  checkpoint::ModelConfig config = file.config();
  if (config.layout == checkpoint::Layout::kGguf) {
    config.layout = checkpoint::Layout::kHuggingFace;
    config.attention.interleaved_rows = false;  // which was the file's own
  }
  config.mamba.dt_bias_applied_twice = false;
  return config;
}

std::vector<int32_t> ProposedTokensOf(const Checkpoint& file) {
  auto ids = checkpoint::ReadProposedTokens(file.text().directory, file.config().vocabulary);
  if (!ids.ok()) throw std::runtime_error(std::string(ids.status().message()));
  return *std::move(ids);
}

StorageType StoredType(const Parameter& parameter, StorageType wanted) {
  return parameter.keep_float32 ? StorageType::kFloat32 : wanted;
}

}  // namespace

void CopyTextFiles(const std::string& from, const std::string& to) {
  namespace fs = std::filesystem;
  if (!fs::is_directory(from)) {
    throw std::runtime_error(
        absl::StrCat(from,
                     ": a directory with tokenizer files expected; `trainer convert` makes "
                     "one of a .gguf file"));
  }
  std::error_code same;
  if (fs::equivalent(from, to, same)) return;
  for (const std::string& name : TextFilesIn(from)) {
    const fs::path source = fs::path(from) / name, target = fs::path(to) / name;
    std::error_code error;
    fs::create_directories(target.parent_path(), error);
    fs::copy_file(source, target, fs::copy_options::overwrite_existing, error);
    if (error) {
      throw std::runtime_error(
          absl::StrCat(source.string(), ": cannot be copied to ", to, ": ", error.message()));
    }
  }
}

std::unique_ptr<LanguageModel> LanguageModel::Load(const std::string& path, at::Device device,
                                                   at::ScalarType compute_type) {
  const auto opened = Checkpoint::Open(path);
  if (!opened.ok()) throw std::runtime_error(std::string(opened.status().message()));
  const Checkpoint& file = **opened;
  auto model = std::make_unique<LanguageModel>(OwnConfig(file), device, compute_type);
  model->SetProposedTokens(ProposedTokensOf(file));
  const bool quantised = file.native_type() != StorageType::kFloat32 &&
                         file.native_type() != StorageType::kFloat16 &&
                         file.native_type() != StorageType::kBFloat16;
  const bool twice = file.config().mamba.dt_bias_applied_twice;
  for (const ModelParameter& parameter : model->parameters()) {
    const Parameter& own = parameter.description;
    const Parameter* stored = file.table().Find(own.role, own.layer);
    const bool bfloat16 =
        parameter.value.scalar_type() == at::kBFloat16 || (quantised && !own.keep_float32);
    Tensor host = ReadParameter(file, *stored, bfloat16);
    if (twice && own.role == Role::kMambaDtBias) host.mul_(2);
    Tensor(parameter.value).copy_(host);
  }
  return model;
}

void LanguageModel::Save(const std::string& directory, StorageType type,
                         const std::string& text_source,
                         const std::map<std::string, Tensor>& masters) const {
  at::NoGradGuard no_grad;
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) {
    throw std::runtime_error(absl::StrCat(directory, ": cannot be made: ", error.message()));
  }
  if (!text_source.empty()) CopyTextFiles(text_source, directory);
  const checkpoint::ParameterTable table(config_);
  std::vector<Tensor> hosts;  // keep the bytes
  std::vector<checkpoint::TensorToWrite> tensors;
  for (const ModelParameter& parameter : parameters_) {
    const Role role = parameter.description.role;
    const bool product = role == Role::kEmbedding && embedding_base_.defined();
    const Parameter& stored = *table.Find(role, parameter.description.layer);
    const StorageType as = StoredType(stored, type);
    const at::ScalarType scalar = as == StorageType::kBFloat16 ? at::kBFloat16 : at::kFloat;
    const auto master = masters.find(parameter.description.name);
    Tensor value = master == masters.end() ? parameter.value : master->second;
    if (product)
      value =
          at::mm(embedding_base_.to(wide_type()), value.to(embedding_base_.device(), wide_type()));
    hosts.push_back(value.to(at::kCPU, scalar).contiguous());
    const Tensor& host = hosts.back();
    tensors.push_back({stored.name, as, stored.shape,
                       absl::Span<const std::byte>(static_cast<const std::byte*>(host.data_ptr()),
                                                   host.nbytes())});
  }
  absl::Status status = checkpoint::WriteProposedTokens(directory, proposed_tokens_);
  if (status.ok()) {
    status = checkpoint::WriteModelDirectory(directory, config_, tensors, /*shard_bytes=*/0);
  }
  if (!status.ok()) throw std::runtime_error(std::string(status.message()));
}

}  // namespace mambad::trainer
