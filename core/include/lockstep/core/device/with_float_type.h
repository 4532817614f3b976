#pragma once
// From a dtype of flat memory to the C++ type of its arithmetic; for implementations of FlatKernels.

#include "lockstep/core/base/check.h"
#include "lockstep/core/flat/dtype.h"

namespace lockstep {

/// Calls f with a value of the element type. Requires: F32 or F64 (else UsageError).
template <typename F>
void with_float_type(Dtype dtype, const F& f) {
  LOCKSTEP_CHECK(dtype == Dtype::kF32 || dtype == Dtype::kF64, "arithmetic on ", dtype_name(dtype),
                 "; it is done on F32 and F64");
  if (dtype == Dtype::kF32) {
    f(float{});
  } else {
    f(double{});
  }
}

}  // namespace lockstep
