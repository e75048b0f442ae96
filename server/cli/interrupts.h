// Ctrl-C as something to wait for, instead of the end of the program.

#ifndef MAMBAD_SERVER_CLI_INTERRUPTS_H_
#define MAMBAD_SERVER_CLI_INTERRUPTS_H_

#include <grpcpp/client_context.h>

#include <atomic>
#include <thread>

namespace mambad::cli {

// While one exists, SIGINT is remembered instead of obeyed. One at a time; used by one thread.
class Interrupts {
 public:
  Interrupts();
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

  int descriptor() const { return read_end_; }  // readable while an interrupt is remembered
  bool Take();                                  // whether there was one; forgets it

 private:
  int read_end_ = -1, write_end_ = -1;
};

// Cancels a running call at an interrupt, which it takes. The call's context outlives it.
class CancelOnInterrupt {
 public:
  CancelOnInterrupt(Interrupts* interrupts, grpc::ClientContext* context);
  ~CancelOnInterrupt() { Stop(); }
  CancelOnInterrupt(const CancelOnInterrupt&) = delete;
  CancelOnInterrupt& operator=(const CancelOnInterrupt&) = delete;

  bool Stop();  // stops watching; whether the call was cancelled

 private:
  int stop_read_ = -1, stop_write_ = -1;
  std::atomic<bool> cancelled_{false};
  std::thread watcher_;
};

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_INTERRUPTS_H_
