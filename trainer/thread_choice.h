// How many threads a run gets where its settings name no number: the fastest of a few, measured at
// its start. LibTorch deals an operation out to all its threads and waits for each of them, so that
// one which another program keeps from running costs many times what it would have saved.

#ifndef MAMBAD_TRAINER_THREAD_CHOICE_H_
#define MAMBAD_TRAINER_THREAD_CHOICE_H_

#include <functional>
#include <string>
#include <vector>

namespace mambad::trainer {

struct ThreadTime {
  int threads = 1;
  double seconds = 0;  // of one product
};

// 1, 2, 4 ... and `most`, which is one at least: their times, in this order. `stretch` works with
// so many threads until other programs have had their turns too, and returns the seconds that a
// product took. Numbers take turns, some rounds of them, and each one's median counts.
std::vector<ThreadTime> TimeThreads(int most, const std::function<double(int threads)>& stretch);

// The fastest; of equally fast ones the fewest threads. `times`: one at least.
int FastestThreads(const std::vector<ThreadTime>& times);

// "1 thread, the fastest as measured at the start, whatever runs beside later (a product takes 4.1
// ms with 1, 9.8 ms with 2); threads: N sets the number".
std::string ThreadChoiceWords(const std::vector<ThreadTime>& times);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_THREAD_CHOICE_H_
