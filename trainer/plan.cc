#include "trainer/plan.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "absl/strings/str_format.h"
#include "engine/checkpoint/parameter_table.h"
#include "trainer/report.h"

namespace mambad::trainer {
namespace {

using checkpoint::MixerKind;
using checkpoint::ModelConfig;
using checkpoint::Parameter;
using checkpoint::Role;

constexpr double kGib = 1024.0 * 1024.0 * 1024.0;

// "1.9 MB", "412 KB", "33.2 GiB": in the unit in which a person would say it.
std::string Size(double bytes) {
  if (bytes >= 0.1 * kGib) return ReportNumber(bytes / kGib) + " GiB";
  if (bytes >= 1e6) return absl::StrFormat("%.1f MB", bytes / 1e6);
  if (bytes >= 1e3) return absl::StrFormat("%.0f KB", bytes / 1e3);
  return absl::StrFormat("%.0f bytes", bytes);
}

// "$2.50", "$1,234": of US dollars.
std::string Money(double dollars) {
  return "$" + (dollars < 100 ? absl::StrFormat("%.2f", dollars) : ReportNumber(dollars));
}

// "1 GPU", "8 GPUs".
std::string Count(int64_t count, const char* thing) {
  return absl::StrFormat("%d %s%s", count, thing, count == 1 ? "" : "s");
}

// Of machine time: a run of a minute is not "0.0007 days".
std::string Duration(double seconds) {
  if (seconds >= 86400) return ReportNumber(seconds / 86400) + " days";
  if (seconds >= 3600) return ReportNumber(seconds / 3600) + " hours";
  if (seconds >= 60) return ReportNumber(seconds / 60) + " minutes";
  return ReportNumber(seconds) + " seconds";
}
// The losses make about this much of student's logits at once (losses.cc).
constexpr double kLogitBytes = 256.0 * 1024 * 1024;
// Tokens between the states that the scans keep for the backward pass.
constexpr double kMambaCheckpoint = 16, kMamba2Checkpoint = 64;

int64_t Numbers(const Parameter& parameter) {
  int64_t count = 1;
  for (const int64_t extent : parameter.shape) count *= extent;
  return count;
}

bool IsRecurrent(const ModelConfig& config, const Parameter& parameter) {
  if (parameter.layer < 0 || config.mixers[parameter.layer] == MixerKind::kAttention) return false;
  switch (parameter.role) {
    case Role::kMixerNorm:
    case Role::kMlpNorm:
    case Role::kMlpGate:
    case Role::kMlpUp:
    case Role::kMlpDown:
    case Role::kMlpGateBias:
    case Role::kMlpUpBias:
    case Role::kMlpDownBias:
      return false;
    default:
      return true;
  }
}

bool IsTrained(const PlannedRun& run, const Parameter& parameter) {
  return run.trained == TrainedPart::kAll || IsRecurrent(run.model, parameter);
}

// Takes part in a product with every token; the embedding only where it is the head as well.
bool IsProduct(const ModelConfig& config, const Parameter& parameter) {
  if (parameter.optional) return false;
  if (parameter.role == Role::kEmbedding) return config.tied_head;
  return parameter.shape.size() == 2 && parameter.role != Role::kMambaALog;
}

// Operations a token beside the products with matrices. Attention sees half a row on average.
double MixerWork(const ModelConfig& config, int layer, int64_t row_tokens) {
  const auto tokens = static_cast<double>(row_tokens);
  switch (config.mixers[layer]) {
    case MixerKind::kAttention: {
      const checkpoint::AttentionConfig& attention = config.attention;
      const int window = config.SlidingWindow(layer);
      const double seen =
          window > 0 ? std::min(tokens / 2, static_cast<double>(window)) : tokens / 2;
      return 4.0 * attention.query_heads * attention.head_width * seen;
    }
    case MixerKind::kMamba:
      return 9.0 * config.mamba.inner_width * config.mamba.state_size +
             2.0 * config.mamba.inner_width * config.mamba.convolution_width;
    case MixerKind::kMamba2:
      return 6.0 * config.mamba2.inner_width * config.mamba2.state_size +
             6.0 * config.mamba2.inner_width * config.mamba2.convolution_width;
  }
  return 0;
}

// Of a recurrent mixer: reads what comes into the layer.
bool ReadsInput(Role role) {
  return role == Role::kMambaIn || role == Role::kMambaInZ || role == Role::kMambaInX ||
         role == Role::kMambaInB || role == Role::kMambaInC || role == Role::kMambaInDt ||
         role == Role::kMamba2In;
}

struct LayerWork {
  double matrices = 0;          // forward, products
  double first_matrices = 0;    // of those, the ones that read the layer's input
  double trained_matrices = 0;  // of those, trained ones
  double mixer = 0;
  bool trained = false;
};

std::vector<LayerWork> WorkOfLayers(const PlannedRun& run, const ModelConfig& config,
                                    bool is_student) {
  std::vector<LayerWork> layers(config.layers);
  const checkpoint::ParameterTable table(config);
  for (const Parameter& parameter : table.parameters()) {
    if (parameter.layer < 0) continue;
    LayerWork& layer = layers[parameter.layer];
    const bool trained = is_student && IsTrained(run, parameter);
    layer.trained |= trained;
    if (!IsProduct(config, parameter)) continue;
    const double operations = 2.0 * static_cast<double>(Numbers(parameter));
    layer.matrices += operations;
    if (ReadsInput(parameter.role)) layer.first_matrices += operations;
    if (trained) layer.trained_matrices += operations;
  }
  for (int layer = 0; layer < config.layers; ++layer) {
    layers[layer].mixer = MixerWork(config, layer, run.row_tokens);
  }
  return layers;
}

double HeadWork(const ModelConfig& config) { return 2.0 * config.vocabulary * config.width; }

double ForwardWork(const PlannedRun& run, const ModelConfig& config, double* products) {
  double matrices = run.aligned ? 0 : HeadWork(config), mixers = 0;
  for (const LayerWork& layer : WorkOfLayers(run, config, false)) {
    matrices += layer.matrices;
    mixers += layer.mixer;
  }
  *products += matrices;
  return matrices + mixers;
}

// Numbers in the working type, and in fp32, that one layer keeps a token for its backward pass.
struct Kept {
  double working = 0, wide = 0;
  double weights = 0;  // matrices laid side by side for one product, numbers in all
};

Kept KeptByMixer(const ModelConfig& config, int layer) {
  const double width = config.width;
  Kept kept;
  if (config.mixers[layer] == MixerKind::kAttention) {
    const checkpoint::AttentionConfig& attention = config.attention;
    const double query = 1.0 * attention.query_heads * attention.head_width;
    const double key = 1.0 * attention.key_value_heads * attention.head_width;
    // Product, rotated query and key, output, and what the head product reads.
    kept.working = (query + 2 * key) + (query + key) + query + query;
    kept.wide = attention.query_heads;
    kept.weights = (query + 2 * key) * width;
  } else if (config.mixers[layer] == MixerKind::kMamba) {
    const checkpoint::MambaConfig& mamba = config.mamba;
    const double inner = mamba.inner_width, source = mamba.source_width;
    const double product = source > 0 ? 2 * inner + 2 * source + mamba.dt_rank : 2 * inner;
    const double selected = source > 0 ? 0 : mamba.dt_rank + 2 * mamba.state_size;
    // Product, repeated x, convolved x, time steps, output.
    kept.working = product + selected + (source > 0 ? inner : 0) + inner + inner + inner;
    kept.wide = inner * mamba.state_size / kMambaCheckpoint;
    kept.weights = source > 0 ? product * width : 0;
  } else {
    const checkpoint::Mamba2Config& mamba = config.mamba2;
    const double inner = mamba.inner_width, groups = 1.0 * mamba.groups * mamba.state_size;
    const double source = mamba.source_width;
    const double convolved = source > 0 ? 2 * source + groups : inner + 2 * groups;
    // Product, convolved x, B and C, scan's output, normed output.
    kept.working = inner + convolved + mamba.heads + convolved + inner + inner;
    kept.wide = inner * mamba.state_size / kMamba2Checkpoint;
  }
  return kept;
}

Kept KeptByLayer(const PlannedRun& run, int layer) {
  const ModelConfig& config = run.model;
  Kept kept = KeptByMixer(config, layer);
  // The sum before each norm; what the norm gives where a trained matrix reads it.
  const bool all = run.trained == TrainedPart::kAll;
  const bool mixer = all || config.mixers[layer] != MixerKind::kAttention;
  kept.wide += config.width;
  kept.working += mixer ? config.width : 0;
  if (config.mlp_width > 0) {
    kept.wide += config.width;
    kept.working += (all ? config.width : 0) + 2.0 * config.mlp_width;
    kept.working += all ? config.mlp_width : 0;
    kept.weights += 2.0 * config.mlp_width * config.width;
  }
  return kept;
}

// `largest`: of one block.
double ActivationBytes(const PlannedRun& run, double* largest) {
  const double tokens = static_cast<double>(run.micro_batch * run.row_tokens);
  const double working = run.half_precision ? 2 : 4;
  double sum = 0;
  *largest = 0;
  for (int layer = 0; layer < run.model.layers; ++layer) {
    const Kept kept = KeptByLayer(run, layer);
    const double bytes = tokens * (kept.working * working + kept.wide * 4) + kept.weights * working;
    sum += bytes;
    *largest = std::max(*largest, bytes);
  }
  // A block's input and what it adds; the rest is made again, one block at a time.
  if (run.recompute) return run.model.layers * tokens * run.model.width * (4 + working);
  return sum;
}

// What the teacher's pass keeps while layers are aligned and what one layer of its own takes
// meanwhile: the residual stream, a mixer's input and output; products of a block.
double TeacherBytes(const PlannedRun& run, double* passing) {
  const double tokens = static_cast<double>(run.micro_batch * run.row_tokens);
  const double working = run.half_precision ? 2 : 4;
  const ModelConfig& teacher = *run.teacher;
  const double width = teacher.width, mlp = teacher.mlp_width;
  *passing = (tokens * 3 * mlp + 2 * mlp * width) * working;
  for (int layer = 0; layer < teacher.layers; ++layer) {
    const Kept kept = KeptByMixer(teacher, layer);
    *passing = std::max(*passing,
                        tokens * (kept.working * working + kept.wide * 4) + kept.weights * working);
  }
  return tokens * width * (4 + 2 * working);
}

// Of one recurrent layer, the largest: what it keeps, and the loss's differences and squares.
double AlignmentBytes(const PlannedRun& run, double* largest) {
  const double tokens = static_cast<double>(run.micro_batch * run.row_tokens);
  const double working = run.half_precision ? 2 : 4;
  *largest = 0;
  for (int layer = 0; layer < run.model.layers; ++layer) {
    if (run.model.mixers[layer] == MixerKind::kAttention) continue;
    const Kept kept = KeptByMixer(run.model, layer);
    *largest = std::max(*largest,
                        tokens * (kept.working * working + kept.wide * 4) + kept.weights * working);
  }
  const double wide_copies = run.half_precision ? 2 : 0;  // of what both mixers gave, in fp32
  return *largest + tokens * run.model.width * 4 * (2 + wide_copies);
}

double LogitBytes(const PlannedRun& run) {
  const double working = run.half_precision ? 2 : 4;
  const double tokens = static_cast<double>(run.micro_batch * run.row_tokens);
  const double vocabulary = run.model.vocabulary;
  const double rows = std::min(tokens, std::max(128.0, kLogitBytes / (vocabulary * working)));
  // One kernel turns logits into their gradient in place on a GPU; operations elsewhere keep the
  // distributions of both, their logarithms and the gradient.
  const double copies = (run.teacher ? 2 : 1) + (run.half_precision ? 0 : run.teacher ? 6 : 3);
  return rows * vocabulary * working * copies;
}

double HeadBytes(const PlannedRun& run) {
  const double working = run.half_precision ? 2 : 4;
  const double tokens = static_cast<double>(run.micro_batch * run.row_tokens);
  const double vocabulary = run.model.vocabulary, width = run.model.width;
  // Hidden states of both and the gradient of one.
  double bytes = tokens * width * working * (run.teacher ? 3 : 2);
  if (run.trained == TrainedPart::kAll) bytes += vocabulary * width * (4 + 4 + working);
  return bytes;
}

// Forward and backward of the mixers alone; nobody asks for their inputs' gradients.
void AddAlignmentWork(const PlannedRun& run, PlannedWork* work) {
  for (const LayerWork& layer : WorkOfLayers(run, run.model, true)) {
    if (!layer.trained) continue;
    const double forward = layer.trained_matrices;
    const double backward = 2 * layer.trained_matrices - layer.first_matrices;
    work->forward += forward + layer.mixer;
    work->backward += backward + 2 * layer.mixer;
    work->products += forward + backward;
  }
}

// Forward and backward of the whole model.
void AddModelWork(const PlannedRun& run, PlannedWork* work) {
  work->forward = ForwardWork(run, run.model, &work->products);
  const double head = HeadWork(run.model);
  const bool all = run.trained == TrainedPart::kAll;
  double matrices = head + (all ? head : 0), mixers = 0;
  bool reached = false;  // a trained parameter at or before this layer
  for (const LayerWork& layer : WorkOfLayers(run, run.model, true)) {
    const bool first = !reached && layer.trained && !all;  // nobody asks for its input's gradient
    reached |= layer.trained;
    // Activations' gradients cost what the forward pass did, the mixer's own part twice that.
    if (reached) {
      matrices += layer.matrices + layer.trained_matrices - (first ? layer.first_matrices : 0);
      mixers += 2 * layer.mixer;
    }
    if (reached && run.recompute) {
      matrices += layer.matrices;
      mixers += layer.mixer;
    }
  }
  work->backward = matrices + mixers;
  work->products += matrices;
}

}  // namespace

PlannedWork PlanWork(const PlannedRun& run) {
  PlannedWork work;
  const checkpoint::ParameterTable table(run.model);
  for (const Parameter& parameter : table.parameters()) {
    if (parameter.optional) continue;
    work.parameters += Numbers(parameter);
    if (IsTrained(run, parameter)) work.trained_parameters += Numbers(parameter);
  }
  if (run.aligned) {
    AddAlignmentWork(run, &work);
  } else {
    AddModelWork(run, &work);
  }
  if (run.teacher) {
    const checkpoint::ParameterTable teacher(*run.teacher);
    for (const Parameter& parameter : teacher.parameters()) {
      if (!parameter.optional) work.teacher_parameters += Numbers(parameter);
    }
    work.teacher = ForwardWork(run, *run.teacher, &work.products);
  }
  return work;
}

PlannedMemory PlanMemory(const PlannedRun& run) {
  const PlannedWork work = PlanWork(run);
  const double working = run.half_precision ? 2 : 4;
  const auto trained = static_cast<double>(work.trained_parameters);
  const auto processes = static_cast<double>(run.processes);
  PlannedMemory memory;
  memory.weights = static_cast<double>(work.parameters) * working;
  memory.teacher_weights = static_cast<double>(work.teacher_parameters) * working;
  // In the working type, and a sum in fp32: the working gradient itself on the CPU, else of the
  // whole or, with several processes, of this one's part.
  const bool alone = run.processes == 1;
  memory.gradients = trained * working;
  if (alone)
    memory.gradients += run.half_precision ? trained * 4 : 0;
  else
    memory.gradients += trained * (run.half_precision ? 4 + working : 4) / processes;
  // Masters are the working weights themselves where those are fp32.
  memory.optimizer = trained * (run.half_precision ? 12 : 8) / processes;
  double largest = 0;
  if (run.aligned) {
    double teacher = 0;
    memory.activations = TeacherBytes(run, &teacher) + AlignmentBytes(run, &largest);
    memory.passing = std::max(teacher, largest);
    // In between, when nothing of alignment is held.
    const double comparison = run.held_out ? HeadBytes(run) + LogitBytes(run) : 0;
    memory.passing = std::max(memory.passing, comparison - memory.activations);
    return memory;
  }
  memory.activations = ActivationBytes(run, &largest);
  memory.head = HeadBytes(run);
  memory.passing = std::max(LogitBytes(run), run.recompute ? 2 * largest : largest);
  return memory;
}

void RequireMemory(const PlannedRun& run, double available, const std::string& device) {
  const PlannedMemory memory = PlanMemory(run);
  if (memory.total() <= available) return;
  throw std::runtime_error(absl::StrFormat(
      "too little memory on %s: about %.1f GiB are needed (weights %.1f, teacher %.1f, gradients "
      "%.1f, optimizer %.1f, activations %.1f, the rest %.1f), %.1f are free: try a smaller "
      "loop.micro_batch or data.row_tokens%s, or more processes",
      device, memory.total() / kGib, memory.weights / kGib, memory.teacher_weights / kGib,
      memory.gradients / kGib, memory.optimizer / kGib, memory.activations / kGib,
      (memory.head + memory.passing) / kGib, available / kGib,
      run.recompute || run.aligned ? "" : ", loop.activation_checkpointing: true"));
}

std::string ExplainPlan(const PlannedRun& run, const PlanConfig& config) {
  const PlannedWork work = PlanWork(run);
  const PlannedMemory memory = PlanMemory(run);
  const auto processes = static_cast<double>(run.processes);
  const double rate = processes * config.peak_teraflops * 1e12 * config.utilisation / work.total();
  const double seconds = config.tokens / rate;
  const ReportTable needs = {{"memory", "of a GPU"},
                             {{"weights", Size(memory.weights)},
                              {"teacher's weights", Size(memory.teacher_weights)},
                              {"gradients", Size(memory.gradients)},
                              {"masters and moments", Size(memory.optimizer)},
                              {"activations", Size(memory.activations)},
                              {"hidden states and head", Size(memory.head)},
                              {"logits or a block's gradients", Size(memory.passing)},
                              {"in all", Size(memory.total())},
                              {"there", Size(config.memory_gib * kGib)}}};
  const ReportTable time = {
      {"work", "value"},
      {{"parameters", ReportNumber(static_cast<double>(work.parameters))},
       {"trained", ReportNumber(static_cast<double>(work.trained_parameters))},
       {"teacher's", ReportNumber(static_cast<double>(work.teacher_parameters))},
       {"GFLOP a token, forward", ReportNumber(work.forward / 1e9)},
       {"GFLOP a token, backward", ReportNumber(work.backward / 1e9)},
       {"GFLOP a token, teacher", ReportNumber(work.teacher / 1e9)},
       {"share of matrix products", ReportNumber(work.products / work.total())},
       {"tokens a second", ReportNumber(rate)},
       {"time", Duration(seconds)},
       {"GPU-hours", ReportNumber(seconds * processes / 3600)},
       {absl::StrFormat("cost at %s a GPU-hour", Money(config.price_per_hour)),
        Money(seconds * processes / 3600 * config.price_per_hour)}}};
  std::string text = absl::StrFormat(
      "# Plan\n\n%s of %s, %s TFLOP/s of which %s %% are reached, %s tokens in rows of %d, %s a "
      "GPU at once%s.\n\n",
      Count(run.processes, "GPU"), Size(config.memory_gib * kGib),
      ReportNumber(config.peak_teraflops), ReportNumber(100 * config.utilisation),
      ReportNumber(config.tokens), run.row_tokens, Count(run.micro_batch, "row"),
      run.recompute ? ", blocks recomputed" : "");
  text += MarkdownTable(needs) + "\n" + MarkdownTable(time);
  if (memory.total() > config.memory_gib * kGib) text += "\nIt does not fit.\n";
  return text;
}

}  // namespace mambad::trainer
