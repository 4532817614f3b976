#pragma once
// Which blocks of which shard go where, when a checkpoint of one world is read by another. Pure.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "block_stream.h"
#include "lockstep/checkpoint/manifest.h"
#include "staging.h"

namespace lockstep {

struct ShardReads {
  size_t shard_index = 0;
  std::vector<ReadItem> items;  ///< ascending in the file
};

/// All reads that fill `slices` (index_slices of the reader's part), shard by shard; shards that
/// hold nothing of it are left out. Requires: the slices were indexed with this `schema`, the
/// manifest's (a model may number its kinds in another order); the shards cover each block once, so
/// each wanted block is read exactly once.
Result<std::vector<ShardReads>> plan_reads(const StateSchema& schema,
                                           const std::vector<ShardEntry>& shards,
                                           const std::vector<IndexedSlice>& slices);

}  // namespace lockstep
