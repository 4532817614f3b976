#pragma once
// DataParallel: one model, trained by all ranks together, with bits that do not depend on how many
// they are. It moves the module's tensors into flat memory, hands out this rank's micro-batches,
// folds their gradients along the reduction tree while backward runs, and reduces each bucket as
// soon as it is complete. Thread-safety: one thread, the one that runs backward. Must not know:
// checkpoints, files, optimizers' mathematics. Source: design.md sections 3 and 4.

#include <cstdint>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "lockstep/core/base/index_range.h"
#include "lockstep/core/base/status.h"
#include "lockstep/core/flat/state.h"
#include "lockstep/distributed/accelerator.h"
#include "lockstep/distributed/shard_plan.h"
#include "lockstep/distributed/world.h"

namespace at {
class Tensor;
}
namespace torch::nn {
class Module;
}

namespace lockstep {

/// How gradients are added over ranks.
enum class Reduction : uint8_t {
  kTree,    ///< the fixed tree: the same bits for every world size
  kNative,  ///< the backend's all-reduce, for comparison: NOT the same bits for every world size
};

/// What a leaf's gradient is rounded to before the tree adds it. Sums are in the gradient's own
/// dtype either way.
enum class LeafDtype : uint8_t {
  kExact,  ///< nothing
  kBf16,   ///< F32 gradients to bf16: half the bytes on the wire where a rank brings one leaf
};

/// When buckets are exchanged.
enum class CommSchedule : uint8_t {
  kAuto,           ///< kThread with a spare core for each rank or several hosts, else kInline
  kInline,         ///< inside backward, on its thread, as each bucket becomes complete; on a GPU
                   ///< handed over to its queue of communication there, the only schedule it has
  kThread,         ///< inside backward, on a communication thread
  kAfterBackward,  ///< after the last backward (ranks that are threads of one process always use
                   ///< this)
};

struct DataParallelOptions {
  uint64_t seed = 0;  ///< of the recipe: random numbers are seeded with (seed, step, micro-batch)
  int64_t micro_batches_per_step = 1;  ///< over all ranks
  int64_t leaf_micro_batches =
      1;  ///< consecutive micro-batches that are accumulated in place into one tree leaf
  Reduction reduction = Reduction::kTree;
  LeafDtype leaf_dtype = LeafDtype::kExact;  ///< kBf16 asks for Reduction::kTree
  CommSchedule schedule = CommSchedule::kAuto;
  int intra_op_threads =
      1;  ///< of LibTorch in this process; part of the recipe, because it changes bits
  double bucket_mib = 0;   ///< aimed-at bucket size, rounded to whole blocks, at least one; 0: chosen
                           ///< from what an exchange is measured to cost at the start
  double timeout_s = 600;  ///< for one exchange with the other ranks
  bool broadcast_initial_weights =
      true;  ///< from rank 0; off where a checkpoint is restored right after
  /// The GPU that the module is on (open_accelerator()); null: the module is on the host.
  std::shared_ptr<Accelerator> accelerator = nullptr;
};

/// One forward/backward unit of a step.
struct MicroBatch {
  int64_t step = 0;
  int64_t index = 0;  ///< in [0, micro_batches_per_step), the same for every world size
};

/// What all ranks know once a step's gradients are reduced.
struct StepGradients {
  int64_t step = 0;
  double total_weight = 0;   ///< sum of the micro-batches' weights, in micro-batch order
  double mean_loss = 0;      ///< weighted mean over the micro-batches, added in micro-batch order
  double gradient_norm = 0;  ///< L2 norm of the mean gradient over all trainable parameters
  bool is_finite = true;     ///< every loss and every gradient element
  int64_t first_bad_micro_batch =
      -1;              ///< the first whose loss is not finite; -1: none (a gradient may still be)
  uint64_t flags = 0;  ///< bitwise or of what every rank handed to reduce()
  std::vector<double> micro_batch_losses;  ///< of all ranks, by micro-batch index
  std::vector<std::string>
      unused_parameters;  ///< trainable, but without a gradient in every micro-batch of the step
};

/// Bytes that one rank holds for each purpose, and what the layout predicts.
struct MemoryLedger {
  uint64_t parameter_bytes = 0;  ///< trainable and frozen
  uint64_t gradient_bytes = 0;   ///< the buffer that backward accumulates into
  uint64_t fold_bytes = 0;       ///< further gradient buffers that the tree needs
  uint64_t buffer_bytes = 0;     ///< module buffers: live, of the step's start, and being folded
  uint64_t optimizer_bytes = 0;  ///< this rank's shard (filled in by whoever knows the optimizer)
  uint64_t exchange_bytes = 0;   ///< scratch of the exchange
  uint64_t total_bytes() const {
    return parameter_bytes + gradient_bytes + fold_bytes + buffer_bytes + optimizer_bytes +
           exchange_bytes;
  }
};

class DataParallel;

/// This rank's micro-batches of a step, ascending. Arriving at one (begin() or ++) makes it the
/// current one: the random generators are seeded for it, the module's buffers are set to those of
/// the step's start.
class MicroBatchRange {
 public:
  struct Sentinel {};
  class Iterator {
   public:
    using value_type = MicroBatch;
    using difference_type = std::ptrdiff_t;
    MicroBatch operator*() const { return {step_, index_}; }
    Iterator& operator++();
    void operator++(int) { ++*this; }
    bool operator==(Sentinel) const { return index_ == end_; }

