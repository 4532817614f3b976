#pragma once
// Progress: tells a person how the run goes: on a terminal one line that is written over, elsewhere
// a plain line now and then. Standard error; rank 0 only. Must not know: how anything is computed.

#include <cstdint>

#include "lockstep/core/base/deadline.h"
#include "lockstep/core/train/save_account.h"
#include "lockstep/core/train/step_loop.h"

namespace lockstep {

class Progress final : public StepObserver {
 public:
  Progress(int64_t end_step, bool is_terminal);
  Status on_step(const StepRecord& record) override;
  Status on_evaluation(const EvalRecord& record) override;
  Status on_save(const SaveRecord& record) override;
  Status on_interval(const IntervalRecord& record) override;
  Status on_roll_back(int64_t num_steps, std::string_view reason) override;
  /// One line at the end: what saving cost, and what a failure would have. Nothing when nothing was
  /// saved.
  void on_end(const SaveSummary& saves);

 private:
  void line(const std::string& text);

  int64_t end_step_;
  bool is_terminal_;
  bool has_open_line_ = false;
  int64_t last_shown_ns_ = 0;
  double step_seconds_ = 0;  ///< time in steps, without evaluation and saves
  int64_t num_steps_seen_ = 0;
};

/// "1:02:03" or "2:03".
std::string duration_text(double seconds);

}  // namespace lockstep
