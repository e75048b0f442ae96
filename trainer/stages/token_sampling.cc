#include "trainer/stages/token_sampling.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <tuple>

namespace mambad::trainer {
namespace {

// The head of a distribution that is usually enough for top_p, and much cheaper to sort.
constexpr int64_t kUsualCandidates = 512;

// Where `uniforms` of the mass of `weights` [sequences, n] lie.
at::Tensor PlaceOf(const at::Tensor& weights, const at::Tensor& uniforms) {
  const at::Tensor sums = weights.cumsum(1);
  const at::Tensor mass = sums.slice(1, sums.size(1) - 1);
  const at::Tensor place = (sums <= uniforms.unsqueeze(1) * mass).sum(1);
  return place.clamp_max(weights.size(1) - 1).unsqueeze(1);
}

}  // namespace

at::Tensor DrawTokens(const at::Tensor& logits, const at::Tensor& temperatures,
                      const at::Tensor& uniforms, double top_p) {
  const at::Tensor greedy = temperatures <= 0;
  const at::Tensor divisor = at::where(greedy, at::ones_like(temperatures), temperatures);
  const at::Tensor probabilities = (logits / divisor.unsqueeze(1)).softmax(1);
  at::Tensor drawn;
  if (top_p >= 1) {
    drawn = PlaceOf(probabilities, uniforms);
  } else {
    int64_t candidates = std::min(kUsualCandidates, logits.size(1));
    auto [weights, ids] = probabilities.topk(candidates, 1);
    if (candidates < logits.size(1) && (weights.sum(1) < top_p).any().item<bool>()) {
      std::tie(weights, ids) = probabilities.sort(/*dim=*/1, /*descending=*/true);
    }
    const at::Tensor before = weights.cumsum(1) - weights;
    drawn = ids.gather(1, PlaceOf(weights * (before < top_p), uniforms));
  }
  return at::where(greedy, logits.argmax(1), drawn.squeeze(1));
}

}  // namespace mambad::trainer
