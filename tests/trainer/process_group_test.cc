// Who this process is, from what its starter says.

#include "trainer/process_group.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <vector>

#include "tests/trainer/expect_error.h"
#include "tests/trainer/two_processes.h"

namespace mambad::trainer {
namespace {

using testing::ErrorOf;
using ::testing::HasSubstr;

Rendezvous Read(const std::map<std::string, std::string>& variables) {
  return ReadRendezvous([&](const std::string& name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  });
}

std::unique_ptr<ProcessGroup> JoinAsOneOfTwo(int rank, int port, int64_t seconds) {
  Rendezvous rendezvous;
  rendezvous.rank = rank;
  rendezvous.size = 2;
  rendezvous.port = port;
  return JoinProcessGroup(rendezvous, false, seconds);
}

TEST(Rendezvous, Torchrun) {
  const Rendezvous found = Read({{"RANK", "5"},
                                 {"WORLD_SIZE", "8"},
                                 {"LOCAL_RANK", "1"},
                                 {"MASTER_ADDR", "node7"},
                                 {"MASTER_PORT", "1234"},
                                 {"TORCHELASTIC_USE_AGENT_STORE", "True"},
                                 {"TORCHELASTIC_RESTART_COUNT", "2"},
                                 {"SLURM_PROCID", "3"}});
  EXPECT_EQ(found.rank, 5);
  EXPECT_EQ(found.size, 8);
  EXPECT_EQ(found.local_rank, 1);
  EXPECT_EQ(found.address, "node7");
  EXPECT_EQ(found.port, 1234);
  EXPECT_TRUE(found.store_is_served);
  EXPECT_EQ(found.attempt, "2");
}

// A store that outlives its group: what was told in it is not heard by the next one.
TEST(ProcessGroup, ANewAttemptDoesNotHearTheOldOne) {
  c10d::TCPStoreOptions options;
  options.isServer = true;
  options.waitWorkers = false;
  options.port = 0;
  const auto served = c10::make_intrusive<c10d::TCPStore>("127.0.0.1", options);
  for (const std::string attempt : {"0", "1"}) {
    std::string heard;
    const auto run = [&](int rank) {
      Rendezvous rendezvous;
      rendezvous.rank = rank;
      rendezvous.size = 2;
      rendezvous.port = served->getPort();
      rendezvous.store_is_served = true;
      rendezvous.attempt = attempt;
      const auto group = JoinProcessGroup(rendezvous, false, 30);
      // The other one asks first: all that it could hear at once is old.
      if (rank == 0) std::this_thread::sleep_for(std::chrono::milliseconds(200));
      const std::string words = group->FromFirst(rank == 0 ? "attempt " + attempt : "");
      if (rank == 1) heard = words;
    };
    std::thread other(run, 1);
    run(0);
    other.join();
    EXPECT_EQ(heard, "attempt " + attempt);
  }
}

TEST(Rendezvous, KubeflowAndSlurm) {
  Rendezvous found = Read({{"PET_NNODES", "4"},
                           {"PET_NODE_RANK", "2"},
                           {"PET_MASTER_ADDR", "job-0"},
                           {"PET_MASTER_PORT", "29400"}});
  EXPECT_EQ(found.rank, 2);
  EXPECT_EQ(found.size, 4);
  EXPECT_EQ(found.address, "job-0");
  EXPECT_EQ(found.port, 29400);
  found = Read({{"SLURM_PROCID", "9"},
                {"SLURM_NTASKS", "16"},
                {"SLURM_LOCALID", "1"},
                {"SLURM_JOB_NODELIST", "gpu[03-05,9],login"}});
  EXPECT_EQ(found.rank, 9);
  EXPECT_EQ(found.size, 16);
  EXPECT_EQ(found.local_rank, 1);
  EXPECT_EQ(found.address, "gpu03");
  EXPECT_FALSE(found.store_is_served);
  EXPECT_EQ(Read({}).size, 1);
}

TEST(Rendezvous, HowManyShareAMachine) {
  EXPECT_EQ(Read({}).local_size, 1);
  const std::map<std::string, std::string> torchrun = {
      {"RANK", "0"}, {"WORLD_SIZE", "16"}, {"LOCAL_RANK", "0"}, {"LOCAL_WORLD_SIZE", "8"}};
  EXPECT_EQ(Read(torchrun).local_size, 8);
  std::map<std::string, std::string> slurm = {
      {"SLURM_PROCID", "9"}, {"SLURM_NTASKS", "21"}, {"SLURM_TASKS_PER_NODE", "8(x2),5"}};
  EXPECT_EQ(Read(slurm).local_size, 8);
  slurm["SLURM_NODEID"] = "1";
  EXPECT_EQ(Read(slurm).local_size, 8);
  slurm["SLURM_NODEID"] = "2";
  EXPECT_EQ(Read(slurm).local_size, 5);
  slurm["SLURM_STEP_TASKS_PER_NODE"] = "1(x3)";
  EXPECT_EQ(Read(slurm).local_size, 1);
  slurm["SLURM_STEP_TASKS_PER_NODE"] = "1";
  EXPECT_THAT(
      ErrorOf([&] { Read(slurm); }),
      HasSubstr("SLURM_TASKS_PER_NODE: expected counts as in 8(x2),4 for machine 2, found"));
}

TEST(Rendezvous, OwnDevices) {
  Rendezvous third = Read({{"RANK", "2"}, {"WORLD_SIZE", "4"}, {"LOCAL_RANK", "2"}});
  EXPECT_EQ(OwnDevice(third, 4), 2);
  EXPECT_THAT(ErrorOf([&] { OwnDevice(third, 1); }),
              HasSubstr("process 2 of this machine wants a GPU of its own: 1 visible"));
  // srun --gpus-per-task=1: everybody sees one, called 0.
  third = Read({{"SLURM_PROCID", "2"},
                {"SLURM_NTASKS", "4"},
                {"SLURM_LOCALID", "2"},
                {"CUDA_VISIBLE_DEVICES", "0"}});
  EXPECT_EQ(OwnDevice(third, 1), 0);
  third = Read({{"SLURM_PROCID", "2"},
                {"SLURM_NTASKS", "4"},
                {"SLURM_LOCALID", "2"},
                {"CUDA_VISIBLE_DEVICES", "0,1,2,3"}});
  EXPECT_EQ(OwnDevice(third, 4), 2);
}

TEST(Rendezvous, ProcessesThatNobodyStarts) {
  const std::map<std::string, std::string> pod = {{"PET_NNODES", "2"}, {"PET_NODE_RANK", "0"}};
  auto several = pod;
  several["PET_NPROC_PER_NODE"] = "8";
  EXPECT_THAT(ErrorOf([&] { Read(several); }),
              HasSubstr("PET_NPROC_PER_NODE: expected 1, found 8: several processes on a machine"));
  several["RANK"] = "0";
  several["WORLD_SIZE"] = "16";
  EXPECT_THAT(ErrorOf([&] { Read(several); }), HasSubstr("PET_NPROC_PER_NODE"));
  several["LOCAL_RANK"] = "0";  // torchrun did
  EXPECT_EQ(Read(several).size, 16);
  for (const char* one : {"1", "auto"}) {
    auto single = pod;
    single["PET_NPROC_PER_NODE"] = one;
    EXPECT_EQ(Read(single).size, 2);
  }
}

TEST(Rendezvous, FirstHostOfALine) {
  EXPECT_EQ(FirstSlurmHost("one"), "one");
  EXPECT_EQ(FirstSlurmHost("one,two"), "one");
  EXPECT_EQ(FirstSlurmHost("a[7]"), "a7");
  EXPECT_EQ(FirstSlurmHost("rack[1-2]-node"), "rack1-node");
  EXPECT_EQ(FirstSlurmHost("x,a[7]"), "x");
  EXPECT_THAT(ErrorOf([] { FirstSlurmHost("a[1-2"); }), HasSubstr("no closing bracket"));
}

TEST(Rendezvous, VariablesThatAreWrongAreNamed) {
  EXPECT_EQ(ErrorOf([] { Read({{"RANK", "0"}}); }), "WORLD_SIZE is not set");
  EXPECT_EQ(ErrorOf([] {
              Read({{"RANK", "8"}, {"WORLD_SIZE", "8"}});
            }),
            "RANK: expected a number from 0 to 7, found \"8\"");
  EXPECT_THAT(ErrorOf([] {
                Read({{"RANK", "0"}, {"WORLD_SIZE", "two"}});
              }),
              HasSubstr("WORLD_SIZE: expected a number"));
  EXPECT_THAT(ErrorOf([] {
                Read({{"RANK", "0"}, {"WORLD_SIZE", "1"}, {"MASTER_PORT", "70000"}});
              }),
              HasSubstr("MASTER_PORT"));
}

TEST(ProcessGroup, OthersThatDoNotComeAreAnError) {
  const int port = testing::FreePort();
  EXPECT_THAT(
      ErrorOf([&] { JoinAsOneOfTwo(0, port, 1); }),
      HasSubstr("process 0 of 2 cannot join the others at 127.0.0.1:" + std::to_string(port)));
}

// Work of the first process may take longer than a collective would wait.
TEST(ProcessGroup, OthersWaitForTheFirstAsLongAsItWorks) {
  const int port = testing::FreePort();
  std::vector<std::string> heard(2), errors(2);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      errors[rank] = ErrorOf([&] {
        const auto processes = JoinAsOneOfTwo(rank, port, 1);
        for (const char* words : {"", "first", "last"}) {
          if (rank == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1200));
          heard[rank] += processes->FromFirst(rank == 0 ? words : "not heard") + ".";
        }
      });
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(heard, ::testing::Each(".first.last."));
  EXPECT_THAT(errors, ::testing::Each("nothing was thrown"));
}

TEST(ProcessGroup, OnesThatAreGoneAreNamedInOneLine) {
  const int port = testing::FreePort();
  // The other one goes when both have found each other, not while they still look.
  std::promise<void> found;
  std::thread other([port, &found] {
    const auto processes = JoinAsOneOfTwo(1, port, 20);
    found.get_future().wait();
  });
  const auto processes = JoinAsOneOfTwo(0, port, 20);
  found.set_value();
  other.join();
  EXPECT_THAT(ErrorOf([&] { processes->Barrier(); }),
              ::testing::MatchesRegex("process 0 of 2 lost another one: [^][\n]+.*"));
}

}  // namespace
}  // namespace mambad::trainer
