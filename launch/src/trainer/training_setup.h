#pragma once
// From a recipe to the options of each part, in one place; and what is told at the start of a run.
// Pure.

#include <string>
#include <vector>

#include "lockstep/checkpoint/checkpointer.h"
#include "lockstep/core/base/process.h"
#include "lockstep/core/recipe/recipe.h"
#include "lockstep/core/train/step_loop.h"
#include "lockstep/distributed/data_parallel.h"
#include "lockstep/distributed/sharded_optimizer.h"
#include "lockstep/distributed/world.h"
#include "lockstep/launch/trainer.h"

namespace lockstep {

DataParallelOptions parallel_options(const Recipe& recipe);
ShardedOptimizerOptions optimizer_options(const Recipe& recipe);
/// Retention and build identity; the caller adds where and with whom.
CheckpointerOptions checkpointer_options(const Recipe& recipe, const Device& device);
/// Of checkpoint.every = "auto".
IntervalTerms interval_terms(const Recipe& recipe);
StepLoopOptions loop_options(const Recipe& recipe, int64_t steps_per_epoch);
/// Whether --resume names a checkpoint, and not "auto" or "never".
bool resumes_from_path(const TrainerOptions& options);
bool loads_params_only(const TrainerOptions& options);
/// Errors: kInvalidArgument for options that contradict each other or would do nothing.
Status check_options(const TrainerOptions& options);
/// What must be equal on all ranks before a run: every key of the recipe but data.path, the options
/// that decide which calls a rank makes, and the binary.
std::vector<std::string> fingerprint(const Recipe& recipe, const TrainerOptions& options);
/// The resolved recipe with origins, the world, the attempt (0: no run directory), and what is
/// resumed, for people.
std::string start_text(const Recipe& recipe, DataParallel& parallel, int64_t attempt,
                       const std::string& resumed_from);

/// What became of the run at a stop by a signal, for people. Requires: report.stop is not kNone.
std::string stop_text(const TrainReport& report, double grace_s, double expected_save_ms);

/// Notes how old the process was when the first step of this start was done.
class FirstStepClock final : public StepObserver {
 public:
  explicit FirstStepClock(double* seconds) : seconds_(seconds) {}
  Status on_step(const StepRecord& /*record*/) override {
    if (*seconds_ == 0) *seconds_ = process_age_s();
    return Status::ok();
  }

 private:
  double* seconds_;
};

}  // namespace lockstep
