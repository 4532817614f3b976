#pragma once
// Evaluation batches: the whole data set in numbered batches of fixed composition, so that what is
// computed for a batch does not depend on which rank works it; results are folded in batch order.
// Pure arithmetic.

#include <cstdint>
#include <vector>

#include "lockstep/core/base/index_range.h"

namespace lockstep {

/// ceil(num_samples / batch_size). Requires: num_samples >= 0, batch_size >= 1.
int64_t num_evaluation_batches(int64_t num_samples, int64_t batch_size);
/// The sample indices of batch i: [i*b, min((i+1)*b, n)). Requires: an existing batch.
std::vector<int64_t> evaluation_batch(int64_t num_samples, int64_t batch_size, int64_t index);
/// The batches that `rank` works: [floor(rank*K/N), floor((rank+1)*K/N)). May be empty.
IndexRange evaluation_batches_of_rank(int64_t num_batches, int world_rank, int world_size);

}  // namespace lockstep
