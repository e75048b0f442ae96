// The report at the end of a run: Markdown with tables, and plots as SVG.

#ifndef MAMBAD_TRAINER_REPORT_H_
#define MAMBAD_TRAINER_REPORT_H_

#include <string>
#include <vector>

#include "trainer/metrics_writer.h"

namespace mambad::trainer {

// A table; as many cells in each row as there are columns.
struct ReportTable {
  std::vector<std::string> columns;
  std::vector<std::vector<std::string>> rows;
};
// Cells aligned, the first column to the left and the others to the right.
std::string MarkdownTable(const ReportTable& table);

// "0.0123", "12.3", "4,567": four digits that count, thousands set apart.
std::string ReportNumber(double value);

// What a metric of training or, with "valid_" before it, of held-out text is, with its unit; "" for
// one that is not known.
std::string MetricMeaning(const std::string& name);

struct PlotLine {
  std::string name;          // in the legend, which one line alone does without
  std::vector<double> x, y;  // as many; what is not finite is left out
};
// Draws lines over one pair of axes into the file `path` (SVG). False when gnuplot, which draws, is
// not installed or refuses.
bool DrawPlot(const std::string& path, const std::string& title, const std::string& x_name,
              const std::string& y_name, const std::vector<PlotLine>& lines);

// Reads metrics.jsonl and config.yaml of a run's folder and of its parts' (folders in it with a
// metrics.jsonl), writes report.md and plots beside; returns the report's path. Throws
// std::runtime_error when it cannot be written.
std::string WriteRunReport(const std::string& folder);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_REPORT_H_
