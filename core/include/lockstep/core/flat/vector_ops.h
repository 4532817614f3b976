#pragma once
// Arithmetic on flat spans that is the same, bit for bit, on every instruction set and wherever a
// span is cut: plain element-wise operations with one rounding each, no fused multiply-add.
// Thread-safety: any thread.

#include <cstdint>

namespace lockstep {

/// into[i] = into[i] + from[i]. Requires: the two don't overlap. Cost: memory bandwidth.
void add_into(float* into, const float* from, int64_t num_elems);
void add_into(double* into, const double* from, int64_t num_elems);

}  // namespace lockstep
