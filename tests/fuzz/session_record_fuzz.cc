// Records of sessions of any bytes: errors, never a crash, a hang or memory beyond what was
// allowed.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>

#include "engine/digest/sha256.h"
#include "engine/sessions/session_record.h"

namespace {

using mambad::SessionFormat;
using mambad::SessionRecordReader;

std::shared_ptr<const SessionFormat> Format() {
  auto format = std::make_shared<SessionFormat>();
  format->names = {"m", "t", "n", "d"};
  format->vocabulary = 64;
  format->context = 64;
  format->target.fixed = 16;
  format->target.replay_row = 4;
  format->target.page = 8;
  format->target.replay_rows = 4;
  format->target.layout = "l";
  format->draft = format->target;
  return format;
}

std::string Checksum(const std::string& bytes) {
  mambad::Sha256 digest;
  digest.Add(bytes.data(), bytes.size());
  const mambad::Sha256::Digest checksum = digest.Finish();
  return std::string(checksum.begin(), checksum.end());
}

void Read(const std::string& bytes, const SessionRecordReader::Rules& rules, size_t piece) {
  constexpr int64_t kRoom = 1 << 10;
  const auto memory = std::make_shared<mambad::HostMemory>(kRoom);
  // Room that another has until it is wanted.
  const int64_t held = rules.waits_for_room ? kRoom : 0;
  if (!memory->Take(held)) std::abort();
  SessionRecordReader reader(Format(), memory, rules);
  for (size_t at = 0; at < bytes.size(); at += piece) {
    const absl::Status status = reader.Read(bytes.substr(at, piece));
    if (memory->used() > kRoom) std::abort();
    if (reader.wants_room() > 0) {
      memory->GiveBack(held);
      const bool taken = reader.TakeRoom();
      if (!taken || reader.wants_room() > 0) std::abort();
      continue;
    }
    if (status.ok()) continue;
    const bool expected = absl::IsInvalidArgument(status) || absl::IsFailedPrecondition(status) ||
                          absl::IsResourceExhausted(status);
    if (!expected) std::abort();
    return;
  }
  if (!reader.Read("").ok() || !reader.done()) return;
  const auto record = reader.Take();
  if (record->state == nullptr) return;
  const auto tokens = static_cast<int64_t>(record->tokens->size());
  if (record->state->target_read.fed >= std::max<int64_t>(1, tokens)) std::abort();
}

}  // namespace

// The first byte says how the others are read: as a record, or as a header and images with the
// checksums that belong to them.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  SessionRecordReader::Rules rules;
  rules.other_numerics = (data[0] & 1) != 0;
  rules.owned = (data[0] & 2) != 0;
  rules.only_head = (data[0] & 4) != 0;
  rules.waits_for_room = (data[0] & 32) != 0;
  rules.inexact = (data[0] & 64) != 0;
  const size_t piece = (data[0] & 8) != 0 ? 3 : 4096;
  std::string bytes(reinterpret_cast<const char*>(data + 2), size - 2);
  if ((data[0] & 16) != 0) {
    const size_t header = std::min(bytes.size(), size_t{4} * data[1]);
    std::string head = "MAMBADS1";
    for (int i = 0; i < 4; ++i) head.push_back(static_cast<char>(header >> (8 * i)));
    head += bytes.substr(0, header);
    const std::string images = bytes.substr(header);
    bytes = head + Checksum(head) + images + Checksum(images);
  }
  Read(bytes, rules, piece);
  return 0;
}
