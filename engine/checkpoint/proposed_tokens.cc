#include "engine/checkpoint/proposed_tokens.h"

#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/checkpoint/mapped_file.h"
#include "engine/checkpoint/safetensors.h"
#include "nlohmann/json.hpp"

namespace mambad::checkpoint {
namespace {

constexpr char kFile[] = "/proposed_tokens.json";
constexpr size_t kMaxBytes = 64 << 20;

// Takes entries one by one; there are never more than the vocabulary has tokens.
class Collector {
 public:
  Collector(const std::string& source, int64_t vocabulary)
      : source_(source), vocabulary_(vocabulary) {}

  bool Add(int64_t id) {
    const int64_t least = ids_.empty() ? 0 : int64_t{ids_.back()} + 1;
    if (id < least || id >= vocabulary_) return Refuse(absl::StrCat(id));
    ids_.push_back(static_cast<int32_t>(id));
    return true;
  }
  // The next entry is none. `found` is short.
  bool Refuse(const std::string& found) {
    std::string expected;
    if (ids_.empty()) {
      expected = absl::StrCat("a token id from 0 to ", vocabulary_ - 1);
    } else if (ids_.back() == vocabulary_ - 1) {
      expected = absl::StrCat("the end of the list after id ", ids_.back());
    } else {
      expected = absl::StrCat("a token id above ", ids_.back(), " and up to ", vocabulary_ - 1);
    }
    return Fail(absl::StrCat("[", ids_.size(), "]: ", found, " found, ", expected, " expected"));
  }
  bool Fail(const std::string& what) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(source_, ": ", what));
    return false;
  }
  absl::StatusOr<std::vector<int32_t>> Finish() {
    if (ids_.empty()) Fail("an empty list found, at least one token id expected");
    if (!status_.ok()) return status_;
    return std::move(ids_);
  }

 private:
  const std::string source_;
  const int64_t vocabulary_;
  std::vector<int32_t> ids_;
  absl::Status status_;
};

// Hands a JSON text's entries on as they are read: nothing of a hostile file is kept, and nothing
// nests.
class ListHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit ListHandler(Collector& ids) : ids_(ids) {}

  bool null() override { return Other("null"); }
  bool boolean(bool value) override { return Other(value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override {
    return inside_ ? ids_.Add(value) : Other("");
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > INT64_MAX) return Other(absl::StrCat(value));
    return number_integer(static_cast<number_integer_t>(value));
  }
  bool number_float(number_float_t, const string_t& digits) override {
    constexpr size_t kShown = 20;
    return Other(digits.size() > kShown ? digits.substr(0, kShown) + "..." : digits);
  }
  bool string(string_t&) override { return Other("a text"); }
  bool binary(binary_t&) override { return Other("bytes"); }
  bool start_object(size_t) override { return Other("an object"); }
  bool key(string_t&) override { return false; }
  bool end_object() override { return false; }
  bool start_array(size_t) override {
    if (inside_) return Other("a list");
    inside_ = true;
    return true;
  }
  bool end_array() override { return true; }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    return ids_.Fail(absl::StrCat("not valid JSON at byte ", position));
  }

 private:
  bool Other(const std::string& found) {
    return inside_ ? ids_.Refuse(found) : ids_.Fail("a JSON array of token ids expected");
  }

  Collector& ids_;
  bool inside_ = false;
};

}  // namespace

absl::StatusOr<std::vector<int32_t>> CheckedProposedTokens(const std::string& source,
                                                           absl::Span<const int64_t> ids,
                                                           int64_t vocabulary) {
  Collector collector(source, vocabulary);
  for (const int64_t id : ids) {
    if (!collector.Add(id)) break;
  }
  return collector.Finish();
}

absl::StatusOr<std::vector<int32_t>> ReadProposedTokens(const std::string& directory,
                                                        int64_t vocabulary) {
  if (directory.empty()) return std::vector<int32_t>();
  const std::string path = absl::StrCat(directory, kFile);
  const absl::StatusOr<MappedFile> file = MappedFile::Open(path);
  if (absl::IsNotFound(file.status())) return std::vector<int32_t>();
  if (!file.ok()) return file.status();
  const absl::Span<const std::byte> bytes = file->bytes();
  if (bytes.size() > kMaxBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", bytes.size(), " bytes found, at most ", kMaxBytes, " expected"));
  }
  Collector collector(path, vocabulary);
  ListHandler handler(collector);
  const char* text = reinterpret_cast<const char*>(bytes.data());
  nlohmann::json::sax_parse(text, text + bytes.size(), &handler);
  return collector.Finish();
}

absl::Status WriteProposedTokens(const std::string& directory, absl::Span<const int32_t> ids) {
  const std::string path = absl::StrCat(directory, kFile);
  if (ids.empty()) {
    if (unlink(path.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
    return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot be removed"));
  }
  const std::string text = absl::StrCat("[", absl::StrJoin(ids, ", "), "]\n");
  const absl::Span<const std::byte> piece(reinterpret_cast<const std::byte*>(text.data()),
                                          text.size());
  return WriteFileAtomically(path, {piece});
}

}  // namespace mambad::checkpoint
