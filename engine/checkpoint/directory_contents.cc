#include "engine/checkpoint/directory_contents.h"

#include <dirent.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/checkpoint/error_text.h"

namespace mambad::checkpoint {

absl::StatusOr<DirectoryContents> DirectoryContents::Read(const std::string& directory) {
  constexpr size_t kMostNames = 20000;
  const std::unique_ptr<DIR, int (*)(DIR*)> open(opendir(directory.c_str()), closedir);
  if (open == nullptr) {
    return absl::ErrnoToStatus(errno, absl::StrCat(directory, ": cannot be read"));
  }
  DirectoryContents contents;
  contents.path_ = directory;
  while (contents.path_.size() > 1 && contents.path_.back() == '/') contents.path_.pop_back();
  while (const dirent* entry = readdir(open.get())) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") contents.names_.push_back(name);
    if (contents.names_.size() >= kMostNames) break;
  }
  std::sort(contents.names_.begin(), contents.names_.end());
  return contents;
}

bool DirectoryContents::Has(const std::string& name) const {
  return std::binary_search(names_.begin(), names_.end(), name);
}

std::vector<std::string> DirectoryContents::EndingWith(const std::string& ending) const {
  std::vector<std::string> found;
  std::copy_if(names_.begin(), names_.end(), std::back_inserter(found), [&](const auto& name) {
    return absl::EndsWithIgnoreCase(name, ending) && name[0] != '.';
  });
  return found;
}

// ---- sets of files -----------------------------------------------------------------------------

std::string PartName::Name(int other) const {
  return absl::StrFormat("%s-%05d-of-%05d%s", stem, other, count, ending);
}

std::optional<PartName> ParsePartName(const std::string& name, const std::string& ending) {
  constexpr size_t kNumbers = sizeof("-00001-of-00001") - 1;
  if (!absl::EndsWithIgnoreCase(name, ending)) return std::nullopt;
  const size_t end = name.size() - ending.size();
  if (end < kNumbers) return std::nullopt;
  const std::string numbers = name.substr(end - kNumbers, kNumbers);
  PartName part;
  part.stem = name.substr(0, end - kNumbers);
  part.ending = name.substr(end);
  const std::string number = numbers.substr(1, 5), count = numbers.substr(10, 5);
  const auto digits = [](const std::string& text) {
    return std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
  };
  if (numbers[0] != '-' || numbers.substr(6, 4) != "-of-" || !digits(number) || !digits(count) ||
      !absl::SimpleAtoi(number, &part.number) || !absl::SimpleAtoi(count, &part.count) ||
      part.number < 1 || part.number > part.count) {
    return std::nullopt;
  }
  return part;
}

std::vector<FileSet> FileSetsOf(const std::vector<std::string>& names, const std::string& ending) {
  std::vector<FileSet> sets;
  std::map<std::string, size_t> known;  // by the name of the first part
  for (const std::string& name : names) {
    const std::optional<PartName> part = ParsePartName(name, ending);
    if (!part.has_value()) {
      sets.push_back({{name}, {}});
      continue;
    }
    const auto [it, added] = known.emplace(part->Name(1), sets.size());
    if (!added) continue;
    FileSet& set = sets.emplace_back();
    for (int i = 1; i <= part->count; ++i) {
      const std::string other = part->Name(i);
      const bool there = std::find(names.begin(), names.end(), other) != names.end();
      (there ? set.names : set.missing).push_back(other);
    }
  }
  return sets;
}

std::string NamesText(const std::vector<std::string>& names) {
  constexpr size_t kShown = 6;
  std::string text;
  for (size_t i = 0; i < names.size() && i < kShown; ++i) {
    absl::StrAppend(&text, i == 0 ? "" : ", ", Quoted(names[i]));
  }
  if (names.size() > kShown) absl::StrAppend(&text, " and ", names.size() - kShown, " more");
  return text;
}

}  // namespace mambad::checkpoint
