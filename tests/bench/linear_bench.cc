// Products of packed weights against what the machine can do, as ratios: one row against a plain
// read of memory, several rows against one, many rows against a loop of fused multiply-adds.
// Usage: linear_bench [rounds] [threads]
//
// All matrices of a set are used in turn and are together larger than the caches, as in decoding.
// Rounds interleave the quantities; each single product and each stretch of the probe keeps its
// best time over the rounds, and the sums of these are compared: a neighbour on the machine then
// costs rounds, not ratios.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/instruction_set.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/memory.h"
#include "tests/bench/multiply_add_rate.h"
#include "tests/bench/read_bandwidth_probe.h"

namespace mambad::bench {
namespace {

using kernels::Buffer;
using kernels::ElementType;
using kernels::InstructionSet;

struct Shape {
  int64_t rows, columns;
};

// Matrices of a model's layers, several copies so that they exceed the caches.
struct MatrixSet {
  const char* name;
  std::vector<Shape> shapes;
  int copies;
};

double Seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

class LinearBench {
 public:
  LinearBench(kernels::ThreadPool& pool, const MatrixSet& set, ElementType type,
              ElementType activations, int rounds)
      : pool_(pool), set_(set), type_(type), rounds_(rounds) {
    settings_.activations = activations;
    kernels::MatrixSource source;
    for (const Shape& shape : set.shapes) {
      source.float32 = [&](int64_t begin, int64_t end, float* out) {
        std::fill_n(out, (end - begin) * shape.columns, 0.5f);
      };
      source.bfloat16 = [&](int64_t begin, int64_t end, uint16_t* out) {
        std::fill_n(out, (end - begin) * shape.columns, uint16_t{0x3f00});
      };
      for (int copy = 0; copy < set.copies; ++copy) {
        matrices_.push_back(kernels::PackMatrix(shape.rows, shape.columns, type, source, pool));
        bytes_ += SpanOf(matrices_.back()).bytes;
        products_ += double(shape.rows) * shape.columns;
      }
      max_rows_ = std::max(max_rows_, shape.rows);
      max_columns_ = std::max(max_columns_, shape.columns);
    }
    x_ = kernels::AllocateMemory(kMostRows * max_columns_ * sizeof(float));
    y_ = kernels::AllocateMemory(kMostRows * max_rows_ * sizeof(float));
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < kMostRows * max_columns_; ++i) x_.as<float>()[i] = normal(random);
    scratch_ = kernels::CreateLinearScratch(kMostRows, max_columns_);
  }

  void Print() {
    std::vector<Span> spans;
    for (const kernels::WeightMatrix& matrix : matrices_) spans.push_back(SpanOf(matrix));
    ReadBandwidthProbe probe(pool_, spans);
    const std::vector<int64_t> counts = {1, 2, 3, 5, 8, 16, 64, 512};
    std::vector<std::vector<double>> best(counts.size(),
                                          std::vector<double>(matrices_.size(), 1e9));
    for (int round = 0; round < rounds_; ++round) {
      probe.Measure();
      // A dot product of bf16 pairs does two multiply-adds a lane.
      peak_ = std::max(peak_, MultiplyAddRate(pool_) * (Rounds() ? 2 : 1));
      for (size_t i = 0; i < counts.size(); ++i) {
        if (counts[i] > 16 && round % 4 != 0) continue;
        for (size_t m = 0; m < matrices_.size(); ++m) {
          best[i][m] = std::min(best[i][m], Seconds([&] { Multiply(matrices_[m], counts[i]); }));
        }
      }
    }
    std::vector<double> times;
    for (const std::vector<double>& each : best)
      times.push_back(std::accumulate(each.begin(), each.end(), 0.0));
    const double read = probe.BestBytesPerSecond(), one = times[0];
    std::printf("%-18s %s%s, %d thread(s), %.0f MB\n", set_.name,
                kernels::LinearInstructionSet().c_str(),
                type_ == ElementType::kFloat32 ? ", fp32 weights"
                : Rounds()                     ? ", bf16 x bf16"
                                               : ", bf16 weights",
                pool_.threads(), bytes_ / 1e6);
    std::printf("  probe %.1f GB/s; 1 row %.1f GB/s = %.0f %%;", read / 1e9, bytes_ / one / 1e9,
                100 * bytes_ / one / read);
    for (size_t i = 1; i < counts.size(); ++i)
      std::printf(" %d: %.2f", int(counts[i]), times[i] / one);
    const double peak = 2e-9 * peak_;
    std::printf(" of 1 row\n ");
    for (size_t i = 3; i < counts.size(); ++i) {
      const double rate = 2e-9 * products_ * counts[i] / times[i];
      std::printf(" %d rows: %.0f GFLOP/s = %.0f %%;", int(counts[i]), rate, 100 * rate / peak);
    }
    std::printf(" of %.0f (multiply-adds in registers)\n   ", peak);
    for (size_t m = 0; m < matrices_.size(); m += set_.copies) {
      const double time =
          std::accumulate(best[0].begin() + m, best[0].begin() + m + set_.copies, 0.0) /
          set_.copies;
      std::printf(" %d x %d: %.1f us, %.1f GB/s;", int(matrices_[m].rows),
                  int(matrices_[m].columns), time * 1e6, 1e-9 * matrices_[m].packed.bytes() / time);
    }
    std::printf("\n");
    std::fflush(stdout);
  }

