#include "tests/kernels/backend/tested_backend.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cpu/instruction_set.h"
#include "kernels/recording_backend.h"

namespace mambad::kernels {
namespace {

constexpr char kRecorded[] = "cpu_Recorded";

std::string VariantName(InstructionSet set) {
  std::string name = Name(set);
  std::erase_if(name, [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); });
  return "cpu_" + name;
}

}  // namespace

std::vector<std::string> TestedDevices() {
  const char* const device = std::getenv("MAMBAD_TEST_BACKEND");
  return {device != nullptr ? device : "cpu"};
}

std::vector<std::string> TestedVariants() {
  std::vector<std::string> devices = TestedDevices();
  if (devices[0] != "cpu") return devices;
  std::vector<std::string> variants;
  for (InstructionSet set : AvailableInstructionSets()) variants.push_back(VariantName(set));
  variants.push_back(kRecorded);
  return variants;
}

TestedBackend::TestedBackend(const std::string& variant, ElementType activations)
    : device_(variant.substr(0, variant.find('_'))),
      recorded_(variant == kRecorded),
      activations_(activations) {
  for (InstructionSet set : AvailableInstructionSets()) {
    if (variant == VariantName(set)) LimitInstructionSet(set);
  }
  CreatedBackend created = Create(/*threads=*/0);
  missing_ = created.error;
  if (!is_cpu()) backends_[0] = std::move(created.backend);
}

TestedBackend::~TestedBackend() { LimitInstructionSet(kHighestInstructionSet); }

Backend& TestedBackend::WithThreads(int threads) {
  std::unique_ptr<Backend>& backend = backends_[is_cpu() ? threads : 0];
  if (backend == nullptr) backend = Create(threads).backend;
  return *backend;
}

CreatedBackend TestedBackend::Create(int threads) const {
  BackendOptions options;
  options.device = device_;
  options.threads = threads;
  options.activations = activations_;
  CreatedBackend created = CreateBackend(options);
  if (recorded_) created.backend = CreateRecordingBackend(std::move(created.backend));
  return created;
}

}  // namespace mambad::kernels
