// The settings of every command: one plain struct each, read from YAML, checked once and passed on
// as const. Defaults stand here; what each setting means is said by Describe (train_config.cc) and
// printed by `trainer <command> --help`.

#ifndef MAMBAD_TRAINER_TRAIN_CONFIG_H_
#define MAMBAD_TRAINER_TRAIN_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/settings.h"

namespace mambad::trainer {

enum class DeviceChoice { kAuto, kCpu, kCuda };
enum class ComputeType { kAuto, kFloat32, kBFloat16 };
enum class StoredType { kBFloat16, kFloat32 };
enum class TargetTokens { kAnswers, kAll };
enum class TrainedPart { kMixers, kAll };
enum class MixerChoice { kMamba, kMamba2 };

// Where a command works and what it works on. A run owns its folder.
struct RunConfig {
  std::string output;
  DeviceChoice device = DeviceChoice::kAuto;
  ComputeType compute = ComputeType::kAuto;
  int64_t threads = 0;
  int64_t seed = 1;
  bool overwrite = false;
};

struct DataConfig {
  std::vector<std::string> train, valid;
  std::string tokens;  // folder of token stores; empty: in the run's folder
  int64_t row_tokens = 1024;
  TargetTokens loss_on = TargetTokens::kAnswers;
  std::string separator = "<|endoftext|>";
  bool prompts_are_chat = true;
  bool append_end_of_text = true;
  bool skip_malformed = false;
  int64_t maximum_tokens = 0;
};

struct OptimizerConfig {
  double learning_rate = 1e-3;
  double weight_decay = 0.0;
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
  double clip_norm = 1.0;
};

struct LoopConfig {
  int64_t steps = 1000;
  int64_t warmup_steps = kShareOfSteps;
  double final_fraction = 0.02;
  int64_t micro_batch = 8;
  int64_t accumulation = 1;
  bool activation_checkpointing = false;
  int64_t log_every = 10;
  int64_t evaluate_every = 0;
  int64_t evaluate_rows = 128;
  int64_t save_every = 0;
  double save_seconds = 600;
  int64_t keep_states = 2;
  double most_seconds = 0;
  double divergence_factor = 3.0;
  StoredType stored = StoredType::kBFloat16;

