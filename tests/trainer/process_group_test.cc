// Who this process is, from what its starter says.

#include "trainer/process_group.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "tests/trainer/expect_error.h"

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

TEST(Rendezvous, Torchrun) {
  const Rendezvous found = Read({{"RANK", "5"},
                                 {"WORLD_SIZE", "8"},
                                 {"LOCAL_RANK", "1"},
                                 {"MASTER_ADDR", "node7"},
                                 {"MASTER_PORT", "1234"},
                                 {"TORCHELASTIC_USE_AGENT_STORE", "True"},
                                 {"SLURM_PROCID", "3"}});
  EXPECT_EQ(found.rank, 5);
  EXPECT_EQ(found.size, 8);
  EXPECT_EQ(found.local_rank, 1);
  EXPECT_EQ(found.address, "node7");
  EXPECT_EQ(found.port, 1234);
  EXPECT_TRUE(found.store_is_served);
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
  Rendezvous rendezvous;
  rendezvous.rank = 0;
  rendezvous.size = 2;
  rendezvous.port = 29733;
  EXPECT_THAT(ErrorOf([&] { JoinProcessGroup(rendezvous, false, 1); }),
              HasSubstr("process 0 of 2 cannot join the others at 127.0.0.1:29733"));
}

}  // namespace
}  // namespace mambad::trainer
