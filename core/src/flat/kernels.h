#pragma once
// The loops behind vector_ops.h and norms.h. In a header so that the tests can run each variant of
// them.

#include <cstdint>

namespace lockstep {

struct AddInto {
  template <typename T>
  [[gnu::always_inline]] static inline void run(T* __restrict into, const T* __restrict from,
                                                int64_t num_elems) {
    for (int64_t i = 0; i < num_elems; ++i) into[i] = into[i] + from[i];
  }
};

struct SumOfSquares {
  static constexpr int64_t kLanes = 16;

  template <typename T>
  [[gnu::always_inline]] static inline double run(const T* values, int64_t num_elems) {
    double lanes[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= num_elems; i += kLanes) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        const auto value = static_cast<double>(values[i + lane]);
        lanes[lane] += value * value;
      }
    }
    for (int64_t lane = 0; i + lane < num_elems; ++lane) {
      const auto value = static_cast<double>(values[i + lane]);
      lanes[lane] += value * value;
    }
    for (int64_t half = kLanes / 2; half > 0; half /= 2) {
      for (int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
    }
    return lanes[0];
  }
};

}  // namespace lockstep
