#include "trainer/stages/run_inputs.h"

#include <filesystem>
#include <stdexcept>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/json_file.h"
#include "trainer/text_file.h"

namespace mambad::trainer {

std::string ModelFingerprint(const std::string& directory) {
  const auto opened = checkpoint::Checkpoint::Open(directory);
  if (!opened.ok()) throw std::runtime_error(std::string(opened.status().message()));
  return (*opened)->fingerprint();
}

void RequireSameInput(const StageRun& run, const std::string& key, const std::string& fingerprint) {
  const std::string path = run.folder + "/inputs.json";
  nlohmann::json inputs = nlohmann::json::object();
  if (std::filesystem::exists(path)) {
    auto read = checkpoint::ReadJsonFile(path);
    if (!read.ok()) throw std::runtime_error(std::string(read.status().message()));
    inputs = *std::move(read);
    if (!inputs.is_object()) throw std::runtime_error(path + ": expected a JSON object");
  }
  const auto before = inputs.find(key);
  if (before != inputs.end() && *before == fingerprint) return;
  if (run.goes_on && before != inputs.end()) {
    throw std::runtime_error(key + ": what it names has changed since the run was begun (" + path +
                             "); give another output");
  }
  inputs[key] = fingerprint;
  WriteText(path, inputs.dump(2) + "\n");
}

}  // namespace mambad::trainer
