#include "read_plan.h"

#include <algorithm>

namespace lockstep {

Result<std::vector<ShardReads>> plan_reads(const StateSchema& schema,
                                           const std::vector<ShardEntry>& shards,
                                           const std::vector<IndexedSlice>& slices) {
  std::vector<ShardReads> reads;
  for (size_t shard = 0; shard < shards.size(); ++shard) {
    LOCKSTEP_ASSIGN_OR_RETURN(const ShardLayout layout, plan_shard(schema, shards[shard].runs));
    ShardReads of_shard{shard, {}};
    for (size_t index = 0; index < layout.extents.size(); ++index) {
      const ShardExtent& extent = layout.extents[index];
      const FlatSpace& space = space_of(schema, extent.kind_index);
      // Slices are sorted and disjoint: begin at the first that ends behind the extent's first
      // block.
      auto it = std::partition_point(slices.begin(), slices.end(), [&](const IndexedSlice& item) {
        return std::pair(item.kind_index, item.slice->blocks.end) <=
               std::pair(extent.kind_index, extent.blocks.first);
      });
      for (; it != slices.end() && it->kind_index == extent.kind_index; ++it) {
        const BlockRun& own = it->slice->blocks;
        const BlockRun common{std::max(own.first, extent.blocks.first),
                              std::min(own.end, extent.blocks.end)};
        if (common.first >= common.end) break;
        const uint64_t skip = run_bytes(space, {own.first, common.first});
        of_shard.items.push_back(
            {index, common, it->slice->bytes.subspan(skip, run_bytes(space, common)),
             it->slice->memory.get()});
      }
    }
    if (!of_shard.items.empty()) reads.push_back(std::move(of_shard));
  }
  return reads;
}

}  // namespace lockstep
