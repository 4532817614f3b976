// A stop at any moment: in a step, in an evaluation, during a save, before the first step, with too
// short a grace period.
// Covers: step_loop.cc
#include "lockstep/core/train/step_loop.h"

#include "step_loop_fakes.h"

namespace lockstep {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class StepLoopStop : public StepLoop {
 protected:
  // Told to stop, so many seconds ago, from the time on when `step` runs.
  StopQuestion told_at(int64_t step, double s_ago) {
    return [this, step, s_ago]() -> std::optional<double> {
      const std::string begun = cat("run ", step - 1);
      const bool is_told =
          step == 0 || std::find(journal_.begin(), journal_.end(), begun) != journal_.end();
      return is_told ? std::optional<double>(s_ago) : std::nullopt;
    };
  }
};

TEST_F(StepLoopStop, SavesAndSaysSo) {
  const LoopReport report = run_well(told_at(2, 0));
  EXPECT_EQ(report.end, LoopEnd::kStoppedBySignal);
  EXPECT_EQ(report.verdict, StopVerdict::kSaved);
  EXPECT_EQ(report.durable_steps, 3);
  EXPECT_EQ(report.num_steps, 3);
}

TEST_F(StepLoopStop, BeforeTheFirstStepRunsNothing) {
  options_.is_stopped = true;
  options_.on_nonfinite = OnNonFinite::kRollBack;
  LoopReport report = run_well();
  EXPECT_THAT(journal_, IsEmpty());
  EXPECT_EQ(report.end, LoopEnd::kStoppedBySignal);
  EXPECT_EQ(report.verdict, StopVerdict::kSaved);
  EXPECT_FALSE(report.durable_steps.has_value());
  options_.first_step = 4;
  options_.is_evaluated = false;
  options_.steps_per_epoch = 2;
  options_.eval_every_epochs = 1;
  report = run_well();
  EXPECT_THAT(journal_, IsEmpty());
  EXPECT_EQ(report.durable_steps, 4);
}

TEST_F(StepLoopStop, EndsAnEvaluationWhichTheNextStartMakesUpFor) {
  options_.steps_per_epoch = 2;
  options_.eval_every_epochs = 1;
  engine_.peer_stops_in_evaluation = 4;
  LoopReport report = run_well();
  EXPECT_THAT(journal_,
              ElementsAre("run 0", "run 1", "eval 2", "run 2", "run 3", "no eval 4", "save 4"));
  EXPECT_EQ(report.end, LoopEnd::kStoppedBySignal);
  EXPECT_EQ(report.verdict, StopVerdict::kSaved);
  EXPECT_EQ(keeper_.eval_at_save[4], 2);
  journal_.clear();
  engine_.peer_stops_in_evaluation = -1;
  options_.first_step = 4;
  options_.is_evaluated = false;
  run_well();
  EXPECT_THAT(journal_, ElementsAre("eval 4", "run 4", "run 5", "eval 6", "save 6"));
  journal_.clear();
  options_.first_step = 3;  // none is due there
  run_well();
  EXPECT_THAT(journal_[0], "run 3");
}

TEST_F(StepLoopStop, InTheLastEvaluationIsNotYetTheEnd) {
  engine_.peer_stops_in_evaluation = 6;
  LoopReport report = run_well();
  EXPECT_THAT(keeper_.saved, ElementsAre(6));
  EXPECT_EQ(report.end, LoopEnd::kStoppedBySignal);
  EXPECT_FALSE(report.last_eval.has_value());
  journal_.clear();
  options_.first_step = 6;
  run_well();
  EXPECT_THAT(journal_, ElementsAre("no eval 6"));
  journal_.clear();
  engine_.peer_stops_in_evaluation = -1;
  report = run_well();
  EXPECT_THAT(journal_, ElementsAre("eval 6"));
  EXPECT_EQ(report.end, LoopEnd::kDone);
}

TEST_F(StepLoopStop, InTheEvaluationThatIsMadeUpForLeavesWithWhatIsThere) {
  options_.first_step = 4;
  options_.is_evaluated = false;
  options_.steps_per_epoch = 2;
  options_.eval_every_epochs = 1;
  engine_.peer_stops_in_evaluation = 4;
  const LoopReport report = run_well();
  EXPECT_THAT(journal_, ElementsAre("no eval 4"));
  EXPECT_EQ(report.verdict, StopVerdict::kSaved);
  EXPECT_EQ(report.durable_steps, 4);
}

class StepLoopGrace : public StepLoopStop {
 protected:
  StepLoopGrace() {
    options_.end_step = 20;
    options_.save_every_steps = 4;
    options_.grace_s = 10;
    keeper_.save_ms = 4000;
  }
};

TEST_F(StepLoopGrace, IsLongEnough) {
  const LoopReport report = run_well(told_at(6, 5));
  EXPECT_EQ(report.verdict, StopVerdict::kSaved);
  EXPECT_EQ(report.durable_steps, 7);
}

TEST_F(StepLoopGrace, IsTooShortByTheTimeOfTheLastSaves) {
  const LoopReport report = run_well(told_at(6, 7));
  EXPECT_EQ(report.end, LoopEnd::kStoppedBySignal);
  EXPECT_EQ(report.verdict, StopVerdict::kPrevious);
  EXPECT_EQ(report.durable_steps, 4);
  EXPECT_EQ(report.num_steps, 7);
  EXPECT_EQ(report.expected_save_ms, 4000);
  EXPECT_THAT(keeper_.saved, ElementsAre(4));
}

TEST_F(StepLoopGrace, IsTooShortForAStepAndASave) {
  // 5.95 s are left: a step of 0.1 s and a save of 5.9 s do not fit.
  keeper_.save_ms = 5900;
  EXPECT_EQ(run_well(told_at(6, 4.05)).verdict, StopVerdict::kPrevious);
  journal_.clear();
  EXPECT_EQ(run_well(told_at(6, 3.95)).verdict, StopVerdict::kSaved);
}

TEST_F(StepLoopGrace, OneRankThatHasNoTimeDecidesForAll) {
  engine_.peer_stops_at = engine_.peer_has_no_time_at = 6;
  const LoopReport report = run_well();
  EXPECT_EQ(report.verdict, StopVerdict::kPrevious);
  EXPECT_EQ(report.durable_steps, 4);
}

TEST_F(StepLoopGrace, TriesWhereNothingWasMeasuredOrNothingIsDurable) {
  EXPECT_EQ(run_well(told_at(1, 9.99)).verdict, StopVerdict::kSaved) << "nothing measured";
  engine_.peer_stops_at = engine_.peer_has_no_time_at = 1;
  EXPECT_EQ(run_well().verdict, StopVerdict::kSaved) << "nothing durable";
}

TEST_F(StepLoopGrace, ASaveThatIsDueAtTheStopIsLeftOutToo) {
  const LoopReport report = run_well(told_at(7, 9));
  EXPECT_EQ(report.num_steps, 8);
  EXPECT_EQ(report.durable_steps, 4);
  EXPECT_THAT(keeper_.saved, ElementsAre(4));
}

TEST_F(StepLoopGrace, AtTheLastStepIsNotTheEnd) {
  engine_.polls_in_evaluation = false;
  options_.end_step = 7;
  const LoopReport report = run_well(told_at(6, 9));
  EXPECT_EQ(report.end, LoopEnd::kStoppedBySignal);
  EXPECT_EQ(report.verdict, StopVerdict::kPrevious);
  EXPECT_EQ(report.durable_steps, 4);
}

TEST_F(StepLoopGrace, ASaveUnderWayIsWaitedForAndMayBeThePrevious) {
  options_.saves_behind = true;
  keeper_.is_slow = true;
  const LoopReport report = run_well(told_at(9, 3));
  // 7 s are left for what remains of the save of step 8, a step, and a save of 4 s.
  EXPECT_EQ(report.verdict, StopVerdict::kPrevious);
  EXPECT_EQ(report.durable_steps, 8);
  EXPECT_THAT(journal_, Contains("finish 8"));
  EXPECT_THAT(keeper_.saved, ElementsAre(4, 8));
}

TEST_F(StepLoopGrace, EndsAnEvaluationWithThePreviousCheckpoint) {
  options_.steps_per_epoch = 6;
  options_.eval_every_epochs = 1;
  const LoopReport report = run_well([this]() -> std::optional<double> {
    const bool is_evaluating = !journal_.empty() && journal_.back() == "run 5";
    return is_evaluating ? std::optional<double>(8) : std::nullopt;
  });
  EXPECT_THAT(journal_.back(), "no eval 6");
  EXPECT_EQ(report.verdict, StopVerdict::kPrevious);
  EXPECT_EQ(report.durable_steps, 4);
}

TEST_F(StepLoopGrace, NotGivenMeansThatAStopAlwaysTries) {
  options_.grace_s = 0;
  EXPECT_EQ(run_well(told_at(6, 1e6)).verdict, StopVerdict::kSaved);
}

}  // namespace
}  // namespace lockstep
