#include "lockstep/core/train/step_loop.h"

#include <algorithm>
#include <utility>

#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

constexpr size_t kSavesLookedAt = 3;

class Loop {
 public:
  Loop(StepEngine& engine, StateKeeper& keeper, const std::vector<StepObserver*>& observers,
       const StepLoopOptions& options, StopQuestion should_stop)
      : engine_(engine),
        keeper_(keeper),
        observers_(observers),
        options_(options),
        should_stop_(std::move(should_stop)) {
    report_.skipped_steps = options.skipped_steps;
    done_ = options.first_step;
    if (done_ > 0) last_saved_ = done_;
    save_counts_from_ = done_;
    if (options.chooses_interval) report_.interval_steps = kFirstInterval;
  }

  Result<LoopReport> run() {
    if (options_.is_stopped) report_.end = LoopEnd::kStoppedBySignal;
    const bool may_start = done_ < options_.end_step && !options_.is_stopped;
    bool needs_base = options_.on_nonfinite == OnNonFinite::kRollBack && options_.can_save;
    if (needs_base && done_ == 0 && may_start) LOCKSTEP_RETURN_IF_ERROR(save());
    if (!options_.is_evaluated && may_start && is_evaluation_due())
      LOCKSTEP_RETURN_IF_ERROR(evaluate());
    while (done_ < options_.end_step && report_.end == LoopEnd::kDone) {
      if (options_.stop_after_step > 0 && done_ >= options_.stop_after_step) {
        report_.end = LoopEnd::kStoppedByLimit;
        break;
      }
      LOCKSTEP_ASSIGN_OR_RETURN(StepOutcome outcome, one_step());
      if (outcome.record.bad_numbers.empty() || options_.on_nonfinite == OnNonFinite::kSkip) {
        LOCKSTEP_RETURN_IF_ERROR(finish_step(outcome));
      } else {
        LOCKSTEP_RETURN_IF_ERROR(handle_bad_numbers(outcome));
      }
      bool stopped = (outcome.flags & kFlagStop) != 0;
      if (done_ < options_.end_step && stopped) report_.end = LoopEnd::kStoppedBySignal;
    }
    if (options_.first_step == done_ && report_.end == LoopEnd::kDone && !report_.last_eval) {
      LOCKSTEP_RETURN_IF_ERROR(evaluate());
    }
    LOCKSTEP_RETURN_IF_ERROR(finish_save());
    if (last_saved_ != done_ && done_ > 0 && !has_no_time_) LOCKSTEP_RETURN_IF_ERROR(save());
    report_.num_steps = done_;
    if (last_saved_ >= 0 && options_.can_save) report_.durable_steps = last_saved_;
    if (report_.end == LoopEnd::kStoppedBySignal && options_.can_save)
      report_.verdict = last_saved_ == done_ || done_ == options_.first_step
                            ? StopVerdict::kSaved
                            : StopVerdict::kPrevious;
    report_.expected_save_ms = longest_save_ms();
    return report_;
  }

 private:
  Result<StepOutcome> one_step() {
    uint64_t flags = stop_flags(step_ms_);
    if (is_saving_ && !keeper_.has_save_ended()) flags |= kFlagSaving;
    if (options_.chooser != nullptr)
      flags |= static_cast<uint64_t>(options_.chooser->wanted_steps()) << kFlagIntervalShift;
    const auto& skipped = report_.skipped_steps;
    if (std::find(skipped.begin(), skipped.end(), done_) != skipped.end())
      return engine_.skip_step(done_, flags);
    return engine_.run_step(done_, flags);
  }

  // What this rank says about stopping, with a step left to do before it can save. Each rank's
  // clock says something else: one that has too little time decides for all.
  uint64_t stop_flags(double step_ms) const {
    const auto told_s_ago = should_stop_ != nullptr ? should_stop_() : std::nullopt;
    if (!told_s_ago) return 0;
    if (options_.grace_s <= 0 || save_ms_.empty()) return kFlagStop;
    double needed_ms = step_ms + longest_save_ms();
    if (is_saving_)
      needed_ms += std::max(0.0, longest_save_ms() - since_start_of_save_.elapsed_ms());
    const bool has_time = (options_.grace_s - *told_s_ago) * 1e3 >= needed_ms;
    return has_time ? kFlagStop : kFlagStop | kFlagNoTimeToSave;
  }

