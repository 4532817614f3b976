#pragma once
// Seams of the step loop that only write down what they were asked: "run 3" for a step, "skip 3",
// "eval 4", "save 4", "start 4" and "finish 4" for one behind training, "back 2".

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "lockstep/core/base/text.h"
#include "lockstep/core/train/step_loop.h"

namespace lockstep {

using Journal = std::vector<std::string>;

class FakeEngine final : public StepEngine {
 public:
  explicit FakeEngine(Journal* journal) : journal_(journal) {}
  Result<StepOutcome> run_step(int64_t step, uint64_t flags) override {
    journal_->push_back(cat("run ", step));
    if (step == fails_at) return internal_error("the engine broke");
    StepOutcome outcome = outcome_of(step, flags);
    auto bad = bad_times.find(step);
    if (bad != bad_times.end() && bad->second > 0) {
      --bad->second;
      outcome.record.is_applied = false;
      outcome.record.bad_numbers = cat("step ", step, " is bad");
    }
    return outcome;
  }
  Result<StepOutcome> skip_step(int64_t step, uint64_t flags) override {
    journal_->push_back(cat("skip ", step));
    StepOutcome outcome = outcome_of(step, flags);
    outcome.record.is_applied = false;
    return outcome;
  }
  Result<EvalOutcome> evaluate(int64_t num_steps, const FlagsQuestion& flags) override {
    const uint64_t told = flags() | (num_steps == peer_stops_in_evaluation ? kFlagStop : 0);
    const bool gives_up = polls_in_evaluation && (told & kFlagStop) != 0;
    journal_->push_back(cat(gives_up ? "no eval " : "eval ", num_steps));
    if (gives_up) return EvalOutcome{std::nullopt, told};
    EvalRecord record;
    record.num_steps = num_steps;
    return EvalOutcome{record, told};
  }

  std::map<int64_t, int> bad_times;  ///< how often a step comes out bad
  int64_t peer_stops_at = -1;        ///< another rank's flag
  std::set<int64_t> peer_saves_at;   ///< steps in which another rank still saves
  int64_t peer_wants_every = 0;      ///< the interval that another rank decides on
  bool polls_in_evaluation = true;   ///< false: an evaluation ends before it asks
  int64_t peer_stops_in_evaluation = -1;
  int64_t peer_has_no_time_at = -1;  ///< another rank's flag
  int64_t fails_at = -1;

 private:
  StepOutcome outcome_of(int64_t step, uint64_t flags) const {
    StepOutcome outcome;
    outcome.record.step = step;
    outcome.record.step_ms = 100;
    outcome.record.loss = 1.0 / static_cast<double>(step + 1);
    outcome.flags = flags | (step == peer_stops_at ? kFlagStop : 0) |
                    (step == peer_has_no_time_at ? kFlagNoTimeToSave : 0) |
                    (peer_saves_at.contains(step) ? kFlagSaving : 0) |
                    static_cast<uint64_t>(peer_wants_every) << kFlagIntervalShift;
    return outcome;
  }
  Journal* journal_;
};

class FakeKeeper final : public StateKeeper {
 public:
  explicit FakeKeeper(Journal* journal) : journal_(journal) {}
  Result<SaveRecord> save(int64_t num_steps, const std::optional<EvalRecord>& last_eval,
                          const std::vector<int64_t>& skipped_steps) override {
    journal_->push_back(cat("save ", num_steps));
    return record_of(num_steps, last_eval, skipped_steps);
  }
  void start_save(int64_t num_steps, const std::optional<EvalRecord>& last_eval,
                  const std::vector<int64_t>& skipped_steps) override {
    journal_->push_back(cat("start ", num_steps));
    started_ = [=, this] { return record_of(num_steps, last_eval, skipped_steps); };
  }
  bool has_save_ended() const override { return !is_slow; }
  Result<SaveRecord> finish_save() override {
    auto record = started_();
    journal_->push_back(cat("finish ", record.is_ok() ? record->num_steps : -1));
    return record;
  }
  Result<SaveRecord> record_of(int64_t num_steps, const std::optional<EvalRecord>& last_eval,
                               const std::vector<int64_t>& skipped_steps) {
    if (num_steps == breaks_at) return peer_failure_error("rank 1 is gone");
    SaveRecord record;
    record.num_steps = num_steps;
    record.save_ms = save_ms;
    if (fails_at.contains(num_steps)) {
      record.status = resource_exhausted_error("the disk is full");
      return record;
    }
    saved.push_back(num_steps);
    eval_at_save[num_steps] = last_eval ? last_eval->num_steps : -1;
    skipped_at_save[num_steps] = skipped_steps;
    return record;
  }
  Result<int64_t> roll_back() override {
    if (saved.empty()) return not_found_error("no checkpoint");
    journal_->push_back(cat("back ", saved.back()));
    return saved.back();
  }

  std::vector<int64_t> saved;
  std::map<int64_t, int64_t> eval_at_save;
  std::map<int64_t, std::vector<int64_t>> skipped_at_save;
  std::set<int64_t> fails_at;
  int64_t breaks_at = -1;
  double save_ms = 0;
  bool is_slow = false;  ///< a save behind training never ends by itself

 private:
  Journal* journal_;
  std::function<Result<SaveRecord>()> started_;
};

class Watcher final : public StepObserver {
 public:
  Watcher(Journal* journal, std::string name) : journal_(journal), name_(std::move(name)) {}
  Status on_step(const StepRecord& record) override {
    journal_->push_back(cat(name_, " step ", record.step, record.is_applied ? "" : " left out"));
    return record.step == fails_at_step ? io_error("the observer broke") : Status::ok();
  }
  Status on_evaluation(const EvalRecord& record) override {
    journal_->push_back(cat(name_, " eval ", record.num_steps));
    return Status::ok();
  }
  Status on_save(const SaveRecord& record) override {
    journal_->push_back(cat(
        name_,
        record.is_skipped       ? " skipped "
        : record.status.is_ok() ? " saved "
                                : " not saved ",
        record.num_steps,
        record.told_after_steps == record.num_steps ? "" : cat(" at ", record.told_after_steps)));
    return Status::ok();
  }
  Status on_interval(const IntervalRecord& record) override {
    journal_->push_back(cat(name_, " every ", record.steps, " after ", record.num_steps));
    return Status::ok();
  }
  Status on_roll_back(int64_t num_steps, std::string_view reason) override {
    journal_->push_back(cat(name_, " back to ", num_steps, ": ", reason));
    return Status::ok();
  }
  int64_t fails_at_step = -1;

 private:
  Journal* journal_;
  std::string name_;
};

class StepLoop : public ::testing::Test {
 protected:
  StepLoop() {
    options_.end_step = 6;
    options_.steps_per_epoch = 100;
    options_.eval_every_epochs = 0;
  }
  Result<LoopReport> run(StopQuestion should_stop = nullptr) {
    return run_step_loop(engine_, keeper_, observers_, options_, should_stop);
  }
  LoopReport run_well(StopQuestion should_stop = nullptr) {
    auto report = run(should_stop);
    EXPECT_TRUE(report.is_ok()) << report.status().to_string();
    return report.is_ok() ? *report : LoopReport{};
  }

  Journal journal_;
  FakeEngine engine_{&journal_};
  FakeKeeper keeper_{&journal_};
  std::vector<StepObserver*> observers_;
  StepLoopOptions options_;
};

}  // namespace lockstep
