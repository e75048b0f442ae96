#include "trainer/scan_function.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <mutex>
#include <optional>

#include "kernels/cpu/training/scan.h"
#include "kernels/training_scan.h"
#include "trainer/optional_tensor.h"

#ifdef MAMBAD_TRAINING_CUDA
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "kernels/cuda/training/scan.h"
#endif

#ifndef INTRA_OP_PARALLEL
#error "at::parallel_for takes one thread where this file is compiled without OpenMP"
#endif

namespace mambad::trainer {
namespace {

using at::Tensor;
using kernels::CausalConvolution;
using kernels::CausalConvolutionGradient;
using kernels::InputRows;
using kernels::OutputRows;
using kernels::SelectiveScanGradient;
using kernels::TrainingWorkspaceBytes;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Mamba2Problem = kernels::Mamba2Scan;
using Mamba2Gradient = kernels::Mamba2ScanGradient;
using SelectiveProblem = kernels::SelectiveScan;

// ---- backends: the same three names for every operation ----------------------------------------

// The process's compute threads, one caller at a time.
class CpuBackend {
 public:
  CpuBackend() : lock_(Mutex()) {}

  TrainingWorkspaceBytes Workspace(const CausalConvolution&) { return {}; }
  template <typename Problem>
  TrainingWorkspaceBytes Workspace(const Problem& problem) {
    return kernels::cpu::WorkspaceBytes(problem, Pool().threads());
  }
  const char* Forward(const CausalConvolution& problem, const OutputRows& output, void*, void*) {
    return kernels::cpu::CausalConvolutionForward(problem, output, Pool());
  }
  const char* Forward(const SelectiveProblem& problem, const OutputRows& output, void* checkpoints,
                      void* scratch) {
    return kernels::cpu::SelectiveScanForward(problem, output, checkpoints, scratch, Pool());
  }
  const char* Forward(const Mamba2Problem& problem, const OutputRows& output, void* checkpoints,
                      void* scratch) {
    return kernels::cpu::Mamba2ScanForward(problem, output, checkpoints, scratch, Pool());
  }
  const char* Backward(const CausalConvolution& problem, const CausalConvolutionGradient& gradient,
                       const void*, void*) {
    return kernels::cpu::CausalConvolutionBackward(problem, gradient, Pool());
  }
  const char* Backward(const SelectiveProblem& problem, const SelectiveScanGradient& gradient,
                       const void* checkpoints, void* scratch) {
    return kernels::cpu::SelectiveScanBackward(problem, gradient, checkpoints, scratch, Pool());
  }
  const char* Backward(const Mamba2Problem& problem, const Mamba2Gradient& gradient,
                       const void* checkpoints, void* scratch) {
    return kernels::cpu::Mamba2ScanBackward(problem, gradient, checkpoints, scratch, Pool());
  }

 private:
  static std::mutex& Mutex() {
    static std::mutex mutex;
    return mutex;
  }
  // LibTorch's own threads, as many as its operations take.
  static kernels::ThreadPool& Pool() {
    static kernels::ThreadPool pool(at::get_num_threads(), RunOnLibTorch);
    return pool;
  }
  static void RunOnLibTorch(int threads, void (*call)(const void*, int), const void* task) {
    at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t thread = begin; thread < end; ++thread) call(task, static_cast<int>(thread));
    });
  }
  std::lock_guard<std::mutex> lock_;
};

#ifdef MAMBAD_TRAINING_CUDA
// The current stream of the tensors' device.
class CudaBackend {
 public:
  explicit CudaBackend(c10::Device device)
      : guard_(device), stream_(c10::cuda::getCurrentCUDAStream(device.index()).stream()) {}

