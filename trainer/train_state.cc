#include "trainer/train_state.h"

#include <ATen/ATen.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "engine/checkpoint/json_file.h"
#include "engine/checkpoint/mapped_file.h"
#include "engine/checkpoint/safetensors.h"

namespace mambad::trainer {
namespace {

using at::Tensor;
using nlohmann::json;
namespace filesystem = std::filesystem;

constexpr char kPrefix[] = "step-";
constexpr char kUnfinished[] = "unfinished-";

void Require(const absl::Status& status) {
  if (!status.ok()) throw std::runtime_error(std::string(status.message()));
}

std::string FileStem(const ProcessGroup& processes) {
  return absl::StrFormat("state-%d-of-%d", processes.rank(), processes.size());
}

// A rename lasts only when its folder is on disk too.
void FlushDirectory(const std::string& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_DIRECTORY);
  const bool flushed = descriptor >= 0 && fsync(descriptor) == 0;
  const int error = errno;
  if (descriptor >= 0) close(descriptor);
  if (!flushed) throw std::runtime_error(path + ": cannot be flushed: " + std::strerror(error));
}

// Steps of the complete states in `directory`, ascending.
std::vector<int64_t> SavedSteps(const std::string& directory) {
  std::vector<int64_t> steps;
  std::error_code error;
  for (const auto& entry : filesystem::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename();
    int64_t step = 0;
    if (absl::StartsWith(name, kPrefix) &&
        absl::SimpleAtoi(name.substr(std::strlen(kPrefix)), &step)) {
      steps.push_back(step);
    }
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

std::string StateFolder(const std::string& directory, int64_t step) {
  return directory + "/" + kPrefix + absl::StrFormat("%09d", step);
}

void WriteFiles(const std::string& folder, const TrainState& state, const ProcessGroup& processes) {
  std::vector<Tensor> kept;
  std::vector<checkpoint::TensorToWrite> tensors;
  for (const auto& [name, tensor] : state.tensors) {
    kept.push_back(tensor.detach().to(at::kCPU).to(at::kFloat).contiguous());
    const auto* data = static_cast<const std::byte*>(kept.back().data_ptr());
    tensors.push_back({name,
                       checkpoint::StorageType::kFloat32,
                       {kept.back().numel()},
                       {data, static_cast<size_t>(kept.back().nbytes())}});
  }
  const std::string stem = folder + "/" + FileStem(processes);
  Require(checkpoint::WriteSafetensors(stem + ".safetensors", tensors));
  const json object = {{"step", state.step},
                       {"tokens", state.tokens},
                       {"seconds", state.seconds},
                       {"losses_told", state.loss.losses},
                       {"loss_level", state.loss.level},
                       {"lowest_loss_level", state.loss.lowest_level},
                       {"high_losses_in_a_row", state.loss.high_in_a_row},
                       {"epoch", state.cursor.epoch},
                       {"place", state.cursor.place},
                       {"offset", state.cursor.offset},
                       {"untold_trained_tokens", state.untold_trained_tokens},
                       {"untold_micro_batches", state.untold_micro_batches}};
  const std::string words = object.dump(2) + "\n";
  const std::array<absl::Span<const std::byte>, 1> pieces = {
      absl::Span<const std::byte>(reinterpret_cast<const std::byte*>(words.data()), words.size())};
  Require(checkpoint::WriteFileAtomically(stem + ".json", pieces));
}

// What every process agrees on: the message of a failure here, or that there was one elsewhere.
void AgreeOnSuccess(const std::string& failure, ProcessGroup* processes, const Tensor& like) {
  Tensor failures = at::full({1}, failure.empty() ? 0.0 : 1.0, like.options().dtype(at::kFloat));
  processes->AllReduceSum(failures);
  if (!failure.empty()) throw std::runtime_error(failure);
  if (failures.item<float>() > 0) {
    throw std::runtime_error("another process could not save its state");
  }
}

template <typename Work>
std::string FailureOf(const Work& work) {
  try {
    work();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

double Number(const json& object, const char* name, const std::string& path) {
  const auto field = object.find(name);
  if (field == object.end() || !field->is_number()) {
    throw std::runtime_error(path + ": \"" + name + "\": expected a number");
  }
  return field->get<double>();
}

int64_t Count(const json& object, const char* name, const std::string& path) {
  Number(object, name, path);
  if (!object[name].is_number_integer()) {
    throw std::runtime_error(path + ": \"" + name + "\": expected a whole number");
  }
  return object[name].get<int64_t>();
}

// Of one process, from its pair of files.
TrainState ReadFiles(const std::string& stem) {
  const std::string path = stem + ".json";
  auto object = checkpoint::ReadJsonFile(path);
  Require(object.status());
  TrainState state;
  state.step = Count(*object, "step", path);
  state.tokens = Count(*object, "tokens", path);
  state.seconds = Number(*object, "seconds", path);
  state.loss = {Count(*object, "losses_told", path), Number(*object, "loss_level", path),
                Number(*object, "lowest_loss_level", path),
                Count(*object, "high_losses_in_a_row", path)};
  state.cursor = {Count(*object, "epoch", path), Count(*object, "place", path),
                  Count(*object, "offset", path)};
  // States were once saved behind a line of metrics only, and had nothing untold.
  if (object->contains("untold_trained_tokens")) {
    state.untold_trained_tokens = Count(*object, "untold_trained_tokens", path);
    state.untold_micro_batches = Count(*object, "untold_micro_batches", path);
  }
  auto file = checkpoint::MappedFile::Open(stem + ".safetensors");
  Require(file.status());
  auto tensors = checkpoint::ParseSafetensors(stem + ".safetensors", file->bytes());
  Require(tensors.status());
  for (const auto& [name, stored] : tensors->tensors) {
    if (stored.type != checkpoint::StorageType::kFloat32) {
      throw std::runtime_error(stem + ".safetensors: \"" + name + "\": expected type F32");
    }
    Tensor tensor =
        at::empty(at::IntArrayRef(stored.shape.data(), stored.shape.size()), at::kFloat);
    std::memcpy(tensor.data_ptr(), stored.data.data(), stored.data.size());
    state.tensors[name] = tensor;
  }
  return state;
}

// By the names of the files in it; 0 when there are none.
int ProcessesThatSaved(const std::string& folder) {
  std::error_code error;
  for (const auto& entry : filesystem::directory_iterator(folder, error)) {
    const std::string stem = entry.path().stem();
    int processes = 0;
    if (absl::SimpleAtoi(stem.substr(stem.rfind('-') + 1), &processes)) return processes;
  }
  return 0;
}

}  // namespace

void SaveTrainState(const std::string& directory, const TrainState& state, int64_t keep,
                    ProcessGroup* processes) {
  const std::string unfinished =
      directory + "/" + kUnfinished + absl::StrFormat("%09d", state.step);
  const std::string finished = StateFolder(directory, state.step);
  const Tensor like = state.tensors.empty() ? at::zeros({1}) : state.tensors.begin()->second;
  const bool first = processes->rank() == 0;
  AgreeOnSuccess(FailureOf([&] {
                   if (!first) return;
                   filesystem::remove_all(unfinished);
                   filesystem::create_directories(unfinished);
                 }),
                 processes, like);
  const std::string failure = FailureOf([&] { WriteFiles(unfinished, state, *processes); });
  try {
    AgreeOnSuccess(failure, processes, like);
  } catch (const std::exception&) {
    std::error_code ignored;
    if (first) filesystem::remove_all(unfinished, ignored);
    throw;
  }
  AgreeOnSuccess(FailureOf([&] {
                   if (!first) return;
                   FlushDirectory(unfinished);
                   filesystem::remove_all(finished);
                   filesystem::rename(unfinished, finished);
                   FlushDirectory(directory);
                   std::vector<int64_t> steps = SavedSteps(directory);
                   for (size_t i = 0; i + std::max<int64_t>(keep, 1) < steps.size(); ++i) {
                     filesystem::remove_all(StateFolder(directory, steps[i]));
                   }
                 }),
                 processes, like);
}

std::optional<TrainState> LoadNewestTrainState(const std::string& directory,
                                               const ProcessGroup& processes) {
  const std::vector<int64_t> steps = SavedSteps(directory);
  if (steps.empty()) return std::nullopt;
  const std::string folder = StateFolder(directory, steps.back());
  const int saved_by = ProcessesThatSaved(folder);
  if (saved_by != 0 && saved_by != processes.size()) {
    throw std::runtime_error(
        absl::StrFormat("%s: saved by %d processes, expected as many to go on, found %d", folder,
                        saved_by, processes.size()));
  }
  try {
    return ReadFiles(folder + "/" + FileStem(processes));
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(absl::StrFormat(
        "%s; remove %s to %s", error.what(), folder,
        steps.size() == 1 ? std::string("begin anew")
                          : absl::StrFormat("go on from step %d", steps[steps.size() - 2])));
  }
}

}  // namespace mambad::trainer
