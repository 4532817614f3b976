#pragma once
// What DataParallel settles before the first step: the process's way to compute, options that make
// sense for this world, and the lines that must be equal on all ranks.

#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/core/base/status.h"
#include "lockstep/core/flat/layout.h"
#include "lockstep/distributed/data_parallel.h"

namespace lockstep {

/// Puts LibTorch into the one mode in which its numbers depend on the inputs alone.
void set_compute_mode(int intra_op_threads);
/// Errors: kInvalidArgument for a number out of range, or more ranks than leaves.
Status check_options(const DataParallelOptions& options, int world_size);
/// Errors: kInvalidArgument naming a trainable parameter that is neither F32 nor F64, or a buffer
/// of half precision.
Status check_dtypes(const FlatLayout& layout);
/// One line for everything that all ranks must have in common.
std::vector<std::string> fingerprint(const FlatLayout& layout, const DataParallelOptions& options);

}  // namespace lockstep
