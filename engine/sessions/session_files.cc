#include "engine/sessions/session_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace mambad {
namespace {

constexpr absl::string_view kSession = ".session", kCheckpoint = ".checkpoint", kPart = ".part";
constexpr absl::string_view kSessionPart = ".session.part", kCheckpointPart = ".checkpoint.part";
constexpr char kLockName[] = "/lock";
constexpr size_t kPieceBytes = 1 << 20;

absl::Status SystemError(absl::string_view what, const std::string& path, int error) {
  const std::string words = absl::StrCat(what, " ", path, ": ", strerror(error));
  if (error == ENOSPC || error == EDQUOT || error == EFBIG)
    return absl::ResourceExhaustedError(words);
  return absl::InternalError(words);
}

class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() {
    if (number_ >= 0) close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int number() const { return number_; }

 private:
  const int number_;
};

absl::Status WriteAll(int descriptor, absl::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t count = write(descriptor, bytes.data(), std::min(bytes.size(), kPieceBytes));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return SystemError("writing", path, errno);
    bytes.remove_prefix(static_cast<size_t>(count));
  }
  return absl::OkStatus();
}

absl::Status SyncDirectory(const std::string& directory) {
  const Descriptor opened(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (opened.number() < 0) return SystemError("opening", directory, errno);
  if (fsync(opened.number()) != 0) return SystemError("syncing", directory, errno);
  return absl::OkStatus();
}

absl::Status NotKept(const absl::Status& status) {
  return absl::Status(status.code(),
                      absl::StrCat("the session could not be kept: ", status.message()));
}

// A checkpoint's record says of itself only what it is; whose it is says its file's name.
SessionRecordReader::Rules CheckpointRules(bool only_head) {
  SessionRecordReader::Rules rules;
  rules.inexact = true;
  rules.only_head = only_head;
  return rules;
}

void Discard(const std::string& path, absl::string_view why, std::vector<std::string>* warnings) {
  unlink(path.c_str());
  warnings->push_back(absl::StrCat(path, ": ", why));
}

// Of a file that could not be taken.
void Report(const std::string& path, const absl::Status& status,
            std::vector<std::string>* warnings) {
  if (absl::IsInvalidArgument(status))
    return Discard(path, absl::StrCat("removed: ", status.message()), warnings);
  warnings->push_back(absl::StrCat(path, ": left alone: ", status.message()));
}

// All directories of the path that are not there.
absl::Status MakeDirectory(const std::string& directory) {
  for (size_t end = 1; end <= directory.size(); ++end) {
    if (end < directory.size() && directory[end] != '/') continue;
    const std::string part = directory.substr(0, end);
    if (mkdir(part.c_str(), 0700) != 0 && errno != EEXIST)
      return SystemError("sessions.directory: making", part, errno);
  }
  return absl::OkStatus();
}

}  // namespace

// ---- opening ------------------------------------------------------------------------------------

absl::StatusOr<std::unique_ptr<SessionFiles>> SessionFiles::Open(
    const std::string& directory, std::shared_ptr<const SessionFormat> format,
    std::shared_ptr<HostMemory> memory, std::vector<Found>* found,
    std::vector<std::string>* warnings) {
  if (absl::Status status = MakeDirectory(directory); !status.ok()) return status;
  const std::string lock_path = directory + kLockName;
  const int lock = open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock < 0) return SystemError("sessions.directory: opening", lock_path, errno);
  if (flock(lock, LOCK_EX | LOCK_NB) != 0) {
    close(lock);
    return absl::FailedPreconditionError(
        absl::StrCat("sessions.directory: ", directory, " is used by another process"));
  }
  std::unique_ptr<SessionFiles> files(
      new SessionFiles(directory, lock, std::move(format), std::move(memory)));
  files->Scan(found, warnings);
  return files;
}

SessionFiles::SessionFiles(std::string directory, int lock,
                           std::shared_ptr<const SessionFormat> format,
                           std::shared_ptr<HostMemory> memory)
    : directory_(std::move(directory)),
      lock_(lock),
      format_(std::move(format)),
      memory_(std::move(memory)),
      thread_([this] { Run(); }) {}

SessionFiles::~SessionFiles() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  news_.NotifyOne();
  thread_.join();
  close(lock_);
}

void SessionFiles::Scan(std::vector<Found>* found, std::vector<std::string>* warnings) const {
  DIR* const directory = opendir(directory_.c_str());
  if (directory == nullptr) return;
  std::vector<std::string> names, checkpoints;
  while (const dirent* entry = readdir(directory)) names.emplace_back(entry->d_name);
  closedir(directory);
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    const std::string path = absl::StrCat(directory_, "/", name);
    if (absl::EndsWith(name, kSessionPart) || absl::EndsWith(name, kCheckpointPart)) {
      Discard(path,
              "a session that was being written when the process ended: removed; what was "
              "acknowledged of it before is there",
              warnings);
    } else if (absl::EndsWith(name, kSession)) {
      ScanSession(path, found, warnings);
    } else if (absl::EndsWith(name, kCheckpoint)) {
      checkpoints.push_back(name);
    }
  }
  for (const std::string& name : checkpoints) ScanCheckpoint(name, found, warnings);
  for (Found& session : *found) {
    std::sort(session.checkpoints.begin(), session.checkpoints.end(),
              [](const auto& a, const auto& b) { return a.position < b.position; });
  }
}

void SessionFiles::ScanSession(const std::string& path, std::vector<Found>* found,
                               std::vector<std::string>* warnings) const {
  SessionRecordReader::Rules rules;
  rules.owned = rules.only_head = true;
  auto record = ReadNow(path, rules);
  if (record.ok() && PathOf((*record)->id, kItself) != path)
    record = absl::InvalidArgumentError("the session in it has another name");
  struct stat facts;
  if (record.ok() && stat(path.c_str(), &facts) == 0) {
    const auto age = std::max<int64_t>(0, time(nullptr) - facts.st_mtime);
    found->push_back({*std::move(record), absl::Seconds(age), {}});
  } else {
    Report(path, record.status(), warnings);
  }
}

