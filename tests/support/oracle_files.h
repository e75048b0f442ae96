// The oracle's own reading of a model directory: safetensors and config files by the plainest
// means, on purpose without engine/checkpoint, so that names, shapes and row orders get a second
// opinion. For small, trusted test models only.

#ifndef MAMBAD_TESTS_SUPPORT_ORACLE_FILES_H_
#define MAMBAD_TESTS_SUPPORT_ORACLE_FILES_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace mambad::oracle {

// A tensor as the file has it; float32, float16 and bfloat16 values are exact in double.
struct Tensor {
  std::vector<int64_t> shape;
  std::vector<double> values;
};

// All tensors of all *.safetensors files of a directory, and who asked for which.
class TensorFiles {
 public:
  static absl::StatusOr<TensorFiles> Read(const std::string& directory);

  bool Has(const std::string& name) const { return tensors_.contains(name); }
  // The tensor, whose shape must be `shape`. NOT_FOUND, or INVALID_ARGUMENT with both shapes.
  absl::StatusOr<Tensor> Take(const std::string& name, const std::vector<int64_t>& shape);
  // Nobody needs this one, but it may be there.
  void Ignore(const std::string& name) { taken_.insert(name); }
  // FAILED_PRECONDITION naming a tensor that nobody took.
  absl::Status CheckAllTaken() const;

 private:
  absl::Status ReadOne(const std::string& path);

  std::map<std::string, Tensor> tensors_;
  std::set<std::string> taken_;
};

// A JSON object; the unquoted Infinity that Python writes reads as 1e308.
absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path);
bool FileExists(const std::string& path);

}  // namespace mambad::oracle

#endif  // MAMBAD_TESTS_SUPPORT_ORACLE_FILES_H_
