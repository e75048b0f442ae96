#include "engine/engine.h"
#include "server/daemon_program.h"

int main(int argc, char** argv) {
  return mambad::server::RunDaemonProgram(argc, argv, &mambad::Engine::Open,
                                          &mambad::Engine::Check);
}
