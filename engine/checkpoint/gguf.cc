#include "engine/checkpoint/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/dequantise.h"
#include "engine/checkpoint/error_text.h"
#include "engine/checkpoint/file_kind.h"

namespace mambad::checkpoint {
namespace {

constexpr uint64_t kMaxEntries = 1 << 20, kMaxStringBytes = 1 << 26, kMaxDimensions = 4;
constexpr uint64_t kMaxOffset = uint64_t{1} << 60;

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

// Reads forward; every read checks what is left.
class Cursor {
 public:
  explicit Cursor(absl::Span<const std::byte> bytes) : bytes_(bytes) {}

  template <typename T>
  bool Read(T* value) {
    if (left() < sizeof(T)) return End();
    std::memcpy(value, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return true;
  }
  bool ReadString(std::string* text) {
    uint64_t length = 0;
    if (!Read(&length) || length > kMaxStringBytes) return false;
    if (length > left()) return End();
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
  size_t size() const { return bytes_.size(); }
  // Something would have been good, had the file gone on.
  bool hit_end() const { return hit_end_; }
  bool End() {
    hit_end_ = true;
    return false;
  }

 private:
  absl::Span<const std::byte> bytes_;
  bool hit_end_ = false;
  size_t at_ = 0;
  uint64_t items_left_ = 1 << 23;
};

template <typename T>
bool Widen(Cursor& cursor, int64_t* out) {
  T value;
  if (!cursor.Read(&value)) return false;
  // What int64 cannot hold stays large: no number that a model needs is out there.
  *out = std::in_range<int64_t>(value) ? static_cast<int64_t>(value)
                                       : std::numeric_limits<int64_t>::max();
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
    if (least == 0 || !cursor.TakeItems(count)) return false;
    if (count > cursor.left() / least) return cursor.End();
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

absl::Status CutOff(const std::string& source, const std::string& what, uint64_t bytes) {
  return absl::InvalidArgumentError(absl::StrCat(source, ": truncated: its ", bytes,
                                                 " bytes end within the ", what,
                                                 ": download or copy the file again"));
}

struct Entry {
  std::string name;
  StoredTensor tensor;
  uint64_t offset = 0, bytes = 0;
};

absl::Status ReadTensorEntry(const std::string& source, Cursor& cursor, Entry* entry) {
  uint32_t dimensions = 0, type = 0;
  if (!cursor.ReadString(&entry->name) || !cursor.Read(&dimensions)) {
    if (cursor.hit_end()) return CutOff(source, "list of tensors", cursor.size());
    return absl::InvalidArgumentError(absl::StrCat(source, ": a tensor's name is too long"));
  }
  const std::string where = absl::StrCat(source, ": tensor ", Quoted(entry->name));
  if (dimensions < 1 || dimensions > kMaxDimensions) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": ", dimensions, " dimensions found, 1 to 4 expected"));
  }
  uint64_t numbers = 1, first = 1;
  for (uint32_t i = 0; i < dimensions; ++i) {
    uint64_t size = 0;
    if (!cursor.Read(&size)) return CutOff(source, "list of tensors", cursor.size());
    if (size > (uint64_t{1} << 40) || __builtin_mul_overflow(numbers, size, &numbers) ||
        numbers > (uint64_t{1} << 45)) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": a dimension of ", size, " is too large"));
    }
    if (i == 0) first = size;
    entry->tensor.shape.insert(entry->tensor.shape.begin(), static_cast<int64_t>(size));
  }
  if (!cursor.Read(&type) || !cursor.Read(&entry->offset)) {
    return CutOff(source, "list of tensors", cursor.size());
  }
  const std::optional<StorageType> storage = StorageTypeOfGguf(type);
  if (!storage.has_value()) {
    return absl::UnimplementedError(
        absl::StrCat(where, ": type ", GgufTypeText(type),
                     " is not implemented; these are: ", ReadableGgufTypes()));
  }
  entry->tensor.type = *storage;
  const StorageBlock block = BlockOf(entry->tensor.type);
  if (first % block.numbers != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        where, ": rows of ", first, " numbers are no whole blocks of ", block.numbers));
  }
  entry->bytes = numbers / block.numbers * block.bytes;
  return absl::OkStatus();
}

// `data_begin`: where in the file `data` begins; data may be empty when the file ends before.
absl::Status PlaceTensors(const std::string& source, absl::Span<const std::byte> data,
                          uint64_t data_begin, uint64_t alignment, std::vector<Entry>& entries,
                          GgufFile* file) {
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.offset < b.offset; });
  uint64_t free_from = 0;
  for (const Entry& entry : entries) {
    if (entry.offset > kMaxOffset || entry.offset % alignment != 0 || entry.offset < free_from) {
      return absl::InvalidArgumentError(
          absl::StrCat(source, ": tensor ", Quoted(entry.name), ": offset ", entry.offset,
                       " is misaligned, too large or overlaps another tensor"));
    }
    free_from = entry.offset + entry.bytes;
  }
  if (free_from > data.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": truncated: ", data_begin + free_from, " bytes expected, ",
                     data_begin + data.size(), " found; the last tensor is ",
                     Quoted(entries.back().name), ": download or copy the file again"));
  }
  for (Entry& entry : entries) {
    entry.tensor.data = data.subspan(entry.offset, entry.bytes);
    if (!file->tensors.emplace(entry.name, std::move(entry.tensor)).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(source, ": tensor ", Quoted(entry.name), ": stands twice"));
    }
  }
  return absl::OkStatus();
}

