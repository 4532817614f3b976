#pragma once
// Bucketer: cuts a flat space into the runs of blocks that are reduced together. Bucket 0 is the
// end of the space, because backward produces gradients in that order. The cut never changes a
// number: sums are element-wise and norms are taken by block. Pure: knows no memory, no ranks.
// Thread-safety: functions of their arguments.

#include <cstdint>
#include <vector>

#include "lockstep/core/flat/layout.h"

namespace lockstep {

/// Blocks [0, num_blocks) as buckets of `blocks_per_bucket`, from the end of the space to its
/// start; each begins where the one after it ends, and the last one (the start of the space) takes
/// what is left. No buckets for no blocks. Requires: num_blocks >= 0, blocks_per_bucket >= 1.
std::vector<BlockRun> plan_buckets(int64_t num_blocks, int64_t blocks_per_bucket);

/// The number of blocks of `elem_bytes`-sized elements that fills `bucket_bytes`, at least one.
/// Requires: bucket_bytes >= 0, elem_bytes >= 1.
int64_t blocks_per_bucket(int64_t bucket_bytes, int64_t elem_bytes);

}  // namespace lockstep
