#include "engine/checkpoint/generation_defaults.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/error_text.h"

namespace mambad::checkpoint {
namespace {

class Settings {
 public:
  Settings(const std::string& source, const nlohmann::json& object, ModelConfig& config)
      : source_(source), object_(object), config_(config) {}

  // The number within [low, high]; nothing when absent, or out of range with a warning.
  std::optional<double> Number(const char* key, double low, double high) {
    const nlohmann::json* value = Find(key);
    if (value == nullptr) return std::nullopt;
    const double number = value->is_number() ? value->get<double>() : NAN;
    if (number >= low && number <= high) return number;
    LeaveOut(key, absl::StrCat("a number from ", low, " to ", high, " expected"));
    return std::nullopt;
  }
  std::optional<bool> Flag(const char* key) {
    const nlohmann::json* value = Find(key);
    if (value == nullptr) return std::nullopt;
    if (value->is_boolean()) return value->get<bool>();
    if (value->is_number() && (*value == 0 || *value == 1)) return *value == 1;
    LeaveOut(key, "true or false expected");
    return std::nullopt;
  }
  // -1 and 0 mean no limit.
  std::optional<int> TopK() {
    const nlohmann::json* value = Find("top_k");
    if (value == nullptr) return std::nullopt;
    const double number = value->is_number() ? value->get<double>() : NAN;
    if (!(number >= -1) || std::floor(number) != number) {
      LeaveOut("top_k", "a whole number expected");
      return std::nullopt;
    }
    return static_cast<int>(std::clamp<double>(number, 0, config_.vocabulary));
  }

 private:
  // nullptr when absent or null.
  const nlohmann::json* Find(const char* key) const {
    if (!object_.is_object()) return nullptr;
    const auto it = object_.find(key);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }
  void LeaveOut(const char* key, const std::string& expected) {
    const std::string shown =
        Find(key)->dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    config_.warnings.push_back(
        absl::StrCat(source_, ": ", key, ": ", Quoted(shown), " is left out, ", expected));
  }

  const std::string& source_;
  const nlohmann::json& object_;
  ModelConfig& config_;
};

}  // namespace

void ReadGenerationDefaults(const std::string& source, const nlohmann::json& generation,
                            ModelConfig& config) {
  Settings settings(source, generation, config);
  ModelConfig::SamplingDefaults& defaults = config.sampling_defaults;
  defaults.do_sample = settings.Flag("do_sample");
  defaults.temperature = settings.Number("temperature", 0, 100);
  defaults.top_p = settings.Number("top_p", 1e-6, 1);
  defaults.min_p = settings.Number("min_p", 0, 1);
  defaults.repetition_penalty = settings.Number("repetition_penalty", 1e-6, 100);
  defaults.top_k = settings.TopK();
}

}  // namespace mambad::checkpoint
