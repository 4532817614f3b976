#pragma once
// Elements of any dtype as doubles, for people who want to know how far two values are apart.

#include <cstddef>

#include "lockstep/core/flat/dtype.h"

namespace lockstep {

/// The element at `bytes` (dtype_size_bytes of them, unaligned). 64-bit integers above 2^53 are
/// rounded.
double elem_as_double(Dtype dtype, const std::byte* bytes);

}  // namespace lockstep
