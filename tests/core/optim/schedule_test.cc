#include "lockstep/core/optim/schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace lockstep {
namespace {

using ::testing::HasSubstr;

TEST(Schedule, ConstantIsOne) {
  for (const int64_t step : {0, 1, 1000000}) EXPECT_EQ(learning_rate_factor({}, step), 1.0);
}

TEST(Schedule, WarmupRisesLinearlyToOne) {
  for (const ScheduleKind kind : {ScheduleKind::kConstant, ScheduleKind::kCosine,
                                  ScheduleKind::kLinear, ScheduleKind::kStep}) {
    const ScheduleSpec spec{.kind = kind, .warmup_steps = 4, .total_steps = 20, .step_every = 5};
    EXPECT_EQ(learning_rate_factor(spec, 0), 0.25);
    EXPECT_EQ(learning_rate_factor(spec, 1), 0.5);
    EXPECT_EQ(learning_rate_factor(spec, 3), 1.0);
    EXPECT_EQ(learning_rate_factor(spec, 4), 1.0);
  }
}

TEST(Schedule, CosineGoesFromOneOverTheMeanToTheFinalFactor) {
  const ScheduleSpec spec{
      .kind = ScheduleKind::kCosine, .warmup_steps = 10, .total_steps = 110, .final_factor = 0.2};
  EXPECT_EQ(learning_rate_factor(spec, 10), 1.0);
  EXPECT_NEAR(learning_rate_factor(spec, 35), 0.2 + 0.8 * (1 + std::sqrt(0.5)) / 2, 1e-15);
  EXPECT_NEAR(learning_rate_factor(spec, 60), 0.6, 1e-15);
  EXPECT_NEAR(learning_rate_factor(spec, 110), 0.2, 1e-15);
  EXPECT_EQ(learning_rate_factor(spec, 5000), learning_rate_factor(spec, 110));
  for (int64_t step = 10; step < 110; ++step)
    ASSERT_GT(learning_rate_factor(spec, step), learning_rate_factor(spec, step + 1));
}

TEST(Schedule, LinearGoesStraightToTheFinalFactor) {
  const ScheduleSpec spec{.kind = ScheduleKind::kLinear, .total_steps = 8, .final_factor = 0.5};
  EXPECT_EQ(learning_rate_factor(spec, 0), 1.0);
  EXPECT_EQ(learning_rate_factor(spec, 4), 0.75);
  EXPECT_EQ(learning_rate_factor(spec, 8), 0.5);
  EXPECT_EQ(learning_rate_factor(spec, 9), 0.5);
}

TEST(Schedule, StepFallsEveryFewSteps) {
  const ScheduleSpec spec{
      .kind = ScheduleKind::kStep, .warmup_steps = 2, .step_every = 3, .step_factor = 0.5};
  const double expected[] = {0.5, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25};
  for (int64_t step = 0; step < 9; ++step)
    EXPECT_EQ(learning_rate_factor(spec, step), expected[step]) << step;
}

TEST(Schedule, RefusesWhatMakesNoSenseAndNamesTheField) {
  const auto message = [](const ScheduleSpec& spec) {
    const Status status = check_schedule(spec);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    return status.message();
  };
  EXPECT_THAT(message({.warmup_steps = -1}), HasSubstr("warmup_steps"));
  EXPECT_THAT(message({.kind = ScheduleKind::kCosine, .warmup_steps = 5, .total_steps = 5}),
              HasSubstr("total_steps"));
  EXPECT_THAT(message({.kind = ScheduleKind::kLinear, .final_factor = -0.1}),
              HasSubstr("final_factor"));
  EXPECT_THAT(message({.kind = ScheduleKind::kCosine, .final_factor = std::nan("")}),
              HasSubstr("final_factor"));
  EXPECT_THAT(message({.kind = ScheduleKind::kStep, .step_every = 0}), HasSubstr("step_every"));
  EXPECT_THAT(message({.kind = ScheduleKind::kStep, .step_factor = 0}), HasSubstr("step_factor"));
  EXPECT_TRUE(check_schedule({}).is_ok());
  EXPECT_THROW(learning_rate_factor({}, -1), UsageError);
}

TEST(Schedule, NamesRoundTrip) {
  for (const ScheduleKind kind :
       {ScheduleKind::kConstant, ScheduleKind::kCosine, ScheduleKind::kLinear, ScheduleKind::kStep})
    EXPECT_EQ(parse_schedule_kind(schedule_kind_name(kind)), kind);
  EXPECT_EQ(parse_schedule_kind("cosin"), std::nullopt);
}

}  // namespace
}  // namespace lockstep
