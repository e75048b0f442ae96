// What the kernel and control groups say, in folders made like theirs.

#include "kernels/cpu/machine.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "tests/support/model_directory.h"

namespace mambad::kernels {
namespace {

class Machine : public ::testing::Test {
 protected:
  Machine() { Write("proc/meminfo", "MemTotal: 900 kB\nMemFree: 100 kB\nMemAvailable: 800 kB\n"); }
  void Write(const std::string& name, const std::string& text) const {
    const std::filesystem::path path = folder_.path() + "/" + name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  double Left() const { return FreeMachineBytes(folder_.path() + "/"); }
  double All() const { return MachineBytes(folder_.path() + "/"); }

  testing::TemporaryDirectory folder_;
};

TEST_F(Machine, WithoutGroupsIsWhatTheKernelCallsAvailable) {
  EXPECT_EQ(Left(), 800 * 1024);
  Write("proc/self/cgroup", "0::/\n");
  Write("sys/fs/cgroup/memory.max", "max\n");
  Write("sys/fs/cgroup/memory.current", "1000\n");
  EXPECT_EQ(Left(), 800 * 1024);
  std::filesystem::remove_all(folder_.path() + "/proc");
  EXPECT_TRUE(std::isinf(Left()));
}

TEST_F(Machine, TheTightestGroupCounts) {
  Write("proc/self/cgroup", "0::/job/step\n");
  Write("sys/fs/cgroup/job/step/memory.max", "max\n");
  Write("sys/fs/cgroup/job/step/memory.current", "70000\n");
  Write("sys/fs/cgroup/job/memory.max", "100000\n");
  Write("sys/fs/cgroup/job/memory.current", "80000\n");
  EXPECT_EQ(Left(), 20000);
  Write("sys/fs/cgroup/job/memory.stat", "anon 50000\nfile 30000\ninactive_file 25000\n");
  EXPECT_EQ(Left(), 45000);
  // A container's mount begins with its own group, whatever the name says.
  Write("sys/fs/cgroup/memory.max", "5000\n");
  Write("sys/fs/cgroup/memory.current", "1000\n");
  EXPECT_EQ(Left(), 4000);
  Write("sys/fs/cgroup/memory.current", "9000\n");
  EXPECT_EQ(Left(), 0);
}

TEST_F(Machine, GroupsOfVersionOne) {
  Write("proc/self/cgroup", "7:cpu,cpuacct:/other\n5:hugetlb,memory:/job\n1:name=systemd:/job\n");
  Write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  Write("sys/fs/cgroup/memory/memory.usage_in_bytes", "500000\n");
  Write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "60000\n");
  Write("sys/fs/cgroup/memory/job/memory.usage_in_bytes", "50000\n");
  Write("sys/fs/cgroup/memory/job/memory.stat",
        "cache 9\ninactive_file 1\ntotal_inactive_file 7000\n");
  EXPECT_EQ(Left(), 17000);
}

TEST_F(Machine, HasNoMoreInAllThanItsGroupsAllow) {
  EXPECT_EQ(All(), 900 * 1024);
  Write("proc/self/cgroup", "0::/job/step\n");
  Write("sys/fs/cgroup/job/step/memory.max", "max\n");
  EXPECT_EQ(All(), 900 * 1024);
  Write("sys/fs/cgroup/job/memory.max", "100000\n");
  EXPECT_EQ(All(), 100000) << "whatever is used of it";
  Write("proc/self/cgroup", "5:memory:/old\n");
  Write("sys/fs/cgroup/memory/old/memory.limit_in_bytes", "60000\n");
  EXPECT_EQ(All(), 60000);
  std::filesystem::remove_all(folder_.path() + "/proc");
  EXPECT_TRUE(std::isinf(All()));
}

TEST_F(Machine, CoresAreFreeAsFarAsOthersLeaveThem) {
  EXPECT_TRUE(std::isinf(FreeCores(8, folder_.path() + "/")));
  Write("proc/loadavg", "2.50 1.00 0.50 3/200 4711\n");
  EXPECT_DOUBLE_EQ(FreeCores(8, folder_.path() + "/"), 5.5);
  EXPECT_DOUBLE_EQ(FreeCores(2, folder_.path() + "/"), 0);
}

}  // namespace
}  // namespace mambad::kernels
