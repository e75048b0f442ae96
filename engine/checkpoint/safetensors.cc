#include "engine/checkpoint/safetensors.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/checkpoint/dequantise.h"
#include "engine/checkpoint/error_text.h"
#include "engine/checkpoint/json_file.h"

namespace mambad::checkpoint {
namespace {

// A header has some hundred bytes a tensor; parsed JSON takes many times its text.
constexpr uint64_t kMaxHeaderBytes = 16 << 20;
constexpr size_t kMaxDimensions = 8;

struct Placed {
  std::string name;
  uint64_t begin, end;
};

bool TypeOf(const std::string& name, StorageType* type) {
  if (name == "F32")
    *type = StorageType::kFloat32;
  else if (name == "F16")
    *type = StorageType::kFloat16;
  else if (name == "BF16")
    *type = StorageType::kBFloat16;
  else
    return false;
  return true;
}

// A header entry's "shape"; numbers so bounded that their product cannot overflow.
absl::StatusOr<std::vector<int64_t>> ReadShape(const std::string& where,
                                               const nlohmann::json& entry, uint64_t* numbers) {
  const auto shape = entry.find("shape");
  if (shape == entry.end() || !shape->is_array() || shape->size() > kMaxDimensions) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": \"shape\" must be a list of at most 8 numbers"));
  }
  std::vector<int64_t> out;
  *numbers = 1;
  for (const nlohmann::json& size : *shape) {
    if (!size.is_number_unsigned() || size.get<uint64_t>() > (uint64_t{1} << 40)) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": \"shape\" has ", Quoted(size.dump()), ", 0 to 2^40 expected"));
    }
    out.push_back(static_cast<int64_t>(size.get<uint64_t>()));
    if (__builtin_mul_overflow(*numbers, size.get<uint64_t>(), numbers) ||
        *numbers > (uint64_t{1} << 50)) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": \"shape\" ", shape->dump(), " is too large"));
    }
  }
  return out;
}

absl::Status ReadOffsets(const std::string& where, const nlohmann::json& entry, uint64_t data_bytes,
                         Placed* placed) {
  const auto offsets = entry.find("data_offsets");
  if (offsets == entry.end() || !offsets->is_array() || offsets->size() != 2 ||
      !(*offsets)[0].is_number_unsigned() || !(*offsets)[1].is_number_unsigned()) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": \"data_offsets\" must be two numbers"));
  }
  placed->begin = (*offsets)[0].get<uint64_t>();
  placed->end = (*offsets)[1].get<uint64_t>();
  if (placed->begin > placed->end || placed->end > data_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": \"data_offsets\" ", offsets->dump(),
                                                   " lie outside the ", data_bytes,
                                                   " bytes of data"));
  }
  return absl::OkStatus();
}

// Tensors must tile the data: whoever reads past one must not find another.
absl::Status CheckTiling(const std::string& source, std::vector<Placed> placed,
                         uint64_t data_bytes) {
  std::sort(placed.begin(), placed.end(), [](const Placed& a, const Placed& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t at = 0;
  for (const Placed& tensor : placed) {
    if (tensor.begin != at) {
      return absl::InvalidArgumentError(
          absl::StrCat(source, ": tensor ", Quoted(tensor.name), " begins at byte ", tensor.begin,
                       " of the data, expected ", at, " (overlap or gap)"));
    }
    at = tensor.end;
  }
  if (at != data_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": ", data_bytes, " bytes of data found, the header describes ", at));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SafetensorsFile> ParseSafetensors(const std::string& source,
                                                 absl::Span<const std::byte> bytes) {
  uint64_t header_bytes = 0;
  if (bytes.size() < 8)
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": ", bytes.size(), " bytes are no safetensors file"));
  std::memcpy(&header_bytes, bytes.data(), 8);
  if (header_bytes > kMaxHeaderBytes || header_bytes > bytes.size() - 8) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": header of ", header_bytes,
                                                   " bytes announced in a file of ", bytes.size(),
                                                   " bytes (truncated or no safetensors file)"));
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8, header_bytes);
  absl::StatusOr<nlohmann::json> header =
      checkpoint::ParseJson(absl::StrCat(source, ": header"), text, RepeatedKeys::kRefused);
  if (!header.ok()) return header.status();
  const absl::Span<const std::byte> data = bytes.subspan(8 + header_bytes);

  SafetensorsFile file;
  std::vector<Placed> placed;
  for (const auto& [name, entry] : header->items()) {
    if (name == "__metadata__") continue;
    const std::string where = absl::StrCat(source, ": tensor ", Quoted(name));
    if (!entry.is_object() || !entry.contains("dtype") || !entry["dtype"].is_string()) {
      return absl::InvalidArgumentError(absl::StrCat(where, ": no \"dtype\""));
    }
    uint64_t numbers = 0;
    absl::StatusOr<std::vector<int64_t>> shape = ReadShape(where, entry, &numbers);
    if (!shape.ok()) return shape.status();
    Placed place{name, 0, 0};
    if (absl::Status status = ReadOffsets(where, entry, data.size(), &place); !status.ok())
      return status;
    placed.push_back(place);
    StoredTensor tensor;
    const std::string type = entry["dtype"].get<std::string>();
    if (!TypeOf(type, &tensor.type)) {
      file.ignored[name] = type;
      continue;
    }
    const uint64_t expected = numbers * BlockOf(tensor.type).bytes;
    if (place.end - place.begin != expected) {
      return absl::InvalidArgumentError(absl::StrCat(where, ": ", place.end - place.begin,
                                                     " bytes found, ", expected,
                                                     " expected for its shape and type"));
    }
    tensor.shape = *std::move(shape);
    tensor.data = data.subspan(place.begin, expected);
    file.tensors.emplace(name, std::move(tensor));
  }
  if (absl::Status status = CheckTiling(source, std::move(placed), data.size()); !status.ok())
    return status;
  return file;
}

