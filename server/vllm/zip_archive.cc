#include "server/vllm/zip_archive.h"

#include <zlib.h>

#include <cstdint>

namespace mambad::server {
namespace {

constexpr uint32_t kLocalHeader = 0x04034b50, kCentralHeader = 0x02014b50, kEnd = 0x06054b50;
constexpr uint16_t kVersion = 20;  // 2.0: deflate
constexpr uint16_t kUtf8Names = 1 << 11;
constexpr uint16_t kDeflated = 8;
constexpr uint16_t kNoTime = 0, kFirstDay = 1 << 5 | 1;  // 1980-01-01, the earliest there is

// Least significant byte first.
void Put(uint32_t value, int bytes, std::string* out) {
  for (int i = 0; i < bytes; ++i) out->push_back(static_cast<char>(value >> (8 * i)));
}

std::string Deflate(const std::string& contents) {
  constexpr int kRaw = -MAX_WBITS;  // the zip format has checksums of its own
  z_stream stream = {};
  deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, kRaw, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&stream, contents.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(contents.data()));
  stream.avail_in = static_cast<uInt>(contents.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

struct Entry {
  const std::string& name;
  uint32_t checksum, deflated, size, offset;
};

// What both of an entry's headers say, in their order.
void PutFacts(const Entry& entry, std::string* out) {
  Put(kVersion, 2, out);
  Put(kUtf8Names, 2, out);
  Put(kDeflated, 2, out);
  Put(kNoTime, 2, out);
  Put(kFirstDay, 2, out);
  Put(entry.checksum, 4, out);
  Put(entry.deflated, 4, out);
  Put(entry.size, 4, out);
  Put(static_cast<uint32_t>(entry.name.size()), 2, out);
  Put(0, 2, out);  // no extra field
}

void PutCentralHeader(const Entry& entry, std::string* out) {
  Put(kCentralHeader, 4, out);
  Put(kVersion, 2, out);
  PutFacts(entry, out);
  Put(0, 2, out);  // no comment
  Put(0, 2, out);  // first disk
  Put(0, 2, out);  // attributes: none of ours,
  Put(0, 4, out);  // none of the system's
  Put(entry.offset, 4, out);
  out->append(entry.name);
}

}  // namespace

std::string ZipArchive(const std::vector<std::pair<std::string, std::string>>& files) {
  std::string out;
  std::vector<Entry> entries;
  for (const auto& [name, contents] : files) {
    const std::string deflated = Deflate(contents);
    const auto* bytes = reinterpret_cast<const Bytef*>(contents.data());
    entries.push_back({name, static_cast<uint32_t>(crc32_z(0, bytes, contents.size())),
                       static_cast<uint32_t>(deflated.size()),
                       static_cast<uint32_t>(contents.size()), static_cast<uint32_t>(out.size())});
    Put(kLocalHeader, 4, &out);
    PutFacts(entries.back(), &out);
    out.append(name).append(deflated);
  }
  const auto directory = static_cast<uint32_t>(out.size());
  for (const Entry& entry : entries) PutCentralHeader(entry, &out);
  const auto directory_end = static_cast<uint32_t>(out.size());
  Put(kEnd, 4, &out);
  Put(0, 4, &out);  // one disk
  for (int i = 0; i < 2; ++i) Put(static_cast<uint32_t>(entries.size()), 2, &out);
  Put(directory_end - directory, 4, &out);
  Put(directory, 4, &out);
  Put(0, 2, &out);  // no comment
  return out;
}

}  // namespace mambad::server
