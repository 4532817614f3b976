#pragma once
// SaveAccount: what saving cost a start of a run, and what a failure would have cost it. An
// observer of the step loop; wall time comes from outside at the end. Must not know: files, ranks.
// Thread-safety: one thread.

#include <cstdint>
#include <vector>

#include "lockstep/core/train/step_loop.h"

namespace lockstep {

/// Of one start of a run.
struct SaveSummary {
  int64_t num_durable = 0;
  int64_t num_failed = 0;
  int64_t num_unknown = 0;
  int64_t num_skipped = 0;  ///< left out, because the one before was still being written
  double stall_ms_median = 0;
  double stall_ms_worst = 0;
  double stall_ms_total = 0;
  double stall_share = 0;   ///< of the run's wall time that training waited for saves
  double behind_share = 0;  ///< of the run's wall time that a save was written behind training
  int64_t at_risk_steps_now = 0;   ///< done since the newest durable checkpoint
  int64_t at_risk_steps_most = 0;  ///< at the worst moment: just before a save was durable
  double at_risk_s_now = 0;        ///< the steps times the time of a mean step
  double at_risk_s_most = 0;

  int64_t num_saves() const { return num_durable + num_failed + num_unknown; }
};

class SaveAccount final : public StepObserver {
 public:
  /// `num_steps`: done at the start, in a durable checkpoint or 0.
  explicit SaveAccount(int64_t num_steps) : done_(num_steps), durable_(num_steps) {}
  Status on_step(const StepRecord& record) override;
  Status on_save(const SaveRecord& record) override;
  Status on_roll_back(int64_t num_steps, std::string_view reason) override;
  /// After `run_ms` of wall time in the step loop.
  SaveSummary summary(double run_ms) const;
  /// Done in the newest durable checkpoint, 0 when there is none.
  int64_t durable_steps() const { return durable_; }

 private:
  SaveSummary counted_;
  std::vector<double> stalls_ms_;
  double behind_ms_ = 0;
  double step_ms_ = 0;
  int64_t num_steps_ = 0;
  int64_t done_;
  int64_t durable_;
};

}  // namespace lockstep
