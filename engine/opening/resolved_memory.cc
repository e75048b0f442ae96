#include "engine/opening/resolved_memory.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/opening/resolved_options.h"

namespace mambad {
namespace {

// What chosen sizes may fill of the free memory. A device's own memory is nobody else's, but what
// is recorded while it serves, and other programs, want some of it too.
constexpr double kUsualFraction = 0.95, kUsualFractionOfDevice = 0.9;
// Of a device's free memory, what a work space of many rows may take.
constexpr double kWorkspaceFraction = 1.0 / 16;

class MemoryResolver {
 public:
  MemoryResolver(const OpenedModels& models, const kernels::Backend& backend,
                 const EngineOptions& options)
      : models_(models),
        backend_(backend),
        given_(options),
        dedicated_(backend.Memory().dedicated),
        has_attention_(models.target->config().HasMixer(checkpoint::MixerKind::kAttention)),
        fraction_(options.memory_fraction > 0 ? options.memory_fraction
                  : dedicated_                ? kUsualFractionOfDevice
                                              : kUsualFraction) {}

  absl::StatusOr<MemoryPlan> Resolve(EngineOptions* options, std::vector<std::string>* warnings) {
    absl::StatusOr<int> sequences = Sequences();
    if (!sequences.ok()) return sequences.status();
    if (absl::Status status = Begin(*sequences, options, warnings); !status.ok()) return status;
    const int64_t context = options->max_context;
    absl::StatusOr<MemoryPlan> plan = ResolveCache(options, warnings);
    if (!plan.ok()) return plan;
    if (absl::Status status = CheckFits(*plan, *options); !status.ok()) return status;
    if (options->max_context < context) {
      warnings->push_back(absl::StrCat("batching.kv_cache_tokens: ", options->kv_cache_tokens,
                                       " cuts the context from ", context, " to ",
                                       options->max_context, " tokens"));
    }
    return plan;
  }

 private:
  // All but the cache, for so many sequences.
  absl::Status Begin(int sequences, EngineOptions* options,
                     std::vector<std::string>* warnings) const {
    *options = given_;
    options->max_sequences = sequences;
    if (given_.max_step_rows == 0 && dedicated_) {
      options->max_step_rows = UsualStepRows(sequences, true);
      if (!HasRoomForRows(*options)) options->max_step_rows = 0;
    }
    return ResolveOptions(models_.target->config(),
                          models_.draft == nullptr ? nullptr : &models_.draft->config(), options,
                          warnings);
  }

  // Whether steps of so many rows leave nearly all memory for states and the cache.
  bool HasRoomForRows(EngineOptions options) const {
    std::vector<std::string> warnings;
    const bool resolved =
        ResolveOptions(models_.target->config(),
                       models_.draft == nullptr ? nullptr : &models_.draft->config(), &options,
                       &warnings)
            .ok();
    if (!resolved) return false;  // whoever resolves them anew says why
    if (options.kv_cache_tokens == 0) options.kv_cache_tokens = SharedCacheTokens(options);
    const MemoryPlan plan = Plan(&options);
    return plan.free < 0 || static_cast<double>(plan.workspace) <=
                                kWorkspaceFraction * static_cast<double>(plan.free);
  }

  // The most that fit beside what they usually take of a cache, where nobody said how many.
  absl::StatusOr<int> Sequences() const {
    if (given_.max_sequences > 0) return given_.max_sequences;
    const int most = UsualSequences(given_, dedicated_);
    for (int sequences = most; dedicated_ && sequences > 1; --sequences) {
      EngineOptions options;
      std::vector<std::string> warnings;
      if (absl::Status status = Begin(sequences, &options, &warnings); !status.ok()) return status;
      if (options.kv_cache_tokens == 0) options.kv_cache_tokens = SharedCacheTokens(options);
      const MemoryPlan plan = Plan(&options);
      if (plan.free < 0) return most;
      if (static_cast<double>(plan.total()) <= fraction_ * static_cast<double>(plan.free)) {
        return sequences;
      }
    }
    return dedicated_ ? 1 : most;
  }

  // Of options that have a cache, which bounds the context.
  MemoryPlan Plan(EngineOptions* options) const {
    if (has_attention_) {
      options->max_context = std::min(options->max_context, options->kv_cache_tokens);
    }
    return PlanMemory(*models_.target, models_.draft, models_.proposed_tokens, *options, backend_);
  }

  absl::StatusOr<MemoryPlan> ResolveCache(EngineOptions* options,
                                          std::vector<std::string>* warnings) const {
    const int64_t context = options->max_context;
    const bool chosen = options->kv_cache_tokens == 0;
    const int64_t usual = UsualCacheTokens(*options);
    if (chosen) {
      options->kv_cache_tokens = dedicated_ ? context * options->max_sequences : usual;
    }
    MemoryPlan plan = Plan(options);
    if (absl::Status status = CheckPageTable(*options, has_attention_); !status.ok()) return status;
    if (!chosen) return plan;
    const int64_t wanted = options->kv_cache_tokens;
    options->kv_cache_tokens = FittingCacheTokens(plan, wanted, fraction_);
    if (options->kv_cache_tokens == wanted) return plan;
    options->max_context = context;
    plan = Plan(options);
    if (options->kv_cache_tokens < usual) {
      warnings->push_back(absl::StrCat("batching.kv_cache_tokens: free memory has room for ",
                                       options->kv_cache_tokens, " tokens of keys and values; ",
                                       usual, " would be taken of more"));
    }
    return plan;
  }

  const OpenedModels& models_;
  const kernels::Backend& backend_;
  const EngineOptions given_;
  const bool dedicated_, has_attention_;
  const double fraction_;
};

}  // namespace

absl::StatusOr<MemoryPlan> ResolveMemory(const OpenedModels& models,
                                         const kernels::Backend& backend, EngineOptions* options,
                                         std::vector<std::string>* warnings) {
  return MemoryResolver(models, backend, *options).Resolve(options, warnings);
}

}  // namespace mambad
