#include "trainer/stages/run_inputs.h"

#include <filesystem>
#include <stdexcept>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/json_file.h"
#include "trainer/text_file.h"

namespace mambad::trainer {
namespace {

constexpr char kThreads[] = "threads";

std::string PathOfInputs(const StageRun& run) { return run.folder + "/inputs.json"; }

nlohmann::json ReadInputs(const std::string& path) {
  if (!std::filesystem::exists(path)) return nlohmann::json::object();
  auto read = checkpoint::ReadJsonFile(path);
  if (!read.ok()) throw std::runtime_error(std::string(read.status().message()));
  if (!read->is_object()) throw std::runtime_error(path + ": expected a JSON object");
  return *std::move(read);
}

void WriteInput(const std::string& path, nlohmann::json inputs, const std::string& key,
                const nlohmann::json& value) {
  inputs[key] = value;
  WriteText(path, inputs.dump(2) + "\n");
}

}  // namespace

std::string ModelFingerprint(const std::string& directory) {
  const auto opened = checkpoint::Checkpoint::Open(directory);
  if (!opened.ok()) throw std::runtime_error(std::string(opened.status().message()));
  return (*opened)->fingerprint();
}

void RequireSameInput(const StageRun& run, const std::string& key, const std::string& fingerprint) {
  const std::string path = PathOfInputs(run);
  const nlohmann::json inputs = ReadInputs(path);
  const auto before = inputs.find(key);
  if (before != inputs.end() && *before == fingerprint) return;
  if (run.goes_on && before != inputs.end()) {
    throw std::runtime_error(key + ": what it names has changed since the run was begun (" + path +
                             "); give another output");
  }
  WriteInput(path, inputs, key, fingerprint);
}

void KeepThreads(const StageRun& run, int threads) {
  const std::string path = PathOfInputs(run);
  WriteInput(path, ReadInputs(path), kThreads, threads);
}

int KeptThreads(const StageRun& run) {
  if (!run.goes_on) return 0;
  const nlohmann::json inputs = ReadInputs(PathOfInputs(run));
  const auto kept = inputs.find(kThreads);
  return kept != inputs.end() && kept->is_number_integer() ? kept->get<int>() : 0;
}

}  // namespace mambad::trainer
