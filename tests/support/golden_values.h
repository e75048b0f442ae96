// Outputs and gradients of the original CUDA and Triton kernels, where that data lies beside the
// checkout: the folder golden/ of MAMBAD_SHARED_DATA.

#ifndef MAMBAD_TESTS_SUPPORT_GOLDEN_VALUES_H_
#define MAMBAD_TESTS_SUPPORT_GOLDEN_VALUES_H_

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace mambad::testing {

using Json = nlohmann::json;

// Null when the file is not there. NaN, which is not JSON, is read as null.
inline Json LoadGolden(const std::string& file) {
  const char* folder = std::getenv("MAMBAD_SHARED_DATA");
  if (folder == nullptr) return nullptr;
  std::ifstream stream(std::string(folder) + "/golden/" + file);
  if (!stream) return nullptr;
  std::string text((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
  for (size_t at; (at = text.find("NaN")) != std::string::npos;) text.replace(at, 3, "null");
  Json parsed = Json::parse(text, nullptr, false);
  EXPECT_FALSE(parsed.is_discarded()) << file;
  return parsed;
}

template <typename T>
void FlattenGolden(const Json& value, std::vector<T>& out) {
  if (value.is_array()) {
    for (const Json& element : value) FlattenGolden(element, out);
  } else {
    out.push_back(value.is_number() ? value.get<T>() : std::numeric_limits<T>::quiet_NaN());
  }
}

// A tensor in row-major order, either plain nested lists or {data, shape}; empty when absent.
template <typename T>
std::vector<T> GoldenTensor(const Json& parent, const std::string& name) {
  std::vector<T> out;
  if (!parent.contains(name) || parent[name].is_null()) return out;
  FlattenGolden(parent[name].is_object() ? parent[name]["data"] : parent[name], out);
  return out;
}

inline std::vector<int64_t> GoldenShape(const Json& tensor) {
  if (tensor.is_object()) return tensor["shape"].get<std::vector<int64_t>>();
  std::vector<int64_t> shape;
  for (const Json* at = &tensor; at->is_array(); at = &at->front()) {
    shape.push_back(static_cast<int64_t>(at->size()));
  }
  return shape;
}

// A selective scan: u, delta, z [sequences, channels, tokens]; A [channels, N]; B and C [channels,
// N], [sequences, channels, N] or [sequences, groups, N, tokens]; D and delta_bias [channels], zero
// where the file has none. A row is a token of a sequence.
template <typename T>
struct GoldenScan {
  explicit GoldenScan(const Json& inputs) {
    const std::vector<int64_t> shape = GoldenShape(inputs["u"]);
    sequences = shape[0];
    channels = shape[1];
    tokens = shape[2];
    for (const char* name : {"u", "delta", "A", "B", "C", "D", "z", "delta_bias"}) {
      if (auto values = GoldenTensor<T>(inputs, name); !values.empty()) in[name] = values;
    }
    if (inputs.contains("dt_bias")) in["delta_bias"] = GoldenTensor<T>(inputs, "dt_bias");
    if (in["delta_bias"].empty()) in["delta_bias"].assign(channels, 0);
    if (in["D"].empty()) in["D"].assign(channels, 0);
    states = static_cast<int64_t>(in["A"].size()) / channels;
    groups = static_cast<int64_t>(in["B"].size()) / (sequences * states * tokens);
  }

  int64_t rows() const { return sequences * tokens; }
  // Where u, delta and z of a channel are.
  int64_t At(int64_t row, int64_t channel) const {
    return (row / tokens * channels + channel) * tokens + row % tokens;
  }
  // Where B and C of a channel are.
  int64_t Place(int64_t row, int64_t channel, int64_t n) const {
    const int64_t sequence = row / tokens, token = row % tokens;
    const int64_t size = static_cast<int64_t>(in.at("B").size());
    if (size == channels * states) return channel * states + n;
    if (size == sequences * channels * states) {
      return (sequence * channels + channel) * states + n;
    }
    const int64_t group = channel / (channels / groups);
    return ((sequence * groups + group) * states + n) * tokens + token;
  }

  int64_t sequences, channels, tokens, states, groups;  // groups: where B and C have them
  std::map<std::string, std::vector<T>> in;
};

// Tests over the file of all operations; skipped without it.
class GoldenCases : public ::testing::Test {
 protected:
  void SetUp() override {
    cases_ = LoadGolden("mamba_ssm_cuda_reference_cases.json");
    if (!cases_.is_object()) {
      GTEST_SKIP() << "no reference values: MAMBAD_SHARED_DATA names no folder with "
                      "golden/mamba_ssm_cuda_reference_cases.json";
    }
  }
  Json cases_;
};

// Tests over a few small scans; skipped without them.
class GoldenSmallScans : public ::testing::Test {
 protected:
  void SetUp() override {
    cases_ = LoadGolden("b-vitamins-ssm/selective_scan_reference.json");
    if (!cases_.is_array()) {
      GTEST_SKIP()
          << "no reference values: MAMBAD_SHARED_DATA names no folder with golden/b-vitamins-ssm";
    }
  }
  Json cases_;
};

}  // namespace mambad::testing

#endif  // MAMBAD_TESTS_SUPPORT_GOLDEN_VALUES_H_
