#include "trainer/formats/zip_archive.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/error_text.h"

namespace mambad::trainer {
namespace {

using Bytes = absl::Span<const std::byte>;
using checkpoint::Quoted;

constexpr uint32_t kLocalHeader = 0x04034b50, kCentralHeader = 0x02014b50;
constexpr uint32_t kEnd = 0x06054b50, kEnd64 = 0x06064b50, kEnd64Locator = 0x07064b50;
constexpr size_t kLocalHeaderBytes = 30, kCentralHeaderBytes = 46, kEndBytes = 22;
constexpr size_t kEnd64Bytes = 56, kEnd64LocatorBytes = 20, kLongestComment = 65535;
constexpr uint64_t kMostEntries = 1 << 20;
// Both stand for "see the Zip64 fields".
constexpr uint64_t kWide32 = 0xffffffff, kWide16 = 0xffff;

template <typename T>
T At(Bytes bytes, size_t offset) {  // the caller has checked that it is inside
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

struct Directory {
  uint64_t entries = 0, offset = 0, bytes = 0;
};

struct Entry {
  std::string name;
  uint64_t size = 0, header = 0;  // where its local header stands
};

class Archive {
 public:
  Archive(const std::string& source, Bytes bytes) : source_(source), bytes_(bytes) {}

  std::map<std::string, Bytes> Read() {
    const Directory directory = FindDirectory();
    Check(directory.entries <= kMostEntries &&
              directory.entries <= directory.bytes / kCentralHeaderBytes,
          "the directory announces more entries than it has room for");
    std::map<std::string, Bytes> files;
    std::vector<std::pair<uint64_t, uint64_t>> places;  // begin and end of each entry
    uint64_t at = directory.offset;
    for (uint64_t i = 0; i < directory.entries; ++i) {
      const Entry entry = ReadEntry(directory.offset + directory.bytes, &at);
      const Bytes contents = Contents(entry, directory.offset);
      places.emplace_back(entry.header, contents.data() - bytes_.data() + contents.size());
      Check(files.emplace(entry.name, contents).second,
            absl::StrCat("entry ", Quoted(entry.name), " stands twice"));
    }
    std::sort(places.begin(), places.end());
    for (size_t i = 1; i < places.size(); ++i) {
      Check(places[i - 1].second <= places[i].first, "entries overlap");
    }
    return files;
  }

 private:
  void Check(bool good, const std::string& otherwise) const {
    if (!good) throw std::runtime_error(absl::StrCat(source_, ": ", otherwise));
  }
  bool Inside(uint64_t offset, uint64_t length) const {
    return offset <= bytes_.size() && length <= bytes_.size() - offset;
  }

  // The record at the very end, behind which only a comment may stand.
  Directory FindDirectory() const {
    Check(bytes_.size() >= kEndBytes, "no zip archive (too short)");
    const size_t last = bytes_.size() - kEndBytes;
    const size_t first = last > kLongestComment ? last - kLongestComment : 0;
    for (size_t at = last + 1; at-- > first;) {
      if (At<uint32_t>(bytes_, at) != kEnd) continue;
      if (At<uint16_t>(bytes_, at + 20) != bytes_.size() - at - kEndBytes) continue;
      return ReadEnd(at);
    }
    Check(false, "no zip archive, or a truncated one (no end of the directory found)");
    return {};
  }

  Directory ReadEnd(size_t at) const {
    Check(At<uint16_t>(bytes_, at + 4) == 0 && At<uint16_t>(bytes_, at + 6) == 0,
          "archives in several parts are not read");
    Directory directory{At<uint16_t>(bytes_, at + 10), At<uint32_t>(bytes_, at + 16),
                        At<uint32_t>(bytes_, at + 12)};
    const bool wide =
        directory.entries == kWide16 || directory.offset == kWide32 || directory.bytes == kWide32;
    if (at >= kEnd64LocatorBytes &&
        At<uint32_t>(bytes_, at - kEnd64LocatorBytes) == kEnd64Locator) {
      const uint64_t record = At<uint64_t>(bytes_, at - kEnd64LocatorBytes + 8);
      Check(Inside(record, kEnd64Bytes) && At<uint32_t>(bytes_, record) == kEnd64,
            "the Zip64 end of the directory is not where it should be");
      directory = {At<uint64_t>(bytes_, record + 32), At<uint64_t>(bytes_, record + 48),
                   At<uint64_t>(bytes_, record + 40)};
    } else {
      Check(!wide, "the Zip64 end of the directory is missing");
    }
    Check(Inside(directory.offset, directory.bytes), "the directory reaches beyond the file");
    return directory;
  }

  // The directory's next entry; `at` moves behind it.
  Entry ReadEntry(uint64_t end, uint64_t* at) const {
    Check(*at + kCentralHeaderBytes <= end && At<uint32_t>(bytes_, *at) == kCentralHeader,
          "the directory is damaged");
    const uint64_t name_bytes = At<uint16_t>(bytes_, *at + 28);
    const uint64_t extra_bytes = At<uint16_t>(bytes_, *at + 30);
    const uint64_t comment_bytes = At<uint16_t>(bytes_, *at + 32);
    const uint64_t name_at = *at + kCentralHeaderBytes;
    Check(name_at + name_bytes + extra_bytes + comment_bytes <= end, "the directory is damaged");
    Entry entry;
    entry.name.assign(reinterpret_cast<const char*>(bytes_.data()) + name_at, name_bytes);
    const std::string where = absl::StrCat("entry ", Quoted(entry.name));
    Check((At<uint16_t>(bytes_, *at + 8) & 1) == 0, absl::StrCat(where, " is encrypted"));
    Check(At<uint16_t>(bytes_, *at + 10) == 0,
          absl::StrCat(where, " is compressed, which PyTorch's files are not"));
    uint64_t packed = At<uint32_t>(bytes_, *at + 20);
    entry.size = At<uint32_t>(bytes_, *at + 24);
    entry.header = At<uint32_t>(bytes_, *at + 42);
    Widen(bytes_.subspan(name_at + name_bytes, extra_bytes), where,
          {&entry.size, &packed, &entry.header});
    Check(packed == entry.size, absl::StrCat(where, " has two sizes"));
    *at = name_at + name_bytes + extra_bytes + comment_bytes;
    return entry;
  }

  // Values that do not fit 32 bits stand in the extra field with id 1, in this order.
  void Widen(Bytes extra, const std::string& where, std::initializer_list<uint64_t*> values) const {
    Bytes wide;
    for (size_t at = 0; at + 4 <= extra.size();) {
      const size_t length = At<uint16_t>(extra, at + 2);
      Check(length <= extra.size() - at - 4, absl::StrCat(where, ": damaged extra field"));
      if (At<uint16_t>(extra, at) == 1) wide = extra.subspan(at + 4, length);
      at += 4 + length;
    }
    for (uint64_t* value : values) {
      if (*value != kWide32) continue;
      Check(wide.size() >= 8, absl::StrCat(where, ": its Zip64 sizes are missing"));
      *value = At<uint64_t>(wide, 0);
      wide.remove_prefix(8);
    }
  }

  Bytes Contents(const Entry& entry, uint64_t directory_begin) const {
    const std::string where = absl::StrCat("entry ", Quoted(entry.name));
    Check(Inside(entry.header, kLocalHeaderBytes) &&
              At<uint32_t>(bytes_, entry.header) == kLocalHeader,
          absl::StrCat(where, " is not where the directory says"));
    const uint64_t begin = entry.header + kLocalHeaderBytes +
                           At<uint16_t>(bytes_, entry.header + 26) +
                           At<uint16_t>(bytes_, entry.header + 28);
    Check(Inside(begin, entry.size) && begin + entry.size <= directory_begin,
          absl::StrCat(where, ": ", entry.size, " bytes reach beyond the archive's data"));
    return bytes_.subspan(begin, entry.size);
  }

  const std::string& source_;
  Bytes bytes_;
};

}  // namespace

std::map<std::string, absl::Span<const std::byte>> ReadZipArchive(
    const std::string& source, absl::Span<const std::byte> bytes) {
  return Archive(source, bytes).Read();
}

bool IsZipArchive(absl::Span<const std::byte> bytes) {
  return bytes.size() >= 4 && At<uint32_t>(bytes, 0) == kLocalHeader;
}

}  // namespace mambad::trainer
