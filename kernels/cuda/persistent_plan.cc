#include "kernels/cuda/persistent_plan.h"

#include <algorithm>
#include <limits>

namespace mambad::kernels::cuda {
namespace {

constexpr int16_t kAllRounds = std::numeric_limits<int16_t>::max();

const uint4* Weights(const WeightMatrix& matrix) { return matrix.packed.as<const uint4>(); }

// Spreads units over blocks, and says in which pieces they are fetched.
void Spread(PassStep& step, int32_t units, int blocks) {
  step.units = units;
  step.whole_rounds = static_cast<int16_t>(units / blocks);
  const int rest = units % blocks;
  if (step.split == PassSplit::kPanel && rest > 0) {
    step.cuts = static_cast<int8_t>(rest * 4 <= blocks ? 2 : rest * 2 <= blocks ? 1 : 0);
  }
  const int longest = LongestEighth(step.steps);
  step.pieces = static_cast<int8_t>((longest + kPieceSteps - 1) / kPieceSteps);
  step.piece_steps = static_cast<int8_t>((longest + step.pieces - 1) / step.pieces);
}

PassStep StepOf(const WeightMatrix& matrix, PassAction action, PassSplit split, int blocks) {
  PassStep step;
  step.steps = static_cast<int16_t>(Steps(matrix.columns));
  step.span = static_cast<int16_t>(blocks);
  step.end_round = kAllRounds;
  step.split = split;
  step.action = action;
  const int64_t units = split == PassSplit::kEighth ? kEighths : 1;
  Spread(step, static_cast<int32_t>(Panels(matrix.rows) * units), blocks);
  return step;
}

PassMamba SizesOf(const MambaLayer& layer, const RecurrentState& state) {
  PassMamba of;
  of.state = state;
  of.state.data = nullptr;
  of.delta_steps = static_cast<int32_t>(Steps(layer.dt->columns));
  of.inner = layer.inner_width;
  of.state_size = layer.state_size;
  of.rank = layer.dt_rank;
  of.taps = layer.convolution_width;
  return of;
}

bool SameSlots(const RecurrentState& a, const RecurrentState& b) {
  const RecurrentSlotLayout &x = a.layout, &y = b.layout;
  return a.slot_stride == b.slot_stride && x.checkpoint == y.checkpoint && x.working == y.working &&
         x.ring == y.ring && x.replay == y.replay && x.replay_row == y.replay_row &&
         x.ring_rows == y.ring_rows;
}

PassLayer LayerOf(const MambaLayer& layer, const RecurrentState& state) {
  PassLayer of;
  of.products[0] = Weights(*layer.in);
  of.products[1] = Weights(*layer.select);
  of.products[2] = Weights(*layer.out);
  of.state = state.data;
  of.epsilon = layer.norm.epsilon;
  of.norm_weight = layer.norm.weight;
  of.delta = layer.dt->packed.as<const uint4>();
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

bool PassPlan::Continues(const MambaLayer& layer, const RecurrentState& state) const {
  return layers_.empty() ||
         (layer.inner_width == mamba_.inner && layer.state_size == mamba_.state_size &&
          layer.dt_rank == mamba_.rank && layer.convolution_width == mamba_.taps &&
          SameSlots(state, mamba_.state));
}

bool PassPlan::Visits(const RecurrentState& state) const {
  return std::any_of(layers_.begin(), layers_.end(),
                     [&](const PassLayer& layer) { return layer.state == state.data; });
}

void PassPlan::AddMamba(const MambaLayer& layer, const RecurrentState& state) {
  if (layers_.empty()) {
    SetSteps(layer);
    mamba_ = SizesOf(layer, state);
  } else {
    layers_.back().next_norm_weight = layer.norm.weight;
  }
  layers_.push_back(LayerOf(layer, state));
}

void PassPlan::SetSteps(const MambaLayer& layer) {
  PassStep x = StepOf(*layer.in, PassAction::kChannels, PassSplit::kPanel, blocks_);
  const int32_t panels = layer.inner_width / kTileRows;
  Spread(x, panels, blocks_);
  x.end_round = kPassRounds;
  // Gates: one round while the others' x is on its way, the rest while dt_low is.
  PassStep first_gates = x;
  first_gates.action = PassAction::kGates;
  first_gates.first_tile = panels * x.steps;
  first_gates.end_round = 1;
  PassStep other_gates = first_gates;
  other_gates.first_round = 1;
  other_gates.end_round = kPassRounds;

  PassStep select = StepOf(*layer.select, PassAction::kSelect, PassSplit::kEighth, blocks_);
  PassStep scan = StepOf(*layer.dt, PassAction::kScan, PassSplit::kPanel, blocks_);
  scan.end_round = kPassRounds;
  PassStep out = StepOf(*layer.out, PassAction::kOutput, PassSplit::kPanel, blocks_);
  // Blocks with fewer channels take the first panels of what is left of the output; those with
  // fewer of these, too, are the first to select.
  const int32_t fewer = (panels % blocks_) << x.cuts;
  const int32_t left = (out.units % blocks_) << out.cuts;
  out.offset = static_cast<int16_t>(fewer % blocks_);
  select.offset = static_cast<int16_t>(fewer + left <= blocks_ ? (fewer + left) % blocks_ : fewer);
  select.product = 1;
  out.product = 2;
  int at = 0;
  for (const PassStep& step : {x, first_gates, select, other_gates, scan, out}) {
    steps_[at++] = step;
  }
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
  step.weights = Weights(head);
  steps_.back() = step;
  if (!layers_.empty()) layers_.back().next_norm_weight = norm.weight;
  head_.norm = norm;
  head_.outputs = static_cast<int32_t>(head.rows);
  head_.logits = logits;
  residual_steps_ = step.steps;
}

void PassPlan::Describe(PassProgram& program) const {
  program.head = head_;
  program.mamba = mamba_;
  program.layer_count = static_cast<int32_t>(layers_.size());
  program.step_count = program.layer_count * kLayerSteps + (ended() ? 1 : 0);
  program.residual_steps = residual_steps_;
  program.inner_steps = inner_steps_;
  program.rank_steps = rank_steps_;
  program.select_stride = select_stride_;
  program.rounds = rounds_;
  program.output_rounds = output_rounds_;
  program.selections = selections_;
}

}  // namespace mambad::kernels::cuda
