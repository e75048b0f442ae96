// A block of numbers with the same layout in host and backend memory: a step's arrays are filled on
// the host and go over in one write, its results come back in one read of those that are wanted.

#ifndef MAMBAD_ENGINE_SPECULATION_STAGING_AREA_H_
#define MAMBAD_ENGINE_SPECULATION_STAGING_AREA_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/backend.h"

namespace mambad {

class StagingArea {
 public:
  // A named piece: `host` and `device` are set when the area is allocated.
  template <typename T>
  struct Array {
    T* host = nullptr;
    T* device = nullptr;
  };

  // Call for every array, then Allocate once. The pointers must stay valid until then.
  template <typename T>
  void Add(Array<T>* array, int64_t count) {
    place_.push_back([array, at = bytes_](char* host, char* device) {
      array->host = reinterpret_cast<T*>(host + at);
      array->device = reinterpret_cast<T*>(device + at);
    });
    bytes_ += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;  // whole cache lines
  }
  // Of all arrays that were added so far.
  int64_t bytes() const { return bytes_; }

  void Allocate(kernels::Backend& backend) {
    host_ = backend.AllocateHost(bytes_);
    device_ = backend.Allocate(bytes_);
    for (const auto& place : place_) place(host_.as<char>(), device_.as<char>());
    place_.clear();
  }

  void Upload(kernels::Backend& backend) { backend.Write(device_.data(), host_.data(), bytes_); }
  // The first `bytes`, as bytes() said when the last array that is wanted had been added.
  void Download(kernels::Backend& backend, int64_t bytes) {
    backend.Read(host_.data(), device_.data(), bytes);
  }

 private:
  int64_t bytes_ = 0;
  std::vector<std::function<void(char* host, char* device)>> place_;
  kernels::Buffer host_, device_;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SPECULATION_STAGING_AREA_H_
