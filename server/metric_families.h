// Metric families whose values are told at the time of a scrape, not counted by a registry.

#ifndef MAMBAD_SERVER_METRIC_FAMILIES_H_
#define MAMBAD_SERVER_METRIC_FAMILIES_H_

#include <prometheus/client_metric.h>
#include <prometheus/metric_family.h>

#include <string>
#include <utility>
#include <vector>

namespace mambad::server {

// Metrics of one family must be added one after the other.
class MetricFamilies {
 public:
  using Labels = std::vector<prometheus::ClientMetric::Label>;

  void Gauge(std::string name, std::string help, double value, Labels labels = {}) {
    Add(std::move(name), std::move(help), prometheus::MetricType::Gauge, std::move(labels))
        .gauge.value = value;
  }
  void Counter(std::string name, std::string help, double value, Labels labels = {}) {
    Add(std::move(name), std::move(help), prometheus::MetricType::Counter, std::move(labels))
        .counter.value = value;
  }
  std::vector<prometheus::MetricFamily>& families() { return families_; }

 private:
  prometheus::ClientMetric& Add(std::string name, std::string help, prometheus::MetricType type,
                                Labels labels) {
    if (families_.empty() || families_.back().name != name) {
      families_.push_back({std::move(name), std::move(help), type, {}});
    }
    prometheus::ClientMetric& metric = families_.back().metric.emplace_back();
    metric.label = std::move(labels);
    return metric;
  }

  std::vector<prometheus::MetricFamily> families_;
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_METRIC_FAMILIES_H_