 private:
  static constexpr int64_t kMostRows = 512;

  bool Rounds() const { return settings_.activations == ElementType::kBFloat16; }
  void Multiply(const kernels::WeightMatrix& matrix, int64_t rows) {
    kernels::Linear(pool_, matrix, {x_.as<float>(), rows, matrix.columns, max_columns_}, nullptr,
                    {y_.as<float>(), rows, matrix.rows, max_rows_}, kernels::LinearOutput::kStore,
                    settings_, scratch_);
  }

  kernels::ThreadPool& pool_;
  const MatrixSet& set_;
  const ElementType type_;
  const int rounds_;
  kernels::LinearSettings settings_;
  std::vector<kernels::WeightMatrix> matrices_;
  Buffer x_, y_;
  kernels::LinearScratch scratch_;
  int64_t max_rows_ = 0, max_columns_ = 0;
  double bytes_ = 0, products_ = 0;
  double peak_ = 0;  // multiply-adds a second
};

}  // namespace
}  // namespace mambad::bench

int main(int argc, char** argv) {
  using namespace mambad;
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 12;
  kernels::ThreadPool pool(argc > 2 ? std::atoi(argv[2]) : 0);
  const std::string only = argc > 3 ? argv[3] : "";
  // SmolLM2-135M: query-key-value, attention's out, gate and up, down. Mamba-130M: in, select,
  // dt, out.
  const std::vector<bench::MatrixSet> sets = {
      {"Llama, width 576", {{960, 576}, {576, 576}, {3072, 576}, {576, 1536}}, 30},
      {"Mamba, width 768", {{3072, 768}, {80, 1536}, {1536, 48}, {768, 1536}}, 24},
      {"width 4096", {{6144, 4096}, {4096, 14336}}, 1},
  };
  for (kernels::InstructionSet set : kernels::AvailableInstructionSets()) {
    if (!only.empty() && only != kernels::Name(set)) continue;
    kernels::LimitInstructionSet(set);
    for (const bench::MatrixSet& matrices : sets) {
      using kernels::ElementType;
      const auto print = [&](ElementType weights, ElementType activations) {
        bench::LinearBench(pool, matrices, weights, activations, rounds).Print();
      };
      if (set >= kernels::InstructionSet::kAvx512Bfloat16) {  // pairs are all they add
        print(ElementType::kBFloat16, ElementType::kBFloat16);
        continue;
      }
      print(ElementType::kBFloat16, ElementType::kFloat32);
      print(ElementType::kFloat32, ElementType::kFloat32);
    }
  }
}