  template <typename Problem>
  TrainingWorkspaceBytes Workspace(const Problem& problem) {
    return kernels::cuda::WorkspaceBytes(problem);
  }
  const char* Forward(const CausalConvolution& problem, const OutputRows& output, void*, void*) {
    return kernels::cuda::CausalConvolutionForward(problem, output, stream_);
  }
  const char* Forward(const SelectiveProblem& problem, const OutputRows& output, void* checkpoints,
                      void* scratch) {
    return kernels::cuda::SelectiveScanForward(problem, output, checkpoints, scratch, stream_);
  }
  const char* Forward(const Mamba2Problem& problem, const OutputRows& output, void* checkpoints,
                      void* scratch) {
    return kernels::cuda::Mamba2ScanForward(problem, output, checkpoints, scratch, stream_);
  }
  const char* Backward(const CausalConvolution& problem, const CausalConvolutionGradient& gradient,
                       const void*, void* scratch) {
    return kernels::cuda::CausalConvolutionBackward(problem, gradient, scratch, stream_);
  }
  const char* Backward(const SelectiveProblem& problem, const SelectiveScanGradient& gradient,
                       const void* checkpoints, void* scratch) {
    return kernels::cuda::SelectiveScanBackward(problem, gradient, checkpoints, scratch, stream_);
  }
  const char* Backward(const Mamba2Problem& problem, const Mamba2Gradient& gradient,
                       const void* checkpoints, void* scratch) {
    return kernels::cuda::Mamba2ScanBackward(problem, gradient, checkpoints, scratch, stream_);
  }

 private:
  c10::cuda::CUDAGuard guard_;  // kernels are launched on the current device
  CUstream_st* stream_;
};
#endif

template <typename Run>
void OnBackend(c10::Device device, const Run& run) {
  if (device.is_cuda()) {
#ifdef MAMBAD_TRAINING_CUDA
    CudaBackend backend(device);
    run(backend);
    return;
#else
    TORCH_CHECK(false, "this build has no CUDA kernels for training");
#endif
  }
  CpuBackend backend;
  run(backend);
}

Tensor Bytes(size_t count, c10::Device device) {
  return at::empty({static_cast<int64_t>(count)},
                   at::TensorOptions().dtype(at::kByte).device(device));
}

void* Address(const Tensor& bytes) { return bytes.numel() == 0 ? nullptr : bytes.data_ptr(); }

// Returns the checkpoints, empty when no gradient is wanted.
template <typename Problem>
Tensor RunForward(const Problem& problem, Tensor& output, bool wants_gradient) {
  const c10::Device device = output.device();
  const OutputRows rows = {output.data_ptr(), output.stride(0)};
  Tensor checkpoints;
  OnBackend(device, [&](auto& backend) {
    const TrainingWorkspaceBytes bytes = backend.Workspace(problem);
    checkpoints = Bytes(wants_gradient ? bytes.checkpoints : 0, device);
    const Tensor scratch = Bytes(bytes.forward_scratch, device);
    const char* wrong = backend.Forward(problem, rows, Address(checkpoints), Address(scratch));
    TORCH_CHECK(wrong == nullptr, wrong);
  });
  return checkpoints;
}

template <typename Problem, typename Gradient>
void RunBackward(const Problem& problem, const Gradient& gradient, const Tensor& checkpoints) {
  const c10::Device device = checkpoints.device();
  OnBackend(device, [&](auto& backend) {
    const Tensor scratch = Bytes(backend.Workspace(problem).backward_scratch, device);
    const char* wrong = backend.Backward(problem, gradient, Address(checkpoints), Address(scratch));
    TORCH_CHECK(wrong == nullptr, wrong);
  });
}

// ---- tensors as rows ---------------------------------------------------------------------------

// Columns side by side; rows as far apart as they are.
Tensor SideBySide(const Tensor& tensor) {
  if (!tensor.defined()) return tensor;
  TORCH_CHECK(tensor.dim() == 2, "rows and columns expected, ", tensor.sizes(), " found");
  const bool fits = tensor.stride(1) == 1 && tensor.stride(0) >= tensor.size(1);
  return fits ? tensor : tensor.contiguous();
}

InputRows In(const Tensor& tensor) {
  if (!tensor.defined()) return {};
  return {tensor.data_ptr(), tensor.stride(0)};
}

