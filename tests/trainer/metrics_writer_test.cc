// Metrics as JSON Lines and as TensorBoard's records.

#include "trainer/metrics_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>

#include "nlohmann/json.hpp"
#include "tests/support/model_directory.h"
#include "tests/trainer/expect_error.h"
#include "tests/trainer/small_text.h"

namespace mambad::trainer {
namespace {

using testing::ErrorOf;
using ::testing::HasSubstr;
using testing::ReadText;

// RFC 3720, B.4.
TEST(MetricsWriter, ChecksumsOfTheStandard) {
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(Crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  std::string rising;
  for (int i = 0; i < 32; ++i) rising += static_cast<char>(i);
  EXPECT_EQ(Crc32c(rising), 0x46dd794eu);
}

TEST(MetricsWriter, LinesOfStepsThatComeAgainAreDropped) {
  testing::TemporaryDirectory folder;
  const std::string path = folder.path() + "/metrics.jsonl";
  {
    MetricsWriter writer(folder.path(), 0);
    for (int step = 10; step <= 40; step += 10) writer.Write(step, {{"loss", step / 10.0}});
  }
  // What a kill leaves of a line.
  testing::WriteText(path, ReadText(path) + "{\"step\": 5");
  {
    MetricsWriter writer(folder.path(), 25);
    writer.Write(30, {{"loss", 7}});
  }
  EXPECT_EQ(ReadText(path),
            "{\"loss\":1.0,\"step\":10}\n{\"loss\":2.0,\"step\":20}\n{\"loss\":7.0,\"step\":30}\n");
}

TEST(MetricsWriter, KnowsWhetherTheStepItGoesOnFromWasEvaluated) {
  testing::TemporaryDirectory folder;
  {
    MetricsWriter writer(folder.path(), 0);
    EXPECT_FALSE(writer.evaluated());
    writer.Write(10, {{"loss", 1}});
    writer.Write(10, {{"valid_perplexity", 2}});
    writer.Write(20, {{"loss", 1}});
  }
  EXPECT_FALSE(MetricsWriter(folder.path(), 20).evaluated());
  EXPECT_TRUE(MetricsWriter(folder.path(), 10).evaluated());
}

TEST(MetricsWriter, NumbersThatJsonLacks) {
  testing::TemporaryDirectory folder;
  MetricsWriter writer(folder.path(), 0);
  writer.Write(1, {{"a", NAN}, {"b", INFINITY}, {"c", -INFINITY}});
  EXPECT_EQ(ReadText(folder.path() + "/metrics.jsonl"),
            "{\"a\":\"NaN\",\"b\":\"Infinity\",\"c\":\"-Infinity\",\"step\":1}\n");
}

// A record as TensorBoard reads it: length and its checksum, event and its checksum; in the event
// step (field 2) and a summary (5) with tag (1.1) and simple_value (1.2).
TEST(MetricsWriter, EventFilesHoldWholeRecords) {
  testing::TemporaryDirectory folder;
  const std::string path = folder.path() + "/events";
  {
    EventFile file(path, 12.5);
    file.Add(300, 13.5, {{"loss", 0.25}});
  }
  const std::string bytes = ReadText(path);
  std::vector<std::string> events;
  for (size_t at = 0; at < bytes.size();) {
    uint64_t length = 0;
    uint32_t checksum = 0;
    ASSERT_LE(at + 12, bytes.size());
    std::memcpy(&length, bytes.data() + at, 8);
    std::memcpy(&checksum, bytes.data() + at + 8, 4);
    EXPECT_EQ(checksum, MaskedCrc32c(bytes.substr(at, 8)));
    ASSERT_LE(at + 16 + length, bytes.size());
    events.push_back(bytes.substr(at + 12, length));
    std::memcpy(&checksum, bytes.data() + at + 12 + length, 4);
    EXPECT_EQ(checksum, MaskedCrc32c(events.back()));
    at += 16 + length;
  }
  ASSERT_EQ(events.size(), 2u);
  EXPECT_THAT(events[0], HasSubstr("brain.Event:2"));
  const std::string expected = std::string("\x09\0\0\0\0\0\0\x2b\x40", 9) +  // wall time 13.5
                               "\x10\xac\x02" +                              // step 300
                               "\x2a\x0d" + "\x0a\x0b" + "\x0a\x04loss" +
                               std::string("\x15\0\0\x80\x3e", 5);  // 0.25
  EXPECT_EQ(events[1], expected);
}

// A disk that is full refuses bytes as this limit does.
TEST(MetricsWriter, AFullDiskIsAClearError) {
  testing::TemporaryDirectory folder;
  MetricsWriter writer(folder.path(), 0);
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small = {1024, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string error = ErrorOf([&] {
    for (int step = 0; step < 1000; ++step) writer.Write(step, {{"loss", 1}});
  });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, SIG_DFL);
  EXPECT_THAT(error, HasSubstr(folder.path()));
  EXPECT_THAT(error, HasSubstr("cannot be written: File too large"));
}

TEST(Progress, PlainLinesWhereThereIsNoTerminal) {
  testing::TemporaryDirectory folder;
  const std::string path = folder.path() + "/out";
  std::FILE* out = std::fopen(path.c_str(), "w");
  {
    Progress progress(out, "align", 100);
    progress.Show(20, 1234.4, 75, {{"loss", 0.5}});
    progress.Say("a word");
  }
  std::fclose(out);
  EXPECT_EQ(ReadText(path), "align 20/100  loss 0.5  1234 tokens/s  1:15 left\na word\n");
}

// What a terminal of `columns` is sent for one update.
std::string ShownBar(uint16_t columns) {
  int master = -1, slave = -1;
  const winsize window = {24, columns, 0, 0};
  EXPECT_EQ(openpty(&master, &slave, nullptr, nullptr, &window), 0);
  std::FILE* out = fdopen(slave, "w");
  {
    Progress progress(out, "distill", 100);
    progress.Show(50, 1234.4, 75, {{"loss", 0.5}, {"agreement", 0.25}});
  }
  // The terminal may hand it over in pieces.
  std::string shown;
  for (char byte = 0; byte != '\n' && read(master, &byte, 1) == 1;) shown += byte;
  std::fclose(out);
  close(master);
  return shown;
}

// A line that wraps would leave one behind with every update.
TEST(Progress, ABarFitsItsTerminal) {
  const std::string start = "\r\x1b[Kdistill 50/100", pace = "  1234 tokens/s  1:15 left\r\n";
  EXPECT_EQ(ShownBar(200), start + " [############............]  loss 0.5  agreement 0.25" + pace);
  EXPECT_EQ(ShownBar(0), ShownBar(200));  // a terminal that does not say
  // One column is left free: 14 + 27 + 10 + 16 + 26 = 93.
  EXPECT_EQ(ShownBar(94), ShownBar(200));
  EXPECT_EQ(ShownBar(93), start + "  loss 0.5  agreement 0.25" + pace);
  EXPECT_EQ(ShownBar(60), start + "  loss 0.5" + pace);
  EXPECT_EQ(ShownBar(11), "\r\x1b[Kdistill 50\r\n");
}

}  // namespace
}  // namespace mambad::trainer