   private:
    friend class MicroBatchRange;
    Iterator(DataParallel* owner, int64_t step, int64_t index, int64_t end);
    DataParallel* owner_;
    int64_t step_, index_, end_;
  };
  Iterator begin() const { return {owner_, step_, first_, end_}; }
  Sentinel end() const { return {}; }
  int64_t size() const { return end_ - first_; }

 private:
  friend class DataParallel;
  MicroBatchRange(DataParallel* owner, int64_t step, int64_t first, int64_t end)
      : owner_(owner), step_(step), first_(first), end_(end) {}
  DataParallel* owner_;
  int64_t step_, first_, end_;
};

class DataParallel {
 public:
  /// Takes over `module`'s parameters and buffers: they become views of flat memory that lives as
  /// long as any view. Rank 0's initial values are broadcast. Changes this process: LibTorch's
  /// intra-op threads, its deterministic mode, and the post-accumulate hooks of the parameters
  /// (one slot each: a hook of the caller's is replaced). Lifetime: `module` must outlive this
  /// object, and its parameters must not be replaced, converted or given other gradients while it
  /// lives (checked at each step); `world` and this object may be moved. Collective: all ranks.
  /// Errors, the same on every rank: kInvalidArgument when ranks differ in a tensor's name, shape,
  /// dtype or order or in an option (names the first difference and the rank), when there are more
  /// ranks than tree leaves, when two tensors share memory without being one (names both), or when
  /// a dtype can't be trained; kResourceExhausted without enough memory; those of
  /// Communicator::broadcast. Cost: one broadcast of all parameters and buffers.
  static Result<DataParallel> make(World& world, torch::nn::Module& module,
                                   const DataParallelOptions& options);

  DataParallel(DataParallel&&) noexcept;
  DataParallel& operator=(DataParallel&&) noexcept;
  ~DataParallel();

  /// This rank's micro-batches of `step`; iterate once, calling backward() for each, then reduce().
  MicroBatchRange micro_batches(int64_t step);
  /// The micro-batch indices that this rank works in every step.
  IndexRange micro_batch_range() const;

  /// Runs backward of `mean_loss` (a scalar: the mean over the micro-batch) and adds weight times
  /// its gradient. Requires: `micro_batch` is the current one. Errors: throws UsageError when it is
  /// not, or when a parameter's memory was replaced (named); c10::Error of the backward pass.
  /// Exchange errors surface in reduce().
  void backward(const MicroBatch& micro_batch, const at::Tensor& mean_loss, double weight);

