#include "trainer/metrics_writer.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"

namespace mambad::trainer {
namespace {

using nlohmann::json;

[[noreturn]] void Fail(const std::string& path) {
  throw std::runtime_error(path + ": cannot be written: " + std::strerror(errno));
}

double WallTime() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

template <typename T>
void AppendRaw(T value, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void AppendVarint(uint64_t value, std::string* out) {
  for (; value >= 128; value >>= 7) out->push_back(static_cast<char>(value | 128));
  out->push_back(static_cast<char>(value));
}

// Protobuf wire types: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes.
void AppendTag(int field, int type, std::string* out) {
  AppendVarint(static_cast<uint64_t>(field) << 3 | type, out);
}

void AppendBytes(int field, const std::string& bytes, std::string* out) {
  AppendTag(field, 2, out);
  AppendVarint(bytes.size(), out);
  *out += bytes;
}

// Keeps the whole lines of steps up to `step`; what a kill left of a line is dropped as well.
// Returns how many there are of `step` itself.
int64_t KeepLinesUpTo(const std::string& path, int64_t step) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return 0;
  int64_t lines_of_step = 0;
  std::uintmax_t kept = 0;
  std::string line;
  while (std::getline(in, line) && !in.eof()) {
    const json object = json::parse(line, nullptr, false);
    if (!object.is_object() || !object.contains("step") || !object["step"].is_number_integer() ||
        object["step"].get<int64_t>() > step) {
      break;
    }
    kept += line.size() + 1;
    lines_of_step += object["step"].get<int64_t>() == step;
  }
  std::error_code error;
  std::filesystem::resize_file(path, kept, error);
  if (error) throw std::runtime_error(path + ": cannot be cut: " + error.message());
  return lines_of_step;
}

std::string PrepareDirectory(const std::string& directory, int64_t resumed_step, bool* evaluated) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) throw std::runtime_error(directory + ": cannot be made: " + error.message());
  *evaluated = KeepLinesUpTo(directory + "/metrics.jsonl", resumed_step) >= 2;
  return directory + "/metrics.jsonl";
}

std::string Duration(double seconds) {
  const int64_t whole = std::llround(std::max(0.0, seconds));
  if (whole < 3600) return absl::StrFormat("%d:%02d", whole / 60, whole % 60);
  return absl::StrFormat("%d:%02d:%02d", whole / 3600, whole / 60 % 60, whole % 60);
}

}  // namespace

uint32_t Crc32c(const std::string& bytes) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> result;
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ (value & 1 ? 0x82f63b78u : 0u);
      result[i] = value;
    }
    return result;
  }();
  uint32_t crc = 0xffffffffu;
  for (const char byte : bytes) crc = (crc >> 8) ^ table[(crc ^ static_cast<uint8_t>(byte)) & 255];
  return ~crc;
}

