#pragma once
// ShardPlan: which rank owns which blocks. Every bucket's blocks are cut into world_size contiguous
// pieces, and each rank owns one piece of each bucket, so that a bucket's reduction gives every
// rank the same amount of work. Pure: knows no memory and no transport. Every rank computes the
// same plan. Thread-safety: a value.

#include <cstdint>
#include <vector>

#include "lockstep/core/flat/layout.h"

namespace lockstep {

class ShardPlan {
 public:
  ShardPlan() = default;
  /// Cuts `buckets` (as plan_buckets makes them: each ends where the one before it begins, the last
  /// begins at block 0) for `world_size` ranks. The blocks left over by the division go to one
  /// piece each, and the place where they start rotates from bucket to bucket: over the whole space
  /// any two ranks differ by at most one block. Requires: world_size >= 1; buckets not empty,
  /// descending, without gaps, down to block 0.
  static ShardPlan plan(std::vector<BlockRun> buckets, int world_size);

  int world_size() const { return world_size_; }
  int num_buckets() const { return static_cast<int>(buckets_.size()); }
  int64_t num_blocks() const { return buckets_.empty() ? 0 : buckets_.front().end; }
  BlockRun bucket(int bucket_index) const;

  /// Where in each bucket the piece of `world_rank` lies: the rank with its bits reversed when
  /// world_size is a power of two (recursive halving ends there), else the rank itself.
  int piece_index(int world_rank) const;
  /// Pieces [first, end) of a bucket, counted from its start, as one run of blocks. Requires: 0 <=
  /// first <= end <= N.
  BlockRun pieces(int bucket_index, int first, int end) const;
  /// The piece of a bucket that `world_rank` owns; may be empty.
  BlockRun piece(int bucket_index, int world_rank) const;
  /// All that `world_rank` owns, ascending, adjacent runs merged, no empty runs.
  std::vector<BlockRun> owned(int world_rank) const;
  int64_t num_owned_blocks(int world_rank) const;
  /// The rank that owns `block`. Requires: 0 <= block < num_blocks().
  int owner_of(int64_t block) const;

 private:
  /// The block of `bucket_index` at which piece `piece` begins (piece == world_size: the bucket's
  /// end).
  int64_t cut(int bucket_index, int piece) const;
  int bucket_of(int64_t block) const;

  int world_size_ = 1;
  std::vector<BlockRun> buckets_;
  std::vector<int> first_extra_;  ///< of each bucket: the piece that gets the first left-over block
};

/// Whether n is 1, 2, 4, 8, ...
bool is_power_of_two(int n);
/// `value` of the numbers below `size` with its bits in reverse order. Requires: size a power of two.
int reversed_bits(int value, int size);

}  // namespace lockstep
