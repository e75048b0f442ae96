#include "trainer/token_batch.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>

namespace mambad::trainer {
namespace {

// Pinned memory on the way to a CUDA device: the copy is queued and the host goes on.
template <typename T>
at::Tensor Moved(const std::vector<T>& values, at::ScalarType type, at::IntArrayRef shape,
                 at::Device device) {
  const bool cuda = device.is_cuda();
  at::Tensor host = at::empty(shape, at::TensorOptions().dtype(type).pinned_memory(cuda));
  if (!values.empty()) std::memcpy(host.data_ptr(), values.data(), values.size() * sizeof(T));
  return cuda ? host.to(device, /*non_blocking=*/true) : host;
}

}  // namespace

TokenBatch MoveToDevice(const PackedBatch& batch, at::Device device) {
  const auto moved = [&](const auto& values, at::ScalarType type) {
    return Moved(values, type, {batch.rows, batch.row_tokens}, device);
  };
  TokenBatch result;
  result.token_ids = moved(batch.token_ids, at::kLong);
  result.target_ids = moved(batch.target_ids, at::kLong);
  result.positions = moved(batch.positions, at::kLong);
  result.document_start = moved(batch.document_start, at::kBool);
  result.loss_mask = moved(batch.loss_mask, at::kByte).to(at::kFloat);
  std::vector<int32_t>& bounds = result.document_bounds;
  const int64_t tokens = batch.rows * batch.row_tokens;
  for (int64_t token = 0; token < tokens; ++token) {
    if (token % batch.row_tokens == 0 || batch.document_start[token] != 0) {
      bounds.push_back(static_cast<int32_t>(token));
    }
  }
  bounds.push_back(static_cast<int32_t>(tokens));
  for (size_t i = 1; i < bounds.size(); ++i) {
    result.longest_document = std::max<int64_t>(result.longest_document, bounds[i] - bounds[i - 1]);
  }
  if (device.is_cuda()) {
    result.device_document_bounds =
        Moved(bounds, at::kInt, {static_cast<int64_t>(bounds.size())}, device);
  }
  return result;
}

}  // namespace mambad::trainer
