// Writes a formula model (formula_models.h) for programs that are tested from outside:
//   write_formula_model NAME FOLDER   the folder is made

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "tests/support/formula_models.h"

int main(int argc, char** argv) {
  using mambad::testing::FormulaModelNames;
  const auto& names = FormulaModelNames();
  if (argc != 3 || std::find(names.begin(), names.end(), argv[1]) == names.end()) {
    std::fprintf(stderr, "usage: write_formula_model NAME FOLDER; NAME as in formula_models.h\n");
    return 2;
  }
  std::filesystem::create_directories(argv[2]);
  mambad::testing::MakeFormulaModel(argv[1]).directory.Write(argv[2],
                                                             mambad::testing::StoredAs::kFloat32);
  return 0;
}
