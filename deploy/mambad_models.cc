// mambad-models: models that are shipped as what their training changed.
//   mambad-models assemble --teacher FILE --parts FILE --output DIRECTORY [--overwrite]
//   mambad-models pack     --teacher FILE --model DIRECTORY --output FILE [--overwrite]
// Ends with status 0, 1 when it failed, 2 when the command line is wrong or something lies where
// the output would.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

#include "trainer/formats/model_parts.h"

namespace {

constexpr int kFailed = 1, kUsage = 2;

#define MORE_HELP " (mambad-models COMMAND --help lists the options)"
constexpr char kMoreHelp[] = MORE_HELP;
constexpr char kCommands[] = "expected a command, assemble or pack" MORE_HELP;
constexpr char kNotExpected[] = "not expected here" MORE_HELP;
#undef MORE_HELP

int Refuse(const std::string& problem) {
  std::fprintf(stderr, "mambad-models: %s\n", problem.c_str());
  return kUsage;
}

// A model may be the only one of its kind: nothing is written over what is there unasked. An empty
// directory is nothing.
bool IsFree(const std::string& output) {
  std::error_code error;
  if (!std::filesystem::exists(std::filesystem::symlink_status(output, error))) return true;
  return std::filesystem::is_directory(output, error) && std::filesystem::is_empty(output, error) &&
         !error;
}

void Assemble(const std::string& parts, const std::string& teacher, const std::string& output) {
  const mambad::trainer::AssembledModel model =
      mambad::trainer::AssembleModel(parts, teacher, output);
  std::printf("%s: %.1f M parameters, sha256 %s as expected\n", output.c_str(),
              static_cast<double>(model.numbers) / 1e6, model.sha256.c_str());
}

void Pack(const std::string& model, const std::string& teacher, const std::string& output,
          double most_distance) {
  const mambad::trainer::PackedModel packed =
      mambad::trainer::PackModel(model, teacher, output, most_distance);
  std::printf("%s: %.2f MB; %.2f M numbers shipped, %.2f M are the teacher's\n", output.c_str(),
              static_cast<double>(packed.bytes) / 1e6,
              static_cast<double>(packed.shipped_numbers) / 1e6,
              static_cast<double>(packed.teacher_numbers) / 1e6);
  std::printf("rounding of shipped matrices: %.3f %% of their length\n", 100 * packed.rounding);
  if (packed.projection_distance >= 0) {
    std::printf("embedding shipped as a projection of the teacher's, %.4f %% off\n",
                100 * packed.projection_distance);
  }
  if (packed.proposed_tokens > 0) {
    std::printf("a draft that proposes %lld tokens\n",
                static_cast<long long>(packed.proposed_tokens));
  }
  std::printf("sha256 of the assembled tensors: %s\n", packed.sha256.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Models that are shipped as what their training changed.", "mambad-models");
  app.set_version_flag("--version", "mambad-models " MAMBAD_VERSION, "Print the version and exit");
  app.require_subcommand(0, 1);
  std::string teacher, parts, model, output;
  double most_distance = 0.01;
  bool overwrite = false;
  CLI::App* assemble = app.add_subcommand(
      "assemble", "Teacher and parts -> a model directory that mambad serves. Checks its digest.");
  CLI::App* pack = app.add_subcommand(
      "pack", "A trained model directory -> the parts that its teacher has not, in 8-bit blocks.");
  for (CLI::App* command : {assemble, pack}) {
    command->add_option("--teacher", teacher, "GGUF file or model directory")->required();
    command->add_flag("--overwrite", overwrite, "replace what lies at the output");
  }
  assemble->add_option("--parts", parts, "file that `pack` wrote")->required();
  assemble->add_option("--output", output, "model directory to write")->required();
  pack->add_option("--model", model, "trained model directory")->required();
  pack->add_option("--output", output, "file to write")->required();
  pack->add_option("--most-distance", most_distance,
                   "relative distance up to which the embedding is shipped as a projection")
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& wish) {
    return app.exit(wish);  // help or version
  } catch (const CLI::ExtrasError&) {
    const std::vector<std::string> rest = app.remaining(/*recurse=*/true);
    return Refuse((rest.empty() ? std::string() : "\"" + rest.front() + "\": ") +
                  (app.get_subcommands().empty() ? kCommands : kNotExpected));
  } catch (const CLI::ParseError& error) {
    return Refuse(std::string(error.what()) + kMoreHelp);
  }
  if (app.get_subcommands().empty()) return Refuse(kCommands);
  if (!overwrite && !IsFree(output)) {
    return Refuse("output: " + output +
                  ": is there already; give another output, or --overwrite to replace it");
  }
  try {
    if (assemble->parsed()) Assemble(parts, teacher, output);
    if (pack->parsed()) Pack(model, teacher, output, most_distance);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "mambad-models: %s\n", error.what());
    return kFailed;
  }
  return 0;
}
