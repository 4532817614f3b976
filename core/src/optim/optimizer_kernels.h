#pragma once
// The element-wise loops of the optimizers. In a header so that the tests can run each variant of
// them. Each operation is rounded by itself (-ffp-contract=off), in the order written here.

#include <cmath>
#include <cstdint>

namespace lockstep {

/// AdamW's scalars, rounded once from fp64 to the element type.
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
};

struct AdamWUpdate {
  template <typename T>
  [[gnu::always_inline]] static inline void run(T* __restrict param, const T* __restrict grad,
                                                T* __restrict exp_avg, T* __restrict exp_avg_sq,
                                                int64_t num_elems, AdamWFactors<T> f) {
    for (int64_t i = 0; i < num_elems; ++i) {
      const T g = grad[i] * f.grad_scale;
      const T m = exp_avg[i] + (g - exp_avg[i]) * f.one_minus_beta1;
      const T v = exp_avg_sq[i] * f.beta2 + (g * g) * f.one_minus_beta2;
      const T denominator = std::sqrt(v) * f.inv_sqrt_correction2 + f.eps;
      param[i] = param[i] * f.decay - f.step_size * (m / denominator);
      exp_avg[i] = m;
      exp_avg_sq[i] = v;
    }
  }
};

/// SGD's scalars, rounded once from fp64 to the element type.
template <typename T>
struct SgdFactors {
  T grad_scale;
  T weight_decay;
  T momentum;
  T learning_rate;
};

struct SgdMomentumUpdate {
  template <typename T>
  [[gnu::always_inline]] static inline void run(T* __restrict param, const T* __restrict grad,
                                                T* __restrict momentum, int64_t num_elems,
                                                SgdFactors<T> f) {
    for (int64_t i = 0; i < num_elems; ++i) {
      const T g = grad[i] * f.grad_scale + param[i] * f.weight_decay;
      const T buffer = momentum[i] * f.momentum + g;
      param[i] = param[i] - f.learning_rate * buffer;
      momentum[i] = buffer;
    }
  }
};

struct SgdUpdate {
  template <typename T>
  [[gnu::always_inline]] static inline void run(T* __restrict param, const T* __restrict grad,
                                                int64_t num_elems, SgdFactors<T> f) {
    for (int64_t i = 0; i < num_elems; ++i) {
      const T g = grad[i] * f.grad_scale + param[i] * f.weight_decay;
      param[i] = param[i] - f.learning_rate * g;
    }
  }
};

}  // namespace lockstep