  /// Finishes the step's reduction and tells every rank the outcome. This rank's shard of the
  /// summed (not yet scaled) gradients is then in place for ShardedOptimizer::step. `flags` of all
  /// ranks are or-ed. A rank that could not finish its micro-batches (its data or its forward
  /// failed) hands the reason in `mine`: it then takes part with zeros, nobody waits in vain, and
  /// every rank gets the same error with that rank's name. Collective: all ranks. Requires:
  /// backward() was called for each micro-batch of the step, or `mine` is an error. Errors: the
  /// ranks' own; kTimeout, kPeerFailure (names the rank), kInvalidArgument when an integer buffer
  /// differs between micro-batches (names it). Cost: what is left of the exchange, one small
  /// all-gather, buffers if there are any.
  Result<StepGradients> reduce(int64_t step, uint64_t flags = 0, const Status& mine = Status::ok());

  /// After a restore: parameters are complete on their owners only; gathers them on every rank and
  /// takes over the restored buffers. Collective. Errors: as Communicator::exchange.
  Status publish_restored_state();

  /// Returns once the parameters of the last update are here. LibTorch's operations on this thread
  /// wait for what they read by themselves; this is for whoever reads parameters in another way
  /// (data_ptr(), another thread) or leaves the loop. Errors: those of the exchange.
  Status wait_for_parameters();

  const FlatLayout& layout() const;
  World& world();
  const DataParallelOptions& options() const;
  /// Where the module is: the accelerator of the options, or the host.
  Device& device();
  /// The value kinds of every space ("param", "buffer") for a checkpoint.
  std::vector<StateKind> state_kinds() const;
  /// This rank's part of parameters and buffers; slices point into live memory.
  std::vector<StateSlice> owned_values();
  /// How communication went in the step that the last reduce() finished, the way of its parameters
  /// to its forward included.
  struct OverlapReport {
    int num_buckets = 0;
    int num_reduced_during_backward = 0;  ///< before the last backward had returned
    double communication_ms = 0;          ///< of exchanges under way, one after another
    double exposed_ms = 0;                ///< of them, while this rank did nothing but wait
  };
  OverlapReport overlap() const;
  MemoryLedger memory() const;
  CommSchedule schedule() const;
  /// The aimed-at size of buckets, and what it was chosen from: an exchange of n bytes costs
  /// latency_ms + n / (gb_per_s * 1e6) ms. Both 0 where the size was given, or no rank is met.
  struct BucketChoice {
    double bucket_mib = 0;
    double latency_ms = 0;
    double gb_per_s = 0;
  };
  BucketChoice bucket_choice() const;

  /// For ShardedOptimizer: from here on the summed gradients of `step` are used up. Throws
  /// UsageError when they are not in place: reduce(step) has not returned them, or an update or a
  /// later step has used the memory since.
  void claim_gradients(int64_t step);
  /// For ShardedOptimizer: the trainable spaces, their shards and memory.
  struct TrainableSpace {
    const FlatSpace* space = nullptr;
    const ShardPlan* plan = nullptr;
    void* parameters = nullptr;  ///< the whole space
    const void* gradient_sums =
        nullptr;  ///< the whole space; valid in this rank's pieces after reduce()
  };
  std::span<const TrainableSpace> trainable_spaces() const;
  /// For ShardedOptimizer: sends this rank's updated piece of a bucket to all and receives theirs,
  /// behind whatever comes next where exchanges have a thread. Collective: all ranks, same order.
  /// Errors: as Communicator::exchange; on a thread they surface in the next reduce() or
  /// wait_for_parameters().
  Status gather_updated(int space_index, int bucket);

 private:
  friend class MicroBatchRange::Iterator;
  friend class ShardedOptimizer;  // shares the insides, so that both may be moved
  struct Impl;
  explicit DataParallel(std::shared_ptr<Impl> impl);
  void begin_micro_batch(const MicroBatch& micro_batch);
  std::shared_ptr<Impl> impl_;
};

}  // namespace lockstep