// ---- writing -----------------------------------------------------------------------------------

namespace {

// The new name must outlive a crash too.
absl::Status FlushFolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const int descriptor = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return absl::ErrnoToStatus(errno, absl::StrCat(folder, ": cannot be opened"));
  const bool flushed = fsync(descriptor) == 0;
  const int error = errno;
  close(descriptor);
  if (!flushed) return absl::ErrnoToStatus(error, absl::StrCat(folder, ": cannot be flushed"));
  return absl::OkStatus();
}

}  // namespace

absl::Status WriteFileAtomically(const std::string& path,
                                 absl::Span<const absl::Span<const std::byte>> pieces) {
  const std::string temporary = absl::StrCat(path, ".", getpid(), ".tmp");
  const int descriptor = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor < 0)
    return absl::ErrnoToStatus(errno, absl::StrCat(temporary, ": cannot be created"));
  const auto fail = [&](const char* what) {
    const int error = errno;
    close(descriptor);
    unlink(temporary.c_str());
    return absl::ErrnoToStatus(error, absl::StrCat(temporary, ": ", what));
  };
  for (absl::Span<const std::byte> piece : pieces) {
    while (!piece.empty()) {
      const ssize_t written = write(descriptor, piece.data(), piece.size());
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return fail("cannot be written");
      piece.remove_prefix(written);
    }
  }
  if (fsync(descriptor) != 0) return fail("cannot be flushed to disk");
  if (close(descriptor) != 0 || std::rename(temporary.c_str(), path.c_str()) != 0) {
    const int error = errno;
    unlink(temporary.c_str());
    return absl::ErrnoToStatus(error, absl::StrCat(path, ": cannot be put in place"));
  }
  return FlushFolderOf(path);
}

absl::Status WriteSafetensors(const std::string& path, absl::Span<const TensorToWrite> tensors) {
  nlohmann::ordered_json header;
  header["__metadata__"] = {{"format", "pt"}};
  uint64_t at = 0;
  std::vector<absl::Span<const std::byte>> pieces(2);
  for (const TensorToWrite& tensor : tensors) {
    const StorageBlock block = BlockOf(tensor.type);
    int64_t numbers = 1;
    for (const int64_t size : tensor.shape) numbers *= size;
    if (block.numbers != 1 || header.contains(tensor.name) ||
        numbers * block.bytes != static_cast<int64_t>(tensor.data.size())) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ": tensor ", Quoted(tensor.name), ": ", tensor.data.size(), " bytes of ",
          StorageTypeName(tensor.type), " for shape ", ShapeText(tensor.shape),
          ": a plain type, a name of its own and bytes to the shape expected"));
    }
    header[tensor.name] = {{"dtype", StorageTypeName(tensor.type)},
                           {"shape", tensor.shape},
                           {"data_offsets", {at, at + tensor.data.size()}}};
    at += tensor.data.size();
    pieces.push_back(tensor.data);
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data begin on 8 bytes
  const uint64_t length = text.size();
  pieces[0] = {reinterpret_cast<const std::byte*>(&length), sizeof(length)};
  pieces[1] = {reinterpret_cast<const std::byte*>(text.data()), text.size()};
  return WriteFileAtomically(path, pieces);
}

absl::Status WriteShardedSafetensors(const std::string& directory,
                                     absl::Span<const TensorToWrite> tensors, int64_t shard_bytes) {
  std::vector<std::vector<TensorToWrite>> shards(1);
  int64_t filled = 0, total = 0;
  for (const TensorToWrite& tensor : tensors) {
    const int64_t bytes = static_cast<int64_t>(tensor.data.size());
    if (shard_bytes > 0 && !shards.back().empty() && filled + bytes > shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(tensor);
    filled += bytes;
    total += bytes;
  }
  const std::string index_path = absl::StrCat(directory, "/model.safetensors.index.json");
  if (shards.size() == 1) {
    const absl::Status status =
        WriteSafetensors(absl::StrCat(directory, "/model.safetensors"), shards[0]);
    if (status.ok()) unlink(index_path.c_str());  // of an earlier model; it would be believed
    return status;
  }
  nlohmann::ordered_json index;
  index["metadata"] = {{"total_size", total}};
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name =
        absl::StrFormat("model-%05d-of-%05d.safetensors", i + 1, shards.size());
    if (absl::Status status = WriteSafetensors(absl::StrCat(directory, "/", name), shards[i]);
        !status.ok())
      return status;
    for (const TensorToWrite& tensor : shards[i]) index["weight_map"][tensor.name] = name;
  }
  const std::string text = index.dump(2);
  const absl::Span<const std::byte> piece(reinterpret_cast<const std::byte*>(text.data()),
                                          text.size());
  return WriteFileAtomically(index_path, {piece});
}

}  // namespace mambad::checkpoint