// The magic number and the version.
absl::Status ReadHead(const std::string& source, absl::Span<const std::byte> bytes,
                      Cursor& cursor) {
  char magic[4] = {};
  uint32_t version = 0;
  if (!cursor.Read(&magic) || std::memcmp(magic, "GGUF", 4) != 0) {
    const std::string what = WhatFileIs(RecogniseFile(bytes));
    return absl::InvalidArgumentError(absl::StrCat(
        source, ": a GGUF file expected, ", what.empty() ? "another magic number found" : what));
  }
  if (!cursor.Read(&version)) return CutOff(source, "head", bytes.size());
  if (version == 2 || version == 3) return absl::OkStatus();
  if (version == 0x02000000 || version == 0x03000000) {
    return absl::UnimplementedError(
        absl::StrCat(source,
                     ": a big-endian GGUF file, little-endian ones are read: convert it "
                     "with gguf-convert-endian of the Python package gguf"));
  }
  if (version == 1) {
    return absl::UnimplementedError(
        absl::StrCat(source,
                     ": GGUF version 1, versions 2 and 3 are read: convert the original "
                     "model again, or download a newer file"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat(source, ": GGUF version ", version, " found, 2 or 3 expected"));
}

absl::Status ReadMetadata(const std::string& source, Cursor& cursor, uint64_t count,
                          GgufFile* file) {
  for (uint64_t i = 0; i < count; ++i) {
    std::string key;
    uint32_t type = 0;
    GgufValue value;
    if (!cursor.ReadString(&key) || !cursor.Read(&type) || !ReadValue(cursor, type, &value)) {
      const std::string what = absl::StrCat("metadata value ", i, " (", Quoted(key), ")");
      if (cursor.hit_end()) return CutOff(source, what, cursor.size());
      return absl::InvalidArgumentError(
          absl::StrCat(source, ": ", what, " is too long or of an unknown type ", type));
    }
    if (!file->metadata.emplace(key, std::move(value)).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(source, ": metadata key ", Quoted(key), " stands twice"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> AlignmentOf(const std::string& source, const GgufFile& file) {
  const auto it = file.metadata.find("general.alignment");
  if (it == file.metadata.end()) return 32;
  const double given = GgufNumber(it->second).value_or(0);
  const uint64_t whole = given >= 1 && given <= 1 << 20 ? static_cast<uint64_t>(given) : 0;
  if (whole == 0 || static_cast<double>(whole) != given || !std::has_single_bit(whole)) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": general.alignment: a power of two up to 2^20 expected"));
  }
  return whole;
}

}  // namespace

std::optional<double> GgufNumber(const GgufValue& value) {
  if (const auto* number = std::get_if<int64_t>(&value)) return static_cast<double>(*number);
  if (const auto* number = std::get_if<double>(&value)) return *number;
  return std::nullopt;
}

std::optional<std::vector<double>> GgufNumbers(const GgufValue& value) {
  if (const auto* list = std::get_if<std::vector<double>>(&value)) return *list;
  const auto* list = std::get_if<std::vector<int64_t>>(&value);
  if (list == nullptr) return std::nullopt;
  return std::vector<double>(list->begin(), list->end());
}

const char* GgufValueKind(const GgufValue& value) {
  if (GgufNumber(value).has_value()) return "a number";
  if (std::holds_alternative<std::string>(value)) return "a text";
  return std::holds_alternative<std::vector<std::string>>(value) ? "a list of texts"
                                                                 : "a list of numbers";
}

absl::StatusOr<GgufFile> ParseGguf(const std::string& source, absl::Span<const std::byte> bytes) {
  Cursor cursor(bytes);
  if (absl::Status status = ReadHead(source, bytes, cursor); !status.ok()) return status;
  uint64_t tensor_count = 0, value_count = 0;
  if (!cursor.Read(&tensor_count) || !cursor.Read(&value_count)) {
    return CutOff(source, "head", bytes.size());
  }
  if (tensor_count > kMaxEntries || value_count > kMaxEntries) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": ", tensor_count, " tensors and ",
                                                   value_count, " values announced, at most ",
                                                   kMaxEntries, " each expected"));
  }
  GgufFile file;
  if (absl::Status status = ReadMetadata(source, cursor, value_count, &file); !status.ok()) {
    return status;
  }
  std::vector<Entry> entries;
  for (uint64_t i = 0; i < tensor_count; ++i) {
    if (absl::Status status = ReadTensorEntry(source, cursor, &entries.emplace_back());
        !status.ok())
      return status;
  }
  const absl::StatusOr<uint64_t> alignment = AlignmentOf(source, file);
  if (!alignment.ok()) return alignment.status();
  const uint64_t data_begin = (cursor.at() + *alignment - 1) / *alignment * *alignment;
  const uint64_t begin = std::min<uint64_t>(data_begin, bytes.size());
  if (absl::Status status =
          PlaceTensors(source, bytes.subspan(begin), begin, *alignment, entries, &file);
      !status.ok()) {
    return status;
  }
  return file;
}

}  // namespace mambad::checkpoint
