// The checks that hold for every source of a configuration.

#include <algorithm>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/checkpoint/config_sections.h"
#include "engine/checkpoint/model_config_reader.h"

namespace mambad::checkpoint {
namespace {

// Keeps the first failure.
class Checks {
 public:
  explicit Checks(const std::string& source) : source_(source) {}

  void Bound(const char* what, int64_t value, int64_t low, int64_t high) {
    if (value >= low && value <= high) return;
    Fail(absl::StrCat(what, ": ", value, " found, ", low, " to ", high, " expected"));
  }
  void Divides(const char* what, int64_t part, int64_t whole) {
    if (part > 0 && whole % part == 0) return;
    Fail(absl::StrCat(what, ": ", part, " found, a divisor of ", whole, " expected"));
  }
  void Fail(const std::string& message) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(source_, ": ", message));
  }
  absl::Status status() const { return status_; }

 private:
  const std::string& source_;
  absl::Status status_;
};

void CheckAttention(Checks& checks, const AttentionConfig& attention) {
  checks.Bound("attention heads", attention.query_heads, 1, kMaxHeads);
  checks.Divides("key/value heads", attention.key_value_heads, attention.query_heads);
  checks.Bound("head width (head_dim)", attention.head_width, 2, kMaxHeadWidth);
  if (attention.head_width % 2 != 0) {
    checks.Fail(absl::StrCat("head width (head_dim): ", attention.head_width,
                             " found, an even number expected"));
  }
  if (attention.rope.scaling == RopeScalingKind::kDynamic && attention.head_width < 4) {
    checks.Fail(absl::StrCat("head width (head_dim): ", attention.head_width,
                             " found, 4 or more expected with rope_type dynamic"));
  }
  if (attention.rope.scaling == RopeScalingKind::kYarn && attention.rope.theta <= 1) {
    checks.Fail(absl::StrCat("rope_theta: ", attention.rope.theta,
                             " found, a number above 1 expected with rope_type yarn"));
  }
  checks.Bound("heads x head width", int64_t{attention.query_heads} * attention.head_width, 1,
               kMaxWidth);
}

// Source vectors of MambaInLlama are repeated by whole groups of `state` numbers.
void CheckRepeat(Checks& checks, int64_t state, int64_t source_width, int64_t inner) {
  if (source_width == 0) return;
  checks.Divides("state size (d_state)", state, inner);
  if (state < 1 || source_width % state != 0 || inner % source_width != 0) {
    checks.Fail(absl::StrCat("d_xb: ", source_width, " found, a multiple of d_state ", state,
                             " and divisor of d_inner ", inner, " expected"));
  }
}

void CheckMamba(Checks& checks, const MambaConfig& mamba) {
  checks.Bound("inner width (d_inner)", mamba.inner_width, 1, kMaxWidth);
  checks.Bound("state size (d_state)", mamba.state_size, 1, 256);
  checks.Bound("dt rank", mamba.dt_rank, 1, kMaxWidth);
  checks.Bound("convolution width", mamba.convolution_width, 1, kMaxTaps);
  CheckRepeat(checks, mamba.state_size, mamba.source_width, mamba.inner_width);
}

void CheckMamba2(Checks& checks, const Mamba2Config& mamba) {
  checks.Bound("inner width (d_inner)", mamba.inner_width, 1, kMaxWidth);
  checks.Bound("state size (d_state)", mamba.state_size, 1, kMaxState);
  checks.Bound("heads", mamba.heads, 1, kMaxHeads);
  checks.Divides("heads", mamba.heads, mamba.inner_width);
  checks.Divides("groups", mamba.groups, mamba.heads);
  checks.Bound("groups x state size", int64_t{mamba.groups} * mamba.state_size, 1, kMaxWidth);
  checks.Bound("convolution width", mamba.convolution_width, 1, kMaxTaps);
  checks.Bound("numbers in one head's state",
               int64_t{mamba.inner_width / std::max(1, mamba.heads)} * mamba.state_size, 1, 32768);
  CheckRepeat(checks, mamba.state_size, mamba.source_width, mamba.inner_width);
}

}  // namespace

absl::Status CheckModelConfig(const std::string& source, const ModelConfig& config) {
  Checks checks(source);
  checks.Bound("width", config.width, 1, kMaxWidth);
  checks.Bound("layers", config.layers, 1, kMaxLayers);
  checks.Bound("vocabulary, padded", config.padded_vocabulary, 1, kMaxVocabulary);
  checks.Bound("vocabulary", config.vocabulary, 1, config.padded_vocabulary);
  checks.Bound("MLP width", config.mlp_width, 0, kMaxWidth);
  const size_t layers = static_cast<size_t>(config.layers);
  if (config.mixers.size() != layers || config.fused_attention.size() != layers ||
      config.fused_mamba.size() != layers ||
      (!config.windowed.empty() && config.windowed.size() != layers)) {
    checks.Fail("one mixer a layer expected");
  }
  if (config.HasMixer(MixerKind::kAttention)) CheckAttention(checks, config.attention);
  if (config.HasMixer(MixerKind::kMamba)) CheckMamba(checks, config.mamba);
  if (config.HasMixer(MixerKind::kMamba2)) CheckMamba2(checks, config.mamba2);
  return checks.status();
}

}  // namespace mambad::checkpoint
