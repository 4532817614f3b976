#pragma once
// ShardedOptimizer: the optimizer whose state exists once over all ranks. Each rank updates the
// blocks it owns and the parameters are gathered bucket by bucket. The mathematics is core/optim's;
// this room knows who owns what. Thread-safety: one thread. Must not know: checkpoints, files.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/base/status.h"
#include "lockstep/core/flat/state.h"
#include "lockstep/core/optim/optimizer.h"
#include "lockstep/core/optim/schedule.h"
#include "lockstep/distributed/data_parallel.h"

namespace lockstep {

struct ShardedOptimizerOptions {
  OptimizerSpec optimizer;
  ScheduleSpec schedule;
  double clip_max_norm = 0;  ///< gradients are scaled down to this global norm; 0: no clipping
  /// Parameters are sorted into groups by `group_of` (an index into `groups`); empty: one group for
  /// all.
  std::vector<ParamGroup> groups;
  std::function<size_t(std::string_view parameter_name)> group_of;
};

/// What one update did, the same on every rank.
struct UpdateReport {
  double learning_rate = 0;  ///< after the schedule, before a group's scale
  double clip_factor = 1;    ///< what the gradient was multiplied with because of its norm
  int64_t num_updates = 0;   ///< updates applied so far
  double update_ms = 0;      ///< of this rank's arithmetic, exchanges left out; on a GPU, where
                             ///< this update is only handed over, that of the one before
};

class ShardedOptimizer {
 public:
  /// Collective: all ranks. Errors: kInvalidArgument for a hyperparameter out of range, or one that
  /// differs between ranks (names the first difference and the rank).
  static Result<ShardedOptimizer> make(DataParallel& model, const ShardedOptimizerOptions& options);
  ShardedOptimizer(ShardedOptimizer&&) noexcept;
  ShardedOptimizer& operator=(ShardedOptimizer&&) noexcept;
  ~ShardedOptimizer();

  /// Applies one update with the step's gradients (from DataParallel::reduce) and gathers the
  /// parameters. A step whose gradients are not finite must not be applied: LOCKSTEP_CHECK.
  /// Collective: all ranks. Errors: as Communicator::exchange. Cost: (N-1)/N of the parameter bytes
  /// on the wire.
  Result<UpdateReport> step(const StepGradients& gradients);

  /// The optimizer slots of every trainable space, for a checkpoint.
  std::vector<StateKind> state_kinds() const;
  /// This rank's shard of them; slices point into live memory.
  std::vector<StateSlice> owned_state();
  /// Scalars to save ("optimizer.num_updates"), and to take over after a restore.
  Scalars scalars() const;
  /// Errors: kCorruption when a scalar is missing or of another type.
  Status restore_scalars(const Scalars& scalars);
  uint64_t state_bytes() const;
  const ShardedOptimizerOptions& options() const;

 private:
  struct Impl;
  explicit ShardedOptimizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Parameters, buffers and optimizer slots together, in the order that digests and checkpoints use.
StateSchema state_schema(const DataParallel& model, const ShardedOptimizer& optimizer);
OwnedState owned_state(DataParallel& model, ShardedOptimizer& optimizer);

}  // namespace lockstep
