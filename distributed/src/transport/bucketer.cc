#include "lockstep/distributed/bucketer.h"

#include <algorithm>

#include "lockstep/core/base/check.h"

namespace lockstep {

std::vector<BlockRun> plan_buckets(int64_t num_blocks, int64_t blocks_per_bucket) {
  LOCKSTEP_CHECK(num_blocks >= 0 && blocks_per_bucket >= 1, "num_blocks ", num_blocks,
                 ", blocks_per_bucket ", blocks_per_bucket);
  std::vector<BlockRun> buckets;
  for (int64_t end = num_blocks; end > 0;) {
    int64_t first = std::max<int64_t>(end - blocks_per_bucket, 0);
    buckets.push_back({first, end});
    end = first;
  }
  return buckets;
}

int64_t blocks_per_bucket(int64_t bucket_bytes, int64_t elem_bytes) {
  LOCKSTEP_CHECK(bucket_bytes >= 0 && elem_bytes >= 1, "bucket_bytes ", bucket_bytes,
                 ", elem_bytes ", elem_bytes);
  return std::max<int64_t>(bucket_bytes / (kBlockElems * elem_bytes), 1);
}

}  // namespace lockstep
