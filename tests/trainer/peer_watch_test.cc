// Who is no longer heard of is named, who has left in order is not.

#include "trainer/peer_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

namespace mambad::trainer {
namespace {

using Store = c10::intrusive_ptr<c10d::TCPStore>;

Store Serve() {
  c10d::TCPStoreOptions options;
  options.isServer = true;
  options.waitWorkers = false;
  options.port = 0;
  return c10::make_intrusive<c10d::TCPStore>("127.0.0.1", options);
}

Store ClientOf(const Store& served) {
  c10d::TCPStoreOptions options;
  options.port = served->getPort();
  options.waitWorkers = false;
  return c10::make_intrusive<c10d::TCPStore>("127.0.0.1", options);
}

// One of two that looks every 20 ms and has patience for 1 s.
struct Watcher {
  Watcher(const Store& store, int rank) {
    PeerWatch::Options options;
    options.between_looks = std::chrono::milliseconds(20);
    options.patience = 50;
    const auto keep = [this](const std::string& words) { lost.set_value(words); };
    watch = std::make_unique<PeerWatch>(store, rank, 2, keep, options);
  }
  bool LosesWithin(std::chrono::milliseconds time) {
    return words.wait_for(time) == std::future_status::ready;
  }
  std::promise<std::string> lost;
  std::future<std::string> words = lost.get_future();
  std::unique_ptr<PeerWatch> watch;
};

constexpr std::chrono::milliseconds kLong{30000}, kBeyondPatience{2000};

TEST(PeerWatch, WhoFallsSilentIsNamed) {
  const Store served = Serve();
  Watcher stays(ClientOf(served), 0);
  {
    const Watcher goes(ClientOf(served), 1);
    EXPECT_FALSE(stays.LosesWithin(kBeyondPatience));
  }
  ASSERT_TRUE(stays.LosesWithin(kLong));
  EXPECT_EQ(stays.words.get(),
            "process 0 of 2 lost another one: process 1 was not heard of for 1 s");
}

TEST(PeerWatch, WhoLeavesInOrderIsNotMissed) {
  const Store served = Serve();
  Watcher stays(ClientOf(served), 0), leaves(ClientOf(served), 1);
  EXPECT_FALSE(stays.LosesWithin(std::chrono::milliseconds(200)));
  leaves.watch->LeaveInOrder();
  EXPECT_FALSE(stays.LosesWithin(kBeyondPatience));
}

// Who serves the store for the others.
TEST(PeerWatch, ProcessZeroLeavesLast) {
  const Store served = Serve();
  Watcher first(ClientOf(served), 0), other(ClientOf(served), 1);
  EXPECT_FALSE(first.LosesWithin(std::chrono::milliseconds(200)));
  std::atomic<bool> other_left = false;
  std::thread leaving([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    other_left = true;
    other.watch->LeaveInOrder();
  });
  first.watch->LeaveInOrder();
  EXPECT_TRUE(other_left);
  leaving.join();
}

TEST(PeerWatch, NobodyIsMissedBeforeAllHaveCome) {
  const Store served = Serve();
  Watcher first(ClientOf(served), 0);
  EXPECT_FALSE(first.LosesWithin(kBeyondPatience));
  const Watcher second(ClientOf(served), 1);
  EXPECT_FALSE(first.LosesWithin(kBeyondPatience));
}

TEST(PeerWatch, AStoreThatIsGoneIsSilence) {
  Store served = Serve();
  Watcher one(ClientOf(served), 0), other(ClientOf(served), 1);
  EXPECT_FALSE(one.LosesWithin(std::chrono::milliseconds(500)));
  served.reset();
  ASSERT_TRUE(one.LosesWithin(kLong));
  EXPECT_THAT(one.words.get(), ::testing::HasSubstr("process 1 was not heard of"));
  EXPECT_TRUE(other.LosesWithin(kLong));
}

}  // namespace
}  // namespace mambad::trainer
