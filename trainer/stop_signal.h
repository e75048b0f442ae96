// The wish of a person, a batch system or a machine about to be taken away that a run stop: SIGINT
// and SIGTERM.

#ifndef MAMBAD_TRAINER_STOP_SIGNAL_H_
#define MAMBAD_TRAINER_STOP_SIGNAL_H_

#include <stdexcept>
#include <string>

namespace mambad::trainer {

// While one of these lives, the first SIGINT or SIGTERM is noted, and whoever works asks for it
// where there is something to save. Another one, a second later or more, ends the process at once:
// not an earlier one, because starters of several processes pass on what the terminal gave to all
// of them. Where none lives, signals do what they did before: there is nothing to save. Several may
// live at a time, from any thread.
class StopSignals {
 public:
  // `announce`: a line on standard error tells that the signal has come.
  explicit StopSignals(bool announce);
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // SIGINT or SIGTERM, whichever came first since one of these began to live; 0: none.
  static int Noted();
};

// "SIGINT" or "SIGTERM".
std::string SignalName(int signal);

// The work has stopped as a signal asked for, in order and with all that is needed to go on saved;
// what() says so.
class Stopped : public std::runtime_error {
 public:
  Stopped(int signal, const std::string& words) : std::runtime_error(words), signal_(signal) {}
  int signal() const { return signal_; }

 private:
  int signal_;
};

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_STOP_SIGNAL_H_
