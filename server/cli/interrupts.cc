#include "server/cli/interrupts.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>

namespace mambad::cli {
namespace {

// The one thing that a signal handler may touch: set before it is installed.
std::atomic<int> handler_descriptor{-1};

void Remember(int) {
  const int saved = errno;
  const char byte = 0;
  // A full pipe has remembered enough.
  if (write(handler_descriptor.load(), &byte, 1) < 0) errno = saved;
}

void MakePipe(int* read_end, int* write_end) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) {
    std::perror("mambactl: pipe");
    std::exit(1);
  }
  *read_end = ends[0];
  *write_end = ends[1];
}

}  // namespace

Interrupts::Interrupts() {
  MakePipe(&read_end_, &write_end_);
  handler_descriptor.store(write_end_);
  struct sigaction action {};
  action.sa_handler = Remember;
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
}

Interrupts::~Interrupts() {
  signal(SIGINT, SIG_DFL);
  close(read_end_);
  close(write_end_);
}

bool Interrupts::Take() {
  bool any = false;
  char bytes[16];
  while (read(read_end_, bytes, sizeof(bytes)) > 0) any = true;
  return any;
}

CancelOnInterrupt::CancelOnInterrupt(Interrupts* interrupts, grpc::ClientContext* context) {
  MakePipe(&stop_read_, &stop_write_);
  watcher_ = std::thread([this, interrupts, context] {
    for (;;) {
      pollfd entries[2] = {{interrupts->descriptor(), POLLIN, 0}, {stop_read_, POLLIN, 0}};
      if (poll(entries, 2, -1) < 0) continue;
      if (entries[1].revents != 0) return;
      if (entries[0].revents == 0 || !interrupts->Take()) continue;
      cancelled_ = true;
      context->TryCancel();
    }
  });
}

bool CancelOnInterrupt::Stop() {
  if (watcher_.joinable()) {
    close(stop_write_);  // its reader wakes up
    watcher_.join();
    close(stop_read_);
  }
  return cancelled_;
}

}  // namespace mambad::cli
