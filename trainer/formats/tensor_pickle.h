// The pickle inside a PyTorch checkpoint, read without executing anything: a strict parser of what
// torch.save writes for a state dictionary (name -> tensor), and of nothing else.

#ifndef MAMBAD_TRAINER_FORMATS_TENSOR_PICKLE_H_
#define MAMBAD_TRAINER_FORMATS_TENSOR_PICKLE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/types/span.h"

namespace mambad::trainer {

// A view of a storage. Sizes and strides are checked to stay within the storage's numbers.
struct PickledTensor {
  std::string element;  // as the storage class is called: "Float", "BFloat16", "Half", "Long", ...
  std::string storage;  // the entry "data/<storage>" of the archive
  int64_t storage_numbers = 0;
  int64_t offset = 0;  // numbers
  std::vector<int64_t> shape, strides;
};

// Throws std::runtime_error, beginning with `source`: an opcode, a class or a protocol that is not
// known here is named; so is an entry that is no tensor. Bounded in memory (some 200 MB whatever
// the bytes say) and linear in time.
std::map<std::string, PickledTensor> ReadTensorPickle(const std::string& source,
                                                      absl::Span<const std::byte> pickle);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_FORMATS_TENSOR_PICKLE_H_
