// Saves that go on behind training, and saves at an interval that is chosen by measurement.
// Covers: step_loop.cc
#include "lockstep/core/train/step_loop.h"

#include "step_loop_fakes.h"

namespace lockstep {
namespace {

using ::testing::ElementsAre;

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

// A chooser that has seen steps of 100 ms and saves for which training waits 100 ms.
IntervalChooser chooser_of_slow_saves() {
  IntervalChooser chooser({/*mtbf_s=*/3600, /*max_overhead=*/0.1});
  chooser.add_step(100);
  chooser.add_save(100, 300);
  return chooser;
}

class StepLoopInterval : public StepLoop {
 protected:
  StepLoopInterval() {
    options_.chooses_interval = true;
    options_.end_step = 25;
  }
};

TEST_F(StepLoopInterval, SavesAtTheFirstIntervalUntilSomethingWasMeasured) {
  LoopReport report = run_well();
  EXPECT_THAT(keeper_.saved, ElementsAre(10, 20, 25));
  EXPECT_EQ(report.interval_steps, kFirstInterval);
}

TEST_F(StepLoopInterval, FollowsTheOneRankThatDecides) {
  IntervalChooser chooser = chooser_of_slow_saves();
  const int64_t wanted = chooser.wanted_steps();
  ASSERT_EQ(wanted, 268);
  Watcher watcher(&journal_, "w");
  observers_ = {&watcher};
  options_.end_step = 600;
  engine_.peer_wants_every = wanted;  // this rank has no chooser
  LoopReport report = run_well();
  EXPECT_EQ(report.interval_steps, wanted);
  EXPECT_THAT(keeper_.saved, ElementsAre(268, 536, 600));
  EXPECT_THAT(journal_, ::testing::Contains("w every 268 after 1"));
}

TEST_F(StepLoopInterval, TheRankThatDecidesFollowsToo) {
  IntervalChooser chooser = chooser_of_slow_saves();
  options_.chooser = &chooser;
  options_.end_step = 300;
  LoopReport report = run_well();
  EXPECT_THAT(keeper_.saved.front(), 268);
  // That save cost nothing, so from then on every step is worth one.
  EXPECT_EQ(report.interval_steps, 1);
  EXPECT_EQ(keeper_.saved[1], 269);
}

TEST_F(StepLoopInterval, AnEpochsSaveBeginsTheIntervalAnew) {
  options_.save_every_epochs = 1;
  options_.steps_per_epoch = 7;
  run_well();
  EXPECT_THAT(keeper_.saved, ElementsAre(7, 14, 21, 25));
}

TEST_F(StepLoopInterval, AResumedRunCountsFromWhereItBegan) {
  options_.first_step = 3;
  run_well();
  EXPECT_THAT(keeper_.saved, ElementsAre(13, 23, 25));
}

TEST_F(StepLoopInterval, WaitsForTheEndOfASaveAndTrainingDoesNot) {
  options_.saves_behind = true;
  for (int64_t step = 10; step < 23; ++step) engine_.peer_saves_at.insert(step);
  run_well();
  EXPECT_THAT(keeper_.saved, ElementsAre(10, 24, 25)) << "due after 20";
}

TEST_F(StepLoopInterval, GivenAndChosenAtOnceIsTheCallersMistake) {
  options_.save_every_steps = 2;
  EXPECT_THROW(run().status().ignore(), UsageError);
}

}  // namespace
}  // namespace lockstep
