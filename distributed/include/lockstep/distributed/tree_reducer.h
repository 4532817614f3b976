#pragma once
// TreeReducer: finishes the reduction tree across ranks, bucket by bucket, and gathers results
// back. Each rank brings the roots that its own micro-batches were folded into; afterwards each
// rank holds the tree's total of its piece. The sum is the tree's, bit for bit, whatever the world
// size: see DESIGN.md for steps and bytes. Must not know models, LibTorch or files. Thread-safety:
// as its Communicator, one thread at a time.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "lockstep/core/flat/layout.h"
#include "lockstep/core/flat/tree.h"
#include "lockstep/distributed/communicator.h"
#include "lockstep/distributed/shard_plan.h"

namespace lockstep {

/// How transfers are cut. No value of these changes a number or the count of bytes.
struct TreeReducerOptions {
  int64_t chunk_bytes = 64 * 1024;  ///< one message; added as soon as it is there, while in cache
  int chunks_in_flight = 4;         ///< messages from one peer at once; bounds the scratch memory
};

/// The tree over the leaves of all ranks, for one flat space of floats or doubles.
class TreeReducer {
 public:
  /// `communicator` must outlive this. `num_leaves` is the tree's M (micro-batches of a step, or
  /// leaves of several). Requires: space of dtype F32 or F64; plan for this space's blocks and this
  /// world; world_size <= num_leaves (a rank without a leaf has no root).
  TreeReducer(Communicator& communicator, const FlatSpace& space, ShardPlan plan,
              int64_t num_leaves, const TreeReducerOptions& options = {});

  /// Adds the roots of all ranks along the tree; afterwards roots[0] holds the total in this rank's
  /// piece of the bucket. The rest of the bucket in all roots is scratch, as are other roots'
  /// slices of the piece. Nothing outside the bucket is touched. Shapes: each root
  /// [space.num_elems], one for each of num_roots(), in the order of plan_fold's roots. Collective:
  /// all ranks, same order of buckets. Errors: as Communicator::exchange. Cost: sends
  /// reduce_bytes_sent(bucket).
  Status reduce_bucket(int bucket, std::span<float* const> roots, Deadline deadline);
  Status reduce_bucket(int bucket, std::span<double* const> roots, Deadline deadline);

  /// Every rank's piece of the bucket to all ranks, in place.
  /// Shapes: values [space.num_elems]. Collective: all ranks, same order of buckets. Errors: as
  /// Communicator::exchange. Cost: sends all_gather_bytes_sent(bucket).
  Status all_gather_bucket(int bucket, float* values, Deadline deadline);
  Status all_gather_bucket(int bucket, double* values, Deadline deadline);

  const ShardPlan& plan() const { return plan_; }
  /// Roots that this rank brings: one for every power of two, a few otherwise.
  int num_roots() const;
  /// The elements of this rank's piece of a bucket.
  ElemRun piece_elems(int bucket) const;
  /// Payload bytes that this rank sends for one bucket, by arithmetic on the plan.
  uint64_t reduce_bytes_sent(int bucket) const;
  uint64_t all_gather_bytes_sent(int bucket) const;
  /// Memory held beside the caller's buffers; fixed at construction.
  int64_t scratch_bytes() const { return static_cast<int64_t>(scratch_bytes_); }

 private:
  template <typename T>
  Status reduce(int bucket, std::span<T* const> roots, Deadline deadline);
  template <typename T>
  Status halve(int bucket, T* values, Deadline deadline);
  template <typename T>
  Status swap_and_add(T* values, ElemRun give, ElemRun keep, int peer, std::string_view what,
                      Deadline deadline);
  template <typename T>
  Status finish_directly(int bucket, std::span<T* const> roots, Deadline deadline);
  template <typename T>
  Status gather(int bucket, T* values, Deadline deadline);
  ElemRun pieces_elems(int bucket, int first, int end) const;

  Communicator& communicator_;
  FlatSpace space_;
  ShardPlan plan_;
  FinishPlan finish_;
  int64_t chunk_elems_ = 0;
  int chunks_in_flight_ = 0;
  uint64_t scratch_bytes_ = 0;
  std::unique_ptr<std::byte[]> scratch_;
  // Of the exchange under way; kept to save allocations.
  std::vector<SendOp> sends_;
  std::vector<RecvOp> recvs_;
  std::vector<void*> entries_;     ///< by root of the tree: where its values of this chunk are
  std::vector<char> has_arrived_;  ///< by root
  std::vector<size_t> entry_of_recv_;
  std::vector<std::string> reduce_names_;  ///< what each bucket's exchange is called in errors
  std::vector<std::string> gather_names_;
};

}  // namespace lockstep
