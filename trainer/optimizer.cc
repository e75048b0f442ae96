#include "trainer/optimizer.h"

#include <ATen/ATen.h>
#include <ATen/ops/_fused_adamw.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <stdexcept>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"

namespace mambad::trainer {
namespace {

using at::Tensor;

// Views begin at multiples of this many elements, so that every one is aligned for wide loads.
constexpr int64_t kAlignment = 64;

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

double Schedule::At(int64_t step) const {
  if (step < warmup_steps) return static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
  if (step >= total_steps) return final_fraction;
  const double progress = static_cast<double>(step - warmup_steps) /
                          static_cast<double>(std::max<int64_t>(1, total_steps - warmup_steps));
  return final_fraction + (1.0 - final_fraction) * 0.5 * (1.0 + std::cos(M_PI * progress));
}

bool WantsWeightDecay(const std::string& name, int64_t dimensions) {
  return dimensions >= 2 && !absl::EndsWith(name, "A_log") && !absl::EndsWith(name, ".D");
}

Optimizer::Optimizer(std::vector<ParameterGroup> groups, const AdamOptions& options,
                     ProcessGroup* processes)
    : groups_(std::move(groups)), options_(options), processes_(processes) {
  std::set<const void*> seen;
  std::set<at::ScalarType> types;
  at::TensorOptions scalar;
  for (const ParameterGroup& group : groups_) {
    for (const auto& [name, parameter] : group.parameters) {
      if (!seen.insert(parameter.unsafeGetTensorImpl()).second) {
        throw std::runtime_error(name + ": a parameter of two groups");
      }
      types.insert(parameter.scalar_type());
      parameter_count_ += parameter.numel();
      scalar = at::TensorOptions().device(parameter.device()).dtype(at::kFloat);
    }
  }
  if (seen.empty()) throw std::runtime_error("there is nothing to train");
  step_ = at::zeros({}, scalar);
  gradient_norm_ = at::zeros({}, scalar);
  bad_steps_ = at::zeros({}, scalar);
  for (const at::ScalarType type : types) MakeRegion(type);
}

void Optimizer::MakeRegion(at::ScalarType type) {
  at::NoGradGuard no_grad;
  Region region;
  region.type = type;
  std::vector<std::pair<int64_t, int64_t>> bounds(groups_.size());  // of each group in the region
  std::vector<std::pair<Tensor, int64_t>> places;
  int64_t size = 0;
  for (size_t index = 0; index < groups_.size(); ++index) {
    bounds[index].first = size;
    for (const auto& [name, parameter] : groups_[index].parameters) {
      if (parameter.scalar_type() != type) continue;
      places.emplace_back(parameter, size);
      size = RoundUp(size + parameter.numel(), kAlignment);
    }
    bounds[index].second = size;
  }
  const int64_t shard_size = RoundUp(size, kAlignment * processes_->size()) / processes_->size();
  const int64_t begin = shard_size * processes_->rank();
  const auto options = places.front().first.options().requires_grad(false);
  const auto wide = options.dtype(at::kFloat);
  region.working = at::zeros({shard_size * processes_->size()}, options);
  region.gradient = at::zeros_like(region.working);
  for (auto& [parameter, place] : places) {
    const auto view = [&, place = place, parameter = parameter](const Tensor& flat) {
      return flat.narrow(0, place, parameter.numel()).view(parameter.sizes());
    };
    view(region.working).copy_(parameter);
    parameter.set_data(view(region.working));
    parameter.set_requires_grad(true);
    parameter.mutable_grad() = view(region.gradient);
  }
  // All processes begin with what the first one has.
  processes_->Broadcast(region.working, 0);
  region.working_shard = region.working.narrow(0, begin, shard_size);
  const bool narrow = type != at::kFloat && type != at::kDouble;
  const bool alone = processes_->size() == 1;
  if (!narrow)
    region.gradient_sum = region.gradient;
  else if (alone)
    region.gradient_sum = at::zeros(region.working.sizes(), wide);
  else
    region.narrow_shard = at::zeros({shard_size}, options);
  region.gradient_shard = alone
                              ? region.gradient_sum
                              : at::zeros({shard_size}, narrow ? wide : region.gradient.options());
  region.master = narrow ? region.working_shard.to(at::kFloat) : region.working_shard;
  region.average = at::zeros_like(region.master);
  region.square = at::zeros_like(region.master);
  for (size_t index = 0; index < groups_.size(); ++index) {
    const int64_t from = std::max(bounds[index].first, begin) - begin;
    const int64_t to = std::min(bounds[index].second, begin + shard_size) - begin;
    if (from >= to) continue;
    region.groups.push_back(index);
    region.masters.push_back(region.master.narrow(0, from, to - from));
    region.gradients.push_back(region.gradient_shard.narrow(0, from, to - from));
    region.averages.push_back(region.average.narrow(0, from, to - from));
    region.squares.push_back(region.square.narrow(0, from, to - from));
    region.steps.push_back(step_);
  }
  regions_.push_back(std::move(region));
}

void Optimizer::AccumulateGradients() {
  at::NoGradGuard no_grad;
  for (Region& region : regions_) {
    if (region.gradient_sum.is_same(region.gradient)) continue;
    Tensor from = region.gradient, sum = region.gradient_sum;
    if (region.narrow_shard.defined()) {
      processes_->ReduceScatterSum(region.narrow_shard, region.gradient);
      from = region.narrow_shard;
      sum = region.gradient_shard;
    }
    if (accumulated_)
      sum.add_(from);
    else
      sum.copy_(from);
    region.gradient.zero_();
  }
  accumulated_ = true;
}

void Optimizer::ClearGradients() {
  for (Region& region : regions_) {
    if (region.gradient_sum.is_same(region.gradient)) region.gradient.zero_();
  }
  accumulated_ = false;
}

// What the fused update divides gradients by: more than 1 where the norm is above the bound.
Tensor Optimizer::GradientScale() {
  Tensor total = at::zeros({}, gradient_norm_.options());
  for (const Region& region : regions_) {
    total.add_(at::linalg_vector_norm(region.gradient_shard).to(at::kFloat).square());
  }
  processes_->AllReduceSum(total);
  gradient_norm_.copy_(total.sqrt());
  not_finite_ = at::isfinite(gradient_norm_).logical_not_().to(at::kFloat);
  bad_steps_.add_(not_finite_);
  if (options_.clip_norm <= 0) return at::ones_like(gradient_norm_);
  return (gradient_norm_ / options_.clip_norm).clamp_min(1.0);
}

void Optimizer::Step(double learning_rate_factor) {
  at::NoGradGuard no_grad;
  AccumulateGradients();
  if (processes_->size() > 1) {
    for (Region& region : regions_) {
      if (region.narrow_shard.defined()) continue;  // has come together already
      processes_->ReduceScatterSum(region.gradient_shard, region.gradient_sum);
    }
  }
  const Tensor scale = GradientScale();
  // As many updates as were finite: the count moves back where this one is not made.
  step_.add_(1.0).sub_(not_finite_);
  for (Region& region : regions_) {
    for (size_t piece = 0; piece < region.groups.size(); ++piece) {
      const ParameterGroup& group = groups_[region.groups[piece]];
      at::_fused_adamw_({region.masters[piece]}, {region.gradients[piece]},
                        {region.averages[piece]}, {region.squares[piece]}, {},
                        {region.steps[piece]}, group.learning_rate * learning_rate_factor,
                        options_.beta1, options_.beta2, group.weight_decay, options_.epsilon,
                        /*amsgrad=*/false, /*maximize=*/false, scale, not_finite_);
    }
    if (!region.master.is_same(region.working_shard)) region.working_shard.copy_(region.master);
    if (processes_->size() > 1) {
      processes_->AllGather(region.working, region.working_shard.clone());
    }
  }
  ClearGradients();
}

std::map<std::string, Tensor> Optimizer::State() const {
  std::map<std::string, Tensor> state = {{"step", step_}, {"bad_steps", bad_steps_}};
  for (const Region& region : regions_) {
    const std::string type = c10::toString(region.type);
    state[type + ".master"] = region.master;
    state[type + ".average"] = region.average;
    state[type + ".square"] = region.square;
  }
  return state;
}

void Optimizer::Load(const std::map<std::string, Tensor>& state) {
  at::NoGradGuard no_grad;
  for (auto& [name, tensor] : State()) {
    const auto found = state.find(name);
    if (found == state.end() || found->second.numel() != tensor.numel()) {
      throw std::runtime_error(absl::StrFormat(
          "the saved optimizer state has %s for \"%s\", expected %d numbers: was the run started "
          "with other parameters or another number of processes?",
          found == state.end() ? "nothing" : absl::StrFormat("%d", found->second.numel()), name,
          tensor.numel()));
    }
    Tensor(tensor).copy_(found->second.view(tensor.sizes()));
  }
  for (Region& region : regions_) {
    if (!region.master.is_same(region.working_shard)) region.working_shard.copy_(region.master);
    if (processes_->size() > 1) {
      processes_->AllGather(region.working, region.working_shard.clone());
    }
  }
}

std::map<std::string, Tensor> Optimizer::Masters() {
  at::NoGradGuard no_grad;
  std::map<std::string, Tensor> masters;
  const bool first = processes_->rank() == 0;
  for (Region& region : regions_) {
    if (region.master.is_same(region.working_shard)) continue;
    // A shard at a time: no device has room for all of them.
    const int64_t size = region.master.numel();
    const Tensor whole = first ? at::empty(region.working.sizes(), at::kFloat) : Tensor();
    for (int rank = 0; rank < processes_->size(); ++rank) {
      const Tensor shard =
          rank == processes_->rank() ? region.master : at::empty_like(region.master);
      processes_->Broadcast(shard, rank);
      if (first) whole.narrow(0, rank * size, size).copy_(shard);
    }
    if (!first) continue;
    for (const ParameterGroup& group : groups_) {
      for (const auto& [name, parameter] : group.parameters) {
        if (parameter.scalar_type() != region.type) continue;
        masters[name] =
            whole.narrow(0, parameter.storage_offset(), parameter.numel()).view(parameter.sizes());
      }
    }
  }
  return masters;
}

}  // namespace mambad::trainer
