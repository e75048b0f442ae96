#include "trainer/peer_watch.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace mambad::trainer {
namespace {

constexpr char kLeft[] = "left";

}  // namespace

PeerWatch::PeerWatch(c10::intrusive_ptr<c10d::Store> store, int rank, int size,
                     std::function<void(const std::string&)> lost, const Options& options)
    : store_(std::move(store)),
      rank_(rank),
      lost_(std::move(lost)),
      options_(options),
      heard_(size),
      silent_(size) {
  for (int other = 0; other < size; ++other) keys_.push_back(absl::StrCat("alive-", other));
  thread_ = std::thread([this] { Watch(); });
}

PeerWatch::~PeerWatch() { End(); }

void PeerWatch::End() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void PeerWatch::LeaveInOrder() {
  End();
  if (is_deaf_) return;
  try {
    Say(kLeft);
    const auto end = std::chrono::steady_clock::now() + options_.patience * options_.between_looks;
    while (rank_ == 0 && !AllHaveLeft() && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  } catch (const std::exception&) {  // who serves the store did not wait
  }
}

bool PeerWatch::AllHaveLeft() {
  const std::vector<std::string> now = Listen();
  return std::all_of(now.begin(), now.end(),
                     [](const std::string& words) { return words == kLeft; });
}

void PeerWatch::Say(const std::string& words) {
  store_->set(keys_[rank_], std::vector<uint8_t>(words.begin(), words.end()));
}

void PeerWatch::Watch() {
  std::unique_lock lock(mutex_);
  while (!ends_) {
    lock.unlock();
    const bool lives = Look();
    lock.lock();
    if (!lives) return;
    changed_.wait_for(lock, options_.between_looks, [this] { return ends_; });
  }
}

std::vector<std::string> PeerWatch::Listen() {
  all_came_ = all_came_ || store_->check(keys_);
  std::vector<std::string> now(keys_.size());
  if (!all_came_) return now;
  const std::vector<std::vector<uint8_t>> words = store_->multiGet(keys_);
  for (size_t other = 0; other < words.size(); ++other) {
    now[other].assign(words[other].begin(), words[other].end());
  }
  return now;
}

bool PeerWatch::Look() {
  std::vector<std::string> now = heard_;
  try {
    if (!is_deaf_) {
      Say(absl::StrCat(++looks_));
      now = Listen();
    }
  } catch (const std::exception&) {
    is_deaf_ = true;
  }
  if (!all_came_) return true;
  for (size_t other = 0; other < now.size(); ++other) {
    const bool quiet = now[other] == heard_[other] && now[other] != kLeft;
    silent_[other] = quiet ? silent_[other] + 1 : 0;
    heard_[other] = now[other];
    if (silent_[other] < options_.patience || static_cast<int>(other) == rank_) continue;
    const std::chrono::duration<double> silence = options_.patience * options_.between_looks;
    lost_(
        absl::StrFormat("process %d of %d lost another one: process %d was not heard of for %.3g s",
                        rank_, static_cast<int>(keys_.size()), other, silence.count()));
    return false;
  }
  return true;
}

}  // namespace mambad::trainer