OutputRows Out(const Tensor& tensor) {
  if (!tensor.defined()) return {};
  return {tensor.data_ptr(), tensor.stride(0)};
}

kernels::TrainingBatch Batch(const Tensor& activation, const Tensor& document_start) {
  TORCH_CHECK(document_start.dim() == 2 && document_start.is_contiguous() &&
                  document_start.numel() == activation.size(0),
              "document starts ", document_start.sizes(), " of ", activation.size(0), " rows");
  kernels::TrainingBatch batch;
  batch.sequences = document_start.size(0);
  batch.tokens = document_start.size(1);
  batch.document_start = reinterpret_cast<const uint8_t*>(document_start.data_ptr<bool>());
  switch (activation.scalar_type()) {
    case at::kFloat:
      batch.type = kernels::TrainingType::kFloat32;
      break;
    case at::kBFloat16:
      batch.type = kernels::TrainingType::kBFloat16;
      break;
    case at::kDouble:
      batch.type = kernels::TrainingType::kFloat64;
      break;
    default:
      TORCH_CHECK(false, "scans of ", activation.scalar_type());
  }
  return batch;
}

Tensor EmptyRows(const Tensor& like, int64_t columns) {
  return at::empty({like.size(0), columns}, like.options());
}

Tensor EmptyLike(const Tensor& tensor) {
  return tensor.defined() ? at::empty(tensor.sizes(), tensor.options()) : Tensor();
}

void CheckParameter(const Tensor& parameter, const Tensor& activation) {
  const at::ScalarType type = activation.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  TORCH_CHECK(parameter.is_contiguous() && parameter.scalar_type() == type,
              "a contiguous parameter of type ", type, " expected, ", parameter.scalar_type(),
              " found");
}

bool AnyWantsGradient(std::initializer_list<Tensor> tensors) {
  if (!at::GradMode::is_enabled()) return false;
  for (const Tensor& tensor : tensors) {
    if (tensor.defined() && tensor.requires_grad()) return true;
  }
  return false;
}

// ---- convolution -------------------------------------------------------------------------------

CausalConvolution ConvolutionProblem(const Tensor& input, const Tensor& weight, const Tensor& bias,
                                     const Tensor& document_start) {
  CheckParameter(weight, input);
  TORCH_CHECK(weight.size(0) == input.size(1), "a convolution of ", weight.size(0),
              " channels over ", input.size(1));
  CausalConvolution problem;
  problem.batch = Batch(input, document_start);
  problem.channels = weight.size(0);
  problem.taps = weight.size(-1);
  problem.input = In(input);
  problem.weight = weight.data_ptr();
  if (bias.defined()) {
    CheckParameter(bias, input);
    problem.bias = bias.data_ptr();
  }
  return problem;
}

class ConvolutionFunction : public torch::autograd::Function<ConvolutionFunction> {
 public:
  static Tensor forward(AutogradContext* context, Tensor input, Tensor weight,
                        std::optional<Tensor> given_bias, Tensor document_start) {
    const Tensor bias = OrUndefined(given_bias);
    Tensor output = EmptyRows(input, weight.size(0));
    RunForward(ConvolutionProblem(input, weight, bias, document_start), output, false);
    context->save_for_backward({input, weight, bias, document_start});
    return output;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    at::NoGradGuard no_grad;
    const variable_list saved = context->get_saved_variables();
    const Tensor output_gradient = SideBySide(gradients[0]);
    const Tensor input = EmptyLike(saved[0]), weight = EmptyLike(saved[1]);
    const Tensor bias = EmptyLike(saved[2]);
    CausalConvolutionGradient gradient;
    gradient.output = In(output_gradient);
    gradient.input = Out(input);
    gradient.weight = weight.data_ptr();
    gradient.bias = bias.defined() ? bias.data_ptr() : nullptr;
    RunBackward(ConvolutionProblem(saved[0], saved[1], saved[2], saved[3]), gradient,
                Bytes(0, input.device()));
    return {input, weight, bias, Tensor()};
  }
};

