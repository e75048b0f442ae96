// The way of log lines out of the process: a bounded queue, and a thread that writes it to a
// descriptor. Who logs never waits for who reads the log.

#ifndef MAMBAD_SERVER_LOG_WRITER_H_
#define MAMBAD_SERVER_LOG_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/time/time.h"

namespace mambad::server {

// Thread-safe. While nobody reads, the newest lines are kept, up to `most_bytes`; older ones are
// dropped and counted, and where they are missing a line says how many.
class LogWriter {
 public:
  // The line, with its end, that stands for `lines` dropped ones.
  using DropNotice = std::function<std::string(int64_t lines)>;

  // `descriptor` stays the caller's and open. Blocking or not, it is only written to when it takes
  // something.
  LogWriter(int descriptor, DropNotice notice, size_t most_bytes = size_t{1} << 20);
  // What cannot be written within half a second is lost: an end must not hang on a log.
  ~LogWriter();

  LogWriter(const LogWriter&) = delete;
  LogWriter& operator=(const LogWriter&) = delete;

  void Write(std::string line);  // with its line end; returns at once
  // Waits until all that was given is written, or until `deadline` (steady time); whether it is.
  bool Flush(absl::Time deadline);
  int64_t dropped_lines() const;

 private:
  struct State;
  static void Run(const std::shared_ptr<State>& state);

  // Shared with the thread, which is left behind where a write never returns.
  const std::shared_ptr<State> state_;
  std::thread thread_;
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_LOG_WRITER_H_
