#include "kernels/cpu/memory.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

namespace mambad::kernels {
namespace {

constexpr size_t kSizes[] = {0,     1,       64,      100,           4095,    4096,    5000,
                             70000, 1 << 20, 3 << 20, (4 << 20) + 1, 9 << 20, 40 << 20};

TEST(MemoryTest, IsZeroedAlignedAndNobodyElses) {
  std::vector<Buffer> buffers;
  for (int round = 0; round < 3; ++round) {
    for (size_t bytes : kSizes) {
      buffers.push_back(AllocateMemory(bytes));
      const Buffer& buffer = buffers.back();
      ASSERT_GE(buffer.bytes(), bytes);
      ASSERT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
      const char* data = buffer.as<const char>();
      for (size_t i = 0; i < buffer.bytes(); i += i < 5000 ? 1 : 997)
        ASSERT_EQ(data[i], 0) << bytes << " at " << i;
      ASSERT_EQ(data[buffer.bytes() - 1], 0);
      std::memset(buffer.data(), static_cast<int>(buffers.size()), buffer.bytes());
    }
  }
  for (size_t i = 0; i < buffers.size(); ++i) {
    const char* data = buffers[i].as<const char>();
    ASSERT_EQ(data[0], static_cast<char>(i + 1));
    ASSERT_EQ(data[buffers[i].bytes() - 1], static_cast<char>(i + 1));
  }
}

TEST(MemoryTest, CopiesAllAndNothingElse) {
  for (size_t bytes : {size_t{0}, size_t{1000}, (size_t{256} << 10) - 1, size_t{256} << 10,
                       (size_t{256} << 10) + 77, size_t{3000001}}) {
    for (size_t from_offset : {0, 3}) {
      for (size_t to_offset : {1, 64, 100}) {
        std::vector<unsigned char> from(bytes + 200), to(bytes + 200, 0xee);
        for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<unsigned char>(i % 233);
        CopyMemory(to.data() + to_offset, from.data() + from_offset, bytes);
        std::vector<unsigned char> expected(bytes + 200, 0xee);
        std::memcpy(expected.data() + to_offset, from.data() + from_offset, bytes);
        ASSERT_EQ(to, expected) << bytes << " from " << from_offset << " to " << to_offset;
      }
    }
  }
}

size_t AddressSpacePages() {
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  unsigned long pages = 0;
  if (file == nullptr) return 0;
  const int fields = std::fscanf(file, "%lu", &pages);
  std::fclose(file);
  return fields == 1 ? pages : 0;
}

TEST(MemoryTest, GivesEverythingBack) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "the sanitizer holds freed memory back";
#endif
  const auto churn = [] {
    std::vector<Buffer> kept;
    for (int i = 0; i < 200; ++i) {
      Buffer buffer = AllocateMemory(300000 + i * 1000);
      std::memset(buffer.data(), 1, 4096);
      if (i % 3 == 0) kept.push_back(std::move(buffer));
      if (kept.size() > 10) kept.erase(kept.begin());
    }
  };
  churn();
  const size_t before = AddressSpacePages();
  for (int i = 0; i < 20; ++i) churn();
  EXPECT_LT(AddressSpacePages(), before + (64 << 20) / 4096);  // 20 churns cut off 1.6 GB
}

TEST(MemoryTest, ThreadsMayAllocateAndReleaseAtOnce) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      for (int i = 0; i < 300; ++i) {
        Buffer buffer = AllocateMemory(4096 + 5000 * ((i + t) % 50));
        std::memset(buffer.data(), t, buffer.bytes());
        ASSERT_EQ(buffer.as<char>()[buffer.bytes() - 1], t);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace mambad::kernels
