#include "trainer/modules/mixers.h"

#include <ATen/ATen.h>

#include "trainer/modules/attention.h"
#include "trainer/scan_function.h"

namespace mambad::trainer {

using at::Tensor;
using checkpoint::AttentionConfig;
using checkpoint::Mamba2Config;
using checkpoint::MambaConfig;
using checkpoint::MixerKind;
using checkpoint::Role;

namespace {

// Cuts columns one after the other; those beyond (of a padded product) are left out.
std::vector<Tensor> SplitColumns(const Tensor& input, std::vector<int64_t> sizes) {
  int64_t total = 0;
  for (const int64_t size : sizes) total += size;
  const size_t wanted = sizes.size();
  if (total < input.size(1)) sizes.push_back(input.size(1) - total);
  std::vector<Tensor> parts = input.split_with_sizes(sizes, 1);
  parts.resize(wanted);
  return parts;
}

Tensor Convolve(const LanguageModel& model, int layer, const Tensor& input,
                const BlockContext& context) {
  return ConvolutionSilu(input, model.Find(Role::kConvolution, layer),
                         model.Find(Role::kConvolutionBias, layer), context.batch.document_start);
}

Tensor Product(const Tensor& input, const Tensor& matrix) { return at::mm(input, matrix.t()); }

// With the bias where the model has one.
Tensor BiasedProduct(const LanguageModel& model, int layer, const Tensor& input, Role matrix,
                     Role bias) {
  const Tensor product = Product(input, model.Find(matrix, layer));
  const Tensor added = model.Find(bias, layer);
  return added.defined() ? AddBiases(product, {added}) : product;
}

// What comes of in_proj.
Tensor WithInBias(const LanguageModel& model, int layer, const Tensor& product) {
  const Tensor bias = model.Find(Role::kMambaInBias, layer);
  return bias.defined() ? AddBiases(product, {bias}) : product;
}

}  // namespace

Tensor RepeatGroups(const Tensor& input, int64_t size, int64_t times) {
  if (times == 1) return input;
  const int64_t groups = input.size(1) / size;
  return input.unflatten(1, {groups, 1, size})
      .expand({input.size(0), groups, times, size})
      .reshape({input.size(0), groups * times * size});
}

// ---- attention ---------------------------------------------------------------------------------

AttentionParts ProjectAttention(const LanguageModel& model, int layer, const Tensor& input) {
  const AttentionConfig& attention = model.config().attention;
  const int64_t query = int64_t{attention.query_heads} * attention.head_width;
  const int64_t key = int64_t{attention.key_value_heads} * attention.head_width;
  const bool fused = model.config().fused_attention[layer];
  Tensor product = fused ? FusedProduct(input, {model.Find(Role::kAttentionFused, layer)})
                         : FusedProduct(input, {model.Find(Role::kAttentionQuery, layer),
                                                model.Find(Role::kAttentionKey, layer),
                                                model.Find(Role::kAttentionValue, layer)});
  if (attention.bias) {
    product = AddBiases(product, {model.Find(Role::kAttentionQueryBias, layer),
                                  model.Find(Role::kAttentionKeyBias, layer),
                                  model.Find(Role::kAttentionValueBias, layer)});
  }
  std::vector<Tensor> parts = SplitColumns(product, {query, key, key});
  if (attention.head_norm) {
    const double epsilon = model.config().norm_epsilon;
    parts[0] = NormHeads(parts[0], model.Find(Role::kAttentionQueryNorm, layer), epsilon);
    parts[1] = NormHeads(parts[1], model.Find(Role::kAttentionKeyNorm, layer), epsilon);
  }
  const double factor = fused ? 1.0 : attention.rope.attention_factor;
  if (factor != 1) parts[0] = parts[0] * (factor * factor);
  return {parts[0], parts[1], parts[2]};
}

Tensor AttentionOutput(const LanguageModel& model, int layer, const Tensor& mixed) {
  return BiasedProduct(model, layer, mixed, Role::kAttentionOutput, Role::kAttentionOutputBias);
}

Tensor RecurrentOutput(const LanguageModel& model, int layer, const Tensor& y) {
  return BiasedProduct(model, layer, y, Role::kMambaOut, Role::kMambaOutBias);
}

Tensor AttentionMixer(const LanguageModel& model, int layer, const Tensor& input,
                      const BlockContext& context) {
  const AttentionConfig& attention = model.config().attention;
  const bool fused = model.config().fused_attention[layer];
  const AttentionParts parts = ProjectAttention(model, layer, input);
  const auto [query, key] =
      Rotate(parts.query, parts.key, fused ? context.fused_rotation : context.rotation);
  const Tensor value = parts.value.unflatten(1, {attention.key_value_heads, attention.head_width});
  const Tensor mixed =
      CausalAttention(query, key, value, context.batch, model.config().SlidingWindow(layer));
  return AttentionOutput(model, layer, mixed.flatten(1));
}

// ---- Mamba-1 -----------------------------------------------------------------------------------

MambaParts ProjectMamba(const LanguageModel& model, int layer, const Tensor& input) {
  const MambaConfig& mamba = model.config().mamba;
  const int64_t inner = mamba.inner_width, source = mamba.source_width;
  if (source == 0) {
    const Tensor product =
        WithInBias(model, layer, FusedProduct(input, {model.Find(Role::kMambaIn, layer)}));
    const std::vector<Tensor> parts = SplitColumns(product, {inner, inner});
    return {parts[1], parts[0], Tensor(), Tensor(), Tensor()};
  }
  const bool fused = model.config().fused_mamba[layer];
  const Tensor product =
      fused ? FusedProduct(input, {model.Find(Role::kMambaIn, layer)})
            : FusedProduct(input,
                           {model.Find(Role::kMambaInZ, layer), model.Find(Role::kMambaInX, layer),
                            model.Find(Role::kMambaInB, layer), model.Find(Role::kMambaInC, layer),
                            model.Find(Role::kMambaInDt, layer)});
  std::vector<Tensor> parts = SplitColumns(product, {inner, source, source, inner, mamba.dt_rank});
  if (mamba.repeat_before_convolution) {
    parts[1] = RepeatGroups(parts[1], mamba.state_size, inner / source);
  }
  return {parts[0], parts[1], parts[2], parts[3], parts[4]};
}

Tensor SelectMamba(const LanguageModel& model, int layer, const Tensor& convolved,
                   MambaParts* parts) {
  const MambaConfig& mamba = model.config().mamba;
  parts->x = convolved;
  if (mamba.source_width == 0) {
    const Tensor selected = FusedProduct(convolved, {model.Find(Role::kMambaSelect, layer)});
    std::vector<Tensor> pieces =
        SplitColumns(selected, {mamba.dt_rank, mamba.state_size, mamba.state_size});
    if (mamba.selection_norm) {
      for (Tensor& piece : pieces) {
        const Tensor ones =
            at::ones({piece.size(1)}, piece.options().dtype(WideType(piece.scalar_type())));
        piece = NormHeads(piece, ones, mamba.selection_norm_epsilon);
      }
    }
    parts->low = pieces[0];
    parts->b = pieces[1];
    parts->c = pieces[2];
  } else if (!mamba.repeat_before_convolution) {
    parts->x = RepeatGroups(convolved, mamba.state_size, mamba.inner_width / mamba.source_width);
  }
  return Product(parts->low, model.Find(Role::kMambaDt, layer));
}

Tensor MambaMixer(const LanguageModel& model, int layer, const Tensor& input,
                  const BlockContext& context) {
  MambaParts parts = ProjectMamba(model, layer, input);
  const Tensor convolved = Convolve(model, layer, parts.x, context);
  SelectiveScanInputs scan;
  scan.delta = SelectMamba(model, layer, convolved, &parts);
  scan.x = parts.x;
  scan.b = parts.b;
  scan.c = parts.c;
  scan.z = parts.gate;
  scan.a_log = model.Find(Role::kMambaALog, layer);
  scan.skip = model.Find(Role::kMambaD, layer);
  scan.dt_bias = model.Find(Role::kMambaDtBias, layer);
  return RecurrentOutput(model, layer, SelectiveScan(scan, context.batch.document_start));
}

// ---- Mamba-2 -----------------------------------------------------------------------------------

namespace {

struct Mamba2Widths {
  int64_t x, b, c;
};
// In the product, before any repeat.
Mamba2Widths ProjectedWidths(const Mamba2Config& mamba) {
  const int64_t groups = int64_t{mamba.groups} * mamba.state_size;
  if (mamba.source_width > 0) return {mamba.source_width, mamba.source_width, groups};
  return {mamba.inner_width, groups, groups};
}

bool RepeatsBefore(const Mamba2Config& mamba) {
  return mamba.source_width > 0 && mamba.repeat_before_convolution;
}

}  // namespace

Mamba2Parts ProjectMamba2(const LanguageModel& model, int layer, const Tensor& input) {
  const Mamba2Config& mamba = model.config().mamba2;
  const Mamba2Widths widths = ProjectedWidths(mamba);
  const int64_t inner = mamba.inner_width;
  const Tensor product =
      WithInBias(model, layer, FusedProduct(input, {model.Find(Role::kMamba2In, layer)}));
  if (!RepeatsBefore(mamba)) {
    const std::vector<Tensor> parts =
        SplitColumns(product, {inner, widths.x + widths.b + widths.c, mamba.heads});
    return {parts[0], parts[1], parts[2]};
  }
  const std::vector<Tensor> parts =
      SplitColumns(product, {inner, widths.x, widths.b, widths.c, mamba.heads});
  const int64_t times = inner / mamba.source_width;
  return {parts[0],
          at::cat({RepeatGroups(parts[1], mamba.state_size, times),
                   RepeatGroups(parts[2], mamba.state_size, times), parts[3]},
                  1),
          parts[4]};
}

Mamba2Sources SplitMamba2(const LanguageModel& model, const Tensor& convolved) {
  const Mamba2Config& mamba = model.config().mamba2;
  Mamba2Widths widths = ProjectedWidths(mamba);
  if (RepeatsBefore(mamba)) widths = {mamba.inner_width, widths.c, widths.c};
  const std::vector<Tensor> parts = SplitColumns(convolved, {widths.x, widths.b, widths.c});
  return {parts[0], parts[1], parts[2]};
}

Tensor Mamba2Mixer(const LanguageModel& model, int layer, const Tensor& input,
                   const BlockContext& context) {
  const Mamba2Config& mamba = model.config().mamba2;
  const Mamba2Parts parts = ProjectMamba2(model, layer, input);
  const Mamba2Sources sources =
      SplitMamba2(model, Convolve(model, layer, parts.convolution_input, context));
  Mamba2ScanInputs scan;
  scan.x = sources.x;
  scan.b = sources.b;
  scan.c = sources.c;
  scan.dt = parts.dt;
  scan.a_log = model.Find(Role::kMambaALog, layer);
  scan.skip = model.Find(Role::kMambaD, layer);
  scan.dt_bias = model.Find(Role::kMamba2DtBias, layer);
  scan.head_width = mamba.inner_width / mamba.heads;
  scan.state_size = mamba.state_size;
  scan.dt_minimum = mamba.dt_minimum;
  scan.dt_maximum = mamba.dt_maximum;
  const Tensor y = Mamba2Scan(scan, context.batch.document_start);
  const Tensor normed = GatedNorm(y, parts.gate, model.Find(Role::kMamba2Norm, layer), mamba.groups,
                                  mamba.norm_epsilon);
  return RecurrentOutput(model, layer, normed);
}

Tensor RunMixer(const LanguageModel& model, int layer, const Tensor& input,
                const BlockContext& context) {
  switch (model.config().mixers[layer]) {
    case MixerKind::kAttention:
      return AttentionMixer(model, layer, input, context);
    case MixerKind::kMamba:
      return MambaMixer(model, layer, input, context);
    case MixerKind::kMamba2:
      return Mamba2Mixer(model, layer, input, context);
  }
  return Tensor();
}

}  // namespace mambad::trainer
