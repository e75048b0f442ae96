// A backend over another one that holds its caller to the contract (kernels/backend.h): for tests,
// and to debug an engine on a device.
//
//   effects  what a round describes runs at its end. Nothing but operations may be called before.
//   shapes   a decode round is kept, all calls with their host-side arguments. Of the next rounds
//            of its shape every second one is described again, and must be the same; the others are
//            not described, and what is kept runs: whatever an answer needs stands in backend
//            memory.
//   memory   call_checks.h
//
// A broken contract ends the process with words. Slow.

#ifndef MAMBAD_KERNELS_RECORDING_BACKEND_H_
#define MAMBAD_KERNELS_RECORDING_BACKEND_H_

#include <memory>

#include "kernels/backend.h"

namespace mambad::kernels {

std::unique_ptr<Backend> CreateRecordingBackend(std::unique_ptr<Backend> backend);

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_RECORDING_BACKEND_H_
