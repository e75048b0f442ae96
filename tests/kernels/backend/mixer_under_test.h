// A mixer (Mamba-1, Mamba-2 or attention) with its weights on a backend, and what it gives in
// doubles.

#ifndef MAMBAD_TESTS_KERNELS_BACKEND_MIXER_UNDER_TEST_H_
#define MAMBAD_TESTS_KERNELS_BACKEND_MIXER_UNDER_TEST_H_

#include <cstdint>
#include <deque>
#include <random>
#include <vector>

#include "kernels/backend.h"
#include "tests/kernels/backend/device_array.h"
#include "tests/kernels/backend/reference.h"

namespace mambad::kernels {

class MixerUnderTest {
 public:
  MixerUnderTest(Backend& backend, ElementType weights) : backend_(backend), weights_(weights) {}
  virtual ~MixerUnderTest() = default;

  Backend& backend() const { return backend_; }
  ElementType weights() const { return weights_; }
  virtual double tolerance() const { return LayerTolerance(backend_.Activations(weights_)); }

  // Numbers of a token: of a row of the residual stream.
  virtual int64_t width() const = 0;
  // Its widths; of rows, sequences and vocabulary it says nothing.
  virtual WorkspaceShape workspace() const = 0;
  // floats 0: no recurrent state.
  virtual RecurrentSlotLayout layout(int window_rows, bool keeps_working) const = 0;
  virtual int ring_channels() const { return 0; }
  virtual int convolution_width() const { return 1; }
  // key_bytes 0: no keys and values.
  virtual KeyValueLayout page_layout() const { return {}; }

  virtual void Run(const Batch& batch, const RecurrentState& state, const KeyValueState& pages,
                   Workspace& workspace) const = 0;
  // What it adds to the rows of a whole sequence.
  virtual std::vector<Numbers> Reference(const Rows& tokens) const = 0;

  // Shapes of rounds no two of which are the same, of whatever mixers a backend has.
  RoundShape NewShape(int sequences, int64_t context) const {
    RoundShape shape;
    shape.sequences = sequences;
    shape.context = context + ++shapes_;
    return shape;
  }

  // Tokens as an embedding of the weights' type can hold them.
  Rows RandomTokens(std::mt19937& random, int64_t count) const {
    Rows tokens = RandomRows(random, count, width());
    for (Row& token : tokens) {
      for (float& value : token) value = RoundedTo(weights_, value);
    }
    return tokens;
  }

 protected:
  // Matrices and arrays live as long as the mixer.
  const TestMatrix& Matrix(std::mt19937& random, int64_t rows, int64_t columns, float scale = 1) {
    return matrices_.emplace_back(backend_, rows, columns, weights_,
                                  RandomWeights(random, rows, columns, scale));
  }
  const float* OnBackend(const Row& values) {
    return arrays_.emplace_back(backend_, values).data();
  }

 private:
  Backend& backend_;
  ElementType weights_;
  static inline int shapes_ = 0;
  std::deque<TestMatrix> matrices_;
  std::deque<DeviceArray<float>> arrays_;
};

}  // namespace mambad::kernels

#endif  // MAMBAD_TESTS_KERNELS_BACKEND_MIXER_UNDER_TEST_H_
