// The shards of a run of `generate` on disk: those that are finished, and where the others stood.

#ifndef MAMBAD_TRAINER_STAGES_SHARD_FOLDER_H_
#define MAMBAD_TRAINER_STAGES_SHARD_FOLDER_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "nlohmann/json.hpp"
#include "trainer/stages/generated_record.h"
#include "trainer/stages/generator_state.h"

namespace mambad::trainer {

// Of records: how they ended, and how many tokens were drawn for them.
struct RecordCounts {
  using Outcome = GeneratedRecord::Outcome;
  std::map<Outcome, int64_t> outcomes;
  int64_t tokens = 0;

  int64_t of(Outcome outcome) const;
  void Add(const RecordCounts& other);
  std::string Words() const;
};

// In the order in which people are told of them.
inline constexpr std::pair<const char*, GeneratedRecord::Outcome> kOutcomeNames[] = {
    {"kept", GeneratedRecord::Outcome::kFinished},
    {"unfinished", GeneratedRecord::Outcome::kUnfinished},
    {"loops", GeneratedRecord::Outcome::kLoop},
    {"empty", GeneratedRecord::Outcome::kEmpty},
    {"broken", GeneratedRecord::Outcome::kBroken}};

// NNNNN.jsonl and, written after it, NNNNN.json with its counts: a shard with both is finished.
// NNNNN-unfinished.* is where the writing of one stood. Throws std::runtime_error for files.
class ShardFolder {
 public:
  // `identity` tells what is generated: shards of another one are refused.
  ShardFolder(std::string folder, std::string identity);

  std::string LinesPath(int64_t shard) const;
  // Nothing when the shard is not finished, or when it was of another number of records (the last
  // shard of a run that asked for fewer). Throws when it is another run's.
  std::optional<RecordCounts> Find(int64_t shard, int64_t records) const;
  // From here on it is finished.
  void Write(int64_t shard, int64_t records, const std::string& lines,
             const RecordCounts& counts) const;

  // Of a shard that is not finished: where its writing stands. FindKept gives nothing where nothing
  // whole of this run is.
  void Keep(int64_t shard, nlohmann::json words,
            const std::map<std::string, at::Tensor>& tensors) const;
  std::optional<GeneratorState> FindKept(int64_t shard) const;

  // Whether all that is there is this run's own; whether nothing is; removes all that is there.
  bool IsOwn() const;
  bool IsEmpty() const;
  void Empty() const;

 private:
  std::string CountsPath(int64_t shard) const;
  std::string UnfinishedPath(int64_t shard) const;

  std::string folder_, identity_;
};

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_STAGES_SHARD_FOLDER_H_
