#ifndef MAMBAD_ENGINE_TEXT_JINJA_LOCAL_TIME_H_
#define MAMBAD_ENGINE_TEXT_JINJA_LOCAL_TIME_H_

#include <ctime>

namespace mambad::text::jinja {

// What strftime_now tells.
struct LocalTime {
  std::tm calendar = {};
  int microseconds = 0;
};

// The clock of this machine, in its time zone.
LocalTime LocalTimeNow();

}  // namespace mambad::text::jinja

#endif  // MAMBAD_ENGINE_TEXT_JINJA_LOCAL_TIME_H_
