#pragma once
// Rules for one element over arrays. In a header so that the tests can run each variant of them.

#include <cstdint>

#include "lockstep/core/device/bf16.h"
#include "lockstep/core/device/update_rules.h"

namespace lockstep {

struct AdamWUpdate {
  template <typename T>
  [[gnu::always_inline]] static inline void run(T* __restrict param, const T* __restrict grad,
                                                T* __restrict exp_avg, T* __restrict exp_avg_sq,
                                                int64_t num_elems, AdamWFactors<T> f) {
    for (int64_t i = 0; i < num_elems; ++i)
      update_adamw_elem(param[i], grad[i], exp_avg[i], exp_avg_sq[i], f);
  }
};

struct SgdMomentumUpdate {
  template <typename T>
  [[gnu::always_inline]] static inline void run(T* __restrict param, const T* __restrict grad,
                                                T* __restrict momentum, int64_t num_elems,
                                                SgdFactors<T> f) {
    for (int64_t i = 0; i < num_elems; ++i)
      update_sgd_momentum_elem(param[i], grad[i], momentum[i], f);
  }
};

struct SgdUpdate {
  template <typename T>
  [[gnu::always_inline]] static inline void run(T* __restrict param, const T* __restrict grad,
                                                int64_t num_elems, SgdFactors<T> f) {
    for (int64_t i = 0; i < num_elems; ++i) update_sgd_elem(param[i], grad[i], f);
  }
};

struct RoundToBf16 {
  [[gnu::always_inline]] static inline void run(float* to, const float* from, int64_t num_elems) {
    for (int64_t i = 0; i < num_elems; ++i) to[i] = float_of_bf16_bits(bf16_bits(from[i]));
  }
};

struct PackBf16 {
  [[gnu::always_inline]] static inline void run(uint16_t* __restrict to,
                                                const float* __restrict from, int64_t num_elems) {
    for (int64_t i = 0; i < num_elems; ++i) to[i] = bf16_bits(from[i]);
  }
};

struct UnpackBf16 {
  [[gnu::always_inline]] static inline void run(float* __restrict to,
                                                const uint16_t* __restrict from,
                                                int64_t num_elems) {
    for (int64_t i = 0; i < num_elems; ++i) to[i] = float_of_bf16_bits(from[i]);
  }
};

}  // namespace lockstep
