#include "engine/checkpoint/quantised_model.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/checkpoint/error_text.h"

namespace mambad::checkpoint {
namespace {

absl::Status Refusal(const std::string& where, const std::string& what) {
  return absl::UnimplementedError(absl::StrCat(
      where, ": ", what,
      " is not implemented; the way out is the model it was made of in BF16, F16 or F32, or a GGUF "
      "file of it (Q8_0, Q4_K, ...)"));
}

}  // namespace

absl::Status RefuseQuantised(const std::string& directory, const nlohmann::json& config,
                             const std::set<std::string>& names) {
  const std::string source = absl::StrCat(directory, "/config.json");
  for (const char* key : {"quantization_config", "compression_config"}) {
    const auto it = config.find(key);
    if (it == config.end() || !it->is_object() || it->empty()) continue;
    const auto method = it->find("quant_method");
    const std::string name = method != it->end() && method->is_string()
                                 ? method->get<std::string>()
                                 : std::string("of an unknown method");
    return Refusal(source, absl::StrCat(key, ": quantisation ", Quoted(name)));
  }
  if (const auto mlx = config.find("quantization");
      mlx != config.end() && mlx->is_object() && mlx->contains("bits")) {
    return Refusal(source, "quantization: a model quantised for MLX");
  }
  for (const std::string& name : names) {
    const char* method =
        absl::EndsWith(name, ".qweight")                                           ? "GPTQ or AWQ"
        : absl::EndsWith(name, ".q_weight")                                        ? "EXL2"
        : absl::EndsWith(name, ".trellis")                                         ? "EXL3"
        : absl::EndsWith(name, ".SCB") || absl::StrContains(name, ".quant_state.") ? "bitsandbytes"
        : absl::EndsWith(name, ".weight_packed") ? "compressed-tensors"
        : absl::EndsWith(name, ".weight_scale_inv") || absl::EndsWith(name, ".weight_scale")
            ? "FP8 or INT8 with scales"
            : nullptr;
    if (method != nullptr) {
      return Refusal(directory,
                     absl::StrCat("tensor ", Quoted(name), ": quantisation by ", method));
    }
  }
  return absl::OkStatus();
}

}  // namespace mambad::checkpoint
