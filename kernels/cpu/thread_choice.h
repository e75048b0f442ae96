// How many threads a forward pass gets: as many as make it fastest, here and now. Threads that wait
// for each other cost as much as they help where the model lies in the cache or at the limit of the
// memory, and far more where other processes keep them from running. So it is measured: most passes
// run with the best number known, now and then some with half or twice as many.

#ifndef MAMBAD_KERNELS_CPU_THREAD_CHOICE_H_
#define MAMBAD_KERNELS_CPU_THREAD_CHOICE_H_

#include <cstdint>
#include <vector>

namespace mambad::kernels {

// Of passes whose times can be compared with each other. No clock of its own; not for several
// threads at once.
class ThreadChoice {
 public:
  // 1, 2, 4 ... and `most`. It begins with `most`.
  explicit ThreadChoice(int most);

  // For the next pass.
  int threads() const { return counts_[now_]; }
  // The pass took so long with threads(); its time grows about as its rows.
  void Observe(double seconds, int64_t rows);

 private:
  // Passes with one number of threads.
  struct Stretch {
    double seconds = 0, rows = 0;
    int passes = 0;
    double Cost() const { return seconds / rows; }  // seconds a row
  };

  void EndStretch();
  void BeginTrial();
  void EndTrial(double cost);

  std::vector<int> counts_;
  int best_, now_;        // of counts_; another than the best: on trial
  int step_ = -1;         // from the best to the next on trial
  Stretch stretch_;       // since the last decision
  double best_cost_ = 0;  // of the best, of late; 0: not measured yet
  int strange_ = 0;       // stretches with the best that were far from that, on end
  int quiet_ = 0;         // stretches since the last trial
  int pause_;             // stretches between trials
};

// Of one model: a choice for each size of a pass.
class ThreadChoices {
 public:
  explicit ThreadChoices(int most);
  ThreadChoice& ForRows(int64_t rows);

 private:
  std::vector<ThreadChoice> choices_;
};

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_CPU_THREAD_CHOICE_H_