  double longest_save_ms() const {
    return save_ms_.empty() ? 0 : *std::max_element(save_ms_.begin(), save_ms_.end());
  }

  // Without any checkpoint there is nothing to lose by trying.
  void heed(uint64_t flags) {
    if ((flags & kFlagStop) == 0) return;
    if ((flags & kFlagNoTimeToSave) != 0 && last_saved_ >= 0) has_no_time_ = true;
  }

  bool is_evaluation_due() const {
    if (done_ == options_.end_step) return true;
    const int64_t epochs = done_ / options_.steps_per_epoch;
    return done_ > 0 && done_ % options_.steps_per_epoch == 0 && options_.eval_every_epochs > 0 &&
           epochs % options_.eval_every_epochs == 0;
  }

  Status finish_step(const StepOutcome& outcome) {
    if (!outcome.record.bad_numbers.empty()) remember_skipped(done_);
    for (StepObserver* observer : observers_)
      LOCKSTEP_RETURN_IF_ERROR(observer->on_step(outcome.record));
    report_.last_step = outcome.record;
    ++report_.num_steps_this_start;
    ++done_;
    step_ms_ = outcome.record.step_ms;
    heed(outcome.flags);
    // All ranks saw the same flags, so all take the end of a save at the same step.
    if ((outcome.flags & kFlagSaving) == 0) LOCKSTEP_RETURN_IF_ERROR(finish_save());
    if (options_.chooser != nullptr) options_.chooser->add_step(outcome.record.step_ms);
    LOCKSTEP_RETURN_IF_ERROR(adopt_interval(outcome.flags));
    bool at_end = done_ == options_.end_step;
    bool epoch_ends = done_ % options_.steps_per_epoch == 0;
    int64_t epochs = done_ / options_.steps_per_epoch;
    auto every = [](int64_t count, int64_t period) { return period > 0 && count % period == 0; };
    if (is_evaluation_due()) LOCKSTEP_RETURN_IF_ERROR(evaluate());
    if (has_no_time_) report_.end = LoopEnd::kStoppedBySignal;
    if (report_.end == LoopEnd::kStoppedBySignal) return Status::ok();
    bool save_now = at_end || every(done_, options_.save_every_steps) || is_interval_over() ||
                    (epoch_ends && every(epochs, options_.save_every_epochs));
    return save_now ? save() : Status::ok();
  }

  // One that is due while another is under way waits for its end, and training does not.
  bool is_interval_over() const {
    return options_.chooses_interval && !is_saving_ &&
           done_ - save_counts_from_ >= report_.interval_steps;
  }

  // Only one rank's clock decides; its wish came with the step's flags, so all follow at this step.
  Status adopt_interval(uint64_t flags) {
    const auto wanted = static_cast<int64_t>(flags >> kFlagIntervalShift);
    if (wanted == 0 || wanted == report_.interval_steps) return Status::ok();
    const IntervalRecord record{done_, wanted, report_.interval_steps,
                                options_.chooser != nullptr ? options_.chooser->why() : ""};
    report_.interval_steps = wanted;
    for (StepObserver* observer : observers_)
      LOCKSTEP_RETURN_IF_ERROR(observer->on_interval(record));
    return Status::ok();
  }

  Status handle_bad_numbers(const StepOutcome& outcome) {
    if (options_.on_nonfinite == OnNonFinite::kStop) {
      return invalid_argument_error(
          outcome.record.bad_numbers +
          "; stopped as train.on_nonfinite = \"stop\" says (\"skip\" leaves such a step out, "
          "\"rollback\" goes back to the last checkpoint first)");
    }
    LOCKSTEP_RETURN_IF_ERROR(finish_save());
    if (rolled_back_to_ && *rolled_back_to_ == last_saved_) {
      return invalid_argument_error(
          outcome.record.bad_numbers +
          cat("; step ", report_.skipped_steps.empty() ? done_ : report_.skipped_steps.back(),
              " was bad too since the checkpoint of step ", last_saved_,
              ", to which the run went back, so it came again and is not one bad batch: lower the "
              "learning rate, look at the data, or save more often"));
    }
    remember_skipped(done_);
    LOCKSTEP_ASSIGN_OR_RETURN(done_, keeper_.roll_back());
    rolled_back_to_ = last_saved_ = save_counts_from_ = done_;
    for (StepObserver* observer : observers_) {
      LOCKSTEP_RETURN_IF_ERROR(observer->on_roll_back(done_, outcome.record.bad_numbers));
    }
    return Status::ok();
  }

