#include "engine/sessions/session_record.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace mambad {
namespace {

constexpr int64_t kMostStateBytes = int64_t{1} << 50;  // beyond any machine's memory
constexpr absl::string_view kMagic = "MAMBADS1";
constexpr absl::string_view kMagicOfAll = "MAMBADS";
constexpr size_t kStartBytes = 12;
constexpr size_t kChecksumBytes = 32;
// Of each text of the header; the layouts name every layer.
constexpr size_t kLongestText = 1 << 16;
constexpr size_t kMostTextBytes = 8 * kLongestText;

template <typename Number>
void AppendNumber(Number number, std::string* out) {
  for (size_t i = 0; i < sizeof(Number); ++i)
    out->push_back(static_cast<char>(static_cast<uint64_t>(number) >> (8 * i)));
}

void AppendText(absl::string_view text, std::string* out) {
  AppendNumber<uint32_t>(static_cast<uint32_t>(text.size()), out);
  out->append(text.data(), text.size());
}

std::string ChecksumOf(Sha256 digest) {
  const Sha256::Digest bytes = digest.Finish();
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

absl::string_view AsText(absl::Span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Takes numbers and texts off the front of a header; says whether there were enough bytes.
class HeaderParser {
 public:
  explicit HeaderParser(absl::string_view bytes) : bytes_(bytes) {}

  template <typename Number>
  Number TakeNumber() {
    if (bytes_.size() < sizeof(Number)) return Lack<Number>();
    uint64_t number = 0;
    for (size_t i = 0; i < sizeof(Number); ++i)
      number |= uint64_t{static_cast<unsigned char>(bytes_[i])} << (8 * i);
    bytes_.remove_prefix(sizeof(Number));
    return static_cast<Number>(number);
  }
  std::string TakeText() {
    const size_t bytes = TakeNumber<uint32_t>();
    if (bytes > kLongestText || bytes > bytes_.size()) return Lack<std::string>();
    std::string text(bytes_.substr(0, bytes));
    bytes_.remove_prefix(bytes);
    return text;
  }
  ReadPosition TakePosition() {
    ReadPosition position;
    position.fed = TakeNumber<int64_t>();
    position.replay = TakeNumber<int32_t>();
    return position;
  }
  size_t left() const { return bytes_.size(); }
  bool lacks() const { return lacks_; }

 private:
  template <typename T>
  T Lack() {
    lacks_ = true;
    bytes_ = {};
    return T();
  }
  absl::string_view bytes_;
  bool lacks_ = false;
};

absl::Status Damaged(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("the session's record is damaged: ", what));
}

absl::Status Another(absl::string_view what, absl::string_view its, absl::string_view ours) {
  return absl::FailedPreconditionError(absl::StrCat("the session is of another ", what, ": \"", its,
                                                    "\", here \"", ours, "\" is served"));
}

// Positions that a text of so many tokens may have been read to: the last token is not read.
bool IsReading(const ReadPosition& read, int64_t tokens, int replay_rows) {
  return read.fed >= 0 && read.fed < std::max<int64_t>(1, tokens) && read.replay >= 0 &&
         read.replay <= read.fed && read.replay <= replay_rows;
}

}  // namespace

// ---- writing ------------------------------------------------------------------------------------

std::string SessionRecord::Head() const {
  std::string header;
  for (const std::string* text : {&id, &principal, &names.model, &names.tokenizer, &names.numerics,
                                  &names.draft, &layout, &draft_layout}) {
    AppendText(*text, &header);
  }
  AppendNumber<uint8_t>(exact, &header);
  AppendNumber<uint8_t>(state != nullptr, &header);
  const ReadPosition none;
  for (const ReadPosition& read : {state == nullptr ? none : state->target_read,
                                   state == nullptr ? none : state->draft_read}) {
    AppendNumber<int64_t>(read.fed, &header);
    AppendNumber<int32_t>(read.replay, &header);
  }
  AppendNumber<int64_t>(state == nullptr ? 0 : static_cast<int64_t>(state->target().size()),
                        &header);
  AppendNumber<int64_t>(state == nullptr ? 0 : static_cast<int64_t>(state->draft().size()),
                        &header);
  AppendNumber<int64_t>(static_cast<int64_t>(tokens->size()), &header);
  for (TokenId token : *tokens) AppendNumber<int32_t>(token, &header);

  std::string head(kMagic);
  AppendNumber<uint32_t>(static_cast<uint32_t>(header.size()), &head);
  head += header;
  Sha256 digest;
  digest.Add(head.data(), head.size());
  return head + ChecksumOf(std::move(digest));
}

SessionRecordWriter::SessionRecordWriter(std::shared_ptr<const SessionRecord> record)
    : record_(std::move(record)), text_(record_->Head()) {
  if (record_->state != nullptr) image_bytes_ = record_->state->bytes();
  total_bytes_ = static_cast<int64_t>(text_.size() + kChecksumBytes) + image_bytes_;
}

int64_t SessionRecordWriter::total_bytes() const { return total_bytes_; }

std::string SessionRecordWriter::Next(int64_t most) {
  if (text_at_ < static_cast<int64_t>(text_.size())) {
    std::string piece = text_.substr(static_cast<size_t>(text_at_), static_cast<size_t>(most));
    text_at_ += static_cast<int64_t>(piece.size());
    return piece;
  }
  if (image_at_ < image_bytes_) {
    // Both images lie in one stretch.
    const int64_t count = std::min(most, image_bytes_ - image_at_);
    std::string piece(AsText(record_->state->images().subspan(image_at_, count)));
    images_.Add(piece.data(), piece.size());
    image_at_ += count;
    return piece;
  }
  if (ends_) return std::string();
  ends_ = true;
  text_ = ChecksumOf(std::move(images_));
  text_at_ = 0;
  return Next(most);
}

// ---- reading ------------------------------------------------------------------------------------

SessionRecordReader::SessionRecordReader(std::shared_ptr<const SessionFormat> format,
                                         std::shared_ptr<HostMemory> memory, const Rules& rules)
    : format_(std::move(format)), memory_(std::move(memory)), rules_(rules) {}

SessionRecordReader::~SessionRecordReader() {
  if (room_taken_) memory_->GiveBack(StateBytes());
  EndIncoming();
}

void SessionRecordReader::EndIncoming() {
  if (std::exchange(incoming_, false)) memory_->EndIncoming(*rules_.principal, StateBytes());
}

absl::Status SessionRecordReader::Read(absl::string_view piece) {
  const std::string waited = std::exchange(waiting_, {});
  std::string joined;
  if (!waited.empty()) piece = joined = absl::StrCat(waited, piece);
  if (stage_ == Stage::kTarget && room_taken_) MakeState();
  while (!done()) {
    const Stage before = stage_;
    size_t used = 0;
    if (absl::Status status = Advance(piece, &used); !status.ok()) return status;
    piece.remove_prefix(used);
    if (stage_ == Stage::kRoom) waiting_ = std::string(piece);
    if (used == 0 && stage_ == before) return absl::OkStatus();  // more must come
  }
  return piece.empty() || rules_.only_head ? absl::OkStatus() : Damaged("bytes follow its end");
}

absl::Status SessionRecordReader::Advance(absl::string_view at_hand, size_t* used) {
  const auto gather = [&](size_t wanted) {
    *used = std::min(wanted - gathered_.size(), at_hand.size());
    gathered_.append(at_hand.data(), *used);
    return gathered_.size() == wanted;
  };
  const auto take_image = [&](int64_t bytes, absl::Span<std::byte> to) {
    *used = static_cast<size_t>(std::min<int64_t>(bytes - image_read_, at_hand.size()));
    images_.Add(at_hand.data(), *used);
    if (!to.empty() && *used > 0) std::memcpy(to.data() + image_read_, at_hand.data(), *used);
    image_read_ += static_cast<int64_t>(*used);
    if (image_read_ < bytes) return false;
    image_read_ = 0;
    return true;
  };
  switch (stage_) {
    case Stage::kStart: {
      if (!gather(kStartBytes)) return absl::OkStatus();
      const absl::string_view magic = absl::string_view(gathered_).substr(0, kMagic.size());
      if (magic != kMagic) {
        if (magic.substr(0, kMagicOfAll.size()) == kMagicOfAll)
          return Another("format", magic, kMagic);
        return Damaged("it does not begin as one");
      }
      header_bytes_ =
          HeaderParser(absl::string_view(gathered_).substr(kMagic.size())).TakeNumber<uint32_t>();
      if (header_bytes_ > kMostTextBytes + 128 + 4 * static_cast<size_t>(format_->context))
        return Damaged(absl::StrCat("a header of ", header_bytes_, " bytes"));
      stage_ = Stage::kHeader;
      return absl::OkStatus();
    }
    case Stage::kHeader: {
      const size_t wanted = kStartBytes + header_bytes_ + kChecksumBytes;
      if (!gather(wanted)) return absl::OkStatus();
      if (absl::Status status = ReadHeader(gathered_); !status.ok()) return status;
      gathered_ = std::string();
      total_bytes_ = static_cast<int64_t>(wanted + kChecksumBytes) + target_bytes_ + draft_bytes_;
      stage_ = rules_.only_head ? Stage::kDone : Stage::kTarget;
      return rules_.only_head ? absl::OkStatus() : PrepareState();
    }
    case Stage::kRoom:
      return absl::OkStatus();
    case Stage::kTarget:
      if (take_image(target_bytes_, state_ == nullptr ? absl::Span<std::byte>() : state_->target()))
        stage_ = Stage::kDraft;
      return absl::OkStatus();
    case Stage::kDraft:
      if (take_image(draft_bytes_, keeps_draft_ ? state_->draft() : absl::Span<std::byte>()))
        stage_ = Stage::kChecksum;
      return absl::OkStatus();
    case Stage::kChecksum:
      if (!gather(kChecksumBytes)) return absl::OkStatus();
      if (gathered_ != ChecksumOf(std::move(images_)))
        return Damaged("its state's checksum is another");
      record_->state = std::move(state_);
      stage_ = Stage::kDone;
      return absl::OkStatus();
    case Stage::kDone:
      break;
  }
  return absl::OkStatus();
}

absl::Status SessionRecordReader::ReadHeader(absl::string_view bytes) {
  const size_t end = bytes.size() - kChecksumBytes;
  Sha256 digest;
  digest.Add(bytes.data(), end);
  if (bytes.substr(end) != ChecksumOf(std::move(digest)))
    return Damaged("its header's checksum is another");
  HeaderParser header(bytes.substr(kStartBytes, header_bytes_));
  record_ = std::make_shared<SessionRecord>();
  for (std::string* text : {&record_->id, &record_->principal, &record_->names.model,
                            &record_->names.tokenizer, &record_->names.numerics,
                            &record_->names.draft, &record_->layout, &record_->draft_layout}) {
    *text = header.TakeText();
  }
  record_->exact = header.TakeNumber<uint8_t>() != 0;
  has_state_ = header.TakeNumber<uint8_t>() != 0;
  target_read_ = header.TakePosition();
  draft_read_ = header.TakePosition();
  target_bytes_ = header.TakeNumber<int64_t>();
  draft_bytes_ = header.TakeNumber<int64_t>();
  const auto tokens = header.TakeNumber<int64_t>();
  if (header.lacks() || tokens < 0 || header.left() % 4 != 0 ||
      static_cast<int64_t>(header.left() / 4) != tokens) {
    return Damaged("its header has another length");
  }
  for (const int64_t state_bytes : {target_bytes_, draft_bytes_}) {
    if (state_bytes < 0 || state_bytes > kMostStateBytes)
      return Damaged(absl::StrCat("a state of ", state_bytes, " bytes"));
  }
  record_->state_bytes = target_bytes_ + draft_bytes_;
  if (absl::Status status = CheckNames(*record_); !status.ok()) return status;
  if (tokens > format_->context) {
    return absl::FailedPreconditionError(
        absl::StrCat("the session has ", tokens, " tokens, here at most ", format_->context));
  }
  auto text = std::make_shared<std::vector<TokenId>>(tokens);
  for (TokenId& token : *text) {
    token = header.TakeNumber<int32_t>();
    if (token < 0 || token >= format_->vocabulary)
      return Damaged(absl::StrCat("token ", token, " of ", format_->vocabulary));
  }
  record_->tokens = std::move(text);
  if (rules_.owned != !record_->id.empty()) return Damaged("it is no file's, or no stream's");
  return absl::OkStatus();
}

absl::Status SessionRecordReader::CheckNames(const SessionRecord& record) const {
  const SessionNames &its = record.names, &ours = format_->names;
  if (its.model != ours.model) return Another("model", its.model, ours.model);
  if (its.tokenizer != ours.tokenizer) return Another("tokenizer", its.tokenizer, ours.tokenizer);
  if (its.numerics != ours.numerics) {
    if (!rules_.other_numerics) return Another("kind of numerics", its.numerics, ours.numerics);
    record_->exact = false;
  }
  if (!record.exact && !rules_.other_numerics && !rules_.owned && !rules_.inexact) {
    return absl::FailedPreconditionError(
        "the session is not exact: some of its state was computed by other numerics");
  }
  if (has_state_ && record.layout != format_->target.layout)
    return Another("layout of its state", record.layout, format_->target.layout);
  return absl::OkStatus();
}

// The sizes that the header claims are those that follow from how far the text was read, or
// nothing is taken. A draft's state is only kept where the same draft model is.
absl::Status SessionRecordReader::PrepareState() {
  if (!has_state_) {
    return target_bytes_ == 0 && draft_bytes_ == 0 ? absl::OkStatus()
                                                   : Damaged("a state that is none has bytes");
  }
  const auto tokens = static_cast<int64_t>(record_->tokens->size());
  if (!IsReading(target_read_, tokens, kernels::kMaxWindowRows) ||
      target_bytes_ != format_->target.Bytes(target_read_.fed, target_read_.replay)) {
    return Damaged(absl::StrCat("a state of ", target_bytes_, " bytes that has read ",
                                target_read_.fed, " of ", tokens, " tokens"));
  }
  keeps_draft_ = draft_bytes_ > 0 && format_->draft.has_value() &&
                 record_->names.draft == format_->names.draft &&
                 record_->draft_layout == format_->draft->layout &&
                 IsReading(draft_read_, tokens, format_->draft->replay_rows) &&
                 draft_bytes_ == format_->draft->Bytes(draft_read_.fed, draft_read_.replay);
  // Room for what would be kept of it at most.
  constexpr int64_t kMostSkipped = int64_t{1} << 34;
  if (draft_bytes_ < 0 || (!keeps_draft_ && draft_bytes_ > kMostSkipped))
    return Damaged(absl::StrCat("a draft's state of ", draft_bytes_, " bytes"));
  // Rows that wait may be more than a slot here has room for: then the text is read again.
  if (target_read_.replay > format_->target.replay_rows) return absl::OkStatus();
  if (rules_.principal.has_value() && StateBytes() <= memory_->limit()) {
    incoming_ = memory_->BeginIncoming(*rules_.principal, StateBytes());
    if (!incoming_) {
      return absl::ResourceExhaustedError(
          "sessions.host_memory_bytes: other imports of the caller's are to end first");
    }
  }
  if (memory_->Take(StateBytes())) {
    room_taken_ = true;
    MakeState();
    return absl::OkStatus();
  }
  if (rules_.waits_for_room && StateBytes() <= memory_->limit()) {
    stage_ = Stage::kRoom;
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(absl::StrCat(
      "sessions.host_memory_bytes: no room for a state of ", target_bytes_ + draft_bytes_,
      " bytes, ", memory_->used(), " of ", memory_->limit(), " are used"));
}

bool SessionRecordReader::TakeRoom() {
  if (stage_ != Stage::kRoom || !memory_->Take(StateBytes())) return false;
  room_taken_ = true;
  stage_ = Stage::kTarget;
  return true;
}

void SessionRecordReader::MakeState() {
  room_taken_ = false;
  state_ = SavedState::Make(memory_, target_read_, format_->target,
                            keeps_draft_ ? draft_read_ : ReadPosition(),
                            keeps_draft_ ? &*format_->draft : nullptr, /*taken=*/true);
}

std::shared_ptr<const SessionRecord> SessionRecordReader::Take() {
  EndIncoming();
  return std::move(record_);
}

}  // namespace mambad
