#pragma once
// How often to save: checkpoint.every = "auto". The interval that loses least time to saves and to
// failures together, from what saves were measured to cost. Must not know: files, ranks. One rank's
// chooser decides for all, so that no two clocks decide. Thread-safety: one thread.

#include <cstdint>
#include <deque>
#include <string>

namespace lockstep {

/// What was measured. Units: seconds.
struct SaveCosts {
  double step_s = 0;   ///< one step
  double stall_s = 0;  ///< that training waits for a save: the whole save where it is in front
  double save_s = 0;   ///< until a save is durable
};

/// What is given.
struct IntervalTerms {
  double mtbf_s = 0;           ///< mean time between failures, of the whole job
  double max_overhead = 0.01;  ///< share of run time that saves may take
};

/// What the interval came to be decided by.
enum class IntervalBound : uint8_t {
  kLeastLoss,     ///< the optimum between saving and losing
  kMaxOverhead,   ///< more often would cost more than allowed
  kSaveDuration,  ///< more often would begin a save before the last one was durable
  kOneStep,       ///< there is nothing shorter than a step
};
/// "least_loss", "max_overhead", "save_duration", "one_step".
const char* interval_bound_text(IntervalBound bound);

struct PlannedInterval {
  int64_t steps = 1;
  IntervalBound bound = IntervalBound::kLeastLoss;
};

/// The compute time between two saves that loses least to saves and failures together.
/// Units: seconds. `cost_s` is the time that training stands still for a save. A save that goes on
/// behind training makes each failure cost its duration more, whatever the interval is: that term
/// has no part in the optimum.
/// Source: J. W. Young, "A first order approximation to the optimum checkpoint interval", CACM
/// 17(9), 1974: sqrt(2 cost mtbf). J. T. Daly, "A higher order estimate of the optimum checkpoint
/// interval for restart dumps", FGCS 22(3), 2006: the terms after it.
double least_loss_interval_s(double cost_s, double mtbf_s);

/// That interval in whole steps, at least one, within the cap on overhead
/// (stall / (interval + stall) of the time), and never shorter than a save lasts. Pure.
/// Requires: terms above 0, max_overhead below 1, costs that are finite and not negative.
PlannedInterval plan_save_interval(const SaveCosts& costs, const IntervalTerms& terms);

/// Follows a run and says what the interval should be now. Medians, so that a hiccup of the disk
/// does not move it; a new value only when it differs by a fifth.
class IntervalChooser {
 public:
  explicit IntervalChooser(const IntervalTerms& terms) : terms_(terms) {}
  void add_step(double ms);
  void add_save(double stall_ms, double save_ms);
  /// What all ranks should use; 0 before there is a step and a save to judge by.
  int64_t wanted_steps();
  /// Why it is what it is, with the numbers, for people.
  const std::string& why() const { return why_; }
  /// What it was decided by.
  const SaveCosts& costs() const { return costs_; }
  const PlannedInterval& planned() const { return planned_; }

 private:
  IntervalTerms terms_;
  std::deque<double> step_ms_, stall_ms_, save_ms_;
  int64_t num_saves_ = 0;
  SaveCosts costs_;
  PlannedInterval planned_;
  int64_t wanted_ = 0;
  std::string why_;
};

}  // namespace lockstep
