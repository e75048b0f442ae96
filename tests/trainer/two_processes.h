#ifndef MAMBAD_TESTS_TRAINER_TWO_PROCESSES_H_
#define MAMBAD_TESTS_TRAINER_TWO_PROCESSES_H_

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "trainer/process_group.h"

namespace mambad::testing {

// LibTorch keeps one record of collective operations for all groups of a program and takes note of
// a group in it without a lock, so that two groups' threads can crash there. It is off from the
// start of a program that includes this.
inline const int kRecordingIsOff = setenv("TORCH_FR_BUFFER_SIZE", "0", 1);

// A port of this machine that nobody listens on.
inline int FreePort() {
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  bind(socket, reinterpret_cast<sockaddr*>(&address), size);
  getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size);
  close(socket);
  return ntohs(address.sin_port);
}

// Does `work` as two processes would that meet at `port` of this machine: in two threads, each with
// its own end of a group.
inline void AsTwoProcesses(int port, const std::function<void(trainer::ProcessGroup*)>& work) {
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&work, port, rank] {
      trainer::Rendezvous rendezvous;
      rendezvous.rank = rank;
      rendezvous.size = 2;
      rendezvous.port = port;
      const auto processes = trainer::JoinProcessGroup(rendezvous, false, 30);
      work(processes.get());
      processes->Barrier();
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace mambad::testing

#endif  // MAMBAD_TESTS_TRAINER_TWO_PROCESSES_H_