uint32_t MaskedCrc32c(const std::string& bytes) {
  const uint32_t crc = Crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

EventFile::EventFile(const std::string& path, double wall_time)
    : path_(path), file_(std::fopen(path.c_str(), "wb")) {
  if (file_ == nullptr) Fail(path_);
  std::string event;
  AppendTag(1, 1, &event);
  AppendRaw(wall_time, &event);
  AppendBytes(3, "brain.Event:2", &event);  // file_version
  WriteRecord(event);
}

EventFile::~EventFile() {
  if (file_ != nullptr) std::fclose(file_);
}

void EventFile::WriteRecord(const std::string& event) {
  std::string length;
  AppendRaw<uint64_t>(event.size(), &length);
  std::string record = length;
  AppendRaw(MaskedCrc32c(length), &record);
  record += event;
  AppendRaw(MaskedCrc32c(event), &record);
  if (std::fwrite(record.data(), 1, record.size(), file_) != record.size() ||
      std::fflush(file_) != 0) {
    Fail(path_);
  }
}

void EventFile::Add(int64_t step, double wall_time, const Metrics& scalars) {
  std::string summary;
  for (const auto& [name, value] : scalars) {
    std::string entry;
    AppendBytes(1, name, &entry);  // tag
    AppendTag(2, 5, &entry);       // simple_value
    AppendRaw(static_cast<float>(value), &entry);
    AppendBytes(1, entry, &summary);
  }
  std::string event;
  AppendTag(1, 1, &event);
  AppendRaw(wall_time, &event);
  AppendTag(2, 0, &event);
  AppendVarint(static_cast<uint64_t>(step), &event);
  AppendBytes(5, summary, &event);
  WriteRecord(event);
}

MetricsWriter::MetricsWriter(const std::string& directory, int64_t resumed_step)
    : path_(PrepareDirectory(directory, resumed_step, &evaluated_)),
      file_(std::fopen(path_.c_str(), "ab")),
      events_(directory + absl::StrFormat("/events.out.tfevents.%010d.%d.mambad",
                                          static_cast<int64_t>(WallTime()), getpid()),
              WallTime()) {
  if (file_ == nullptr) Fail(path_);
}

MetricsWriter::~MetricsWriter() {
  if (file_ != nullptr) std::fclose(file_);
}

void MetricsWriter::Write(int64_t step, const Metrics& metrics) {
  json object = {{"step", step}};
  // JSON has no word for them; a text says more than null.
  for (const auto& [name, value] : metrics) {
    if (std::isfinite(value))
      object[name] = value;
    else
      object[name] = std::isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity";
  }
  const std::string line = object.dump() + "\n";
  if (std::fwrite(line.data(), 1, line.size(), file_) != line.size() || std::fflush(file_) != 0) {
    Fail(path_);
  }
  events_.Add(step, WallTime(), metrics);
}

Progress::Progress(std::FILE* out, std::string title, int64_t steps)
    : out_(out),
      title_(std::move(title)),
      steps_(steps),
      terminal_(out != nullptr && isatty(fileno(out)) == 1) {}

Progress::~Progress() {
  if (bar_shown_) std::fputc('\n', out_);
}

std::string Progress::LineOf(const Metrics& metrics, int64_t step, const std::string& pace) const {
  const std::string begin = absl::StrFormat("%s %d/%d", title_, step, steps_);
  std::vector<std::string> values;
  for (const auto& [name, value] : metrics) {
    values.push_back(absl::StrFormat("  %s %.5g", name, value));
  }
  if (!terminal_) return begin + absl::StrJoin(values, "") + pace;
  constexpr int64_t kBarWidth = 24;
  const int64_t full = steps_ > 0 ? kBarWidth * step / steps_ : 0;
  std::string bar = " [" + std::string(full, '#') + std::string(kBarWidth - full, '.') + "]";
  // Less than the last column, where some terminals begin a new line. What tells least goes first.
  winsize window = {};
  const bool known = ioctl(fileno(out_), TIOCGWINSZ, &window) == 0 && window.ws_col > 1;
  const size_t room = known ? window.ws_col - 1 : std::string::npos;
  const auto line = [&] { return begin + bar + absl::StrJoin(values, "") + pace; };
  if (line().size() > room) bar.clear();
  while (values.size() > 1 && line().size() > room) values.pop_back();
  return line().substr(0, room);
}

void Progress::Show(int64_t step, double tokens_per_second, double seconds_left,
                    const Metrics& metrics) {
  if (out_ == nullptr) return;
  const std::string line = LineOf(
      metrics, step,
      absl::StrFormat("  %.0f tokens/s  %s left", tokens_per_second, Duration(seconds_left)));
  // A shorter line leaves nothing of a longer one before it.
  if (terminal_)
    std::fprintf(out_, "\r\x1b[K%s", line.c_str());
  else
    std::fprintf(out_, "%s\n", line.c_str());
  std::fflush(out_);
  bar_shown_ = terminal_;
}

void Progress::Say(const std::string& words) {
  if (out_ == nullptr) return;
  std::fprintf(out_, "%s%s\n", bar_shown_ ? "\r\x1b[K" : "", words.c_str());
  std::fflush(out_);
  bar_shown_ = false;
}

}  // namespace mambad::trainer
