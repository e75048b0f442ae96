#include "server/named_answers.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <utility>

#include "engine/digest/sha256.h"
#include "engine/steady_time.h"
#include "server/response_conversion.h"

namespace mambad::server {
namespace {

// What is told at once of an answer that is told again, bytes, about.
constexpr int64_t kPieceBytes = 32 << 10;
// What a piece takes besides its content: itself, and a share of the answer that it is of, whose
// name has up to 200 bytes.
constexpr int64_t kBytesOfAPiece = sizeof(TokenEvent) + 1024;

// The events of one sample, one after the other, as one.
void Append(const TokenEvent& event, TokenEvent* all) {
  const auto add = [](const auto& from, auto* to) {
    to->insert(to->end(), from.begin(), from.end());
  };
  all->text += event.text;
  add(event.tokens, &all->tokens);
  add(event.logprobs, &all->logprobs);
  add(event.prompt_logprobs, &all->prompt_logprobs);
  all->finish = event.finish;
  all->matched_stop = event.matched_stop;
  all->matched_stop_id = event.matched_stop_id;
  all->error = event.error;
  all->stats = event.stats;
  all->session = event.session;
}

bool IsWell(FinishReason reason) {
  return reason == FinishReason::kEos || reason == FinishReason::kStop ||
         reason == FinishReason::kLength;
}

}  // namespace

RequestName NameOf(const v1::GenerateRequest& wire, const std::string& principal) {
  RequestName name;
  if (wire.request_id().empty()) return name;
  name.principal = principal;
  name.request_id = wire.request_id();
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);  // maps have no order of their own
    wire.SerializeToCodedStream(&coded);
  }
  Sha256 digest;
  digest.AddText(bytes);
  name.digest = digest.FinishAsDigits();
  return name;
}

// ---- one answer ---------------------------------------------------------------------------------

NamedAnswer::NamedAnswer(NamedAnswers* table, RequestName name, AnswerStart start)
    : table_(table),
      name_(std::move(name)),
      start_(std::move(start)),
      last_pieces_(static_cast<size_t>(start_.samples), -1),
      samples_left_(start_.samples) {}

void NamedAnswer::Attach(std::shared_ptr<AnswerReader> reader) {
  std::shared_ptr<AnswerReader> before;
  MutexLock telling(&telling_);
  {
    MutexLock lock(&mutex_);
    ForgetReader();
    before = std::move(reader_);
    if (samples_left_ > 0) reader_ = reader;
    replaying_ = true;
  }
  if (before != nullptr) before->OnTakenOver();
  for (const TokenEvent& piece : pieces_) {
    const bool goes_on = reader->OnEvent(piece);
    MutexLock lock(&mutex_);
    if (!goes_on) ++owed_pauses_;
  }
  MutexLock lock(&mutex_);
  replaying_ = false;
}

bool NamedAnswer::Detach(const AnswerReader* reader, bool may_return) {
  MutexLock lock(&mutex_);
  if (reader_.get() != reader) return true;
  if (!may_return || !is_kept_ || table_->options().reattach_timeout == absl::ZeroDuration()) {
    CancelInEngine();
    return false;
  }
  ForgetReader();
  reader_.reset();
  timer_.Start(table_->options().reattach_timeout, [weak = weak_from_this(), absence = absences_] {
    if (const auto answer = weak.lock()) answer->OnNobodyCame(absence);
  });
  return true;
}

bool NamedAnswer::Leave(const AnswerReader* reader) {
  MutexLock lock(&mutex_);
  if (reader_.get() != reader) return false;
  ForgetReader();
  reader_.reset();
  return true;
}

// Whatever the reader asked for ends with it.
void NamedAnswer::ForgetReader() {
  for (; pauses_ > 0 && engine_ != nullptr; --pauses_) engine_->Resume(id_);
  pauses_ = owed_pauses_ = 0;
  ++absences_;
  timer_.Stop();
}

void NamedAnswer::Resume(const AnswerReader* reader) {
  MutexLock lock(&mutex_);
  if (reader_.get() != reader) return;
  if (replaying_ || owed_pauses_ > 0) {
    --owed_pauses_;
    return;
  }
  --pauses_;
  if (engine_ != nullptr) engine_->Resume(id_);
}

void NamedAnswer::OnNobodyCame(int absence) {
  MutexLock lock(&mutex_);
  if (absence == absences_) CancelInEngine();
}

// The engine never calls a sink with its own lock held.
void NamedAnswer::CancelInEngine() {
  cancelled_ = true;
  if (engine_ != nullptr) engine_->Cancel(id_);
  // What becomes of a session must be told to whoever asks again; all else may be tried anew.
  if (!start_.keeps_session) table_->Drop(name_, this);
}

void NamedAnswer::Submitted(Engine* engine, RequestId id) {
  MutexLock lock(&mutex_);
  id_ = id;
  if (samples_left_ == 0) return;
  engine_ = engine;
  if (cancelled_) engine->Cancel(id);
}

void NamedAnswer::Failed(const absl::Status& status) {
  for (int sample = 0; sample < start_.samples; ++sample) {
    TokenEvent event;
    event.index = sample;
    event.finish = FinishReason::kError;
    event.error = status;
    OnEvent(event);
  }
}

RequestId NamedAnswer::id() const {
  MutexLock lock(&mutex_);
  return id_;
}

bool NamedAnswer::is_told() const {
  MutexLock lock(&mutex_);
  return reader_ != nullptr;
}

absl::Duration NamedAnswer::take_over_pause() const { return table_->options().take_over_pause; }

