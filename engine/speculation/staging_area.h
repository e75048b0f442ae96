// A block of numbers with the same layout in host and backend memory: a step's arrays are filled on
// the host and go over in one write, its results come back in one read.

#ifndef MAMBAD_ENGINE_SPECULATION_STAGING_AREA_H_
#define MAMBAD_ENGINE_SPECULATION_STAGING_AREA_H_

#include <cstdint>
#include <vector>

#include "kernels/backend.h"

namespace mambad {

template <typename T>
class StagingArea {
 public:
  // A named piece: `host` and `device` are set when the area is allocated.
  struct Array {
    T* host = nullptr;
    T* device = nullptr;
  };

  // Call for every array, then Allocate once. The pointers must stay valid until then.
  void Add(Array* array, int64_t count) { pieces_.push_back({array, count}); }

  void Allocate(kernels::Backend& backend) {
    int64_t total = 0;
    for (const Piece& piece : pieces_) total += Padded(piece.count);
    host_.assign(total, T{});
    device_ = backend.Allocate(total * sizeof(T));
    int64_t offset = 0;
    for (const Piece& piece : pieces_) {
      piece.array->host = host_.data() + offset;
      piece.array->device = device_.as<T>() + offset;
      offset += Padded(piece.count);
    }
  }

  void Upload(kernels::Backend& backend) {
    backend.Write(device_.data(), host_.data(), host_.size() * sizeof(T));
  }
  void Download(kernels::Backend& backend) {
    backend.Read(host_.data(), device_.data(), host_.size() * sizeof(T));
  }

 private:
  struct Piece {
    Array* array;
    int64_t count;
  };
  static int64_t Padded(int64_t count) {
    return (count + 15) / 16 * 16;
  }  // pieces begin on cache lines

  std::vector<Piece> pieces_;
  std::vector<T> host_;
  kernels::Buffer device_;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SPECULATION_STAGING_AREA_H_