// ---- Mamba-1 -----------------------------------------------------------------------------------

// In the order of SelectiveScanInputs.
enum SelectiveInput : size_t { kX, kDelta, kB, kC, kZ, kALog, kSkip, kDtBias, kSelectiveInputs };

SelectiveProblem SelectiveScanProblem(const variable_list& in, const Tensor& document_start) {
  const Tensor& a_log = in[kALog];
  for (const Tensor& parameter : {a_log, in[kSkip], in[kDtBias]}) CheckParameter(parameter, in[kX]);
  SelectiveProblem problem;
  problem.batch = Batch(in[kX], document_start);
  problem.channels = a_log.size(0);
  problem.state_size = a_log.size(1);
  problem.groups = in[kC].size(1) / problem.state_size;
  problem.source_groups = in[kB].size(1) / problem.state_size;
  problem.x = In(in[kX]);
  problem.delta = In(in[kDelta]);
  problem.b = In(in[kB]);
  problem.c = In(in[kC]);
  problem.z = In(in[kZ]);
  problem.a_log = a_log.data_ptr();
  problem.skip = in[kSkip].data_ptr();
  problem.dt_bias = in[kDtBias].data_ptr();
  return problem;
}

class SelectiveScanFunction : public torch::autograd::Function<SelectiveScanFunction> {
 public:
  static Tensor forward(AutogradContext* context, Tensor x, Tensor delta, Tensor b, Tensor c,
                        std::optional<Tensor> z, Tensor a_log, Tensor skip, Tensor dt_bias,
                        Tensor document_start, bool wants_gradient) {
    Tensor y = EmptyRows(x, a_log.size(0));
    variable_list saved = {x, delta, b, c, OrUndefined(z), a_log, skip, dt_bias};
    const Tensor checkpoints =
        RunForward(SelectiveScanProblem(saved, document_start), y, wants_gradient);
    saved.push_back(document_start);
    saved.push_back(checkpoints);
    context->save_for_backward(std::move(saved));
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    at::NoGradGuard no_grad;
    const variable_list saved = context->get_saved_variables();
    const Tensor y = SideBySide(gradients[0]);
    variable_list result;
    for (size_t i = 0; i < kSelectiveInputs; ++i) result.push_back(EmptyLike(saved[i]));
    SelectiveScanGradient gradient;
    gradient.y = In(y);
    gradient.x = Out(result[kX]);
    gradient.delta = Out(result[kDelta]);
    gradient.b = Out(result[kB]);
    gradient.c = Out(result[kC]);
    gradient.z = Out(result[kZ]);
    gradient.a_log = result[kALog].data_ptr();
    gradient.skip = result[kSkip].data_ptr();
    gradient.dt_bias = result[kDtBias].data_ptr();
    RunBackward(SelectiveScanProblem(saved, saved[kSelectiveInputs]), gradient, saved.back());
    result.resize(kSelectiveInputs + 2);
    return result;
  }
};

// ---- Mamba-2 -----------------------------------------------------------------------------------

struct Mamba2Sizes {
  int64_t head_width, state_size;
  double dt_minimum, dt_maximum;
};

// x, b, c, dt, a_log, skip, dt_bias.
constexpr size_t kMamba2Inputs = 7;

Mamba2Problem Mamba2ScanProblem(const variable_list& in, const Mamba2Sizes& sizes,
                                const Tensor& document_start) {
  for (size_t i = 4; i < kMamba2Inputs; ++i) CheckParameter(in[i], in[0]);
  Mamba2Problem problem;
  problem.batch = Batch(in[0], document_start);
  problem.heads = in[4].size(0);
  problem.head_width = sizes.head_width;
  problem.state_size = sizes.state_size;
  problem.source_heads = in[0].size(1) / sizes.head_width;
  problem.source_groups = in[1].size(1) / sizes.state_size;
  problem.groups = in[2].size(1) / sizes.state_size;
  problem.x = In(in[0]);
  problem.b = In(in[1]);
  problem.c = In(in[2]);
  problem.dt = In(in[3]);
  problem.a_log = in[4].data_ptr();
  problem.skip = in[5].data_ptr();
  problem.dt_bias = in[6].data_ptr();
  problem.dt_minimum = static_cast<float>(sizes.dt_minimum);
  problem.dt_maximum = static_cast<float>(sizes.dt_maximum);
  return problem;
}