  static constexpr int64_t kShareOfSteps = -1;
  int64_t most_warmup_steps = 50;  // of a share; no setting, but a command's choice
  // As asked for, or a tenth of the steps and no more than the most.
  int64_t WarmupSteps() const;
};

// Throws std::runtime_error when all of `loop` would be less than the warm-up that is asked for.
// `steps_key`: the setting that gives the steps.
void RequireWarmup(const LoopConfig& loop, const std::string& steps_key);

// Which layers give up attention: a list, or a share of attention kept at the published places.
struct LayerChoiceConfig {
  double attention_percent = 50;
  std::vector<int64_t> replaced;  // layer numbers from 0; wins when not empty
};

// How a replaced layer begins.
struct MixerStartConfig {
  MixerChoice mixer = MixerChoice::kMamba2;
  bool from_attention = true;
  bool identity_start = true;
  bool corrected_head_order = true;
  int64_t state_size = 0;
  std::string trained_mixers;
};

struct TokenizerConfig {
  std::string output;
  std::vector<std::string> train;
  std::string separator = "<|endoftext|>";
  int64_t vocabulary = 4096;
  double character_coverage = 1.0;
  bool byte_fallback = true;
  int64_t most_sentences = 1000000;
  int64_t threads = 2;
  bool overwrite = false;
};

// A model made from numbers rather than read from a directory.
struct NewModelConfig {
  enum class Family { kLlama, kMamba, kMamba2 };
  Family family = Family::kMamba2;
  int64_t width = 256, layers = 4;
  int64_t mlp_width = 0;
  int64_t query_heads = 0, key_value_heads = 0, head_width = 0;
  int64_t inner_width = 0;
  int64_t state_size = 0;
  int64_t heads = 0;
  int64_t groups = 1;
  double rope_theta = 10000.0;
  int64_t context = 2048;
  double norm_epsilon = 1e-5;
  bool tied_head = true;
};

struct PretrainConfig {
  PretrainConfig();
  RunConfig run;
  std::string tokenizer;      // directory
  std::string chat_template;  // file; empty: the tokenizer directory's own, if any
  NewModelConfig model;
  LayerChoiceConfig layers;  // hybrid: a Llama with some layers replaced
  MixerStartConfig start;
  bool hybrid = false;
  DataConfig data;
  OptimizerConfig optimizer;
  LoopConfig loop;
};

struct InitializeConfig {
  std::string teacher, output;
  LayerChoiceConfig layers;
  MixerStartConfig start;
  StoredType stored = StoredType::kFloat32;
  int64_t seed = 1;
  bool overwrite = false;
};

struct AlignConfig {
  AlignConfig();
  RunConfig run;
  std::string teacher, student;
  enum class Loss { kRelativeSquaredError, kDistance };
  Loss loss = Loss::kRelativeSquaredError;
  DataConfig data;
  OptimizerConfig optimizer;
  LoopConfig loop;
};

struct LayersConfig {
  RunConfig run;
  std::string teacher, student;
  DataConfig data;
  int64_t rows = 32;
  int64_t micro_batch = 32;
};

// One step of progressive replacement: layers that are replaced now, and how long to train then.
struct ReplacementPhase {
  LayerChoiceConfig layers;
  int64_t steps = 1000;
};

struct DistillConfig {
  DistillConfig();
  RunConfig run;
  std::string teacher;
  std::string student;  // empty: the first phase starts from the teacher
  TrainedPart trained = TrainedPart::kMixers;
  double divergence_weight = 1.0, cross_entropy_weight = 0.0, temperature = 1.0;
  double rest_learning_rate = 1e-4;
  std::vector<ReplacementPhase> phases;
  MixerStartConfig start;
  DataConfig data;
  OptimizerConfig optimizer;
  LoopConfig loop;
};

struct FinetuneConfig {
  FinetuneConfig();
  RunConfig run;
  std::string student;
  std::string chat_template;  // file; empty: the student's own
  double rest_learning_rate = 2e-5;
  DataConfig data;
  OptimizerConfig optimizer;
  LoopConfig loop;
};

struct PreferenceConfig {
  PreferenceConfig();
  RunConfig run;
  std::string student;
  double beta = 0.1;
  double epochs = 1;
  int64_t prompt_tokens = 0;
  DataConfig data;
  OptimizerConfig optimizer;
  LoopConfig loop;
};

struct DraftConfig {
  DraftConfig();
  RunConfig run;
  std::string target;
  std::string draft;  // goes on from it; empty: made anew
  int64_t copied_layers = 0;
  NewModelConfig model;
  bool projected_embedding = true;
  int64_t proposed_tokens = 8192;
  int64_t acceptance_steps = 500;
  double acceptance_learning_rate = 3e-4;
  DataConfig data;
  OptimizerConfig optimizer;
  LoopConfig loop;
};

struct EvaluateConfig {
  RunConfig run;
  std::string model, teacher, draft;
  DataConfig data;
  int64_t rows = 128;
  int64_t micro_batch = 8;
  int64_t draft_tokens = 5;
  int64_t draft_prompts = 16;
  int64_t prompt_tokens = 64;
  int64_t answer_tokens = 96;
  std::string preference;
  double beta = 0.1;
  std::string reference;
  std::string choices;
};

// A training run on hardware that need not exist yet.
struct PlanConfig {
  std::string output;   // file of the plan (Markdown); empty: printed only
  std::string model;    // directory with config.json (weights are not needed)
  std::string teacher;  // likewise; empty: no teacher in the run
  LayerChoiceConfig layers;
  MixerStartConfig start;
  bool hybrid = true;  // the model's attention is replaced as `layers` says
  TrainedPart trained = TrainedPart::kAll;
  int64_t accelerators = 8;
  double memory_gib = 80;
  double peak_teraflops = 989;
  double utilisation = 0.4;
  double price_per_hour = 2.5;
  int64_t row_tokens = 2048;
  int64_t micro_batch = 1;
  bool activation_checkpointing = true;
  double tokens = 20e9;
  bool overwrite = false;  // a file at `output` that is no plan
};

void Describe(Settings* settings, TokenizerConfig* config);
void Describe(Settings* settings, PretrainConfig* config);
void Describe(Settings* settings, InitializeConfig* config);
void Describe(Settings* settings, AlignConfig* config);
void Describe(Settings* settings, LayersConfig* config);
void Describe(Settings* settings, ReplacementPhase* phase);
void Describe(Settings* settings, DistillConfig* config);
void Describe(Settings* settings, FinetuneConfig* config);
void Describe(Settings* settings, PreferenceConfig* config);
void Describe(Settings* settings, DraftConfig* config);
void Describe(Settings* settings, EvaluateConfig* config);
void Describe(Settings* settings, PlanConfig* config);

// Parts that several commands share.
void DescribeRun(Settings* settings, RunConfig* config);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_TRAIN_CONFIG_H_
