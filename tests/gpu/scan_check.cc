// Convolution and scans against double.

#include <algorithm>
#include <limits>

#include "kernels/cuda/training/scan.h"
#include "tests/gpu/training_kernels_check.h"

namespace mambad::gpu_check {
namespace {

using namespace kernels;  // NOLINT: the arguments' names

double Tolerance(Type type) { return type == Type::kFloat ? 2e-5 : 5e-3; }
// Parameter gradients are fp32 sums over all tokens.
constexpr double kSumTolerance = 2e-4;
// Those of A and dt of the Mamba-2 scan are sums over tokens of sums over later tokens of small
// differences: what fp32 rounds off grows with the length of a document.
double TimeStepTolerance(int64_t tokens) { return std::max(kSumTolerance, 1e-6 * tokens); }

Documents MakeDocuments(int64_t sequences, int64_t tokens, int64_t every) {
  Documents documents{sequences, tokens, std::vector<uint8_t>(sequences * tokens, 0)};
  for (int64_t row = 0; every > 0 && row < documents.rows(); ++row) {
    documents.start[row] = row % every == 0 || row % (every + 2) == 1;
  }
  return documents;
}

TrainingBatch BatchOf(const Documents& documents, const Array& start, bool resets, Type type) {
  TrainingBatch batch;
  batch.sequences = documents.sequences, batch.tokens = documents.tokens;
  batch.document_start = resets ? static_cast<const uint8_t*>(start.data()) : nullptr;
  batch.type = type == Type::kFloat ? TrainingType::kFloat32 : TrainingType::kBFloat16;
  return batch;
}

InputRows In(const Array& array) { return {array.data(), array.stride()}; }
OutputRows Out(const Array& array) { return {array.data(), array.stride()}; }

struct Scratch {
  explicit Scratch(const TrainingWorkspaceBytes& bytes)
      : checkpoints(bytes.checkpoints),
        forward(bytes.forward_scratch),
        backward(bytes.backward_scratch) {}
  DeviceMemory checkpoints, forward, backward;
};

void CheckConvolution(Type type, const Documents& documents, bool resets, int64_t channels,
                      int64_t taps, bool has_bias, int64_t gap, Report* report) {
  const Array start = Array::OfBytes(documents.start);
  const Array input = Array::Random(type, documents.rows(), channels, 1, 0, channels + gap);
  const Array weight = Array::Random(Type::kFloat, channels, taps, 0.5);
  const Array bias = Array::Random(Type::kFloat, 1, channels, 0.5);
  const Array output_gradient =
      Array::Random(type, documents.rows(), channels, 1, 0, channels + gap);
  const ConvolutionResult expected =
      ReferenceConvolution(documents, channels, taps, input.values(), weight.values(),
                           has_bias ? bias.values() : Numbers(), output_gradient.values());
  const Array output(type, documents.rows(), channels, channels + gap);
  const Array input_gradient(type, documents.rows(), channels, channels + gap);
  const Array weight_gradient(Type::kFloat, channels, taps),
      bias_gradient(Type::kFloat, 1, channels);
  CausalConvolution problem;
  problem.batch = BatchOf(documents, start, resets, type);
  problem.channels = channels, problem.taps = taps, problem.input = In(input);
  problem.weight = weight.data(), problem.bias = has_bias ? bias.data() : nullptr;
  const Scratch scratch(kernels::cuda::WorkspaceBytes(problem));
  CausalConvolutionGradient gradient;
  gradient.output = In(output_gradient), gradient.input = Out(input_gradient);
  gradient.weight = weight_gradient.data(),
  gradient.bias = has_bias ? bias_gradient.data() : nullptr;
  std::vector<Report::Output> outputs = {
      {"output", output, expected.output, Tolerance(type)},
      {"input gradient", input_gradient, expected.input_gradient, Tolerance(type)},
      {"weight gradient", weight_gradient, expected.weight_gradient, kSumTolerance}};
  if (has_bias) {
    outputs.push_back({"bias gradient", bias_gradient, expected.bias_gradient, kSumTolerance});
  }
  report->Check("convolution " + std::to_string(documents.tokens) + "x" + std::to_string(channels) +
                    " taps " + std::to_string(taps) + " gap " + std::to_string(gap),
                outputs, [&] {
                  Launch(kernels::cuda::CausalConvolutionForward(problem, Out(output), nullptr));
                  Launch(kernels::cuda::CausalConvolutionBackward(
                      problem, gradient, scratch.backward.data(), nullptr));
                });
}

void CheckMamba2(Type type, const Documents& documents, bool resets, const Mamba2Sizes& sizes,
                 int64_t gap, Report* report) {
  const int64_t rows = documents.rows(), heads = sizes.heads;
  const auto rows_of = [&](int64_t columns, double scale, double offset = 0) {
    return Array::Random(type, rows, columns, scale, offset, columns + gap);
  };
  const Array start = Array::OfBytes(documents.start);
  const Array x = rows_of(sizes.source_heads * sizes.head_width, 1);
  const Array b = rows_of(sizes.source_groups * sizes.state_size, 1);
  const Array c = rows_of(sizes.groups * sizes.state_size, 1);
  const Array dt = rows_of(heads, 2, -3);  // slow heads and fast ones
  const Array y_gradient = rows_of(heads * sizes.head_width, 1);
  const Array a_log = Array::Random(Type::kFloat, 1, heads, 1, 1);
  const Array skip = Array::Random(Type::kFloat, 1, heads, 0.3, 1);
  const Array dt_bias = Array::Random(Type::kFloat, 1, heads, 1);
  const Mamba2Result expected =
      ReferenceMamba2(documents, sizes,
                      {x.values(), b.values(), c.values(), dt.values(), a_log.values(),
                       skip.values(), dt_bias.values(), y_gradient.values()});
  const auto like = [&](const Array& array, int64_t columns) {
    return Array(type, rows, columns, array.stride());
  };
  const Array y = like(y_gradient, heads * sizes.head_width);
  const Array dx = like(x, sizes.source_heads * sizes.head_width);
  const Array db = like(b, sizes.source_groups * sizes.state_size);
  const Array dc = like(c, sizes.groups * sizes.state_size), ddt = like(dt, heads);
  const Array da_log(Type::kFloat, 1, heads), dskip(Type::kFloat, 1, heads);
  const Array ddt_bias(Type::kFloat, 1, heads);
  Mamba2Scan problem;
  problem.batch = BatchOf(documents, start, resets, type);
  problem.heads = heads, problem.head_width = sizes.head_width;
  problem.state_size = sizes.state_size, problem.source_heads = sizes.source_heads;
  problem.groups = sizes.groups, problem.source_groups = sizes.source_groups;
  problem.x = In(x), problem.b = In(b), problem.c = In(c), problem.dt = In(dt);
  problem.a_log = a_log.data(), problem.skip = skip.data(), problem.dt_bias = dt_bias.data();
  problem.dt_minimum = static_cast<float>(sizes.dt_minimum);
  problem.dt_maximum = static_cast<float>(sizes.dt_maximum);
  Mamba2ScanGradient gradient;
  gradient.y = In(y_gradient), gradient.x = Out(dx), gradient.b = Out(db), gradient.c = Out(dc);
  gradient.dt = Out(ddt), gradient.a_log = da_log.data(), gradient.skip = dskip.data();
  gradient.dt_bias = ddt_bias.data();
  const Scratch scratch(kernels::cuda::WorkspaceBytes(problem));
  const double tolerance = Tolerance(type);
  report->Check(
      "Mamba-2 " + std::to_string(documents.sequences) + "x" + std::to_string(documents.tokens) +
          " heads " + std::to_string(heads) + " width " + std::to_string(sizes.head_width) +
          " state " + std::to_string(sizes.state_size) + " gap " + std::to_string(gap),
      {{"y", y, expected.y, tolerance},
       {"x gradient", dx, expected.x, tolerance},
       {"B gradient", db, expected.b, tolerance},
       {"C gradient", dc, expected.c, tolerance},
       {"dt gradient", ddt, expected.dt, tolerance},
       {"A_log gradient", da_log, expected.a_log, TimeStepTolerance(documents.tokens)},
       {"D gradient", dskip, expected.skip, kSumTolerance},
       {"dt bias gradient", ddt_bias, expected.dt_bias, TimeStepTolerance(documents.tokens)}},
      [&] {
        Launch(kernels::cuda::Mamba2ScanForward(problem, Out(y), scratch.checkpoints.data(),
                                                scratch.forward.data(), nullptr));
        Launch(kernels::cuda::Mamba2ScanBackward(problem, gradient, scratch.checkpoints.data(),
                                                 scratch.backward.data(), nullptr));
      });
}

void CheckMamba2Shapes(Type type, Report* report) {
  const double none = std::numeric_limits<double>::infinity();
  const Documents packed = MakeDocuments(2, 77, 29), one = MakeDocuments(1, 530, 0);
  const Mamba2Sizes hybrid{6, 64, 64, 2, 6, 2, 0, none};
  CheckMamba2(type, packed, true, hybrid, 0, report);
  CheckMamba2(type, packed, true, hybrid, 3, report);
  CheckMamba2(type, one, false, hybrid, 8, report);
  CheckMamba2(type, MakeDocuments(1, 2048, 0), false, {2, 64, 64, 1, 2, 1, 0, none}, 0, report);
  CheckMamba2(type, MakeDocuments(3, 16, 0), false, {4, 64, 128, 4, 1, 1, 0, none}, 0, report);
  CheckMamba2(type, MakeDocuments(2, 33, 7), true, {4, 32, 16, 4, 2, 1, 1e-2, 1e-1}, 0, report);
  CheckMamba2(type, MakeDocuments(2, 31, 7), true, {2, 48, 256, 1, 2, 1, 0, none}, 0, report);
  CheckMamba2(type, MakeDocuments(2, 19, 5), true, {3, 7, 5, 3, 1, 1, 0, none}, 1, report);
  CheckMamba2(type, MakeDocuments(2, 1, 0), true, {2, 36, 20, 1, 2, 2, 0, none}, 0, report);
}

void CheckSelective(Type type, const Documents& documents, bool resets, const SelectiveSizes& sizes,
                    bool gated, int64_t gap, Report* report) {
  const int64_t rows = documents.rows(), channels = sizes.channels, n = sizes.state_size;
  const auto rows_of = [&](int64_t columns, double scale, double offset = 0) {
    return Array::Random(type, rows, columns, scale, offset, columns + gap);
  };
  const Array start = Array::OfBytes(documents.start);
  const Array x = rows_of(channels, 1), delta = rows_of(channels, 2, -3), z = rows_of(channels, 1);
  const Array b = rows_of(sizes.source_groups * n, 1), c = rows_of(sizes.groups * n, 1);
  const Array y_gradient = rows_of(channels, 1);
  const Array a_log = Array::Random(Type::kFloat, channels, n, 1, 0.5);
  const Array skip = Array::Random(Type::kFloat, 1, channels, 0.3, 1);
  const Array dt_bias = Array::Random(Type::kFloat, 1, channels, 1);
  const SelectiveResult expected = ReferenceSelective(
      documents, sizes,
      {x.values(), delta.values(), b.values(), c.values(), gated ? z.values() : Numbers(),
       a_log.values(), skip.values(), dt_bias.values(), y_gradient.values()});
  const auto like = [&](int64_t columns) { return Array(type, rows, columns, columns + gap); };
  const Array y = like(channels), dx = like(channels), ddelta = like(channels), dz = like(channels);
  const Array db = like(sizes.source_groups * n), dc = like(sizes.groups * n);
  const Array da_log(Type::kFloat, channels, n), dskip(Type::kFloat, 1, channels);
  const Array ddt_bias(Type::kFloat, 1, channels);
  SelectiveScan problem;
  problem.batch = BatchOf(documents, start, resets, type);
  problem.channels = channels, problem.state_size = n;
  problem.groups = sizes.groups, problem.source_groups = sizes.source_groups;
  problem.x = In(x), problem.delta = In(delta), problem.b = In(b), problem.c = In(c);
  if (gated) problem.z = In(z);
  problem.a_log = a_log.data(), problem.skip = skip.data(), problem.dt_bias = dt_bias.data();
  SelectiveScanGradient gradient;
  gradient.y = In(y_gradient), gradient.x = Out(dx), gradient.delta = Out(ddelta);
  gradient.b = Out(db), gradient.c = Out(dc);
  if (gated) gradient.z = Out(dz);
  gradient.a_log = da_log.data(), gradient.skip = dskip.data(), gradient.dt_bias = ddt_bias.data();
  const Scratch scratch(kernels::cuda::WorkspaceBytes(problem));
  const double tolerance = Tolerance(type);
  std::vector<Report::Output> outputs = {
      {"y", y, expected.y, tolerance},
      {"x gradient", dx, expected.x, tolerance},
      {"delta gradient", ddelta, expected.delta, tolerance},
      {"B gradient", db, expected.b, tolerance},
      {"C gradient", dc, expected.c, tolerance},
      {"A_log gradient", da_log, expected.a_log, kSumTolerance},
      {"D gradient", dskip, expected.skip, kSumTolerance},
      {"dt bias gradient", ddt_bias, expected.dt_bias, kSumTolerance}};
  if (gated) outputs.push_back({"z gradient", dz, expected.z, tolerance});
  report->Check(
      "Mamba-1 " + std::to_string(documents.sequences) + "x" + std::to_string(documents.tokens) +
          " channels " + std::to_string(channels) + " state " + std::to_string(n) + " groups " +
          std::to_string(sizes.groups) + " gap " + std::to_string(gap),
      outputs, [&] {
        Launch(kernels::cuda::SelectiveScanForward(problem, Out(y), scratch.checkpoints.data(),
                                                   scratch.forward.data(), nullptr));
        Launch(kernels::cuda::SelectiveScanBackward(problem, gradient, scratch.checkpoints.data(),
                                                    scratch.backward.data(), nullptr));
      });
}

void CheckSelectiveShapes(Type type, Report* report) {
  const Documents packed = MakeDocuments(2, 77, 29), one = MakeDocuments(1, 530, 0);
  CheckSelective(type, packed, true, {96, 16, 6, 2}, true, 0, report);
  CheckSelective(type, packed, true, {96, 16, 6, 2}, true, 3, report);
  CheckSelective(type, one, false, {192, 16, 1, 1}, true, 8, report);
  CheckSelective(type, MakeDocuments(2, 33, 7), true, {72, 16, 3, 3}, false, 0, report);
  CheckSelective(type, MakeDocuments(2, 16, 5), true, {35, 8, 5, 1}, true, 0, report);
  CheckSelective(type, MakeDocuments(2, 31, 7), true, {40, 64, 1, 1}, true, 0, report);
  CheckSelective(type, MakeDocuments(2, 1, 0), true, {16, 5, 2, 1}, true, 1, report);
}

}  // namespace

void CheckScans(Report* report) {
  for (const Type type : {Type::kFloat, Type::kHalf}) {
    for (const int64_t gap : {0, 9}) {
      CheckConvolution(type, MakeDocuments(3, 150, 11), true, 96, 4, true, gap, report);
      CheckConvolution(type, MakeDocuments(2, 67, 5), true, 37, 3, true, gap, report);
      CheckConvolution(type, MakeDocuments(2, 129, 0), false, 260, 4, false, gap, report);
      CheckConvolution(type, MakeDocuments(2, 66, 13), true, 12, 7, true, gap, report);
      CheckConvolution(type, MakeDocuments(2, 2, 0), true, 8, 4, true, gap, report);
      CheckConvolution(type, MakeDocuments(2, 65, 0), true, 8, 1, true, gap, report);
    }
    CheckMamba2Shapes(type, report);
    CheckSelectiveShapes(type, report);
  }
}

}  // namespace mambad::gpu_check
