// Softmax, divergence and their gradient against double.

#include "kernels/cuda/training/divergence.h"
#include "tests/gpu/training_kernels_check.h"

namespace mambad::gpu_check {
namespace {

void CheckOne(int64_t rows, int64_t vocabulary, bool has_teacher, bool has_targets,
              const DivergenceSettings& settings, bool wants_gradient, Report* report) {
  const Array student = Array::Random(Type::kHalf, rows, vocabulary, 2);
  const Array teacher = Array::Random(Type::kHalf, rows, vocabulary, 2);
  const Array row_weight = Array::Random(Type::kFloat, 1, rows, 0.2, 0.5);
  std::vector<int64_t> target_ids;
  for (int64_t row = 0; row < rows; ++row) target_ids.push_back(row * 7919 % vocabulary);
  const Array targets = Array::OfLongs(target_ids), results(Type::kFloat, rows, 5);
  const DivergenceResult expected =
      ReferenceDivergence(student.values(), has_teacher ? teacher.values() : Numbers(),
                          has_targets ? target_ids : std::vector<int64_t>(), row_weight.values(),
                          rows, vocabulary, settings);
  kernels::cuda::DivergenceArguments arguments;
  arguments.student = student.data(), arguments.teacher = has_teacher ? teacher.data() : nullptr;
  arguments.targets = has_targets ? static_cast<const int64_t*>(targets.data()) : nullptr;
  arguments.row_weight = row_weight.floats(), arguments.results = results.floats();
  arguments.rows = rows, arguments.vocabulary = vocabulary;
  arguments.divergence_weight = static_cast<float>(settings.divergence_weight);
  arguments.cross_entropy_weight = static_cast<float>(settings.cross_entropy_weight);
  arguments.temperature = static_cast<float>(settings.temperature);
  arguments.acceptance = settings.acceptance, arguments.wants_gradient = wants_gradient;
  report->Check(
      "divergence " + std::to_string(rows) + "x" + std::to_string(vocabulary) +
          (has_teacher ? " teacher" : "") + (has_targets ? " targets" : "") +
          (settings.acceptance ? " acceptance" : "") + (wants_gradient ? "" : " no gradient"),
      {{"results", results, expected.results, 1e-4},
       {"gradient", student, wants_gradient ? expected.gradient : student.values(), 4e-3, true}},
      [&] { Launch(kernels::cuda::DivergenceGradient(arguments, nullptr)); });
}

}  // namespace

void CheckDivergence(Report* report) {
  for (const int64_t vocabulary : {97, 512, 4096, 20011, 49152}) {
    const int64_t rows = vocabulary > 10000 ? 3 : 11;
    CheckOne(rows, vocabulary, true, false, {}, true, report);
    CheckOne(rows, vocabulary, true, true, {0.7, 0.3, 2.0, false}, true, report);
    CheckOne(rows, vocabulary, true, false, {1, 0, 1, true}, true, report);
    CheckOne(rows, vocabulary, true, true, {1, 0.1, 1.5, true}, true, report);
    CheckOne(rows, vocabulary, false, true, {1, 1, 1, false}, true, report);
    CheckOne(rows, vocabulary, true, true, {1, 0.5, 1, false}, false, report);
  }
}

}  // namespace mambad::gpu_check
