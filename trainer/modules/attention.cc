#include "trainer/modules/attention.h"

#include <ATen/ATen.h>

#include <optional>
#include <vector>

namespace mambad::trainer {
namespace {

using at::Tensor;

// [tokens, heads, head_width] -> [1, heads, tokens, head_width].
Tensor HeadsFirst(const Tensor& tensor) { return tensor.transpose(0, 1).unsqueeze(0); }

// bool [tokens, tokens]: true where token i may see token j.
Tensor WindowMask(int64_t tokens, int64_t window, const Tensor& like) {
  const Tensor all = at::ones({tokens, tokens}, like.options().dtype(at::kBool));
  return all.tril().triu(1 - window);
}

Tensor OneDocument(const Tensor& query, const Tensor& key, const Tensor& value, int64_t window) {
  const int64_t times = query.size(1) / key.size(1);
  const auto repeated = [&](const Tensor& tensor) {
    return HeadsFirst(times == 1 ? tensor : tensor.repeat_interleave(times, 1));
  };
  const bool cut = window > 0 && query.size(0) > window;
  std::optional<Tensor> mask;
  if (cut) mask = WindowMask(query.size(0), window, query);
  const Tensor mixed = at::scaled_dot_product_attention(
      HeadsFirst(query), repeated(key), repeated(value), mask, 0.0, /*is_causal=*/!cut);
  return mixed.squeeze(0).transpose(0, 1);
}

Tensor DocumentByDocument(const Tensor& query, const Tensor& key, const Tensor& value,
                          const TokenBatch& batch, int64_t window) {
  const std::vector<int32_t>& bounds = batch.document_bounds;
  std::vector<int64_t> lengths;
  for (size_t i = 1; i < bounds.size(); ++i) lengths.push_back(bounds[i] - bounds[i - 1]);
  const std::vector<Tensor> queries = query.split_with_sizes(lengths);
  const std::vector<Tensor> keys = key.split_with_sizes(lengths);
  const std::vector<Tensor> values = value.split_with_sizes(lengths);
  std::vector<Tensor> mixed;
  for (size_t i = 0; i < lengths.size(); ++i) {
    mixed.push_back(OneDocument(queries[i], keys[i], values[i], window));
  }
  return at::cat(mixed);
}

}  // namespace

Tensor CausalAttention(const Tensor& query, const Tensor& key, const Tensor& value,
                       const TokenBatch& batch, int64_t sliding_window) {
  const bool one_launch = query.is_cuda() && query.scalar_type() == at::kBFloat16 &&
                          query.size(2) % 8 == 0 && query.size(2) <= 256;
  if (!one_launch) {
    return DocumentByDocument(query, key, value, batch, sliding_window);
  }
  const Tensor& bounds = batch.device_document_bounds;
  std::optional<int64_t> before, after;
  if (sliding_window > 0) {
    before = sliding_window - 1;
    after = 0;
  }
  return std::get<0>(at::_flash_attention_forward(
      query, key, value, bounds, bounds, batch.longest_document, batch.longest_document,
      /*dropout_p=*/0.0, /*is_causal=*/true, /*return_debug_mask=*/false, /*scale=*/std::nullopt,
      before, after));
}

}  // namespace mambad::trainer
