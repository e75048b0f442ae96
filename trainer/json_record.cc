#include "trainer/json_record.h"

#include <utility>

#include "engine/json/json_text.h"

namespace mambad::trainer {

nlohmann::json ReadJsonRecord(const std::string& line) {
  absl::StatusOr<nlohmann::json> record = ParseJson("", line);
  if (!record.ok() || !record->is_object()) return nullptr;
  return *std::move(record);
}

}  // namespace mambad::trainer
