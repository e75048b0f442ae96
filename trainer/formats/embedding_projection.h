// A small model's embedding as a projection of a larger model's: E = B P.

#ifndef MAMBAD_TRAINER_FORMATS_EMBEDDING_PROJECTION_H_
#define MAMBAD_TRAINER_FORMATS_EMBEDDING_PROJECTION_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace mambad::trainer {

// base [rows, base_width] x projection [base_width, width], row-major. Every sum in double and in
// the order of base's columns: the same bits on every machine.
std::vector<float> ProjectEmbedding(absl::Span<const float> base,
                                    absl::Span<const float> projection, int64_t rows,
                                    int64_t base_width, int64_t width);

// The projection that comes closest to `embedding` [rows, width] in the sum of squares: P = (B^T
// B)^-1 B^T E by Cholesky's factors. Columns of B that follow from others get zeros. rows >=
// base_width.
std::vector<float> SolveProjection(absl::Span<const float> base, absl::Span<const float> embedding,
                                   int64_t rows, int64_t base_width, int64_t width);

// |found - expected| / |expected|, Euclidean.
double RelativeDistance(absl::Span<const float> found, absl::Span<const float> expected);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_FORMATS_EMBEDDING_PROJECTION_H_
