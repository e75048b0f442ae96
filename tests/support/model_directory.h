// Writes model directories for tests: tensors as safetensors in any stored type, in one file or in
// shards with an index, and any text files beside them. Knows nothing of families or of
// engine/checkpoint.

#ifndef MAMBAD_TESTS_SUPPORT_MODEL_DIRECTORY_H_
#define MAMBAD_TESTS_SUPPORT_MODEL_DIRECTORY_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace mambad::testing {

enum class StoredAs { kFloat32, kFloat16, kBFloat16 };

// A fresh folder that goes away, with all in it, when the object does.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

class ModelDirectory {
 public:
  void AddTensor(const std::string& name, std::vector<int64_t> shape, std::vector<float> values);
  void AddFile(const std::string& name, std::string contents) {
    files_[name] = std::move(contents);
  }

  // Into the existing folder `path`. Tensors are spread over `shards` files in the order of their
  // names; with more than one there is an index too. A failed write aborts the test program.
  void Write(const std::string& path, StoredAs stored, int shards = 1) const;

 private:
  struct Tensor {
    std::vector<int64_t> shape;
    std::vector<float> values;
  };
  std::string Pack(const std::vector<std::string>& names, StoredAs stored) const;

  std::map<std::string, Tensor> tensors_;
  std::map<std::string, std::string> files_;
};

}  // namespace mambad::testing

#endif  // MAMBAD_TESTS_SUPPORT_MODEL_DIRECTORY_H_
