#include "trainer/modules/recompute.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>
#include <utility>

#include "trainer/optional_tensor.h"

namespace mambad::trainer {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct HeldBlock : torch::CustomClassHolder {
  explicit HeldBlock(BlockFunction function) : run(std::move(function)) {}
  BlockFunction run;
};

class RecomputeFunction : public torch::autograd::Function<RecomputeFunction> {
 public:
  static variable_list forward(AutogradContext* context, Tensor residual,
                               std::optional<Tensor> given_delta, at::TensorList parameters,
                               c10::intrusive_ptr<HeldBlock> block) {
    const Tensor delta = OrUndefined(given_delta);
    variable_list saved = {residual, delta};
    saved.insert(saved.end(), parameters.begin(), parameters.end());
    context->save_for_backward(std::move(saved));
    context->saved_data["block"] = c10::IValue::make_capsule(block);
    context->set_materialize_grads(false);
    const BlockStream output = block->run({residual, delta});
    return {output.residual, output.delta};
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const auto holder = context->saved_data["block"].toCapsule();
    const auto& block = static_cast<const HeldBlock&>(*holder);
    // Leaves of a graph of their own.
    BlockStream input;
    variable_list sources;       // whose gradients are asked for
    std::vector<size_t> places;  // of each among the arguments
    const auto needed = [&](size_t place) {
      return context->needs_input_grad(place > 1 && !saved[1].defined() ? place - 1 : place);
    };
    const auto leaf = [&](size_t place) {
      if (!saved[place].defined()) return saved[place];
      Tensor value = saved[place].detach();
      if (needed(place)) {
        value.set_requires_grad(true);
        sources.push_back(value);
        places.push_back(place);
      }
      return value;
    };
    input.residual = leaf(0);
    input.delta = leaf(1);
    for (size_t place = 2; place < saved.size(); ++place) {
      if (!needed(place)) continue;
      sources.push_back(saved[place]);
      places.push_back(place);
    }
    variable_list outputs, output_gradients;
    {
      at::AutoGradMode with_gradients(true);
      const BlockStream output = block.run(input);
      const auto add = [&](const Tensor& value, const Tensor& gradient) {
        if (!gradient.defined() || !value.requires_grad()) return;
        outputs.push_back(value);
        output_gradients.push_back(gradient);
      };
      add(output.residual, gradients[0]);
      add(output.delta, gradients[1]);
    }
    variable_list result(saved.size() + 1);
    if (outputs.empty() || sources.empty()) return result;
    const variable_list made = torch::autograd::grad(outputs, sources, output_gradients,
                                                     std::nullopt, false, /*allow_unused=*/true);
    for (size_t i = 0; i < made.size(); ++i) result[places[i]] = made[i];
    return result;
  }
};

}  // namespace

BlockStream Recomputed(const BlockFunction& run, const BlockStream& input,
                       const std::vector<Tensor>& parameters) {
  const variable_list output =
      RecomputeFunction::apply(input.residual, IfDefined(input.delta), at::TensorList(parameters),
                               c10::make_intrusive<HeldBlock>(run));
  return {output[0], output[1]};
}

}  // namespace mambad::trainer
