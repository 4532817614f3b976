#pragma once
// Which blocks each rank of another world gets. Pure.

#include <cstdint>
#include <vector>

#include "lockstep/checkpoint/shard_file.h"

namespace lockstep {

/// For each of `world_size` shards its runs: all kinds laid end to end and cut into parts of equal
/// bytes, so that no shard is off by more than a block. Requires: world_size of at least 1.
std::vector<std::vector<KindRuns>> plan_reshard(const StateSchema& schema, int64_t world_size);

}  // namespace lockstep
