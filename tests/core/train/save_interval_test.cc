// How often to save: the optimum against the model it comes from, bounds by properties.
#include "lockstep/core/train/save_interval.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "lockstep/core/base/check.h"

namespace lockstep {
namespace {

// Run time over compute time, with failures of exponential distances (Daly 2006, the complete
// cost function without restarts): a segment of `interval_s` and its save is repeated until no
// failure comes in between.
double slowdown(double interval_s, double cost_s, double mtbf_s) {
  return mtbf_s / interval_s * std::expm1((interval_s + cost_s) / mtbf_s);
}

TEST(LeastLoss, MatchesTheFiguresOfItsSource) {
  // Captions of figures 3 to 5 of Daly 2006; saves of 5 minutes.
  EXPECT_NEAR(least_loss_interval_s(300, 24 * 3600) / 60, 117, 0.5);
  EXPECT_NEAR(least_loss_interval_s(300, 6 * 3600) / 60, 57, 0.5);
  EXPECT_NEAR(least_loss_interval_s(300, 15 * 60) / 60, 9.1, 0.05);
}

TEST(LeastLoss, NoOtherIntervalOfTheModelIsBetter) {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> decades(-4, std::log10(0.5));
  for (int round = 0; round < 2000; ++round) {
    const double mtbf = 3600 * std::pow(10.0, decades(random) + 4);
    const double cost = mtbf * std::pow(10.0, decades(random));
    const double chosen = slowdown(least_loss_interval_s(cost, mtbf), cost, mtbf);
    for (double factor = 0.05; factor < 20; factor *= 1.1) {
      const double other = slowdown(factor * least_loss_interval_s(cost, mtbf), cost, mtbf);
      // The series ends after its second term: a thousandth of the time is what it leaves.
      EXPECT_GE(other, chosen * 0.999) << "cost " << cost << " mtbf " << mtbf << " x " << factor;
    }
  }
}

TEST(PlanSaveInterval, KeepsItsBounds) {
  std::mt19937_64 random(2);
  std::uniform_real_distribution<double> decades(-4, 4), share(0.0005, 0.5);
  for (int round = 0; round < 20000; ++round) {
    SaveCosts costs;
    costs.step_s = std::pow(10.0, decades(random));
    costs.stall_s = std::pow(10.0, decades(random)) * 1e-2;
    costs.save_s = costs.stall_s * (1 + share(random) * 100);
    const IntervalTerms terms{std::pow(10.0, decades(random)) * 3600, share(random)};
    const PlannedInterval planned = plan_save_interval(costs, terms);
    ASSERT_GE(planned.steps, 1);
    const double interval_s = static_cast<double>(planned.steps) * costs.step_s;
    EXPECT_LE(costs.stall_s / (interval_s + costs.stall_s), terms.max_overhead * (1 + 1e-9));
    EXPECT_GE(interval_s, costs.save_s * (1 - 1e-9));
    // Nothing but a bound moves it away from the optimum.
    const double best =
        std::max(1.0, least_loss_interval_s(costs.stall_s, terms.mtbf_s) / costs.step_s);
    if (planned.bound == IntervalBound::kLeastLoss || planned.bound == IntervalBound::kOneStep)
      EXPECT_NEAR(static_cast<double>(planned.steps), best, 0.5001);
    else
      EXPECT_GT(static_cast<double>(planned.steps), best - 0.5001);
    // What is dearer is not done more often; what fails more often is not saved less often.
    SaveCosts dearer = costs;
    dearer.save_s *= 2;
    EXPECT_GE(plan_save_interval(dearer, terms).steps, planned.steps);
    EXPECT_LE(plan_save_interval(costs, {terms.mtbf_s / 2, terms.max_overhead}).steps,
              planned.steps);
    EXPECT_LE(plan_save_interval(costs, {terms.mtbf_s, terms.max_overhead * 1.5}).steps,
              planned.steps);
  }
}

TEST(PlanSaveInterval, SaysWhatDecided) {
  const IntervalTerms day{24 * 3600, 0.01};
  EXPECT_EQ(plan_save_interval({1, 5, 5}, day).bound, IntervalBound::kLeastLoss);
  EXPECT_EQ(plan_save_interval({1, 500, 500}, day).bound, IntervalBound::kMaxOverhead);
  EXPECT_EQ(plan_save_interval({1, 0.001, 900}, day).bound, IntervalBound::kSaveDuration);
  EXPECT_EQ(plan_save_interval({900, 0.001, 1}, day).bound, IntervalBound::kOneStep);
  EXPECT_EQ(plan_save_interval({1, 0, 0}, day).steps, 1);
  EXPECT_STREQ(interval_bound_text(IntervalBound::kSaveDuration), "save_duration");
}

TEST(PlanSaveInterval, TermsThatMakeNoSenseAreTheCallersMistake) {
  EXPECT_THROW(plan_save_interval({1, 1, 1}, {0, 0.01}), UsageError);
  EXPECT_THROW(plan_save_interval({1, 1, 1}, {1, 1}), UsageError);
  EXPECT_THROW(plan_save_interval({1, -1, 1}, {1, 0.5}), UsageError);
  EXPECT_THROW(plan_save_interval({1, std::nan(""), 1}, {1, 0.5}), UsageError);
}

class Chooser : public ::testing::Test {
 protected:
  void steps(int count, double ms) {
    for (int i = 0; i < count; ++i) chooser_.add_step(ms);
  }
  IntervalChooser chooser_{{24 * 3600, 0.01}};
};

TEST_F(Chooser, WantsNothingBeforeAStepAndASave) {
  EXPECT_EQ(chooser_.wanted_steps(), 0);
  steps(1, 100);
  EXPECT_EQ(chooser_.wanted_steps(), 0);
  chooser_.add_save(1000, 1000);
  const int64_t expected = plan_save_interval({0.1, 1, 1}, {24 * 3600, 0.01}).steps;
  EXPECT_EQ(chooser_.wanted_steps(), expected);
  EXPECT_THAT(chooser_.why(), ::testing::HasSubstr("least_loss: a step takes 100.00 ms"));
}

TEST_F(Chooser, OneSlowStepOrSaveChangesNothing) {
  steps(20, 100);
  chooser_.add_save(1000, 2000);
  chooser_.add_save(1000, 2000);
  const int64_t wanted = chooser_.wanted_steps();
  chooser_.add_step(60000);
  chooser_.add_save(1000, 2000);
  chooser_.add_save(50000, 51000);
  EXPECT_EQ(chooser_.wanted_steps(), wanted);
}

TEST_F(Chooser, FollowsAChangeThatStays) {
  steps(20, 100);
  chooser_.add_save(1000, 1000);
  chooser_.add_save(1000, 1000);
  const int64_t wanted = chooser_.wanted_steps();
  steps(64, 110);
  EXPECT_EQ(chooser_.wanted_steps(), wanted) << "a tenth is not worth a change";
  steps(64, 200);
  EXPECT_NEAR(static_cast<double>(chooser_.wanted_steps()), static_cast<double>(wanted) / 2, 1);
  for (int i = 0; i < 5; ++i) chooser_.add_save(4000, 4000);
  EXPECT_GT(chooser_.wanted_steps(), wanted * 9 / 10);
  EXPECT_EQ(chooser_.costs().stall_s, 4);
  EXPECT_EQ(chooser_.planned().steps, chooser_.wanted_steps());
}

TEST_F(Chooser, TheFirstSaveDoesNotCountOnceThereIsAnother) {
  steps(20, 100);
  chooser_.add_save(9000, 9000);
  const int64_t first = chooser_.wanted_steps();
  chooser_.add_save(1000, 1000);
  EXPECT_LT(chooser_.wanted_steps(), first);
  EXPECT_EQ(chooser_.costs().stall_s, 1);
}

}  // namespace
}  // namespace lockstep
