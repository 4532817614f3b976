#pragma once
// TrainingEngine: one step of a run, with ranks: batches, forward, DataParallel, optimizer; and the
// evaluation over the whole test set split over ranks. Must not know: checkpoints, files.

#include <memory>
#include <vector>

#include "lockstep/core/data/dataset.h"
#include "lockstep/core/data/loader.h"
#include "lockstep/core/data/sampler.h"
#include "lockstep/core/model/model.h"
#include "lockstep/core/train/step_loop.h"
#include "lockstep/distributed/data_parallel.h"
#include "lockstep/distributed/sharded_optimizer.h"

namespace lockstep {

struct TrainingParts {
  TrainableModel* model = nullptr;
  DataParallel* parallel = nullptr;
  ShardedOptimizer* optimizer = nullptr;
  const DatasetSplits* data = nullptr;
  const Sampler* sampler = nullptr;
  int64_t end_step = 0;
  bool is_channels_last = false;
  Log log;
};

class TrainingEngine final : public StepEngine {
 public:
  explicit TrainingEngine(const TrainingParts& parts);

  Result<StepOutcome> run_step(int64_t step, uint64_t flags) override;
  Result<StepOutcome> skip_step(int64_t step, uint64_t flags) override;
  Result<EvalOutcome> evaluate(int64_t num_steps, const FlagsQuestion& flags) override;

  /// Something of this rank's alone failed (its metrics file, say): the next step ends with that
  /// error on every rank.
  void fail_next_step(const Status& reason) { pending_failure_ = reason; }

  /// What a step's wall time went into on this rank; what is left is forward and backward.
  struct StepTimes {
    double step_ms = 0;
    double exposed_ms = 0;  ///< waiting for other ranks
    double loader_ms = 0;   ///< waiting for batches
    double update_ms = 0;   ///< the optimizer
  };
  /// Of each step run, in order.
  const std::vector<StepTimes>& step_times() const { return step_times_; }

 private:
  Status work_micro_batches(int64_t step);
  void warn_of_full_memory(int64_t step);
  std::string describe_bad_numbers(const StepGradients& gradients) const;
  StepRecord record_of(int64_t step) const;
  /// Counts up to the first batch before which `flags` had kFlagStop; `told` gets the flags.
  Result<std::vector<EvalCounts>> evaluate_own_batches(int64_t batch_size, int64_t num_batches,
                                                       const FlagsQuestion& flags, uint64_t* told);

  TrainingParts parts_;
  std::unique_ptr<BatchLoader> loader_;
  std::vector<StepTimes> step_times_;
  double loader_ms_ = 0;  // of the step under way
  bool has_told_unused_ = false;
  uint64_t num_times_full_ = 0;  // that the device's memory was, when it was last told
  Status pending_failure_;
};

}  // namespace lockstep
