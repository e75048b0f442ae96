// Reports from what runs wrote.

#include "trainer/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "tests/support/model_directory.h"
#include "tests/trainer/small_text.h"

namespace mambad::trainer {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using testing::ReadText;
using testing::WriteText;

TEST(Report, NumbersForPeople) {
  EXPECT_EQ(ReportNumber(0), "0");
  EXPECT_EQ(ReportNumber(0.012345), "0.01235");
  EXPECT_EQ(ReportNumber(1.0314), "1.031");
  EXPECT_EQ(ReportNumber(-12.345), "-12.35");
  EXPECT_EQ(ReportNumber(1234567), "1,234,567");
  EXPECT_EQ(ReportNumber(999.96), "1,000.0");
  EXPECT_EQ(ReportNumber(123), "123");
  EXPECT_EQ(ReportNumber(1e-5), "1.000e-05");
  EXPECT_EQ(ReportNumber(NAN), "NaN");
}

TEST(Report, TablesAreAligned) {
  EXPECT_EQ(MarkdownTable({{"name", "v"}, {{"a", "1"}, {"longer", "1234"}}}),
            "| name   |    v |\n"
            "|:-------|-----:|\n"
            "| a      |    1 |\n"
            "| longer | 1234 |\n");
}

TEST(Report, OfARunAndItsParts) {
  testing::TemporaryDirectory folder;
  const std::string part = folder.path() + "/phase-1";
  std::filesystem::create_directories(part);
  WriteText(folder.path() + "/config.yaml", "# trainer distill\nseed: 1\n");
  WriteText(part + "/metrics.jsonl",
            "{\"step\":1,\"loss\":4.0,\"tokens\":1000000.0,\"tokens_per_second\":500.0}\n"
            "{\"step\":20,\"loss\":2.0,\"tokens\":20000000.0,\"tokens_per_second\":600.0}\n"
            "{\"step\":20,\"valid_divergence\":0.125,\"valid_perplexity\":5.5}\n");
  const std::string path = WriteRunReport(folder.path());
  EXPECT_EQ(path, folder.path() + "/report.md");
  const std::string text = ReadText(path);
  EXPECT_THAT(text, HasSubstr("# trainer distill\n"));
  EXPECT_THAT(text, HasSubstr("## phase-1\n\n20 steps, 20 million tokens, at the end 600 tokens"));
  EXPECT_THAT(text, HasSubstr("| loss                 |     2 |"));
  EXPECT_THAT(text, HasSubstr("| 20                   |     0.1250 |      5.500 |"));
  EXPECT_THAT(text, HasSubstr("seed: 1\n"));
}

TEST(Report, SaysWhatItsNamesMean) {
  testing::TemporaryDirectory folder;
  WriteText(folder.path() + "/config.yaml", "# trainer distill\n");
  WriteText(folder.path() + "/metrics.jsonl",
            "{\"step\":1,\"loss\":4.0,\"overlap\":0.5,\"tokens\":1000.0}\n"
            "{\"step\":1,\"valid_agreement\":0.25,\"valid_perplexity\":6.0,"
            "\"valid_perplexity_ratio\":1.5}\n"
            "{\"step\":2,\"loss\":3.0,\"overlap\":0.5,\"tokens\":2000.0}\n"
            "{\"step\":2,\"valid_agreement\":0.5,\"valid_perplexity\":5.0,"
            "\"valid_perplexity_ratio\":1.25}\n");
  const std::string text = ReadText(WriteRunReport(folder.path()));
  EXPECT_THAT(text, HasSubstr("- `overlap`: probability that both distributions share"));
  EXPECT_THAT(text, HasSubstr("- `agreement`: share of tokens"));
  EXPECT_EQ(MetricMeaning("valid_agreement"), MetricMeaning("agreement"));
  EXPECT_EQ(MetricMeaning("something"), "");
  if (!std::filesystem::exists(folder.path() + "/loss.svg")) {
    GTEST_SKIP() << "gnuplot is not installed";
  }
  // The teacher's line beside the model's; one line alone needs no legend.
  const std::string perplexity = ReadText(folder.path() + "/valid_perplexity.svg");
  EXPECT_THAT(perplexity, HasSubstr("perplexity on held-out text"));
  EXPECT_THAT(perplexity, HasSubstr(">teacher<"));
  const std::string loss = ReadText(folder.path() + "/loss.svg");
  EXPECT_THAT(loss, HasSubstr("loss on the training text"));
  EXPECT_THAT(loss, ::testing::Not(HasSubstr(">model<")));
}

// Where there is nothing that draws, the tables are there and the report says what is missing.
TEST(Report, WithoutGnuplot) {
  testing::TemporaryDirectory folder;
  WriteText(folder.path() + "/config.yaml", "# trainer align\n");
  WriteText(folder.path() + "/metrics.jsonl",
            "{\"step\":1,\"loss\":4.0}\n{\"step\":2,\"loss\":3.0}\n");
  const std::string path = std::getenv("PATH");
  setenv("PATH", folder.path().c_str(), 1);
  const std::string text = ReadText(WriteRunReport(folder.path()));
  setenv("PATH", path.c_str(), 1);
  EXPECT_THAT(text, HasSubstr("Plots are missing"));
  EXPECT_THAT(text, HasSubstr("| loss "));
  EXPECT_FALSE(std::filesystem::exists(folder.path() + "/loss.svg"));
}

TEST(Report, PlotsAreSvg) {
  testing::TemporaryDirectory folder;
  const std::string path = folder.path() + "/it's.svg";
  if (!DrawPlot(path, "a title", "x", "y", {{"line", {1, 2, 3}, {1, NAN, 9}}})) {
    GTEST_SKIP() << "gnuplot is not installed";
  }
  const std::string drawn = ReadText(path);
  EXPECT_THAT(drawn, HasSubstr("<svg"));
  EXPECT_THAT(drawn, HasSubstr("a title"));
}

}  // namespace
}  // namespace mambad::trainer
