#ifndef MAMBAD_ENGINE_TEXT_JINJA_RUNTIME_H_
#define MAMBAD_ENGINE_TEXT_JINJA_RUNTIME_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/text/jinja/lexer.h"
#include "engine/text/jinja/value.h"

namespace mambad::text::jinja {

// What one render may use, and its first error. Confined to the rendering thread.
// After an error all operations go on with undefined values until the interpreter has returned;
// their result is dropped.
class Runtime {
 public:
  static constexpr uint64_t kMaximumSteps = 4'000'000;  // evaluations and elements visited
  static constexpr uint64_t kMaximumBytes =
      256ull * 1024 * 1024;  // of text read or written on the way
  static constexpr size_t kMaximumTextBytes =
      16 * 1024 * 1024;  // of any one string, the output included
  // Nested evaluations, through macros too. One takes a few hundred bytes of stack, so this stays
  // far below the 8 MiB of a thread even with a sanitizer's frames.
  static constexpr int kMaximumDepth = 600;

  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }

  // Where errors are reported: what is being evaluated.
  void set_position(Position position) { position_ = position; }
  Position position() const { return position_; }

  // Each records the error, unless there is one, and returns undefined.
  Value Fail(std::string_view what);
  Value FailUnimplemented(std::string_view construct);
  Value FailUndefined(const Value& value);
  Value FailTooLong();
  // The template's own raise_exception: INVALID_ARGUMENT with just that text.
  Value Raise(const std::string& text);

  // False when the allowance is used up, which is an error.
  bool SpendSteps(uint64_t steps);
  bool SpendBytes(uint64_t bytes);

  // One evaluation inside another, while it lives; an error when there are too many.
  class Depth {
   public:
    explicit Depth(Runtime& runtime) : runtime_(runtime) {
      if (++runtime_.depth_ > kMaximumDepth) runtime_.Fail("calls nested too deeply");
    }
    ~Depth() { --runtime_.depth_; }
    Depth(const Depth&) = delete;
    Depth& operator=(const Depth&) = delete;

   private:
    Runtime& runtime_;
  };

  // New values; an error when they are too long or too deep, or hold what is not plain.
  Value MakeString(std::string text);
  Value MakeMarkup(std::string text);
  // A markup when `like` is one, else a string.
  Value MakeStringLike(const Value& like, std::string text);
  Value MakeList(Values items, List::Kind kind = List::Kind::kList);
  Value MakeDict(std::vector<std::pair<Value, Value>> entries);

 private:
  absl::Status status_;
  Position position_;
  uint64_t steps_ = 0;
  uint64_t bytes_ = 0;
  int depth_ = 0;
};

}  // namespace mambad::text::jinja

#endif  // MAMBAD_ENGINE_TEXT_JINJA_RUNTIME_H_
