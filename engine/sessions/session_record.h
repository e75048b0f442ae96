// A session as bytes: what a file holds and what goes from one engine to another. Any thread.
//
// Format, version 1; numbers least significant byte first, T(x): the length of x as 4 bytes, x.
//
//   "MAMBADS1"                      8 bytes
//   length of the header            4 bytes, of all that follows up to its checksum
//   header                          T(id), T(principal), T(model), T(tokenizer), T(numerics),
//                                   T(draft), T(layout), T(layout of the draft's state);
//                                   exact: 1 byte; has state: 1 byte; fed and replay of target
//                                   and draft: 8 and 4 bytes each; bytes of their images: 8 each;
//                                   number of tokens: 8; tokens: 4 each
//   SHA-256 of all before           32 bytes
//   images                          the target's, the draft's
//   SHA-256 of the images           32 bytes
//
// An export has neither id nor principal; nor has a checkpoint, which belongs to a session by its
// file's name.

#ifndef MAMBAD_ENGINE_SESSIONS_SESSION_RECORD_H_
#define MAMBAD_ENGINE_SESSIONS_SESSION_RECORD_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "engine/digest/sha256.h"
#include "engine/options.h"
#include "engine/session.h"
#include "engine/sessions/saved_state.h"
#include "engine/sessions/session_format.h"

namespace mambad {

// Immutable once made.
class SessionRecord {
 public:
  std::string id, principal;  // of a file
  SessionNames names;
  std::string layout, draft_layout;
  bool exact = true;
  std::shared_ptr<const std::vector<TokenId>> tokens;
  std::shared_ptr<const SavedState> state;  // null: none
  int64_t state_bytes = 0;                  // of one that was read, also where only its head was

  // All before the images, with its checksum.
  std::string Head() const;
};

class SessionRecordWriter final : public SessionSource {
 public:
  explicit SessionRecordWriter(std::shared_ptr<const SessionRecord> record);

  int64_t total_bytes() const override;
  std::string Next(int64_t most) override;

 private:
  const std::shared_ptr<const SessionRecord> record_;
  std::string text_;  // what is to come before or after the images
  int64_t text_at_ = 0, image_at_ = 0, image_bytes_ = 0;
  int64_t total_bytes_ = 0;
  Sha256 images_;
  bool ends_ = false;  // text_ is the last
};

class SessionRecordReader final : public SessionTarget {
 public:
  struct Rules {
    bool other_numerics = false;  // those of other numerics are taken, and are not exact
    bool owned = false;           // id and principal are wanted: a file
    bool only_head = false;       // state is not wanted; done() after the header
    bool inexact = false;         // one that is not exact is taken: it was ours
    bool waits_for_room = false;  // wants_room() instead of RESOURCE_EXHAUSTED
    // Whose import it is: its state is HostMemory's incoming until the record is taken.
    std::optional<std::string> principal = std::nullopt;
  };
  // `memory`: what the state's bytes are taken of.
  SessionRecordReader(std::shared_ptr<const SessionFormat> format,
                      std::shared_ptr<HostMemory> memory, const Rules& rules);
  ~SessionRecordReader() override;

  absl::Status Read(absl::string_view piece) override;
  bool done() const override { return stage_ == Stage::kDone; }
  int64_t wants_room() const override { return stage_ == Stage::kRoom ? StateBytes() : 0; }
  // Of a reader that wants room: takes it of the memory, so that it goes on; false: there is none.
  bool TakeRoom();
  // Of the whole record, once its header has come; -1 before.
  int64_t total_bytes() const { return total_bytes_; }
  // When done, once.
  std::shared_ptr<const SessionRecord> Take();

 private:
  enum class Stage { kStart, kHeader, kRoom, kTarget, kDraft, kChecksum, kDone };

  // How many of the bytes at hand were used; 0: more are needed.
  absl::Status Advance(absl::string_view at_hand, size_t* used);
  absl::Status ReadHeader(absl::string_view header);
  absl::Status CheckNames(const SessionRecord& record) const;
  absl::Status PrepareState();
  // That will be kept of the record.
  int64_t StateBytes() const { return target_bytes_ + (keeps_draft_ ? draft_bytes_ : 0); }
  void MakeState();
  void EndIncoming();

  const std::shared_ptr<const SessionFormat> format_;
  const std::shared_ptr<HostMemory> memory_;
  const Rules rules_;
  Stage stage_ = Stage::kStart;
  std::string gathered_;  // of the part that is being read, but for images
  size_t header_bytes_ = 0;
  std::shared_ptr<SessionRecord> record_;
  bool has_state_ = false;
  ReadPosition target_read_, draft_read_;
  int64_t target_bytes_ = 0, draft_bytes_ = 0;
  bool keeps_draft_ = false;
  bool incoming_ = false;    // noted as such
  bool room_taken_ = false;  // of the memory, for a state that is not made yet
  std::string waiting_;      // that came after the header, until there is room
  std::shared_ptr<SavedState> state_;
  int64_t image_read_ = 0;
  int64_t total_bytes_ = -1;
  Sha256 images_;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SESSIONS_SESSION_RECORD_H_
