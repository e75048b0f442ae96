// Losses as pure functions of tensors.
//
// The heads' products are the largest tensors of training by far ([tokens, vocabulary]). They are
// made for a few rows at a time and turned into gradients on the spot: forward and backward of head
// and loss are one pass, and no tensor of all tokens and all vocabulary ever exists.
//
// CPU: fp32 and fp64. CUDA: bf16 or fp32 products, everything between logits and gradient in fp32.
// Sums over rows are taken in a fixed order: same input, same bits. Nothing here waits for a
// device.

#ifndef MAMBAD_TRAINER_LOSSES_H_
#define MAMBAD_TRAINER_LOSSES_H_

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace mambad::trainer {

// What a student's distribution q = softmax(z / temperature) is asked for, given a teacher's p:
//   divergence_weight * temperature^2 * KL(p || q)       (Hinton, Vinyals, Dean 2015)
// + cross_entropy_weight * -log softmax(z)[target]
// + acceptance: lambda * KL(p || q) + (1 - lambda) * (1 - alpha), alpha = sum_v min(p_v, q_v) and
//   lambda = exp(-3 alpha) taken as a constant, all three per token.
struct HeadLossOptions {
  double divergence_weight = 1.0;
  double cross_entropy_weight = 0.0;
  bool acceptance = false;  // in place of divergence_weight
  double temperature = 1.0;
  int64_t rows_at_once = 0;  // 0: as many as make about 256 MiB of logits
};

struct HeadLoss {
  // Sum over rows of row_weight * loss; differentiable in student_hidden and student_head.
  at::Tensor loss;
  // fp32 or fp64 [4], sums over rows with row_weight > 0, weighed by 1: KL(p || q) at temperature 1
  // or as given, cross entropy, rows whose arg max agrees with the teacher's, alpha.
  at::Tensor sums;
};

// student_hidden [N, d], student_head [V, d]; teacher_hidden [N, e] and teacher_head [V, e], both
// undefined when nothing asks for a teacher; targets int64 [N], undefined when nothing asks for
// them; row_weight [N] (fp32 or fp64): a mask divided by the number of tokens of the whole step
// gives the mean per token, whatever the batch is cut into.
HeadLoss HeadLossAndGradient(const at::Tensor& student_hidden, const at::Tensor& student_head,
                             const at::Tensor& teacher_hidden, const at::Tensor& teacher_head,
                             const at::Tensor& targets, const at::Tensor& row_weight,
                             const HeadLossOptions& options);

// log softmax(hidden head^T)[target], [N] in fp32 (fp64 for fp64); differentiable in hidden and
// head; the logits are made again in the backward pass.
at::Tensor TokenLogProbabilities(const at::Tensor& hidden, const at::Tensor& head,
                                 const at::Tensor& targets, int64_t rows_at_once = 0);

enum class AlignmentKind {
  kRelativeSquaredError,  // sum_t |s_t - t_t|^2 / sum_t |t_t|^2
  kDistance,              // mean_t |s_t - t_t| / sqrt(d)  (mixer alignment as published)
};

// student, teacher [..., d] of one layer's outputs; no gradient reaches the teacher. In fp32 (fp64
// for fp64). mask [...]: positions that count, or undefined.
at::Tensor AlignmentLoss(const at::Tensor& student, const at::Tensor& teacher,
                         const at::Tensor& mask, AlignmentKind kind);

struct PreferenceLoss {
  at::Tensor loss;      // sum over pairs of -log sigmoid(beta * margin)
  at::Tensor accuracy;  // pairs with margin > 0, sum
  at::Tensor margin;    // beta * margin, sum
};

// Direct preference optimisation (Rafailov et al. 2023): the four are summed log probabilities of
// the answers, [pairs]; the reference's carry no gradient.
PreferenceLoss DirectPreferenceLoss(const at::Tensor& chosen, const at::Tensor& rejected,
                                    const at::Tensor& reference_chosen,
                                    const at::Tensor& reference_rejected, double beta);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_LOSSES_H_
