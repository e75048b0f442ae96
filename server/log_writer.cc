#include "server/log_writer.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <utility>

#include "absl/time/clock.h"
#include "engine/mutex.h"
#include "engine/steady_time.h"

namespace mambad::server {
namespace {

// A pipe that poll calls writable takes this many bytes without blocking (PIPE_BUF).
constexpr size_t kLargestWrite = 4096;
// Lines that the thread takes at a time: beyond the queue's bound, and written without its lock.
constexpr size_t kLargestBatch = size_t{64} << 10;
constexpr size_t kLongestLine = size_t{16} << 10;
constexpr int kPollMilliseconds = 50;
constexpr absl::Duration kLastFlush = absl::Milliseconds(500);

int64_t CountLines(const std::string& text, size_t from) {
  return std::count(text.begin() + static_cast<std::ptrdiff_t>(from), text.end(), '\n');
}

// Whole lines where they fit, so that another process's lines on the same terminal stay apart.
size_t NextWrite(const std::string& text, size_t from) {
  const size_t size = std::min(kLargestWrite, text.size() - from);
  if (from + size == text.size()) return size;
  const size_t line_end = text.rfind('\n', from + size - 1);
  return line_end == std::string::npos || line_end < from ? size : line_end + 1 - from;
}

}  // namespace

struct LogWriter::State {
  State(int output_descriptor, DropNotice drop_notice, size_t bound)
      : descriptor(output_descriptor), notice(std::move(drop_notice)), most_bytes(bound) {}

  // Returns the lines that could not be written: the descriptor is broken, or it is the end.
  int64_t WriteAll(const std::string& text);

  const int descriptor;
  const DropNotice notice;
  const size_t most_bytes;
  std::atomic<int64_t> dropped{0};
  std::atomic<bool> give_up{false};  // whatever is not written yet is lost

  Mutex mutex;
  Condition news;      // of lines, of stopping
  Condition progress;  // a batch is written, the thread has ended
  std::deque<std::string> lines ABSL_GUARDED_BY(mutex);
  size_t bytes ABSL_GUARDED_BY(mutex) = 0;
  int64_t untold_drops ABSL_GUARDED_BY(mutex) = 0;
  bool writing ABSL_GUARDED_BY(mutex) = false;
  bool stopping ABSL_GUARDED_BY(mutex) = false;
  bool ended ABSL_GUARDED_BY(mutex) = false;
};

int64_t LogWriter::State::WriteAll(const std::string& text) {
  for (size_t written = 0; written < text.size();) {
    if (give_up.load()) return CountLines(text, written);
    pollfd output = {descriptor, POLLOUT, 0};
    const int ready = poll(&output, 1, kPollMilliseconds);
    if (ready == 0 || (ready < 0 && errno == EINTR)) continue;
    const ssize_t size = write(descriptor, text.data() + written, NextWrite(text, written));
    if (size >= 0) {
      written += static_cast<size_t>(size);
    } else if (errno == EAGAIN) {
      absl::SleepFor(absl::Milliseconds(kPollMilliseconds));  // another writer was faster
    } else if (errno != EINTR) {
      return CountLines(text, written);
    }
  }
  return 0;
}

LogWriter::LogWriter(int descriptor, DropNotice notice, size_t most_bytes)
    : state_(std::make_shared<State>(descriptor, std::move(notice), most_bytes)),
      thread_([state = state_] { Run(state); }) {}

LogWriter::~LogWriter() {
  Flush(SteadyNow() + kLastFlush);
  state_->give_up.store(true);
  bool ended = false;
  {
    MutexLock lock(&state_->mutex);
    state_->stopping = true;
    state_->news.NotifyAll();
    const absl::Time deadline = SteadyNow() + kLastFlush;
    while (!state_->ended && state_->progress.WaitUntil(&state_->mutex, deadline)) {
    }
    ended = state_->ended;
  }
  // A write that was promised not to block may, when several processes share the descriptor.
  ended ? thread_.join() : thread_.detach();
}

void LogWriter::Write(std::string line) {
  if (line.size() > kLongestLine) {
    line.resize(kLongestLine - 1);
    line.push_back('\n');
  }
  MutexLock lock(&state_->mutex);
  state_->bytes += line.size();
  state_->lines.push_back(std::move(line));
  while (state_->bytes > state_->most_bytes) {
    state_->bytes -= state_->lines.front().size();
    state_->lines.pop_front();
    ++state_->untold_drops;
    state_->dropped.fetch_add(1);
  }
  state_->news.NotifyOne();
}

bool LogWriter::Flush(absl::Time deadline) {
  MutexLock lock(&state_->mutex);
  while (!state_->lines.empty() || state_->writing || state_->untold_drops > 0) {
    if (!state_->progress.WaitUntil(&state_->mutex, deadline)) return false;
  }
  return true;
}

int64_t LogWriter::dropped_lines() const { return state_->dropped.load(); }

void LogWriter::Run(const std::shared_ptr<State>& state) {
  for (;;) {
    std::string batch;
    {
      MutexLock lock(&state->mutex);
      while (state->lines.empty() && state->untold_drops == 0 && !state->stopping) {
        state->news.Wait(&state->mutex);
      }
      if (state->lines.empty() && state->untold_drops == 0) break;
      state->writing = true;
      if (state->untold_drops > 0) batch = state->notice(state->untold_drops);
      state->untold_drops = 0;
      while (!state->lines.empty() && batch.size() < kLargestBatch) {
        state->bytes -= state->lines.front().size();
        batch += state->lines.front();
        state->lines.pop_front();
      }
    }
    state->dropped.fetch_add(state->WriteAll(batch));
    MutexLock lock(&state->mutex);
    state->writing = false;
    state->progress.NotifyAll();
  }
  MutexLock lock(&state->mutex);
  state->ended = true;
  state->progress.NotifyAll();
}

}  // namespace mambad::server
