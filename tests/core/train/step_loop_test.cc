// The step loop against seams that only write down what they were asked (step_loop_fakes.h).
#include "lockstep/core/train/step_loop.h"

#include "step_loop_fakes.h"

namespace lockstep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

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
  LoopReport report =
      run_well([] { return ++questions == 4 ? std::optional<double>(0) : std::nullopt; });
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

}  // namespace
}  // namespace lockstep