  void remember_skipped(int64_t step) {
    auto& skipped = report_.skipped_steps;
    auto at = std::lower_bound(skipped.begin(), skipped.end(), step);
    if (at == skipped.end() || *at != step) skipped.insert(at, step);
  }

  Status evaluate() {
    LOCKSTEP_ASSIGN_OR_RETURN(EvalOutcome outcome,
                              engine_.evaluate(done_, [this] { return stop_flags(0); }));
    if (!outcome.record) {  // given up; the next start makes up for it
      heed(outcome.flags);
      report_.end = LoopEnd::kStoppedBySignal;
      return Status::ok();
    }
    report_.last_eval = *outcome.record;
    for (StepObserver* observer : observers_)
      LOCKSTEP_RETURN_IF_ERROR(observer->on_evaluation(*report_.last_eval));
    return Status::ok();
  }

  Status save() {
    if (!options_.can_save) return Status::ok();
    save_counts_from_ = done_;
    // Nothing is left to train after the last one, and its failure is the run's.
    const bool is_last = done_ == options_.end_step || report_.end != LoopEnd::kDone;
    if (is_saving_ && options_.skips_when_saving && !is_last) {
      SaveRecord skipped;
      skipped.is_skipped = true;
      skipped.num_steps = done_;
      return tell(skipped);
    }
    LOCKSTEP_RETURN_IF_ERROR(finish_save());
    if (options_.saves_behind && !is_last) {
      keeper_.start_save(done_, report_.last_eval, report_.skipped_steps);
      is_saving_ = true;
      since_start_of_save_ = Stopwatch();
      return Status::ok();
    }
    LOCKSTEP_ASSIGN_OR_RETURN(SaveRecord record,
                              keeper_.save(done_, report_.last_eval, report_.skipped_steps));
    LOCKSTEP_RETURN_IF_ERROR(take(record));
    return is_last ? record.status : Status::ok();
  }

  Status finish_save() {
    if (!is_saving_) return Status::ok();
    is_saving_ = false;
    LOCKSTEP_ASSIGN_OR_RETURN(SaveRecord record, keeper_.finish_save());
    return take(record);
  }

  Status take(const SaveRecord& record) {
    report_.last_save = record;
    if (record.status.is_ok()) {
      last_saved_ = record.num_steps;
      save_ms_.push_back(record.save_ms);
      if (save_ms_.size() > kSavesLookedAt) save_ms_.erase(save_ms_.begin());
      if (options_.chooser != nullptr) options_.chooser->add_save(record.stall_ms, record.save_ms);
    }
    return tell(record);
  }

  Status tell(SaveRecord record) {
    record.told_after_steps = done_;
    for (StepObserver* observer : observers_) LOCKSTEP_RETURN_IF_ERROR(observer->on_save(record));
    return Status::ok();
  }

  StepEngine& engine_;
  StateKeeper& keeper_;
  const std::vector<StepObserver*>& observers_;
  const StepLoopOptions& options_;
  StopQuestion should_stop_;
  LoopReport report_;
  int64_t done_ = 0;
  int64_t last_saved_ = -1;
  int64_t save_counts_from_ = 0;  ///< the last save that was due, or where this start began
  bool is_saving_ = false;
  bool has_no_time_ = false;  ///< agreed on: a stop leaves with the checkpoint before
  Stopwatch since_start_of_save_;
  double step_ms_ = 0;           ///< the last one
  std::vector<double> save_ms_;  ///< the last durable ones
  std::optional<int64_t> rolled_back_to_;
};

}  // namespace

Result<LoopReport> run_step_loop(StepEngine& engine, StateKeeper& keeper,
                                 const std::vector<StepObserver*>& observers,
                                 const StepLoopOptions& options, StopQuestion should_stop) {
  LOCKSTEP_CHECK(options.steps_per_epoch >= 1, "steps_per_epoch must be at least 1, found ",
                 options.steps_per_epoch);
  LOCKSTEP_CHECK(options.first_step <= options.end_step, "the run has ", options.end_step,
                 " steps, but ", options.first_step, " are done");
  LOCKSTEP_CHECK(!options.chooses_interval || options.save_every_steps == 0,
                 "the interval between saves is either given or chosen");
  return Loop(engine, keeper, observers, options, std::move(should_stop)).run();
}

}  // namespace lockstep
