#include "engine/checkpoint/gguf.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/dequantise.h"
#include "engine/checkpoint/error_text.h"

namespace mambad::checkpoint {
namespace {

constexpr uint64_t kMaxEntries = 1 << 20, kMaxStringBytes = 1 << 26, kMaxDimensions = 4;

enum ValueType : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64
};

size_t WidthOf(uint32_t type) {
  switch (type) {
    case kUint8:
    case kInt8:
    case kBool:
      return 1;
    case kUint16:
    case kInt16:
      return 2;
    case kUint32:
    case kInt32:
    case kFloat32:
      return 4;
    case kUint64:
    case kInt64:
    case kFloat64:
      return 8;
    default:
      return 0;
  }
}

bool StorageOf(uint32_t ggml_type, StorageType* type) {
  switch (ggml_type) {
    case 0:
      *type = StorageType::kFloat32;
      return true;
    case 1:
      *type = StorageType::kFloat16;
      return true;
    case 2:
      *type = StorageType::kQ4_0;
      return true;
    case 3:
      *type = StorageType::kQ4_1;
      return true;
    case 8:
      *type = StorageType::kQ8_0;
      return true;
    case 12:
      *type = StorageType::kQ4_K;
      return true;
    case 14:
      *type = StorageType::kQ6_K;
      return true;
    case 30:
      *type = StorageType::kBFloat16;
      return true;
    default:
      return false;
  }
}

// Reads forward; every read checks what is left.
class Cursor {
 public:
  explicit Cursor(absl::Span<const std::byte> bytes) : bytes_(bytes) {}

  template <typename T>
  bool Read(T* value) {
    if (left() < sizeof(T)) return false;
    std::memcpy(value, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return true;
  }
  bool ReadString(std::string* text) {
    uint64_t length = 0;
    if (!Read(&length) || length > kMaxStringBytes || length > left()) return false;
    text->assign(reinterpret_cast<const char*>(bytes_.data()) + at_, length);
    at_ += length;
    return true;
  }
  // Counts against what all arrays of a file may hold together: widened, they take up to 32 times
  // their bytes. Real vocabularies have some million items in all.
  bool TakeItems(uint64_t count) {
    if (count > items_left_) return false;
    items_left_ -= count;
    return true;
  }
  size_t left() const { return bytes_.size() - at_; }
  size_t at() const { return at_; }

 private:
  absl::Span<const std::byte> bytes_;
  size_t at_ = 0;
  uint64_t items_left_ = 1 << 23;
};

template <typename T>
bool Widen(Cursor& cursor, int64_t* out) {
  T value;
  if (!cursor.Read(&value)) return false;
  *out = static_cast<int64_t>(value);
  return true;
}

bool ReadInteger(Cursor& cursor, uint32_t type, int64_t* out) {
  switch (type) {
    case kUint8:
    case kBool:
      return Widen<uint8_t>(cursor, out);
    case kInt8:
      return Widen<int8_t>(cursor, out);
    case kUint16:
      return Widen<uint16_t>(cursor, out);
    case kInt16:
      return Widen<int16_t>(cursor, out);
    case kUint32:
      return Widen<uint32_t>(cursor, out);
    case kInt32:
      return Widen<int32_t>(cursor, out);
    case kUint64:
      return Widen<uint64_t>(cursor, out);
    case kInt64:
      return Widen<int64_t>(cursor, out);
    default:
      return false;
  }
}

bool ReadFloat(Cursor& cursor, uint32_t type, double* out) {
  float narrow;
  if (type == kFloat64) return cursor.Read(out);
  if (!cursor.Read(&narrow)) return false;
  *out = narrow;
  return true;
}

template <typename T, typename ReadOne>
bool ReadArray(uint64_t count, GgufValue* value, const ReadOne& read) {
  std::vector<T> items(count);
  for (T& item : items) {
    if (!read(&item)) return false;
  }
  *value = std::move(items);
  return true;
}

bool ReadValue(Cursor& cursor, uint32_t type, GgufValue* value) {
  if (type == kArray) {
    uint32_t element = 0;
    uint64_t count = 0;
    if (!cursor.Read(&element) || !cursor.Read(&count)) return false;
    const size_t least =
        element == kString ? 8 : WidthOf(element);  // bytes an element takes at least
    if (least == 0 || count > cursor.left() / least || !cursor.TakeItems(count)) return false;
    if (element == kString)
      return ReadArray<std::string>(count, value,
                                    [&](std::string* s) { return cursor.ReadString(s); });
    if (element == kFloat32 || element == kFloat64) {
      return ReadArray<double>(count, value,
                               [&](double* d) { return ReadFloat(cursor, element, d); });
    }
    return ReadArray<int64_t>(count, value,
                              [&](int64_t* i) { return ReadInteger(cursor, element, i); });
  }
  if (type == kString) {
    std::string text;
    if (!cursor.ReadString(&text)) return false;
    *value = std::move(text);
    return true;
  }
  if (type == kFloat32 || type == kFloat64) {
    double number;
    if (!ReadFloat(cursor, type, &number)) return false;
    *value = number;
    return true;
  }
  int64_t number;
  if (!ReadInteger(cursor, type, &number)) return false;
  *value = number;
  return true;
}

struct Entry {
  std::string name;
  StoredTensor tensor;
  uint64_t offset = 0, bytes = 0;
};

absl::Status ReadTensorEntry(const std::string& source, Cursor& cursor, Entry* entry) {
  uint32_t dimensions = 0, type = 0;
  if (!cursor.ReadString(&entry->name) || !cursor.Read(&dimensions)) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": tensor list ends early or a name is too long"));
  }
  const std::string where = absl::StrCat(source, ": tensor ", Quoted(entry->name));
  if (dimensions < 1 || dimensions > kMaxDimensions) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": ", dimensions, " dimensions found, 1 to 4 expected"));
  }
  uint64_t numbers = 1, first = 1;
  for (uint32_t i = 0; i < dimensions; ++i) {
    uint64_t size = 0;
    if (!cursor.Read(&size)) return absl::InvalidArgumentError(absl::StrCat(where, ": truncated"));
    if (size > (uint64_t{1} << 40) || __builtin_mul_overflow(numbers, size, &numbers) ||
        numbers > (uint64_t{1} << 45)) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": a dimension of ", size, " is too large"));
    }
    if (i == 0) first = size;
    entry->tensor.shape.insert(entry->tensor.shape.begin(), static_cast<int64_t>(size));
  }
  if (!cursor.Read(&type) || !cursor.Read(&entry->offset)) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": truncated"));
  }
  if (!StorageOf(type, &entry->tensor.type)) {
    return absl::UnimplementedError(
        absl::StrCat(where, ": type ", type,
                     " is not implemented; F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K and Q6_K are"));
  }
  const StorageBlock block = BlockOf(entry->tensor.type);
  if (first % block.numbers != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        where, ": rows of ", first, " numbers are no whole blocks of ", block.numbers));
  }
  entry->bytes = numbers / block.numbers * block.bytes;
  return absl::OkStatus();
}

