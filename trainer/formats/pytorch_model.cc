#include "trainer/formats/pytorch_model.h"

#include <cstring>
#include <filesystem>
#include <set>
#include <stdexcept>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/checkpoint/dequantise.h"
#include "engine/checkpoint/error_text.h"
#include "engine/checkpoint/json_file.h"
#include "engine/checkpoint/mapped_checkpoint.h"
#include "engine/checkpoint/model_config_reader.h"
#include "engine/checkpoint/model_directory.h"
#include "trainer/formats/status_exception.h"
#include "trainer/formats/tensor_pickle.h"
#include "trainer/formats/zip_archive.h"

namespace mambad::trainer {
namespace {

namespace fs = std::filesystem;
using Bytes = absl::Span<const std::byte>;
using checkpoint::Quoted;
using checkpoint::StorageType;

constexpr char kSingleFile[] = "pytorch_model.bin";
constexpr char kIndexFile[] = "pytorch_model.bin.index.json";
constexpr size_t kMostShards = 4096;

[[noreturn]] void Fail(const std::string& source, const std::string& what) {
  throw std::runtime_error(absl::StrCat(source, ": ", what));
}

absl::string_view TextOf(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Everything in the archive lies in one folder, whose name is free.
std::string FolderOf(const std::string& source, const std::map<std::string, Bytes>& files) {
  for (const auto& [name, contents] : files) {
    const size_t slash = name.find('/');
    if (slash == std::string::npos || name.substr(slash) != "/data.pkl") continue;
    const std::string folder = name.substr(0, slash + 1);
    if (files.contains(folder + "constants.pkl")) {
      Fail(source, "a TorchScript program, not a state dictionary: it is not run here");
    }
    const auto order = files.find(folder + "byteorder");
    if (order != files.end() && TextOf(order->second) != "little") {
      Fail(source, absl::StrCat("byte order ", Quoted(TextOf(order->second)),
                                " found, \"little\" expected"));
    }
    return folder;
  }
  Fail(source, "the archive has no data.pkl: no PyTorch checkpoint");
}

const StorageType* StorageTypeOf(const std::string& element) {
  static constexpr std::pair<const char*, StorageType> kTypes[] = {
      {"Float", StorageType::kFloat32},
      {"Half", StorageType::kFloat16},
      {"BFloat16", StorageType::kBFloat16}};
  for (const auto& [name, type] : kTypes) {
    if (element == name) return &type;
  }
  return nullptr;
}

bool IsContiguous(const PickledTensor& tensor) {
  int64_t expected = 1;
  for (size_t i = tensor.shape.size(); i-- > 0;) {
    if (tensor.shape[i] != 1 && tensor.strides[i] != expected) return false;
    expected *= tensor.shape[i];
  }
  return true;
}

int64_t NumbersOf(const PickledTensor& tensor) {
  int64_t numbers = 1;
  for (const int64_t size : tensor.shape) numbers *= size;
  return numbers;
}

// The view's numbers in row-major order.
Bytes Rearrange(const PickledTensor& tensor, Bytes storage, int width,
                RearrangedTensors* rearranged) {
  const int64_t numbers = NumbersOf(tensor);
  const size_t size = static_cast<size_t>(numbers) * width;
  std::byte* const out = rearranged->emplace_back(new std::byte[size]).get();
  std::vector<int64_t> place(tensor.shape.size(), 0);
  int64_t from = tensor.offset;
  for (int64_t i = 0; i < numbers; ++i) {
    std::memcpy(out + i * width, storage.data() + from * width, width);
    for (size_t d = place.size(); d-- > 0;) {
      from += tensor.strides[d];
      if (++place[d] < tensor.shape[d]) break;
      from -= tensor.strides[d] * tensor.shape[d];
      place[d] = 0;
    }
  }
  return {out, size};
}

checkpoint::StoredTensor StoredTensorOf(const std::string& where, const PickledTensor& tensor,
                                        StorageType type, Bytes storage,
                                        RearrangedTensors* rearranged) {
  const int width = checkpoint::BlockOf(type).bytes;
  if (storage.size() / width < static_cast<size_t>(tensor.storage_numbers)) {
    Fail(where, absl::StrCat("a storage of ", tensor.storage_numbers, " numbers announced, ",
                             storage.size(), " bytes found"));
  }
  checkpoint::StoredTensor stored;
  stored.type = type;
  stored.shape = tensor.shape;
  stored.data = IsContiguous(tensor)
                    ? storage.subspan(tensor.offset * width, NumbersOf(tensor) * width)
                    : Rearrange(tensor, storage, width, rearranged);
  return stored;
}

// ---- directories -------------------------------------------------------------------------------

// The files of the index, or the one file.
std::vector<std::string> WeightFiles(const std::string& directory) {
  const std::string index_path = absl::StrCat(directory, "/", kIndexFile);
  if (!fs::exists(index_path)) return {absl::StrCat(directory, "/", kSingleFile)};
  const nlohmann::json index = ValueOf(checkpoint::ReadJsonFile(index_path));
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object() || map->empty()) {
    Fail(index_path, "weight_map: a file for every tensor expected");
  }
  std::set<std::string> names;
  for (const auto& [tensor, file] : map->items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    // A name alone: an index must not reach out of its directory.
    if (name.find('/') != std::string::npos || name.find('\0') != std::string::npos ||
        !absl::EndsWith(name, ".bin")) {
      Fail(index_path, absl::StrCat("weight_map: tensor ", Quoted(tensor), ": ", Quoted(name),
                                    " found, the name of a .bin file beside it expected"));
    }
    names.insert(name);
  }
  if (names.size() > kMostShards) Fail(index_path, absl::StrCat(names.size(), " files"));
  std::vector<std::string> paths;
  for (const std::string& name : names) paths.push_back(absl::StrCat(directory, "/", name));
  return paths;
}

nlohmann::json OptionalJson(const std::string& path) {
  absl::StatusOr<nlohmann::json> json = checkpoint::ReadJsonFile(path);
  return absl::IsNotFound(json.status()) ? nlohmann::json() : ValueOf(std::move(json));
}

void AddFile(const std::string& path, checkpoint::CheckpointParts* parts,
             RearrangedTensors* rearranged) {
  parts->files.push_back(ValueOf(checkpoint::MappedFile::Open(path)));
  PytorchTensors read = ReadPytorchFile(path, parts->files.back().bytes(), rearranged);
  for (auto& [name, tensor] : read.tensors) {
    tensor.file = static_cast<int>(parts->files.size()) - 1;
    const auto [it, is_new] = parts->tensors.emplace(name, std::move(tensor));
    if (!is_new) {
      Fail(path, absl::StrCat("tensor ", Quoted(name), " stands in ",
                              parts->files[it->second.file].path(), " too"));
    }
  }
  parts->ignored.merge(read.ignored);
}

}  // namespace

PytorchTensors ReadPytorchFile(const std::string& source, absl::Span<const std::byte> bytes,
                               RearrangedTensors* rearranged) {
  if (IsLegacyPytorchFile(bytes)) {
    Fail(source, "PyTorch's format from before version 1.6 is not read: load and save it again");
  }
  const std::map<std::string, Bytes> files = ReadZipArchive(source, bytes);
  const std::string folder = FolderOf(source, files);
  PytorchTensors result;
  for (const auto& [name, tensor] :
       ReadTensorPickle(absl::StrCat(source, ": data.pkl"), files.at(folder + "data.pkl"))) {
    const StorageType* type = StorageTypeOf(tensor.element);
    if (type == nullptr) {
      result.ignored.emplace(name, tensor.element);
      continue;
    }
    const std::string where = absl::StrCat(source, ": tensor ", Quoted(name));
    const auto storage = files.find(absl::StrCat(folder, "data/", tensor.storage));
    if (storage == files.end()) {
      Fail(where, absl::StrCat("entry ", Quoted(absl::StrCat("data/", tensor.storage)),
                               " expected, not in the archive"));
    }
    result.tensors.emplace(name, StoredTensorOf(where, tensor, *type, storage->second, rearranged));
  }
  return result;
}

bool IsPytorchDirectory(const std::string& directory) {
  return fs::exists(fs::path(directory) / kSingleFile) ||
         fs::exists(fs::path(directory) / kIndexFile);
}

// It begins with a pickle of the number 0x1950a86a20f9469cfc6c.
bool IsLegacyPytorchFile(absl::Span<const std::byte> bytes) {
  static constexpr absl::string_view kMagic =
      "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
  return TextOf(bytes).substr(0, kMagic.size()) == kMagic;
}

ModelSource OpenPytorchDirectory(const std::string& directory) {
  ModelSource source;
  source.kind = SourceKind::kPytorchDirectory;
  source.path = directory;
  checkpoint::ConfigFiles files;
  files.directory = directory;
  files.config = ValueOf(checkpoint::ReadJsonFile(directory + "/config.json"));
  files.mamba_config = OptionalJson(directory + "/mamba_config.json");
  files.generation_config = OptionalJson(directory + "/generation_config.json");
  checkpoint::CheckpointParts parts;
  parts.path = directory;
  for (const std::string& path : WeightFiles(directory)) {
    AddFile(path, &parts, &source.rearranged);
  }
  ThrowUnlessOk(checkpoint::SettleTensors(files, parts));
  checkpoint::TensorShapes shapes;
  for (const auto& [name, tensor] : parts.tensors) shapes[name] = tensor.shape;
  parts.config = ValueOf(checkpoint::ReadModelConfig(files, shapes));
  parts.text.directory = directory;
  parts.identity = absl::StrCat(files.config.dump(), files.mamba_config.dump());
  source.checkpoint = ValueOf(checkpoint::MappedCheckpoint::Create(std::move(parts)));
  return source;
}

}  // namespace mambad::trainer
