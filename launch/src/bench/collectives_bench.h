#pragma once
// Times the tree's reduce and all-gather against the backend's own all-reduce, in turns.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "lockstep/core/base/status.h"
#include "lockstep/distributed/accelerator.h"
#include "lockstep/distributed/tree_reducer.h"
#include "lockstep/distributed/world.h"

namespace lockstep {

struct CollectivesBenchOptions {
  std::vector<int64_t> sizes_kib = {64, 1024, 16384, 65536};
  int rounds = 20;         ///< each side once in a round, in an order that turns
  int repeats = 0;         ///< of an all-reduce in a round; 0: by size
  int64_t bucket_kib = 0;  ///< 0: the whole size is one bucket
  /// Also "bf16" (one leaf a rank, rounded) and, where a host's ranks exchange directly, "halving".
  bool has_variants = false;
  /// How messages are cut; chunk_bytes 0: as training does here.
  TreeReducerOptions transfers = {.chunk_bytes = 0};
};

/// The result as JSON, the same text on every rank (times are the slowest rank's). Sizes count as
/// nccl-tests counts them: algorithm bandwidth is bytes / time, bus bandwidth that times 2(N-1)/N,
/// which does not depend on N where every link is busy all the time (NVIDIA/nccl-tests,
/// doc/PERFORMANCE.md). `accelerator` may be null. Collective: all ranks. Errors: those of
/// exchanges; kInternal when a sum is wrong. Requires: at least two ranks.
Result<std::string> bench_collectives(World& world, std::shared_ptr<Accelerator> accelerator,
                                      const CollectivesBenchOptions& options);

}  // namespace lockstep