void SessionFiles::ScanCheckpoint(const std::string& name, std::vector<Found>* found,
                                  std::vector<std::string>* warnings) const {
  const std::string path = absl::StrCat(directory_, "/", name);
  const auto record = ReadNow(path, CheckpointRules(/*only_head=*/true));
  if (!record.ok()) return Report(path, record.status(), warnings);
  const std::vector<TokenId>& text = *(*record)->tokens;
  const auto position = static_cast<int64_t>(text.size());
  const auto session = std::find_if(found->begin(), found->end(), [&](const Found& session) {
    return PathOf(session.record->id, position) == path;
  });
  if (session == found->end())
    return Discard(path, "a checkpoint of a session that is not there: removed", warnings);
  const std::vector<TokenId>& whole = *session->record->tokens;
  if (text.size() > whole.size() || !std::equal(text.begin(), text.end(), whole.begin()))
    return Discard(path, "a checkpoint of a text that the session has no more: removed", warnings);
  session->checkpoints.push_back({position, (*record)->state_bytes});
}

// ---- the thread ---------------------------------------------------------------------------------

void SessionFiles::Run() {
  for (;;) {
    std::function<void()> job;
    {
      MutexLock lock(&mutex_);
      while (jobs_.empty() && !stopping_) news_.Wait(&mutex_);
      if (jobs_.empty()) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    job();
  }
}

void SessionFiles::Ask(std::function<void()> job) {
  {
    MutexLock lock(&mutex_);
    jobs_.push_back(std::move(job));
  }
  news_.NotifyOne();
}

void SessionFiles::Write(const std::string& id, int64_t at,
                         std::shared_ptr<const SessionRecord> record, Written done) {
  Ask([this, path = PathOf(id, at), record = std::move(record), done = std::move(done)] {
    done(WriteNow(path, record));
  });
}

void SessionFiles::Read(const std::string& id, int64_t at, WasRead done) {
  Ask([this, path = PathOf(id, at), at, done = std::move(done)] {
    SessionRecordReader::Rules rules = CheckpointRules(/*only_head=*/false);
    if (at == kItself) rules = {.owned = true};
    done(ReadNow(path, rules));
  });
}

void SessionFiles::Remove(const std::string& id, int64_t at) {
  Ask([path = PathOf(id, at)] { unlink(path.c_str()); });
}

void SessionFiles::Tell(std::function<void()> told) { Ask(std::move(told)); }

void SessionFiles::Share(const std::string& from, const std::string& to,
                         std::vector<int64_t> positions, Written done) {
  Ask([this, from, to, positions = std::move(positions), done = std::move(done)] {
    done(ShareNow(from, to, positions));
  });
}

std::string SessionFiles::PathOf(const std::string& id, int64_t at) const {
  if (at == kItself) return absl::StrCat(directory_, "/", id, kSession);
  return absl::StrCat(directory_, "/", id, ".", at, kCheckpoint);
}

absl::Status SessionFiles::WriteNow(const std::string& path,
                                    const std::shared_ptr<const SessionRecord>& record) const {
  const std::string part = absl::StrCat(path, kPart);
  const auto write_part = [&]() -> absl::Status {
    const Descriptor file(open(part.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (file.number() < 0) return SystemError("making", part, errno);
    SessionRecordWriter source(record);
    for (std::string piece = source.Next(kPieceBytes); !piece.empty();
         piece = source.Next(kPieceBytes)) {
      if (absl::Status status = WriteAll(file.number(), piece, part); !status.ok()) return status;
    }
    return fsync(file.number()) == 0 ? absl::OkStatus() : SystemError("syncing", part, errno);
  };
  absl::Status status = write_part();
  if (status.ok() && rename(part.c_str(), path.c_str()) != 0)
    status = SystemError("renaming", part, errno);
  if (status.ok()) return SyncDirectory(directory_);
  unlink(part.c_str());
  return NotKept(status);
}

absl::Status SessionFiles::ShareNow(const std::string& from, const std::string& to,
                                    const std::vector<int64_t>& positions) const {
  for (const int64_t position : positions) {
    const std::string path = PathOf(to, position);
    if (link(PathOf(from, position).c_str(), path.c_str()) != 0)
      return NotKept(SystemError("linking", path, errno));
  }
  return SyncDirectory(directory_);
}

absl::StatusOr<std::shared_ptr<const SessionRecord>> SessionFiles::ReadNow(
    const std::string& path, const SessionRecordReader::Rules& rules) const {
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.number() < 0) return SystemError("opening", path, errno);
  SessionRecordReader reader(format_, memory_, rules);
  struct stat facts;
  if (fstat(file.number(), &facts) != 0) return SystemError("looking at", path, errno);
  // A head is at the front: what follows it need not be read.
  std::string piece(rules.only_head ? size_t{1} << 14 : kPieceBytes, '\0');
  while (!reader.done()) {
    const ssize_t count = read(file.number(), piece.data(), piece.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return SystemError("reading", path, errno);
    if (count == 0) return absl::InvalidArgumentError("the file ends too early");
    const absl::Status status =
        reader.Read(absl::string_view(piece.data(), static_cast<size_t>(count)));
    if (!status.ok()) return status;
  }
  if (reader.total_bytes() != facts.st_size) {
    return absl::InvalidArgumentError(absl::StrCat("the file has ", facts.st_size, " bytes, ",
                                                   reader.total_bytes(), " expected"));
  }
  return reader.Take();
}

}  // namespace mambad