absl::Status PlaceTensors(const std::string& source, absl::Span<const std::byte> data,
                          uint64_t alignment, std::vector<Entry>& entries, GgufFile* file) {
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.offset < b.offset; });
  uint64_t free_from = 0;
  for (Entry& entry : entries) {
    const std::string where = absl::StrCat(source, ": tensor ", Quoted(entry.name));
    if (entry.offset % alignment != 0 || entry.offset < free_from) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": offset ", entry.offset, " is misaligned or overlaps"));
    }
    if (entry.offset > data.size() || entry.bytes > data.size() - entry.offset) {
      return absl::InvalidArgumentError(absl::StrCat(where, ": ", entry.bytes, " bytes at ",
                                                     entry.offset,
                                                     " reach beyond the file (truncated?)"));
    }
    free_from = entry.offset + entry.bytes;
    entry.tensor.data = data.subspan(entry.offset, entry.bytes);
    if (!file->tensors.emplace(entry.name, std::move(entry.tensor)).second) {
      return absl::InvalidArgumentError(absl::StrCat(where, ": stands twice"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GgufFile> ParseGguf(const std::string& source, absl::Span<const std::byte> bytes) {
  Cursor cursor(bytes);
  char magic[4] = {};
  uint32_t version = 0;
  uint64_t tensor_count = 0, value_count = 0;
  if (!cursor.Read(&magic) || std::memcmp(magic, "GGUF", 4) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": no GGUF file (magic number)"));
  }
  if (!cursor.Read(&version) || (version != 2 && version != 3)) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": GGUF version ", version, " found, 2 or 3 expected"));
  }
  if (!cursor.Read(&tensor_count) || !cursor.Read(&value_count) || tensor_count > kMaxEntries ||
      value_count > kMaxEntries) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": ", tensor_count, " tensors and ",
                                                   value_count, " values announced, at most ",
                                                   kMaxEntries, " each expected"));
  }
  GgufFile file;
  for (uint64_t i = 0; i < value_count; ++i) {
    std::string key;
    uint32_t type = 0;
    GgufValue value;
    if (!cursor.ReadString(&key) || !cursor.Read(&type) || !ReadValue(cursor, type, &value)) {
      return absl::InvalidArgumentError(
          absl::StrCat(source, ": metadata value ", i, " (", Quoted(key),
                       ") is truncated, too long or of an unknown type ", type));
    }
    if (!file.metadata.emplace(key, std::move(value)).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(source, ": metadata key ", Quoted(key), " stands twice"));
    }
  }
  std::vector<Entry> entries;
  for (uint64_t i = 0; i < tensor_count; ++i) {
    if (absl::Status status = ReadTensorEntry(source, cursor, &entries.emplace_back());
        !status.ok())
      return status;
  }
  uint64_t alignment = 32;
  if (auto it = file.metadata.find("general.alignment"); it != file.metadata.end()) {
    const int64_t* given = std::get_if<int64_t>(&it->second);
    if (given == nullptr || *given < 1 || *given > (1 << 20) || (*given & (*given - 1)) != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(source, ": general.alignment: a power of two up to 2^20 expected"));
    }
    alignment = static_cast<uint64_t>(*given);
  }
  const uint64_t data_begin = (cursor.at() + alignment - 1) / alignment * alignment;
  if (data_begin > bytes.size()) {
    if (!entries.empty())
      return absl::InvalidArgumentError(absl::StrCat(source, ": no tensor data (truncated)"));
    return file;
  }
  if (absl::Status status =
          PlaceTensors(source, bytes.subspan(data_begin), alignment, entries, &file);
      !status.ok()) {
    return status;
  }
  return file;
}

}  // namespace mambad::checkpoint
