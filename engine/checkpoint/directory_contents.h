// The names in a directory: what tells what was brought when a model's files are not all there.

#ifndef MAMBAD_ENGINE_CHECKPOINT_DIRECTORY_CONTENTS_H_
#define MAMBAD_ENGINE_CHECKPOINT_DIRECTORY_CONTENTS_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace mambad::checkpoint {

class DirectoryContents {
 public:
  // Of at most some ten thousand entries. Errors of the system with the path.
  static absl::StatusOr<DirectoryContents> Read(const std::string& directory);

  const std::string& path() const { return path_; }
  std::string PathOf(const std::string& name) const { return path_ + "/" + name; }
  bool empty() const { return names_.empty(); }
  bool Has(const std::string& name) const;
  // In order of their names; endings are compared without regard to capitals.
  std::vector<std::string> EndingWith(const std::string& ending) const;
  const std::vector<std::string>& names() const { return names_; }

 private:
  std::string path_;
  std::vector<std::string> names_;
};

// A name of a set of files: "model-00002-of-00003.gguf" is the second of three of "model".
struct PartName {
  std::string stem;    // "model"
  std::string ending;  // ".gguf"
  int number = 0;      // from 1
  int count = 0;

  // The name of another one of the set.
  std::string Name(int other) const;
};
// Nothing when the name is none of these, or says 3 of 2.
std::optional<PartName> ParsePartName(const std::string& name, const std::string& ending);

// Files that belong together: one, or the parts of a set that are there.
struct FileSet {
  std::vector<std::string> names;    // that are there, in order
  std::vector<std::string> missing;  // of the set
};
std::vector<FileSet> FileSetsOf(const std::vector<std::string>& names, const std::string& ending);

// `"a", "b" and 3 more`: names in quotes, for messages.
std::string NamesText(const std::vector<std::string>& names);

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_DIRECTORY_CONTENTS_H_
