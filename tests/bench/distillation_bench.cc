// Tokens a second of the two stages that distil a hybrid, alignment of mixers and divergence from
// the teacher, on random weights of SmolLM2-135M's shape (or --small): teacher's pass, student's
// pass, loss, backward pass and update. Beside them the time of the same steps' matrix products
// alone, and the most memory that was held: on a GPU by the stage's own tensors, on a CPU by the
// process until then.
//
//   distillation_bench [--device cuda|cpu] [--small] [--mixer mamba|mamba2] [--trained mixers|all]
//                      [--rows N] [--row-tokens N] [--steps N] [--recompute]

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#ifdef MAMBAD_TRAINING_CUDA
#include <c10/cuda/CUDACachingAllocator.h>
#endif

#include "trainer/counter_random.h"
#include "trainer/initialize.h"
#include "trainer/losses.h"
#include "trainer/modules/trained_parameters.h"
#include "trainer/process_group.h"

namespace mambad::trainer {
namespace {

using at::Tensor;
using checkpoint::MixerKind;
using checkpoint::ModelConfig;
using checkpoint::Parameter;

struct Settings {
  at::Device device = at::hasCUDA() ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU);
  bool small = false, all = false, recompute = false;
  MixerKind mixer = MixerKind::kMamba2;
  int64_t rows = 0, row_tokens = 1024, steps = 5;
};

Settings ReadSettings(int count, char** arguments) {
  Settings settings;
  for (int i = 1; i < count; ++i) {
    const std::string name = arguments[i];
    const auto value = [&]() -> std::string {
      if (i + 1 < count) return arguments[++i];
      std::fprintf(stderr, "%s: a value expected\n", name.c_str());
      std::exit(2);
    };
    if (name == "--device") {
      settings.device = value() == "cpu" ? at::Device(at::kCPU) : at::Device(at::kCUDA, 0);
    } else if (name == "--small") {
      settings.small = true;
    } else if (name == "--recompute") {
      settings.recompute = true;
    } else if (name == "--mixer") {
      settings.mixer = value() == "mamba" ? MixerKind::kMamba : MixerKind::kMamba2;
    } else if (name == "--trained") {
      settings.all = value() == "all";
    } else if (name == "--rows") {
      settings.rows = std::atoll(value().c_str());
    } else if (name == "--row-tokens") {
      settings.row_tokens = std::atoll(value().c_str());
    } else if (name == "--steps") {
      settings.steps = std::atoll(value().c_str());
    } else {
      std::fprintf(stderr, "%s: unknown\n", name.c_str());
      std::exit(2);
    }
  }
  if (settings.rows == 0) settings.rows = settings.device.is_cuda() ? 32 : 4;
  return settings;
}

ModelConfig TeacherConfig(bool small) {
  ModelConfig config;
  config.width = small ? 128 : 576;
  config.layers = small ? 6 : 30;
  config.vocabulary = config.padded_vocabulary = small ? 2048 : 49152;
  config.mlp_width = small ? 384 : 1536;
  config.tied_head = true;
  config.context_length = 8192;
  config.mixers.assign(config.layers, MixerKind::kAttention);
  config.fused_attention.assign(config.layers, false);
  config.fused_mamba.assign(config.layers, false);
  config.attention.query_heads = small ? 4 : 9;
  config.attention.key_value_heads = small ? 2 : 3;
  config.attention.head_width = small ? 32 : 64;
  return config;
}

// Documents of 50 to 450 tokens.
PackedBatch RandomBatch(const Settings& settings, int64_t vocabulary) {
  const CounterRandom random(1, 2);
  PackedBatch batch;
  batch.Resize(settings.rows, settings.row_tokens);
  int64_t left = 0, position = 0;
  for (int64_t i = 0; i < settings.rows * settings.row_tokens; ++i) {
    if (left == 0 || i % settings.row_tokens == 0) {
      left = 50 + static_cast<int64_t>(random.Below(2 * i + 1, 400));
      position = 0;
    }
    batch.token_ids[i] = static_cast<int64_t>(random.Below(2 * i, vocabulary));
    batch.positions[i] = position;
    batch.document_start[i] = position == 0;
    batch.loss_mask[i] = 1;
    ++position;
    --left;
  }
  return batch;
}

// One number read back: everything queued before it is done.
void Wait(const Settings& settings) { at::zeros({1}, settings.device).item<float>(); }

// Seconds of the median step after one that warms up.
template <typename Step>
double Measure(const Settings& settings, const Step& step) {
  step();
  Wait(settings);
  std::vector<double> seconds;
  for (int64_t i = 0; i < settings.steps; ++i) {
    const auto start = std::chrono::steady_clock::now();
    step();
    Wait(settings);
    seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

// From here on PeakMebibytes tells of what comes, where that can be: on a GPU.
void ForgetPeak(const Settings& settings) {
#ifdef MAMBAD_TRAINING_CUDA
  if (settings.device.is_cuda()) c10::cuda::CUDACachingAllocator::resetPeakStats(0);
#endif
  (void)settings;
}

double PeakMebibytes(const Settings& settings) {
#ifdef MAMBAD_TRAINING_CUDA
  if (settings.device.is_cuda()) {
    const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(0);
    return static_cast<double>(stats.allocated_bytes[0].peak) / 1048576.0;
  }
#endif
  (void)settings;
  std::ifstream status("/proc/self/status");
  std::string word;
  while (status >> word) {
    double kibibytes = 0;
    if (word == "VmHWM:" && status >> kibibytes) return kibibytes / 1024.0;
  }
  return 0;
}

// The matrix products of a pass over the layers: forward alone, or backward too, to what was
// multiplied and to the weights that are trained.
void RunProducts(const LanguageModel& model, int64_t tokens, bool backward, bool mixers_only) {
  at::NoGradGuard no_grad;
  for (const ModelParameter& parameter : model.parameters()) {
    const Parameter& description = parameter.description;
    const Tensor& weight = parameter.value;
    if (description.layer < 0 || description.keep_float32) continue;
    if (mixers_only && !IsRecurrentMixerRole(description.role)) continue;
    const Tensor input = at::empty({tokens, weight.size(1)}, weight.options().requires_grad(false));
    const Tensor output = at::mm(input, weight.t());
    if (!backward) continue;
    at::mm(output, weight);
    if (weight.requires_grad()) at::mm(output.t(), input);
  }
}

// The head's products in pieces, as the loss makes them.
void RunHeadProducts(const LanguageModel& model, int64_t tokens) {
  at::NoGradGuard no_grad;
  const Tensor head = model.Head().detach();
  const int64_t piece = 2048;
  const Tensor hidden = at::empty({std::min(piece, tokens), head.size(1)}, head.options());
  for (int64_t begin = 0; begin < tokens; begin += piece) {
    const Tensor logits = at::mm(hidden, head.t());
    at::mm(hidden, head.t());
    at::mm(logits, head);
  }
}

void Tell(const char* stage, double seconds, double products, int64_t tokens, double peak) {
  std::printf(
      "%-12s %10.0f tokens/s  %8.1f ms a step  products alone %8.1f ms, the rest %4.1f %%  "
      "peak %8.0f MiB\n",
      stage, tokens / seconds, seconds * 1e3, products * 1e3, 100.0 * (1.0 - products / seconds),
      peak);
  std::fflush(stdout);
}

int Main(int count, char** arguments) {
  const Settings settings = ReadSettings(count, arguments);
  const at::ScalarType type = settings.device.is_cuda() ? at::kBFloat16 : at::kFloat;
  const ModelConfig config = TeacherConfig(settings.small);
  const auto teacher = LanguageModel::Create(config, 1, settings.device, type);
  InitializeOptions options;
  options.mixer = settings.mixer;
  for (int layer = 1; layer < config.layers; layer += 2) options.recurrent_layers.push_back(layer);
  const auto student = InitializeHybrid(*teacher, options);
  student->SetTrained([&](const Parameter& parameter) {
    return settings.all || IsRecurrentMixerRole(parameter.role);
  });
  student->SetRecompute(settings.recompute);
  const std::unique_ptr<ProcessGroup> alone = JoinProcessGroup({}, settings.device.is_cuda());
  Optimizer optimizer(TrainedGroups(*student, {}), {}, alone.get());
  const PackedBatch packed = RandomBatch(settings, config.vocabulary);
  const int64_t tokens = settings.rows * settings.row_tokens;

  const auto align = [&] {
    const TokenBatch batch = MoveToDevice(packed, settings.device);
    at::NoGradGuard no_grad;
    teacher->Hidden(batch, [&](int layer, const Tensor& input, const Tensor& output) {
      if (student->config().mixers[layer] == MixerKind::kAttention) return;
      at::AutoGradMode with_gradients(true);
      AlignmentLoss(student->Mixer(layer, input, batch), output, Tensor(),
                    AlignmentKind::kRelativeSquaredError)
          .backward();
    });
    optimizer.Step(1e-3);
  };
  const auto diverge = [&] {
    const TokenBatch batch = MoveToDevice(packed, settings.device);
    Tensor wanted;
    {
      at::NoGradGuard no_grad;
      wanted = teacher->Hidden(batch).flatten(0, 1);
    }
    const Tensor hidden = student->Hidden(batch).flatten(0, 1);
    HeadLossAndGradient(hidden, student->Head(), wanted, teacher->Head(), Tensor(),
                        batch.loss_mask.flatten() / static_cast<double>(tokens), {})
        .loss.backward();
    optimizer.Step(1e-3);
  };
  const double teacher_products =
      Measure(settings, [&] { RunProducts(*teacher, tokens, false, false); });
  const double mixer_products =
      Measure(settings, [&] { RunProducts(*student, tokens, true, true); });
  const double student_products = Measure(settings, [&] {
    RunProducts(*student, tokens, true, false);
    RunHeadProducts(*student, tokens);
  });
  std::printf("%s, %s, %lld rows of %lld tokens, %s trained\n", settings.device.str().c_str(),
              settings.mixer == MixerKind::kMamba ? "Mamba" : "Mamba-2",
              static_cast<long long>(settings.rows), static_cast<long long>(settings.row_tokens),
              settings.all ? "all" : "mixers");
  if (!settings.all) {
    ForgetPeak(settings);
    const double seconds = Measure(settings, align);
    Tell("alignment", seconds, teacher_products + mixer_products, tokens, PeakMebibytes(settings));
  }
  ForgetPeak(settings);
  const double seconds = Measure(settings, diverge);
  Tell("divergence", seconds, teacher_products + student_products, tokens, PeakMebibytes(settings));
  return 0;
}

}  // namespace
}  // namespace mambad::trainer

int main(int count, char** arguments) { return mambad::trainer::Main(count, arguments); }
