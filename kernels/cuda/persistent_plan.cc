#include "kernels/cuda/persistent_plan.h"

#include <algorithm>
#include <limits>

namespace mambad::kernels::cuda {
namespace {

constexpr int16_t kAllRounds = std::numeric_limits<int16_t>::max();

// The panels of a matrix from row `row` on.
const uint4* PanelsFrom(const WeightMatrix& matrix, int64_t row) {
  const int64_t lanes = 32;
  return matrix.packed.as<const uint4>() + row / kTileRows * Steps(matrix.columns) * lanes;
}

PassStep StepOf(const WeightMatrix& matrix, PassAction action, PassSplit split, int blocks) {
  PassStep step;
  step.weights = PanelsFrom(matrix, 0);
  step.units = static_cast<int32_t>(Panels(matrix.rows)) * (split == PassSplit::kEighth ? 8 : 1);
  step.steps = static_cast<int16_t>(Steps(matrix.columns));
  step.span = static_cast<int16_t>(blocks);
  step.end_round = kAllRounds;
  const int longest = LongestEighth(step.steps);
  step.pieces = static_cast<int8_t>((longest + kPieceSteps - 1) / kPieceSteps);
  step.piece_steps = static_cast<int8_t>((longest + step.pieces - 1) / step.pieces);
  step.split = split;
  step.action = action;
  return step;
}

PassMamba LayerOf(const MambaLayer& layer, const RecurrentState& state) {
  PassMamba of;
  of.state = state;
  of.epsilon = layer.norm.epsilon;
  of.norm_weight = layer.norm.weight;
  of.delta = layer.dt->packed.as<const uint4>();
  of.delta_steps = static_cast<int32_t>(Steps(layer.dt->columns));
  of.inner = layer.inner_width;
  of.state_size = layer.state_size;
  of.rank = layer.dt_rank;
  of.taps = layer.convolution_width;
  of.convolution = layer.convolution;
  of.convolution_bias = layer.convolution_bias;
  of.dt_bias = layer.dt_bias;
  of.a = layer.a;
  of.skip = layer.skip;
  return of;
}

}  // namespace

bool PassPlan::Takes(const MambaLayer& layer, int blocks) {
  const bool plain = layer.source_width == 0 && layer.groups == 1 && !layer.selection_norm &&
                     layer.in_bias == nullptr && layer.out_bias == nullptr;
  if (!plain) return false;
  for (const WeightMatrix* matrix : {layer.in, layer.select, layer.dt, layer.out}) {
    if (matrix->type != ElementType::kBFloat16) return false;
  }
  return layer.inner_width % kTileRows == 0 && layer.state_size <= kPassStateSize &&
         layer.convolution_width <= kPassTaps &&
         layer.inner_width / kTileRows <= blocks * kPassRounds &&
         Panels(layer.out->rows) <= blocks * kPassRounds;
}

bool PassPlan::Continues(const MambaLayer& layer) const {
  if (layers_.empty()) return true;
  const PassMamba& first = layers_.front();
  return layer.inner_width == first.inner && layer.state_size == first.state_size &&
         layer.dt_rank == first.rank;
}

bool PassPlan::Visits(const RecurrentState& state) const {
  return std::any_of(layers_.begin(), layers_.end(),
                     [&](const PassMamba& layer) { return layer.state.data == state.data; });
}

void PassPlan::AddMamba(const MambaLayer& layer, const RecurrentState& state) {
  PassStep x = StepOf(*layer.in, PassAction::kChannels, PassSplit::kPanel, blocks_);
  const int32_t panels = layer.inner_width / kTileRows;
  x.units = panels;
  x.end_round = kPassRounds;
  x.layer = static_cast<int16_t>(layers_.size());
  // Gates: one round while the others' x is on its way, the rest while dt_low is.
  PassStep first_gates = x;
  first_gates.action = PassAction::kGates;
  first_gates.weights = PanelsFrom(*layer.in, layer.inner_width);
  first_gates.end_round = 1;
  PassStep other_gates = first_gates;
  other_gates.first_round = 1;
  other_gates.end_round = kPassRounds;

  PassStep select = StepOf(*layer.select, PassAction::kSelect, PassSplit::kEighth, blocks_);
  PassStep scan = StepOf(*layer.dt, PassAction::kScan, PassSplit::kPanel, blocks_);
  scan.end_round = kPassRounds;
  PassStep out = StepOf(*layer.out, PassAction::kOutput, PassSplit::kPanel, blocks_);
  // Blocks with fewer channels take the first panels of the output; those with fewer of these, too,
  // are the first to select.
  const int32_t fewer = panels % blocks_;
  const int32_t fewest = std::max(fewer, (fewer + out.units) % blocks_);
  out.offset = static_cast<int16_t>(fewer);
  select.offset = static_cast<int16_t>(fewest);
  select.layer = scan.layer = out.layer = x.layer;
  for (const PassStep& step : {x, first_gates, select, other_gates, scan, out}) {
    steps_.push_back(step);
  }
  if (!layers_.empty()) layers_.back().next_norm_weight = layer.norm.weight;
  layers_.push_back(LayerOf(layer, state));
  residual_steps_ = x.steps;
  const auto rounds = [&](int64_t units) {
    return static_cast<int32_t>((units - 1) / blocks_ + 1);
  };
  rounds_ = std::max(rounds_, rounds(panels));
  output_rounds_ = std::max(output_rounds_, rounds(out.units));
  if (select.units > select.span) selections_ = kEighths;
  inner_steps_ = std::max<int32_t>(inner_steps_, out.steps);
  rank_steps_ = std::max<int32_t>(rank_steps_, scan.steps);
  select_stride_ = std::max(select_stride_, select.units / kEighths * kTileRows);
}

void PassPlan::AddHead(const NormWeights& norm, const WeightMatrix& head, const RowsView& logits) {
  PassStep step = StepOf(head, PassAction::kHead, PassSplit::kPanel, blocks_);
  step.layer = static_cast<int16_t>(layers_.size());
  steps_.push_back(step);
  if (!layers_.empty()) layers_.back().next_norm_weight = norm.weight;
  head_.norm = norm;
  head_.outputs = static_cast<int32_t>(head.rows);
  head_.logits = logits;
  residual_steps_ = step.steps;
}

void PassPlan::Describe(PassProgram& program) const {
  program.head = head_;
  program.step_count = static_cast<int32_t>(steps_.size());
  program.layer_count = static_cast<int32_t>(layers_.size());
  program.residual_steps = residual_steps_;
  program.inner_steps = inner_steps_;
  program.rank_steps = rank_steps_;
  program.select_stride = select_stride_;
  program.rounds = rounds_;
  program.output_rounds = output_rounds_;
  program.selections = selections_;
}

}  // namespace mambad::kernels::cuda
