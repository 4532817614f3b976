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

#include "lockstep/core/device/device.h"
#include "lockstep/core/flat/layout.h"
#include "lockstep/core/flat/tree.h"
#include "lockstep/distributed/communicator.h"
#include "lockstep/distributed/shard_plan.h"

namespace lockstep {

class World;

/// How values travel. No choice of these changes a number, given what leaves_are_bf16 asks for.
struct TreeReducerOptions {
  int64_t chunk_bytes = 64 * 1024;  ///< one message; added as soon as it is there, while in cache
  int chunks_in_flight = 4;         ///< messages from one peer at once; bounds the scratch memory
  int64_t gather_chunk_bytes = 0;   ///< one message of an all-gather; 0: all that a peer gets
  /// Where halving applies: so many neighbouring ranks, e.g. those of a host, exchange all at once
  /// before it goes on between such groups. A power of two; more than the world: all ranks.
  int direct_ranks = 2;
  /// Each leaf's values were rounded to bf16 (FlatKernels::round_to_bf16) before any addition: a
  /// root that is one leaf travels as bf16, in half the bytes. Of spaces of F32; others ignore it.
  bool leaves_are_bf16 = false;

  /// What suits the transport between the ranks of `world` for values on `device`; DESIGN.md 5, 6.
  static TreeReducerOptions between(const World& world, const Device& device);
};

/// The tree over the leaves of all ranks, for one flat space of floats or doubles.
class TreeReducer {
 public:
  /// `communicator` and `device` must outlive this. Additions run in the device's queue of
  /// communication, where the communicator's transfers do. `num_leaves` is the tree's M (micro-batches of a step, or
  /// leaves of several). Requires: space of dtype F32 or F64; plan for this space's blocks and this
  /// world; world_size <= num_leaves (a rank without a leaf has no root).
  TreeReducer(Communicator& communicator, const FlatSpace& space, ShardPlan plan,
              int64_t num_leaves, const TreeReducerOptions& options = {},
              Device& device = host_device());

  /// Adds the roots of all ranks along the tree; afterwards roots[0] holds the total in this rank's
  /// piece of the bucket; on a GPU in the order of the queue of communication. The rest of the bucket
  /// in all roots is scratch, as are other roots'
  /// slices of the piece. Nothing outside the bucket is touched. Shapes: each root
  /// [space.num_elems] of its dtype, one for each of num_roots(), in the order of plan_fold's roots. Collective:
  /// all ranks, same order of buckets. Errors: as Communicator::exchange. Cost: sends
  /// reduce_bytes_sent(bucket).
  Status reduce_bucket(int bucket, std::span<void* const> roots, Deadline deadline);

  /// Every rank's piece of the bucket to all ranks, in place.
  /// Shapes: values [space.num_elems] of its dtype. Collective: all ranks, same order of buckets. Errors: as
  /// Communicator::exchange. Cost: sends all_gather_bytes_sent(bucket).
  Status all_gather_bucket(int bucket, void* values, Deadline deadline);

  const ShardPlan& plan() const { return plan_; }
  /// Roots that this rank brings: one for every power of two, a few otherwise.
  int num_roots() const { return num_roots_; }
  /// The elements of this rank's piece of a bucket.
  ElemRun piece_elems(int bucket) const;
  /// Payload bytes that this rank sends for one bucket, by arithmetic on the plan.
  uint64_t reduce_bytes_sent(int bucket) const;
  uint64_t all_gather_bytes_sent(int bucket) const;
  /// Memory held beside the caller's buffers; fixed at construction.
  int64_t scratch_bytes() const { return static_cast<int64_t>(scratch_bytes_); }

 private:
  /// Ranks that exchange all at once. What they hold of a bucket is cut among them: each keeps a
  /// run of pieces, receives the others' roots of it and merges them as the tree says.
  struct Stage {
    std::vector<int> members;      ///< ranks, in the tree's order
    size_t me = 0;                 ///< this rank's index among them
    std::vector<int> first_piece;  ///< by member: it keeps pieces [first, first + num_pieces)
    int num_pieces = 0;
    std::vector<size_t> first_entry;  ///< members + 1 entries: whose roots are which entries
    std::vector<FoldMerge> merges;    ///< of entries; afterwards entry 0 is the sum
    std::vector<char> is_bf16;        ///< by entry: how it travels
    size_t num_own() const { return first_entry[me + 1] - first_entry[me]; }
    size_t num_others() const { return merges.size() + 1 - num_own(); }
  };
  /// One root's values of a chunk of what this rank keeps.
  struct Entry {
    std::byte* values = nullptr;
    bool has_arrived = false;
    bool is_mine = false;  ///< in a root of this rank, and not in scratch
  };
  struct Chunk {
    ElemRun elems;
    size_t next_merge = 0;
    std::vector<Entry> entries;
  };
  std::vector<Stage> plan_stages(int64_t num_leaves, const TreeReducerOptions& options) const;
  int num_chunks(const Stage& stage) const;
  ElemRun kept_elems(const Stage& stage, size_t member, int bucket) const;
  Status run_stage(const Stage& stage, int bucket, std::span<void* const> roots, Deadline deadline);
  void add_chunk(const Stage& stage, int bucket, std::span<void* const> roots, int64_t start,
                 size_t chunk);
  void take(const Stage& stage, size_t recv);
  std::span<std::byte> take_scratch(int64_t num_bytes);
  /// Those elements of an array of the space's dtype.
  std::span<std::byte> bytes_of(void* values, ElemRun elems) const;

  Communicator& communicator_;
  DeviceQueue& queue_;
  FlatSpace space_;
  ShardPlan plan_;
  int num_roots_ = 1;
  std::vector<Stage> stages_;
  int64_t chunk_elems_ = 0;
  int64_t gather_elems_ = 0;
  int chunks_in_flight_ = 0;
  uint64_t scratch_bytes_ = 0;
  DeviceMemory scratch_;
  // Of the window under way; kept to save allocations.
  std::vector<SendOp> sends_;
  std::vector<RecvOp> recvs_;
  std::vector<std::pair<size_t, size_t>> entry_of_recv_;  ///< chunk and entry
  std::vector<Chunk> chunks_;
  uint64_t scratch_used_ = 0;
  std::vector<std::string> reduce_names_;  ///< what each bucket's exchange is called in errors
  std::vector<std::string> gather_names_;
};

}  // namespace lockstep
