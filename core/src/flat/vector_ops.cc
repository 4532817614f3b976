#include "lockstep/core/flat/vector_ops.h"

#include "kernel_variants.h"
#include "kernels.h"

namespace lockstep {

void add_into(float* into, const float* from, int64_t num_elems) {
  run_kernel<AddInto>(best_kernel_variant(), into, from, num_elems);
}

void add_into(double* into, const double* from, int64_t num_elems) {
  run_kernel<AddInto>(best_kernel_variant(), into, from, num_elems);
}

}  // namespace lockstep