class Mamba2ScanFunction : public torch::autograd::Function<Mamba2ScanFunction> {
 public:
  static Tensor forward(AutogradContext* context, Tensor x, Tensor b, Tensor c, Tensor dt,
                        Tensor a_log, Tensor skip, Tensor dt_bias, Tensor document_start,
                        Mamba2Sizes sizes, bool wants_gradient) {
    Tensor y = EmptyRows(x, a_log.size(0) * sizes.head_width);
    variable_list saved = {x, b, c, dt, a_log, skip, dt_bias};
    const Tensor checkpoints =
        RunForward(Mamba2ScanProblem(saved, sizes, document_start), y, wants_gradient);
    saved.push_back(document_start);
    saved.push_back(checkpoints);
    context->save_for_backward(std::move(saved));
    context->saved_data["sizes"] = std::vector<int64_t>{sizes.head_width, sizes.state_size};
    context->saved_data["limits"] = std::vector<double>{sizes.dt_minimum, sizes.dt_maximum};
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    at::NoGradGuard no_grad;
    const variable_list saved = context->get_saved_variables();
    const auto sizes = context->saved_data["sizes"].toIntVector();
    const auto limits = context->saved_data["limits"].toDoubleVector();
    const Tensor y = SideBySide(gradients[0]);
    variable_list result;
    for (size_t i = 0; i < kMamba2Inputs; ++i) result.push_back(EmptyLike(saved[i]));
    Mamba2Gradient gradient;
    gradient.y = In(y);
    gradient.x = Out(result[0]);
    gradient.b = Out(result[1]);
    gradient.c = Out(result[2]);
    gradient.dt = Out(result[3]);
    gradient.a_log = result[4].data_ptr();
    gradient.skip = result[5].data_ptr();
    gradient.dt_bias = result[6].data_ptr();
    const Mamba2Sizes as_given = {sizes[0], sizes[1], limits[0], limits[1]};
    RunBackward(Mamba2ScanProblem(saved, as_given, saved[kMamba2Inputs]), gradient, saved.back());
    result.resize(kMamba2Inputs + 3);
    return result;
  }
};

}  // namespace

Tensor ConvolutionSilu(const Tensor& input, const Tensor& weight, const Tensor& bias,
                       const Tensor& document_start) {
  return ConvolutionFunction::apply(SideBySide(input), weight, IfDefined(bias), document_start);
}

Tensor SelectiveScan(const SelectiveScanInputs& in, const Tensor& document_start) {
  const bool wants_gradient =
      AnyWantsGradient({in.x, in.delta, in.b, in.c, in.z, in.a_log, in.skip, in.dt_bias});
  return SelectiveScanFunction::apply(SideBySide(in.x), SideBySide(in.delta), SideBySide(in.b),
                                      SideBySide(in.c), SideBySide(in.z), in.a_log, in.skip,
                                      in.dt_bias, document_start, wants_gradient);
}

Tensor Mamba2Scan(const Mamba2ScanInputs& in, const Tensor& document_start) {
  const bool wants_gradient =
      AnyWantsGradient({in.x, in.b, in.c, in.dt, in.a_log, in.skip, in.dt_bias});
  const Mamba2Sizes sizes = {in.head_width, in.state_size, in.dt_minimum, in.dt_maximum};
  return Mamba2ScanFunction::apply(SideBySide(in.x), SideBySide(in.b), SideBySide(in.c),
                                   SideBySide(in.dt), in.a_log, in.skip, in.dt_bias, document_start,
                                   sizes, wants_gradient);
}

}  // namespace mambad::trainer
