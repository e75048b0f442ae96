// What is wrong with a request, field by field, so that one answer tells all of it. Fields are
// named as on the wire: "sampling.top_p", "stopping.stop_strings[2]".

#ifndef MAMBAD_ENGINE_FIELD_ERRORS_H_
#define MAMBAD_ENGINE_FIELD_ERRORS_H_

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace mambad {

struct FieldError {
  std::string field;
  std::string description;  // what was given, what is allowed
};

class FieldErrors {
 public:
  // Beyond so many errors, and so much of one, nothing is kept; nor is a second one of a field.
  static constexpr size_t kMostErrors = 16, kLongestDescription = 256;

  void Add(absl::string_view field, absl::string_view description) {
    const auto same = [&](const FieldError& error) { return error.field == field; };
    if (errors_.size() >= kMostErrors || std::any_of(errors_.begin(), errors_.end(), same)) return;
    errors_.push_back(
        {std::string(field), std::string(description.substr(0, kLongestDescription))});
  }
  // "VALUE given, allowed LEAST to MOST" unless value is inside. NaN is outside.
  template <typename Number>
  void CheckRange(absl::string_view field, Number value, Number least, Number most) {
    if (!(value >= least && value <= most))
      Add(field, absl::StrCat(value, " given, allowed ", least, " to ", most));
  }
  // The first id outside [0, vocabulary) is an error of "field[i]".
  template <typename Ids>
  void CheckIds(absl::string_view field, const Ids& ids, int vocabulary) {
    for (int i = 0; i < static_cast<int>(ids.size()); ++i) {
      if (ids[i] >= 0 && ids[i] < vocabulary) continue;
      Add(absl::StrCat(field, "[", i, "]"),
          absl::StrCat("id ", ids[i], " given, allowed 0 to ", vocabulary - 1));
      return;
    }
  }

  bool empty() const { return errors_.empty(); }
  const std::vector<FieldError>& all() const { return errors_; }
  // OK when empty; else INVALID_ARGUMENT "field: description" of the first.
  absl::Status ToStatus() const {
    if (errors_.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(errors_[0].field, ": ", errors_[0].description));
  }

 private:
  std::vector<FieldError> errors_;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_FIELD_ERRORS_H_
