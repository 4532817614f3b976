#pragma once
// BufferStore: module buffers (BatchNorm statistics, counters) under the law that world size
// changes nothing. Every micro-batch starts from the step's buffers; the step's new floating
// buffers are the tree mean of the micro-batches' results, an element that no micro-batch changed
// keeps its bits; integers must agree. Source: design.md section 3.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "flat_model.h"
#include "lockstep/core/device/device.h"
#include "lockstep/core/flat/tree.h"
#include "lockstep/distributed/tree_reducer.h"
#include "lockstep/distributed/world.h"

namespace lockstep {

struct LeafPosition;

class BufferStore {
 public:
  /// `communicator` and `device` must outlive this.
  BufferStore(const FlatModel& model, Device& device, Communicator& communicator,
              const FoldPlan& fold, int64_t num_leaves, int64_t micro_batches_per_step);
  ~BufferStore();

  bool is_empty() const { return spaces_.empty() && integers_.empty(); }
  /// The live buffers become those of the step's start.
  void begin_micro_batch();
  /// Folds what the micro-batch left in the live buffers.
  void finish_micro_batch(const LeafPosition& position);
  /// Adds over ranks; the live buffers and those of the next step's start become the result.
  /// Collective: all ranks. Errors: as Communicator::exchange.
  Status reduce(Deadline deadline);
  /// The live values become those of the step's start (after a broadcast or a restore).
  void take_over_live();
  /// The live buffers go back to those of the step's start.
  void discard();

  /// Brings what the micro-batches left in integer buffers to the host; before the next three.
  /// Errors: those of the device.
  Status settle_integers(Deadline deadline);
  /// Hash over the integer buffers that this rank's micro-batches agreed on.
  uint64_t integer_hash() const;
  /// One line for each integer buffer, with a hash of what this rank's micro-batches left in it.
  std::vector<std::string> integer_lines() const;
  /// Whether two of this rank's micro-batches left different integers, and where.
  const std::string& integer_conflict() const { return conflict_; }
  uint64_t bytes() const;

 private:
  struct FloatSpace;
  // Compared where they are: nobody waits for a device between micro-batches. `first` is what this
  // rank's first micro-batch left, `differs` where another one left something else.
  struct IntegerSpace {
    at::Tensor live, base, first, differs;
    const FlatSpace* space = nullptr;
    bool has_result = false;
    std::vector<std::byte> result;  // on the host, by settle_integers()
  };
  void copy(const at::Tensor& to, const at::Tensor& from) const;
  void note_integers(IntegerSpace* space) const;
  Device& device_;
  Communicator& communicator_;
  std::vector<std::unique_ptr<FloatSpace>> spaces_;
  std::vector<IntegerSpace> integers_;
  std::string conflict_;
  FoldPlan fold_;
  int64_t micro_batches_per_step_;
};

}  // namespace lockstep
