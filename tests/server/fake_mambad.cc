// The daemon program over the fake engine: what the end-to-end test drives where there is no model.

#include "server/daemon_program.h"
#include "tests/server/fake_engine.h"

int main(int argc, char** argv) {
  return mambad::server::RunDaemonProgram(
      argc, argv,
      [](const mambad::EngineOptions& options, mambad::StepObserver* observer,
         const mambad::DeviceLostHandler&) {
        return mambad::OpenFakeEngine(options, observer, {.step = absl::Milliseconds(1)});
      },
      [](const mambad::EngineOptions&) { return std::vector<std::string>(); });
}
