#include "trainer/stages/shard_folder.h"

#include <filesystem>
#include <fstream>
#include <stdexcept>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "trainer/text_file.h"

namespace mambad::trainer {
namespace {

namespace fs = std::filesystem;
using Outcome = GeneratedRecord::Outcome;

void MakeFolder(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) throw std::runtime_error(absl::StrCat(path, ": ", error.message()));
}

}  // namespace

// ---- counts ------------------------------------------------------------------------------------

int64_t RecordCounts::of(Outcome outcome) const {
  const auto it = outcomes.find(outcome);
  return it == outcomes.end() ? 0 : it->second;
}

void RecordCounts::Add(const RecordCounts& other) {
  for (const auto& [outcome, count] : other.outcomes) outcomes[outcome] += count;
  tokens += other.tokens;
}

std::string RecordCounts::Words() const {
  return absl::StrFormat("%d kept, %d unfinished, %d loops, %d empty, %d broken",
                         of(Outcome::kFinished), of(Outcome::kUnfinished), of(Outcome::kLoop),
                         of(Outcome::kEmpty), of(Outcome::kBroken));
}

// ---- the folder --------------------------------------------------------------------------------

ShardFolder::ShardFolder(std::string folder, std::string identity)
    : folder_(std::move(folder)), identity_(std::move(identity)) {
  MakeFolder(folder_);
}

std::string ShardFolder::LinesPath(int64_t shard) const {
  return absl::StrFormat("%s/%05d.jsonl", folder_, shard);
}

std::string ShardFolder::CountsPath(int64_t shard) const {
  return absl::StrFormat("%s/%05d.json", folder_, shard);
}

std::string ShardFolder::UnfinishedPath(int64_t shard) const {
  return absl::StrFormat("%s/%05d-unfinished", folder_, shard);
}

std::optional<RecordCounts> ShardFolder::Find(int64_t shard, int64_t records) const {
  std::ifstream file(CountsPath(shard), std::ios::binary);
  if (!file) return std::nullopt;
  const nlohmann::json read = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!read.is_object() || read.value("identity", "") != identity_) {
    throw std::runtime_error(
        absl::StrCat(CountsPath(shard), ": was generated with other settings, prompts or another ",
                     "model: give another output, or overwrite: true (--overwrite) to replace it"));
  }
  if (read.value("records", int64_t{0}) != records) return std::nullopt;
  RecordCounts counts;
  for (const auto& [name, outcome] : kOutcomeNames) {
    counts.outcomes[outcome] = read.value(name, int64_t{0});
  }
  counts.tokens = read.value("tokens", int64_t{0});
  return counts;
}

void ShardFolder::Write(int64_t shard, int64_t records, const std::string& lines,
                        const RecordCounts& counts) const {
  // A shard is finished from its counts on: not those of an earlier one.
  std::error_code ignored;
  fs::remove(CountsPath(shard), ignored);
  WriteText(LinesPath(shard), lines);
  nlohmann::ordered_json json = {{"identity", identity_}, {"records", records}};
  for (const auto& [name, outcome] : kOutcomeNames) json[name] = counts.of(outcome);
  json["tokens"] = counts.tokens;
  WriteText(CountsPath(shard), json.dump() + "\n");
  RemoveGeneratorState(UnfinishedPath(shard));
}

void ShardFolder::Keep(int64_t shard, nlohmann::json words,
                       const std::map<std::string, at::Tensor>& tensors) const {
  words["identity"] = identity_;
  SaveGeneratorState(UnfinishedPath(shard), std::move(words), tensors);
}

std::optional<GeneratorState> ShardFolder::FindKept(int64_t shard) const {
  std::optional<GeneratorState> state = LoadGeneratorState(UnfinishedPath(shard));
  if (state && state->words.value("identity", "") != identity_) state.reset();
  return state;
}

bool ShardFolder::IsOwn() const {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder_, error)) {
    if (entry.path().extension() != ".json") continue;
    std::ifstream file(entry.path(), std::ios::binary);
    const nlohmann::json read = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
    if (!read.is_object() || read.value("identity", "") != identity_) return false;
  }
  return true;
}

bool ShardFolder::IsEmpty() const {
  std::error_code error;
  return fs::is_empty(folder_, error);
}

void ShardFolder::Empty() const {
  std::error_code error;
  fs::remove_all(folder_, error);
  MakeFolder(folder_);
}

}  // namespace mambad::trainer
