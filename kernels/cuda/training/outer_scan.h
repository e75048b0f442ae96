// The recurrence that all of Mamba-2 is made of, forward and backward: a state of outer products
// that decays.
//
// For each head, walking over the tokens of a sequence forward or, `reversed`, backward:
//
//   forward:   S <- exp(log_decay[t]) S + (scale[t] value_t) key_t^T;   out_t = S query_t
//   reversed:  S <- exp(log_decay[t + 1]) S + value_t key_t^T;          out_t = scale[t] (S
//   query_t)
//
// then out_t += skip value_t. With (value, key, query) = (x, B, C) this is the output, (B, x, dy)
// the gradient of C, reversed (dy, C, B) that of x, reversed (C, dy, x) that of B; no state is kept
// for any of them.

#ifndef MAMBAD_KERNELS_CUDA_TRAINING_OUTER_SCAN_H_
#define MAMBAD_KERNELS_CUDA_TRAINING_OUTER_SCAN_H_

#include <cstdint>

#include "kernels/training_scan.h"

struct CUstream_st;

namespace mambad::kernels::cuda {

inline constexpr int kOuterScanSlice = 64;  // columns of `value` that one block takes
inline constexpr int64_t kMaxOuterScanKey = 256;

// Rows [sequences * tokens]; head h finds its columns at (h / share) * width.
struct OuterScanRows {
  const void* data = nullptr;
  int64_t stride = 0;
  int share = 1;
};

struct OuterScan {
  OuterScanRows value, key, query;
  OuterScanRows partner;  // as wide as value; or null data
  void* out = nullptr;    // [rows, heads * value_width]
  int64_t out_stride = 0;
  int value_width = 0, key_width = 0;  // query is as wide as key
  bool reversed = false;
  const float* skip = nullptr;  // [heads], or null: 0
  // Slices of value columns times [sequences, heads, tokens]: partner_t . (S query_t) over the
  // slice, without scale and skip. Null: not wanted.
  float* dots = nullptr;
  // Slices times [sequences, heads]: sum over t of partner_t . value_t. Null: not wanted.
  float* skip_dots = nullptr;
};

// Up to three scans over the same tokens, in one launch where their key widths allow.
struct OuterScans {
  static constexpr int kMost = 3;
  OuterScan scans[kMost];
  int count = 0;
  int heads = 0, tokens = 0, sequences = 0;
  const float* scale = nullptr;      // [sequences, heads, tokens]
  const float* log_decay = nullptr;  // likewise; -infinity where a document begins
};

inline int OuterScanSlices(int64_t value_width) {
  return static_cast<int>((value_width + kOuterScanSlice - 1) / kOuterScanSlice);
}

// Queued on `stream`; null, or what is wrong with the launch. `type`: float32 or bf16. Token by
// token in fp32; bf16 rows that begin on 16 bytes, of keys up to 128 wide, go in chunks through the
// matrix units instead (outer_scan_chunked.cu), with factors of 16 bits split in two so that
// results are within 1e-4 of the others.
const char* RunOuterScans(const OuterScans& scans, TrainingType type, CUstream_st* stream);

// The second way alone. Whether a scan can go it:
bool CanRunInChunks(const OuterScan& scan, TrainingType type);
const char* RunOuterScansInChunks(const OuterScans& scans, CUstream_st* stream);

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_TRAINING_OUTER_SCAN_H_
