// What a run tells while it goes: metrics.jsonl, TensorBoard event files, and lines for people.

#ifndef MAMBAD_TRAINER_METRICS_WRITER_H_
#define MAMBAD_TRAINER_METRICS_WRITER_H_

#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

namespace mambad::trainer {

using Metrics = std::vector<std::pair<std::string, double>>;

// CRC-32C (Castagnoli), as in RFC 3720; and as TensorBoard's records store it.
uint32_t Crc32c(const std::string& bytes);
uint32_t MaskedCrc32c(const std::string& bytes);

// One TensorBoard event file. A record: uint64 length, masked CRC of those 8 bytes, the event (a
// protobuf tensorflow.Event), masked CRC of the event.
class EventFile {
 public:
  // Throws std::runtime_error with the path.
  EventFile(const std::string& path, double wall_time);
  ~EventFile();
  EventFile(const EventFile&) = delete;
  EventFile& operator=(const EventFile&) = delete;
  void Add(int64_t step, double wall_time, const Metrics& scalars);

 private:
  void WriteRecord(const std::string& event);
  std::string path_;
  std::FILE* file_;
};

// Writes to `directory`/metrics.jsonl (one object a line: "step" and the metrics) and an event file
// beside it. One thread. Throws std::runtime_error with the path when the disk is full.
class MetricsWriter {
 public:
  // Lines of steps after `resumed_step` are dropped: they will be written again.
  MetricsWriter(const std::string& directory, int64_t resumed_step);
  ~MetricsWriter();
  MetricsWriter(const MetricsWriter&) = delete;
  MetricsWriter& operator=(const MetricsWriter&) = delete;
  void Write(int64_t step, const Metrics& metrics);
  // Whether what was kept has two lines of `resumed_step`: an evaluation's behind training's own.
  bool evaluated() const { return evaluated_; }

 private:
  bool evaluated_ = false;  // before path_, whose making finds it out
  std::string path_;
  std::FILE* file_;
  EventFile events_;
};

// A bar that stays on one line of a terminal, however narrow; plain lines elsewhere.
class Progress {
 public:
  // `out` not owned; a null `out` says nothing.
  Progress(std::FILE* out, std::string title, int64_t steps);
  ~Progress();
  void Show(int64_t step, double tokens_per_second, double seconds_left, const Metrics& metrics);
  // A line that remains.
  void Say(const std::string& words);

 private:
  std::string LineOf(const Metrics& metrics, int64_t step, const std::string& pace) const;

  std::FILE* out_;
  std::string title_;
  int64_t steps_;
  bool terminal_;
  bool bar_shown_ = false;
};

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_METRICS_WRITER_H_
