// The step loop against seams that only write down what they were asked: "run 3" for a step,
// "skip 3", "eval 4", "save 4", "back 2".
#include "lockstep/core/train/step_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>
#include <set>

namespace lockstep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

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
  Result<EvalRecord> evaluate(int64_t num_steps) override {
    journal_->push_back(cat("eval ", num_steps));
    EvalRecord record;
    record.num_steps = num_steps;
    return record;
  }

  std::map<int64_t, int> bad_times;  ///< how often a step comes out bad
  int64_t peer_stops_at = -1;        ///< another rank's flag
  std::set<int64_t> peer_saves_at;   ///< steps in which another rank still saves
  int64_t fails_at = -1;

 private:
  StepOutcome outcome_of(int64_t step, uint64_t flags) const {
    StepOutcome outcome;
    outcome.record.step = step;
    outcome.record.loss = 1.0 / static_cast<double>(step + 1);
    outcome.flags = flags | (step == peer_stops_at ? kFlagStop : 0) |
                    (peer_saves_at.contains(step) ? kFlagSaving : 0);
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
  Status start_save(int64_t num_steps, const std::optional<EvalRecord>& last_eval,
                    const std::vector<int64_t>& skipped_steps) override {
    journal_->push_back(cat("start ", num_steps));
    started_ = [=, this] { return record_of(num_steps, last_eval, skipped_steps); };
    return Status::ok();
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

TEST_F(StepLoop, RunsEachStepOnceThenEvaluatesAndSaves) {
  options_.end_step = 3;
  LoopReport report = run_well();
  EXPECT_THAT(journal_, ElementsAre("run 0", "run 1", "run 2", "eval 3", "save 3"));
  EXPECT_EQ(report.end, LoopEnd::kDone);
  EXPECT_EQ(report.num_steps, 3);
  EXPECT_EQ(report.num_steps_this_start, 3);
  EXPECT_EQ(report.last_step->step, 2);
  EXPECT_EQ(report.last_eval->num_steps, 3);
  EXPECT_EQ(report.last_save->num_steps, 3);
  EXPECT_EQ(keeper_.eval_at_save[3], 3);
}

TEST_F(StepLoop, EvaluatesAndSavesByEpochsAndSteps) {
  options_.end_step = 7;
  options_.steps_per_epoch = 2;
  options_.eval_every_epochs = 2;
  options_.save_every_steps = 3;
  options_.save_every_epochs = 1;
  run_well();
  EXPECT_THAT(journal_,
              ElementsAre("run 0", "run 1", "save 2", "run 2", "save 3", "run 3", "eval 4",
                          "save 4", "run 4", "run 5", "save 6", "run 6", "eval 7", "save 7"));
}

TEST_F(StepLoop, ObserversHearInOrder) {
  Watcher first(&journal_, "a"), second(&journal_, "b");
  observers_ = {&first, &second};
  options_.end_step = 1;
  run_well();
  EXPECT_THAT(journal_, ElementsAre("run 0", "a step 0", "b step 0", "eval 1", "a eval 1",
                                    "b eval 1", "save 1", "a saved 1", "b saved 1"));
}

TEST_F(StepLoop, NothingIsSavedWithoutARunDirectory) {
  options_.can_save = false;
  options_.save_every_steps = 1;
  options_.on_nonfinite = OnNonFinite::kRollBack;
  LoopReport report = run_well();
  EXPECT_THAT(keeper_.saved, IsEmpty());
  EXPECT_FALSE(report.last_save.has_value());
}

TEST_F(StepLoop, StopsWhereTheFlagComesAndSaves) {
  engine_.peer_stops_at = 2;
  LoopReport report = run_well();
  EXPECT_THAT(journal_, ElementsAre("run 0", "run 1", "run 2", "save 3"));
  EXPECT_EQ(report.end, LoopEnd::kStoppedBySignal);
  EXPECT_EQ(report.num_steps, 3);
}

TEST_F(StepLoop, AsksThisRankOnceAStep) {
  static int questions;
  questions = 0;
  LoopReport report = run_well([] { return ++questions == 4; });
  EXPECT_EQ(questions, 4);
  EXPECT_EQ(report.end, LoopEnd::kStoppedBySignal);
  EXPECT_EQ(report.num_steps, 4);
}

TEST_F(StepLoop, StopDoesNotSaveTheSameStepTwice) {
  engine_.peer_stops_at = 2;
  options_.save_every_steps = 3;
  run_well();
  EXPECT_THAT(keeper_.saved, ElementsAre(3));
}

TEST_F(StepLoop, StopAtTheLastStepIsTheEnd) {
  engine_.peer_stops_at = 5;
  EXPECT_EQ(run_well().end, LoopEnd::kDone);
  EXPECT_THAT(keeper_.saved, ElementsAre(6));
}

TEST_F(StepLoop, StopsAtTheLimit) {
  options_.stop_after_step = 4;
  LoopReport report = run_well();
  EXPECT_THAT(journal_, ElementsAre("run 0", "run 1", "run 2", "run 3", "save 4"));
  EXPECT_EQ(report.end, LoopEnd::kStoppedByLimit);
}

TEST_F(StepLoop, LimitAlreadyReachedRunsNothing) {
  options_.first_step = 4;
  options_.stop_after_step = 4;
  LoopReport report = run_well();
  EXPECT_THAT(journal_, IsEmpty());
  EXPECT_EQ(report.end, LoopEnd::kStoppedByLimit);
  EXPECT_EQ(report.num_steps, 4);
}

TEST_F(StepLoop, ResumesWhereItWas) {
  options_.first_step = 4;
  options_.skipped_steps = {1, 5};
  LoopReport report = run_well();
  EXPECT_THAT(journal_, ElementsAre("run 4", "skip 5", "eval 6", "save 6"));
  EXPECT_EQ(report.num_steps, 6);
  EXPECT_EQ(report.num_steps_this_start, 2);
  EXPECT_THAT(keeper_.skipped_at_save[6], ElementsAre(1, 5));
}

TEST_F(StepLoop, ResumeOfAFinishedRunOnlyEvaluates) {
  options_.first_step = 6;
  LoopReport report = run_well();
  EXPECT_THAT(journal_, ElementsAre("eval 6"));
  EXPECT_EQ(report.num_steps, 6);
  EXPECT_FALSE(report.last_step.has_value());
}

TEST_F(StepLoop, BadNumbersStopTheRunWithoutSavingThem) {
  engine_.bad_times[3] = 1;
  options_.save_every_steps = 2;
  auto report = run();
  EXPECT_EQ(report.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(report.status().message(), HasSubstr("step 3 is bad"));
  EXPECT_THAT(report.status().message(), HasSubstr("on_nonfinite"));
  EXPECT_THAT(keeper_.saved, ElementsAre(2));
}

TEST_F(StepLoop, BadStepsAreSkippedAndRemembered) {
  Watcher watcher(&journal_, "w");
  observers_ = {&watcher};
  engine_.bad_times = {{1, 1}, {3, 1}};
  options_.end_step = 5;
  options_.save_every_steps = 2;
  options_.on_nonfinite = OnNonFinite::kSkip;
  LoopReport report = run_well();
  EXPECT_THAT(report.skipped_steps, ElementsAre(1, 3));
  EXPECT_THAT(keeper_.skipped_at_save[2], ElementsAre(1));
  EXPECT_THAT(keeper_.skipped_at_save[4], ElementsAre(1, 3));
  EXPECT_THAT(journal_, ::testing::Contains("w step 1 left out"));
  EXPECT_EQ(report.num_steps, 5);
}

TEST_F(StepLoop, RollsBackToTheLastSaveAndLeavesTheStepOut) {
  Watcher watcher(&journal_, "w");
  engine_.bad_times[3] = 100;
  options_.end_step = 5;
  options_.save_every_steps = 2;
  options_.on_nonfinite = OnNonFinite::kRollBack;
  LoopReport report = run_well();
  EXPECT_THAT(journal_,
              ElementsAre("save 0", "run 0", "run 1", "save 2", "run 2", "run 3", "back 2", "run 2",
                          "skip 3", "save 4", "run 4", "eval 5", "save 5"));
  EXPECT_THAT(report.skipped_steps, ElementsAre(3));
  EXPECT_THAT(keeper_.skipped_at_save[4], ElementsAre(3));
}

TEST_F(StepLoop, ObserversHearOfARollBackWithItsReason) {
  Watcher watcher(&journal_, "w");
  observers_ = {&watcher};
  engine_.bad_times[0] = 1;
  options_.end_step = 1;
  options_.on_nonfinite = OnNonFinite::kRollBack;
  run_well();
  EXPECT_THAT(journal_, ElementsAre("save 0", "w saved 0", "run 0", "back 0",
                                    "w back to 0: step 0 is bad", "skip 0", "w step 0 left out",
                                    "eval 1", "w eval 1", "save 1", "w saved 1"));
}

TEST_F(StepLoop, BadNumbersThatComeAgainAfterARollBackStopTheRun) {
  engine_.bad_times = {{2, 1}, {3, 1}};
  options_.on_nonfinite = OnNonFinite::kRollBack;
  auto report = run();
  EXPECT_EQ(report.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(report.status().message(), HasSubstr("step 3 is bad"));
  EXPECT_THAT(report.status().message(), HasSubstr("came again"));
}

TEST_F(StepLoop, ASaveInBetweenAllowsAnotherRollBack) {
  engine_.bad_times = {{1, 1}, {4, 1}};
  options_.save_every_steps = 3;
  options_.on_nonfinite = OnNonFinite::kRollBack;
  LoopReport report = run_well();
  EXPECT_THAT(report.skipped_steps, ElementsAre(1, 4));
  EXPECT_THAT(journal_, ElementsAre("save 0", "run 0", "run 1", "back 0", "run 0", "skip 1",
                                    "run 2", "save 3", "run 3", "run 4", "back 3", "run 3",
                                    "skip 4", "run 5", "eval 6", "save 6"));
}

TEST_F(StepLoop, AResumedRunRollsBackToWhereItBegan) {
  options_.first_step = 2;
  keeper_.saved = {2};
  engine_.bad_times[3] = 1;
  options_.on_nonfinite = OnNonFinite::kRollBack;
  run_well();
  EXPECT_THAT(journal_, ElementsAre("run 2", "run 3", "back 2", "run 2", "skip 3", "run 4", "run 5",
                                    "eval 6", "save 6"));
}

TEST_F(StepLoop, RollBackWithoutACheckpointIsAnError) {
  options_.on_nonfinite = OnNonFinite::kRollBack;
  options_.can_save = false;
  engine_.bad_times[2] = 1;
  EXPECT_EQ(run().status().code(), StatusCode::kNotFound);
}

TEST_F(StepLoop, FailedSaveInTheMiddleGoesOn) {
  Watcher watcher(&journal_, "w");
  observers_ = {&watcher};
  keeper_.fails_at = {2};
  options_.save_every_steps = 2;
  LoopReport report = run_well();
  EXPECT_THAT(keeper_.saved, ElementsAre(4, 6));
  EXPECT_THAT(journal_, ::testing::Contains("w not saved 2"));
  EXPECT_EQ(report.num_steps, 6);
}

TEST_F(StepLoop, FailedSaveAtTheEndIsAnError) {
  keeper_.fails_at = {6};
  EXPECT_EQ(run().status().code(), StatusCode::kResourceExhausted);
}

TEST_F(StepLoop, FailedSaveAtAStopIsTriedAgainAndThenAnError) {
  keeper_.fails_at = {2};
  options_.save_every_steps = 2;
  engine_.peer_stops_at = 1;
  EXPECT_EQ(run().status().code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(journal_, ElementsAre("run 0", "run 1", "save 2", "save 2"));
}

TEST_F(StepLoop, ErrorsOfTheSeamsEndTheRun) {
  engine_.fails_at = 2;
  EXPECT_EQ(run().status().code(), StatusCode::kInternal);
  EXPECT_THAT(journal_, ElementsAre("run 0", "run 1", "run 2"));
  engine_.fails_at = -1;
  options_.save_every_steps = 2;
  keeper_.breaks_at = 2;
  EXPECT_EQ(run().status().code(), StatusCode::kPeerFailure);
  keeper_.breaks_at = -1;
  Watcher watcher(&journal_, "w");
  watcher.fails_at_step = 1;
  observers_ = {&watcher};
  EXPECT_EQ(run().status().code(), StatusCode::kIoError);
}

TEST_F(StepLoop, OptionsThatMakeNoSenseAreTheCallersMistake) {
  options_.first_step = 7;
  EXPECT_THROW(run().status().ignore(), UsageError);
  options_.first_step = 0;
  options_.steps_per_epoch = 0;
  EXPECT_THROW(run().status().ignore(), UsageError);
}

class StepLoopBehind : public StepLoop {
 protected:
  StepLoopBehind() {
    options_.save_every_steps = 2;
    options_.saves_behind = true;
  }
};

TEST_F(StepLoopBehind, TakesTheEndOfASaveAtTheNextStepAndSavesTheLastInFront) {
  Watcher watcher(&journal_, "w");
  observers_ = {&watcher};
  options_.end_step = 4;
  LoopReport report = run_well();
  EXPECT_THAT(journal_, ElementsAre("run 0", "w step 0", "run 1", "w step 1", "start 2", "run 2",
                                    "w step 2", "finish 2", "w saved 2 at 3", "run 3", "w step 3",
                                    "eval 4", "w eval 4", "save 4", "w saved 4"));
  EXPECT_EQ(report.last_save->num_steps, 4);
}

TEST_F(StepLoopBehind, WaitsUntilNoRankSaves) {
  engine_.peer_saves_at = {2, 3, 4};
  options_.save_every_steps = 5;
  options_.save_every_epochs = 1;
  options_.steps_per_epoch = 2;
  options_.end_step = 7;
  run_well();
  // At step 4 another save is due: training waits for the one under way.
  EXPECT_THAT(journal_, ElementsAre("run 0", "run 1", "start 2", "run 2", "run 3", "finish 2",
                                    "start 4", "run 4", "finish 4", "start 5", "run 5", "finish 5",
                                    "start 6", "run 6", "finish 6", "eval 7", "save 7"));
}

TEST_F(StepLoopBehind, ASaveThatIsDueDuringAnotherCanBeLeftOut) {
  Watcher watcher(&journal_, "w");
  keeper_.is_slow = true;
  options_.skips_when_saving = true;
  run_well();
  EXPECT_THAT(journal_, ElementsAre("run 0", "run 1", "start 2", "run 2", "run 3", "run 4", "run 5",
                                    "eval 6", "finish 2", "save 6"));
  journal_.clear();
  keeper_.saved.clear();
  observers_ = {&watcher};
  run_well();
  EXPECT_THAT(journal_, ::testing::Contains("w skipped 4"));
  EXPECT_THAT(keeper_.saved, ElementsAre(2, 6));
}

TEST_F(StepLoopBehind, AStopWaitsAndSavesNoStepTwice) {
  engine_.peer_stops_at = 1;
  keeper_.is_slow = true;
  LoopReport report = run_well();
  EXPECT_THAT(journal_, ElementsAre("run 0", "run 1", "start 2", "finish 2"));
  EXPECT_EQ(report.last_save->num_steps, 2);
}

TEST_F(StepLoopBehind, AFailedSaveIsToldAndTheStopSavesAgain) {
  engine_.peer_stops_at = 1;
  keeper_.is_slow = true;
  keeper_.fails_at = {2};
  EXPECT_EQ(run().status().code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(journal_, ElementsAre("run 0", "run 1", "start 2", "finish 2", "save 2"));
}

TEST_F(StepLoopBehind, AFailureInTheMiddleDoesNotEndTheRun) {
  Watcher watcher(&journal_, "w");
  observers_ = {&watcher};
  keeper_.fails_at = {2};
  run_well();
  EXPECT_THAT(journal_, ::testing::Contains("w not saved 2 at 3"));
  EXPECT_THAT(keeper_.saved, ElementsAre(4, 6));
}

TEST_F(StepLoopBehind, ALostPeerEndsTheRun) {
  keeper_.breaks_at = 2;
  EXPECT_EQ(run().status().code(), StatusCode::kPeerFailure);
}

TEST_F(StepLoopBehind, ARollBackWaitsForTheSaveThatItMayGoBackTo) {
  engine_.bad_times[3] = 1;
  keeper_.is_slow = true;
  options_.end_step = 5;
  options_.on_nonfinite = OnNonFinite::kRollBack;
  run_well();
  EXPECT_THAT(journal_, ElementsAre("start 0", "run 0", "run 1", "finish 0", "start 2", "run 2",
                                    "run 3", "finish 2", "back 2", "run 2", "skip 3", "start 4",
                                    "run 4", "eval 5", "finish 4", "save 5"));
}

}  // namespace
}  // namespace lockstep
