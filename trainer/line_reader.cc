#include "trainer/line_reader.h"

#include <lzma.h>
#include <sys/stat.h>
#include <zlib.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <stdexcept>

namespace mambad::trainer {
namespace {

constexpr size_t kChunkBytes = size_t{1} << 18;
constexpr size_t kMaximumLineBytes = size_t{64} << 20;

bool EndsWith(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

constexpr char kByteOrderMark[] = "\xEF\xBB\xBF";

bool NamesJsonLines(std::string path) {
  std::transform(path.begin(), path.end(), path.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (EndsWith(path, ".gz") || EndsWith(path, ".xz")) path.resize(path.size() - 3);
  return EndsWith(path, ".json") || EndsWith(path, ".jsonl");
}

}  // namespace

class LineReader::Source {
 public:
  virtual ~Source() = default;
  // Up to `capacity` bytes; 0 at the end. Throws when the file is damaged.
  virtual size_t Read(char* out, size_t capacity) = 0;
};

// zlib reads files without gzip's magic as they are: plain text takes the same way.
class LineReader::GzipSource : public LineReader::Source {
 public:
  explicit GzipSource(const std::string& path) : path_(path), file_(gzopen(path.c_str(), "rb")) {
    if (file_ == nullptr) throw std::runtime_error(path + ": " + std::strerror(errno));
    gzbuffer(file_, static_cast<unsigned>(kChunkBytes));
  }
  ~GzipSource() override { gzclose(file_); }
  size_t Read(char* out, size_t capacity) override {
    const int count = gzread(file_, out, static_cast<unsigned>(capacity));
    int code = Z_OK;
    const char* message = gzerror(file_, &code);
    // A stream that ends too early is reported as a buffer error after the bytes that were there.
    if (count < 0 || (code != Z_OK && code != Z_STREAM_END)) {
      throw std::runtime_error(path_ + ": damaged gzip data: " + message);
    }
    return static_cast<size_t>(count);
  }

 private:
  std::string path_;
  gzFile file_;
};

class LineReader::XzSource : public LineReader::Source {
 public:
  explicit XzSource(const std::string& path) : path_(path), file_(std::fopen(path.c_str(), "rb")) {
    if (file_ == nullptr) throw std::runtime_error(path + ": " + std::strerror(errno));
    if (lzma_stream_decoder(&stream_, uint64_t{1} << 30, LZMA_CONCATENATED) != LZMA_OK) {
      std::fclose(file_);
      throw std::runtime_error(path + ": no xz decoder");
    }
  }
  ~XzSource() override {
    lzma_end(&stream_);
    std::fclose(file_);
  }
  size_t Read(char* out, size_t capacity) override {
    stream_.next_out = reinterpret_cast<uint8_t*>(out);
    stream_.avail_out = capacity;
    while (stream_.avail_out == capacity && !finished_) {
      if (stream_.avail_in == 0) {
        stream_.next_in = input_;
        stream_.avail_in = std::fread(input_, 1, sizeof(input_), file_);
      }
      const lzma_ret result = lzma_code(&stream_, stream_.avail_in == 0 ? LZMA_FINISH : LZMA_RUN);
      if (result == LZMA_STREAM_END)
        finished_ = true;
      else if (result != LZMA_OK)
        throw std::runtime_error(path_ + ": damaged xz data");
    }
    return capacity - stream_.avail_out;
  }

 private:
  std::string path_;
  std::FILE* file_;
  lzma_stream stream_ = LZMA_STREAM_INIT;
  uint8_t input_[1 << 16];
  bool finished_ = false;
};

LineReader::LineReader(const std::string& path)
    : path_(path), json_lines_(NamesJsonLines(path)), kind_known_(json_lines_) {
  struct stat status;
  if (stat(path.c_str(), &status) != 0) {
    throw std::runtime_error(path + ": " + std::strerror(errno));
  }
  if (!S_ISREG(status.st_mode)) throw std::runtime_error(path + ": not a regular file");
  if (EndsWith(path, ".xz"))
    source_ = std::make_unique<XzSource>(path);
  else
    source_ = std::make_unique<GzipSource>(path);
}

LineReader::~LineReader() = default;

bool LineReader::Fill() {
  buffer_.erase(0, position_);
  position_ = 0;
  const size_t kept = buffer_.size();
  if (kept > kMaximumLineBytes) {
    throw std::runtime_error(path_ + ":" + std::to_string(line_number_ + 1) +
                             ": a line longer than 64 MiB");
  }
  buffer_.resize(kept + kChunkBytes);
  const size_t count = source_->Read(buffer_.data() + kept, kChunkBytes);
  buffer_.resize(kept + count);
  return count > 0;
}

bool LineReader::Next(std::string* line) {
  size_t searched = position_;
  for (;;) {
    const size_t end = buffer_.find('\n', searched);
    if (end != std::string::npos) {
      line->assign(buffer_, position_, end - position_);
      position_ = end + 1;
      break;
    }
    searched = buffer_.size() - position_;
    if (!Fill()) {
      if (buffer_.empty()) return false;
      line->swap(buffer_);
      buffer_.clear();
      break;
    }
  }
  if (!line->empty() && line->back() == '\r') line->pop_back();
  if (++line_number_ == 1 && line->starts_with(kByteOrderMark)) line->erase(0, 3);
  const size_t first = kind_known_ ? std::string::npos : line->find_first_not_of(" \t");
  if (first != std::string::npos) {
    json_lines_ = (*line)[first] == '{';
    kind_known_ = true;
  }
  return true;
}

}  // namespace mambad::trainer
