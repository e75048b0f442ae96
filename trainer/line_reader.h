// Lines of a text file, plain, gzip (.gz) or xz (.xz), and whether they are JSON Lines.

#ifndef MAMBAD_TRAINER_LINE_READER_H_
#define MAMBAD_TRAINER_LINE_READER_H_

#include <cstdint>
#include <memory>
#include <string>

namespace mambad::trainer {

// One thread. Throws std::runtime_error with the path: not readable, damaged compression, a line
// longer than 64 MiB.
class LineReader {
 public:
  explicit LineReader(const std::string& path);
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  // The next line without its line feed (and without a carriage return before it); false at the
  // end. A last line without line feed counts. UTF-8's byte order mark before the first line is not
  // part of it.
  bool Next(std::string* line);
  // Of the line last returned, from 1.
  int64_t line_number() const { return line_number_; }
  const std::string& path() const { return path_; }
  // One JSON object a line: a file whose name ends in .json or .jsonl (before .gz or .xz), and any
  // other whose first character other than space is '{', once that line was returned.
  bool json_lines() const { return json_lines_; }

 private:
  class Source;
  class GzipSource;
  class XzSource;
  bool Fill();

  std::string path_;
  std::unique_ptr<Source> source_;
  std::string buffer_;
  size_t position_ = 0;
  int64_t line_number_ = 0;
  bool json_lines_ = false, kind_known_ = false;
};

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_LINE_READER_H_
