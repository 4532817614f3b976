#pragma once
// CheckpointKeeper: the step loop's seam to the checkpoint module: what of a run's state is saved,
// under which names, and how it comes back. Must not know: how files are written.

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/checkpoint/checkpointer.h"
#include "lockstep/core/base/deadline.h"
#include "lockstep/core/recipe/recipe.h"
#include "lockstep/core/recipe/schema.h"
#include "lockstep/core/train/step_loop.h"
#include "lockstep/distributed/data_parallel.h"
#include "lockstep/distributed/sharded_optimizer.h"
#include "lockstep/launch/trainer.h"

namespace lockstep {

/// What a restore found.
struct ResumePoint {
  int64_t num_steps = 0;
  std::string path;
  std::vector<int64_t> skipped_steps;
  bool is_evaluated = false;  ///< its metrics are there
};

class CheckpointKeeper final : public StateKeeper {
 public:
  /// `checkpointer` may be null: nothing is saved then. All must outlive the keeper.
  CheckpointKeeper(DataParallel& parallel, ShardedOptimizer& optimizer, Checkpointer* checkpointer,
                   const Log& log, const Recipe& recipe, const RecipeSchema& recipe_schema,
                   int64_t steps_per_epoch);

  Result<SaveRecord> save(int64_t num_steps, const std::optional<EvalRecord>& last_eval,
                          const std::vector<int64_t>& skipped_steps) override;
  void start_save(int64_t num_steps, const std::optional<EvalRecord>& last_eval,
                  const std::vector<int64_t>& skipped_steps) override;
  bool has_save_ended() const override { return checkpointer_->has_save_ended(); }
  Result<SaveRecord> finish_save() override;
  Result<int64_t> roll_back() override;

  /// On rank 0: `at_start` runs when a save begins, on the thread that trains; `before_commit` runs
  /// on any thread. An error of either fails the save on every rank.
  void set_save_hooks(std::function<Status()> at_start, std::function<Status()> before_commit) {
    at_save_start_ = std::move(at_start);
    before_commit_ = std::move(before_commit);
  }

  void set_user_state(UserState user_state) { user_state_ = std::move(user_state); }

  /// At the start of a run. Nothing when there is nothing to resume from. Collective; errors as
  /// Checkpointer::restore.
  Result<std::optional<ResumePoint>> resume(const TrainerOptions& options);

  /// At the start of a run that takes the parameters of options.resume and nothing else: step 0.
  /// Collective; errors as load_params.
  Result<ResumePoint> load_params_only(const TrainerOptions& options);

  /// At the start of a run, instead of resume(): fills the model from a safetensors file.
  /// Collective; errors as import_weights().
  Result<WeightsReport> take_weights(const std::string& path);

  /// Digest of parameters and buffers, or of the whole state, as they are now. Collective.
  Result<std::string> live_params_digest();
  Result<std::string> live_state_digest(const std::vector<int64_t>& skipped_steps);
  uint64_t staging_bytes() const { return staging_bytes_; }

 private:
  /// Makes what was restored the live state of all ranks.
  Result<ResumePoint> adopt(const Restored& restored);
  Status adopt_user_state(const Scalars& scalars);
  Status check_not_taken_over();
  Scalars scalars(const std::vector<int64_t>& skipped_steps) const;
  SaveRequest request(int64_t num_steps, const std::optional<EvalRecord>& last_eval,
                      const std::vector<int64_t>& skipped_steps) const;
  Result<SaveRecord> record_of(int64_t num_steps, const Result<SaveReport>& report);

  DataParallel& parallel_;
  ShardedOptimizer& optimizer_;
  Checkpointer* checkpointer_;
  Log log_;
  const Recipe& recipe_;
  const RecipeSchema& schema_of_recipe_;
  int64_t steps_per_epoch_;
  StateSchema schema_;
  OwnedState owned_;
  uint64_t staging_bytes_ = 0;
  std::function<Status()> at_save_start_;
  std::function<Status()> before_commit_;
  int64_t saving_num_steps_ = 0;  ///< of the save under way
  Stopwatch since_start_of_save_;
  double copy_ms_ = 0;
  UserState user_state_;
};

}  // namespace lockstep
