#pragma once
// From a recipe to the options of each part, in one place; and what is told at the start of a run.
// Pure.

#include <string>
#include <vector>

#include "lockstep/checkpoint/checkpointer.h"
#include "lockstep/core/base/deadline.h"
#include "lockstep/core/recipe/recipe.h"
#include "lockstep/core/train/step_loop.h"
#include "lockstep/distributed/data_parallel.h"
#include "lockstep/distributed/sharded_optimizer.h"
#include "lockstep/distributed/world.h"

namespace lockstep {

DataParallelOptions parallel_options(const Recipe& recipe);
ShardedOptimizerOptions optimizer_options(const Recipe& recipe);
/// Retention and build identity; the caller adds where and with whom.
CheckpointerOptions checkpointer_options(const Recipe& recipe);
StepLoopOptions loop_options(const Recipe& recipe, int64_t steps_per_epoch);
/// What must be equal on all ranks before a run: every key of the recipe that is in its hash, and
/// the binary.
std::vector<std::string> fingerprint(const Recipe& recipe);
/// The resolved recipe with origins, the world, and what is resumed, for people.
std::string start_text(const Recipe& recipe, const World& world, CommSchedule schedule,
                       const std::string& resumed_from);

/// Notes when the first step of this start was done.
class FirstStepClock final : public StepObserver {
 public:
  FirstStepClock(const Stopwatch& since_start, double* seconds)
      : since_start_(since_start), seconds_(seconds) {}
  Status on_step(const StepRecord& /*record*/) override {
    if (*seconds_ == 0) *seconds_ = since_start_.elapsed_s();
    return Status::ok();
  }

 private:
  const Stopwatch& since_start_;
  double* seconds_;
};

}  // namespace lockstep
