#pragma once
// The optimizers' rules for one element, the same text for the processor and the GPU. Each
// operation is rounded by itself, in the order written here (no contraction: -ffp-contract=off,
// -fmad=false), so both give the same bits. Pure.

#include <cmath>

#include "lockstep/core/device/host_device.h"

namespace lockstep {

/// AdamW's scalars. As doubles until a kernel rounds each once to the element type.
template <typename T>
struct AdamWFactors {
  T grad_scale;
  T decay;  ///< 1 - learning rate * weight decay
  T one_minus_beta1;
  T beta2;
  T one_minus_beta2;
  T inv_sqrt_correction2;  ///< 1 / sqrt(1 - beta2^t)
  T eps;
  T step_size;  ///< learning rate / (1 - beta1^t)

  template <typename U>
  AdamWFactors<U> rounded_to() const {
    return {static_cast<U>(grad_scale),           static_cast<U>(decay),
            static_cast<U>(one_minus_beta1),      static_cast<U>(beta2),
            static_cast<U>(one_minus_beta2),      static_cast<U>(inv_sqrt_correction2),
            static_cast<U>(eps),                  static_cast<U>(step_size)};
  }
};

template <typename T>
LOCKSTEP_HOST_DEVICE void update_adamw_elem(T& param, T grad, T& exp_avg, T& exp_avg_sq,
                                            const AdamWFactors<T>& f) {
  using std::sqrt;
  const T g = grad * f.grad_scale;
  const T m = exp_avg + (g - exp_avg) * f.one_minus_beta1;
  const T v = exp_avg_sq * f.beta2 + (g * g) * f.one_minus_beta2;
  const T denominator = sqrt(v) * f.inv_sqrt_correction2 + f.eps;
  param = param * f.decay - f.step_size * (m / denominator);
  exp_avg = m;
  exp_avg_sq = v;
}

/// SGD's scalars. As doubles until a kernel rounds each once to the element type.
template <typename T>
struct SgdFactors {
  T grad_scale;
  T weight_decay;
  T momentum;
  T learning_rate;

  template <typename U>
  SgdFactors<U> rounded_to() const {
    return {static_cast<U>(grad_scale), static_cast<U>(weight_decay), static_cast<U>(momentum),
            static_cast<U>(learning_rate)};
  }
};

template <typename T>
LOCKSTEP_HOST_DEVICE void update_sgd_momentum_elem(T& param, T grad, T& momentum,
                                                   const SgdFactors<T>& f) {
  const T g = grad * f.grad_scale + param * f.weight_decay;
  const T buffer = momentum * f.momentum + g;
  param = param - f.learning_rate * buffer;
  momentum = buffer;
}

template <typename T>
LOCKSTEP_HOST_DEVICE void update_sgd_elem(T& param, T grad, const SgdFactors<T>& f) {
  const T g = grad * f.grad_scale + param * f.weight_decay;
  param = param - f.learning_rate * g;
}

}  // namespace lockstep
