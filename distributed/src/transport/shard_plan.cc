#include "lockstep/distributed/shard_plan.h"

#include <algorithm>

#include "lockstep/core/base/check.h"

namespace lockstep {

bool is_power_of_two(int n) {
  return n > 0 && (n & (n - 1)) == 0;
}

int reversed_bits(int value, int size) {
  int reversed = 0;
  for (int bit = 1; bit < size; bit <<= 1) reversed = reversed * 2 + ((value & bit) != 0 ? 1 : 0);
  return reversed;
}

ShardPlan ShardPlan::plan(std::vector<BlockRun> buckets, int world_size) {
  LOCKSTEP_CHECK(world_size >= 1, "world_size ", world_size);
  LOCKSTEP_CHECK(!buckets.empty(), "a shard plan needs at least one bucket");
  ShardPlan plan;
  plan.world_size_ = world_size;
  int64_t extra = 0;
  for (size_t i = 0; i < buckets.size(); ++i) {
    const BlockRun& run = buckets[i];
    int64_t expected_first = i + 1 < buckets.size() ? buckets[i + 1].end : 0;
    LOCKSTEP_CHECK(run.first == expected_first && run.num_blocks() > 0, "bucket ", i, " is [",
                   run.first, ", ", run.end, "), expected it to begin at block ", expected_first);
    plan.first_extra_.push_back(static_cast<int>(extra));
    extra = (extra + run.num_blocks()) % world_size;
  }
  plan.buckets_ = std::move(buckets);
  return plan;
}

BlockRun ShardPlan::bucket(int bucket_index) const {
  LOCKSTEP_CHECK(bucket_index >= 0 && bucket_index < num_buckets(), "bucket ", bucket_index, " of ",
                 num_buckets());
  return buckets_[static_cast<size_t>(bucket_index)];
}

int ShardPlan::piece_index(int world_rank) const {
  LOCKSTEP_CHECK(world_rank >= 0 && world_rank < world_size_, "rank ", world_rank, " of ",
                 world_size_);
  if (!is_power_of_two(world_size_)) return world_rank;
  return reversed_bits(world_rank, world_size_);
}

int64_t ShardPlan::cut(int bucket_index, int piece) const {
  BlockRun run = bucket(bucket_index);
  int64_t even = run.num_blocks() / world_size_;
  int64_t num_extra = run.num_blocks() % world_size_;
  // The pieces with one more block are num_extra consecutive ones, cyclically, from first_extra_.
  int64_t first = first_extra_[static_cast<size_t>(bucket_index)];
  int64_t wrapped = std::max<int64_t>(first + num_extra - world_size_, 0);
  int64_t before = std::min<int64_t>(piece, wrapped) +
                   std::clamp<int64_t>(piece - first, 0, num_extra - wrapped);
  return run.first + piece * even + before;
}

BlockRun ShardPlan::pieces(int bucket_index, int first, int end) const {
  LOCKSTEP_CHECK(0 <= first && first <= end && end <= world_size_, "pieces [", first, ", ", end,
                 ") of ", world_size_);
  return {cut(bucket_index, first), cut(bucket_index, end)};
}

BlockRun ShardPlan::piece(int bucket_index, int world_rank) const {
  int index = piece_index(world_rank);
  return pieces(bucket_index, index, index + 1);
}

std::vector<BlockRun> ShardPlan::owned(int world_rank) const {
  std::vector<BlockRun> runs;
  for (int i = num_buckets() - 1; i >= 0; --i) {
    BlockRun run = piece(i, world_rank);
    if (run.num_blocks() == 0) continue;
    if (!runs.empty() && runs.back().end == run.first) {
      runs.back().end = run.end;
    } else {
      runs.push_back(run);
    }
  }
  return runs;
}

int64_t ShardPlan::num_owned_blocks(int world_rank) const {
  int64_t num_blocks = 0;
  for (int i = 0; i < num_buckets(); ++i) num_blocks += piece(i, world_rank).num_blocks();
  return num_blocks;
}

int ShardPlan::bucket_of(int64_t block) const {
  LOCKSTEP_CHECK(block >= 0 && block < num_blocks(), "block ", block, " of ", num_blocks());
  // Buckets descend: the first one that does not lie wholly above the block.
  auto it = std::partition_point(buckets_.begin(), buckets_.end(),
                                 [&](const BlockRun& run) { return run.first > block; });
  return static_cast<int>(it - buckets_.begin());
}

int ShardPlan::owner_of(int64_t block) const {
  int index = bucket_of(block);
  int low = 0;
  int high = world_size_ - 1;
  while (low < high) {
    int middle = (low + high + 1) / 2;
    if (cut(index, middle) <= block) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  // piece_index is its own inverse: reversing the bits twice gives the rank back.
  return piece_index(low);
}

}  // namespace lockstep
