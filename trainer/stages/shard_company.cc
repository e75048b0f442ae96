#include "trainer/stages/shard_company.h"

#include <optional>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"

namespace mambad::trainer {
namespace {

constexpr char kStop[] = "stop";  // the signal that came first
constexpr char kEnded[] = "ended";

std::string WorkOf(int rank) { return absl::StrCat("work-", rank); }

int NumberIn(absl::string_view words) {
  int number = 0;
  return absl::SimpleAtoi(words, &number) ? number : 0;
}

}  // namespace

ShardCompany::ShardCompany(ProcessGroup* processes, Options options)
    : processes_(processes), options_(std::move(options)), looked_at_(Clock::now()) {
  processes_->Write(WorkOf(processes_->rank()), "begins");
}

bool ShardCompany::NoteOwnSignal() {
  if (signal_ != 0) return false;
  signal_ = options_.own_signal();
  if (signal_ != 0) processes_->Write(kStop, absl::StrCat(signal_));
  return signal_ != 0;
}

int ShardCompany::Look() {
  if (signal_ != 0 || NoteOwnSignal()) return signal_;
  const Clock::time_point now = Clock::now();
  if (processes_->size() == 1 || now - looked_at_ < options_.between_looks) return 0;
  looked_at_ = now;
  processes_->Write(WorkOf(processes_->rank()), absl::StrCat("looked ", ++looks_));
  return signal_ = NumberIn(processes_->Read(kStop).value_or(""));
}

bool ShardCompany::HasEnded(int rank, Heard* heard) {
  const Clock::time_point now = Clock::now();
  std::string words = processes_->Read(WorkOf(rank)).value_or("");
  if (words != heard->words) *heard = {std::move(words), now};
  if (heard->words == kEnded) return true;
  if (now - heard->at < options_.patience) return false;
  throw std::runtime_error(
      absl::StrFormat("process %d of %d lost another one: process %d was not heard of for %.0f s",
                      processes_->rank(), processes_->size(), rank, options_.patience.count()));
}

int ShardCompany::Meet() {
  processes_->Write(WorkOf(processes_->rank()), kEnded);
  std::vector<Heard> heard(processes_->size(), {"", Clock::now()});
  while (true) {
    bool all = true;
    for (int rank = 0; rank < processes_->size(); ++rank) all = HasEnded(rank, &heard[rank]) && all;
    if (all) break;
    NoteOwnSignal();
    std::this_thread::sleep_for(options_.between_looks);
  }
  // All by the same word: a signal may come while they leave.
  return NumberIn(processes_->FromFirst(processes_->Read(kStop).value_or("")));
}

}  // namespace mambad::trainer