bool NamedAnswer::OnEvent(const TokenEvent& event) {
  MutexLock telling(&telling_);
  std::shared_ptr<AnswerReader> reader;
  {
    MutexLock lock(&mutex_);
    Record(event);
    reader = reader_;
    if (event.finish != FinishReason::kNone) End(event);
  }
  if (reader == nullptr) return true;
  const bool goes_on = reader->OnEvent(event);
  MutexLock lock(&mutex_);
  if (reader_ != reader) return true;
  if (samples_left_ == 0) reader_.reset();
  if (goes_on && owed_pauses_ <= 0) return true;
  owed_pauses_ = 0;
  ++pauses_;
  return false;
}

void NamedAnswer::Record(const TokenEvent& event) {
  if (!is_kept_) return;
  int& last = last_pieces_[static_cast<size_t>(event.index)];
  const bool begins_piece =
      last < 0 || EventBytes(pieces_[static_cast<size_t>(last)]) >= kPieceBytes;
  const int64_t bytes = EventBytes(event) + (begins_piece ? kBytesOfAPiece : 0);
  if (!table_->Reserve(name_, this, bytes)) {
    is_kept_ = false;
    pieces_.clear();
    table_->Release(std::exchange(bytes_, 0));
    return;
  }
  bytes_ += bytes;
  if (begins_piece) {
    last = static_cast<int>(pieces_.size());
    pieces_.push_back(event);
  } else {
    Append(event, &pieces_[static_cast<size_t>(last)]);
  }
}

// A sample has ended; after the last one nothing is asked of the engine any more.
void NamedAnswer::End(const TokenEvent& event) {
  ended_well_ &= IsWell(event.finish);
  has_session_ |= event.session.has_value();
  if (--samples_left_ > 0) return;
  engine_ = nullptr;
  ++absences_;
  timer_.Stop();
  table_->Ended(name_, this, is_kept_ && (ended_well_ || has_session_), bytes_);
}

// ---- all of them --------------------------------------------------------------------------------

absl::StatusOr<std::shared_ptr<NamedAnswer>> NamedAnswers::Look(const RequestName& name) {
  ForgetOld(0);
  const auto found = answers_.find(KeyOf(name));
  if (found == answers_.end()) return nullptr;
  const Entry& entry = found->second;
  if (entry.answer->name_.digest != name.digest) {
    return absl::AlreadyExistsError(
        "request_id: the name of another request, that says something else");
  }
  if (entry.is_lost) {
    return absl::AbortedError(
        "request_id: the answer is being made, and is too long to be told again");
  }
  ++repeated_calls_;
  return entry.answer;
}

absl::StatusOr<std::shared_ptr<NamedAnswer>> NamedAnswers::Find(const RequestName& name) {
  MutexLock lock(&mutex_);
  return Look(name);
}

absl::StatusOr<std::shared_ptr<NamedAnswer>> NamedAnswers::FindOrBegin(const RequestName& name,
                                                                       const AnswerStart& start,
                                                                       bool* begun) {
  *begun = false;
  if (options_.memory_bytes == 0) return nullptr;
  MutexLock lock(&mutex_);
  auto found = Look(name);
  if (!found.ok() || *found != nullptr) return found;
  *begun = true;
  auto answer = std::make_shared<NamedAnswer>(this, name, start);
  answers_[KeyOf(name)].answer = answer;
  return answer;
}

bool NamedAnswers::Reserve(const RequestName& name, const NamedAnswer* answer, int64_t bytes) {
  MutexLock lock(&mutex_);
  ForgetOld(bytes);
  if (bytes_ + bytes <= options_.memory_bytes) {
    bytes_ += bytes;
    return true;
  }
  const auto found = answers_.find(KeyOf(name));
  if (found != answers_.end() && found->second.answer.get() == answer) found->second.is_lost = true;
  return false;
}

void NamedAnswers::Release(int64_t bytes) {
  MutexLock lock(&mutex_);
  bytes_ -= bytes;
}

void NamedAnswers::Drop(const RequestName& name, const NamedAnswer* answer) {
  MutexLock lock(&mutex_);
  const auto found = answers_.find(KeyOf(name));
  if (found != answers_.end() && found->second.answer.get() == answer) answers_.erase(found);
}

void NamedAnswers::Ended(const RequestName& name, const NamedAnswer* answer, bool keep,
                         int64_t bytes) {
  MutexLock lock(&mutex_);
  const auto found = answers_.find(KeyOf(name));
  const bool is_known = found != answers_.end() && found->second.answer.get() == answer;
  if (is_known && keep) {
    found->second.bytes = bytes;
    ended_.push_back({KeyOf(name), SteadyNow() + options_.keep_time});
    return;
  }
  bytes_ -= bytes;
  if (is_known) answers_.erase(found);
}

void NamedAnswers::ForgetOld(int64_t room) {
  const absl::Time now = SteadyNow();
  while (!ended_.empty() &&
         (ended_.front().until <= now || bytes_ + room > options_.memory_bytes)) {
    const auto found = answers_.find(ended_.front().key);
    bytes_ -= found->second.bytes;
    answers_.erase(found);
    ended_.pop_front();
  }
}

void NamedAnswers::AddFamilies(MetricFamilies* families) const {
  MutexLock lock(&mutex_);
  families->Gauge("mambad_named_answers", "Answers that may be told again, made or being made",
                  static_cast<double>(answers_.size()));
  families->Gauge("mambad_named_answer_bytes", "Memory of the answers that may be told again",
                  static_cast<double>(bytes_));
  families->Counter("mambad_repeated_calls_total",
                    "Calls that were told the answer of an earlier one with the same request_id",
                    static_cast<double>(repeated_calls_));
}

}  // namespace mambad::server
