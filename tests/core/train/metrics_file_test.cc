// What the lines of metrics.jsonl say, and when they are written.
#include "lockstep/core/train/metrics_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "metrics_fixture.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST_F(Metrics, LinesSayWhatHappened) {
  auto metrics = open(0);
  StepRecord step = step_record(4);
  step.epoch = 1;
  step.is_applied = false;
  ASSERT_TRUE(metrics->on_step(step).is_ok());
  EvalRecord eval;
  eval.num_steps = 5;
  eval.accuracy = 0.75;
  ASSERT_TRUE(metrics->on_evaluation(eval).is_ok());
  SaveRecord save;
  save.num_steps = 4;  // behind training
  save.told_after_steps = 5;
  save.generation = 7;
  save.state_digest = "abc";
  ASSERT_TRUE(metrics->on_save(save).is_ok());
  save.status = io_error("no luck");
  ASSERT_TRUE(metrics->on_save(save).is_ok());
  ASSERT_TRUE(metrics->close().is_ok());
  std::vector<Json> found = lines();
  ASSERT_EQ(found.size(), 4u);
  for (const Json& line : found) EXPECT_GT(line["unix_s"].get<double>(), 1.7e9);
  EXPECT_EQ(found[0]["event"], "step");
  EXPECT_EQ(found[0]["num_steps"], 5);
  EXPECT_EQ(found[0]["epoch"], 1);
  EXPECT_EQ(found[0]["loss"].get<double>(), step.loss) << "the same bits";
  EXPECT_EQ(found[0]["is_applied"], false);
  EXPECT_EQ(found[1]["accuracy"], 0.75);
  EXPECT_EQ(found[2]["status"], "durable");
  EXPECT_EQ(found[2]["generation"], 7);
  EXPECT_EQ(found[2]["num_steps"], 5);
  EXPECT_EQ(found[2]["saved_num_steps"], 4);
  EXPECT_EQ(found[3]["status"], "failed");
  EXPECT_THAT(found[3]["error"].get<std::string>(), HasSubstr("no luck"));
}

TEST_F(Metrics, ASavesLineSaysWhatItCostAndHowFarItCame) {
  auto metrics = open(0);
  SaveRecord save;
  save.is_behind = true;
  save.reached = SaveWord::kDurable;
  save.stall_ms = 2;
  save.figures = {.plan_ms = 1,
                  .stage_ms = 2,
                  .write_ms = 3,
                  .sync_ms = 4,
                  .vote_ms = 5,
                  .commit_ms = 6,
                  .own_bytes = 2000,
                  .total_bytes = 5000,
                  .unique_bytes = 4000,
                  .io = "buffered",
                  .ranks = {{2000, 1, 0.5, 0.5}, {3000, 1, 1, 2}}};
  ASSERT_TRUE(metrics->on_save(save).is_ok());
  save.status = io_error("no luck");
  save.reached = SaveWord::kStaged;
  save.figures.ranks.clear();
  ASSERT_TRUE(metrics->on_save(save).is_ok());
  save.is_unknown = true;
  ASSERT_TRUE(metrics->on_save(save).is_ok());
  save.is_skipped = true;
  ASSERT_TRUE(metrics->on_save(save).is_ok());
  ASSERT_TRUE(metrics->on_interval({7, 30, 10, "because"}).is_ok());
  ASSERT_TRUE(metrics->close().is_ok());
  const std::vector<Json> found = lines();
  ASSERT_EQ(found.size(), 5u);
  const Json& line = found[0];
  EXPECT_EQ(line["status"], "durable");
  EXPECT_EQ(line["reached"], "durable");
  EXPECT_EQ(line["mode"], "async");
  EXPECT_EQ(line["stall_ms"], 2);
  const char* phases[] = {"plan_ms", "stage_ms", "write_ms", "sync_ms", "vote_ms", "commit_ms"};
  for (int i = 0; i < 6; ++i) EXPECT_EQ(line[phases[i]], i + 1) << phases[i];
  EXPECT_EQ(line["bytes"], (Json{{"own", 2000}, {"total", 5000}, {"unique", 4000}}));
  EXPECT_EQ(line["io"], "buffered");
  EXPECT_EQ(line["gb_per_s"], (Json{{"min", 0.001}, {"median", 0.0015}, {"max", 0.002}}));
  EXPECT_EQ(line["slowest_rank"], (Json{{"rank", 1}, {"ms", 3.0}, {"gb_per_s", 0.001}}));
  EXPECT_EQ(line["written_per_unique"], 1.25);
  EXPECT_EQ(line["largest_per_mean"], 1.2);
  EXPECT_EQ(found[1]["status"], "failed");
  EXPECT_EQ(found[1]["reached"], "staged");
  EXPECT_FALSE(found[1].contains("gb_per_s"));
  EXPECT_EQ(found[2]["status"], "unknown");
  EXPECT_EQ(found[3]["status"], "skipped");
  EXPECT_FALSE(found[3].contains("stall_ms"));
  EXPECT_EQ(found[4]["event"], "save_interval");
  EXPECT_EQ(found[4]["steps"], 30);
  EXPECT_EQ(found[4]["was"], 10);
  EXPECT_EQ(found[4]["why"], "because");
}

TEST_F(Metrics, NumbersThatAreNotFiniteAreNull) {
  auto metrics = open(0);
  StepRecord step = step_record(0);
  step.loss = std::numeric_limits<double>::quiet_NaN();
  step.gradient_norm = std::numeric_limits<double>::infinity();
  ASSERT_TRUE(metrics->on_step(step).is_ok());
  EvalRecord eval;
  eval.loss = -std::numeric_limits<double>::infinity();
  ASSERT_TRUE(metrics->on_evaluation(eval).is_ok());
  ASSERT_TRUE(metrics->close().is_ok());
  EXPECT_TRUE(lines()[0]["loss"].is_null());
  EXPECT_TRUE(lines()[0]["gradient_norm"].is_null());
  EXPECT_TRUE(lines()[1]["loss"].is_null());
}

TEST_F(Metrics, TextThatIsNotUtf8IsStillALine) {
  auto metrics = open(0);
  ASSERT_TRUE(metrics->on_roll_back(0, "path \xff\xfe").is_ok());
  SaveRecord save;
  save.status = io_error("/data/\xff");
  ASSERT_TRUE(metrics->on_save(save).is_ok());
  ASSERT_TRUE(metrics->close().is_ok());
  EXPECT_EQ(lines().size(), 2u);
}

TEST_F(Metrics, AStepThatWasLeftOutSaysWhy) {
  auto metrics = open(0);
  StepRecord record = step_record(0);
  record.is_applied = false;
  record.bad_numbers = "step 0, micro-batch 2 (samples 5, 7): the loss is nan";
  ASSERT_TRUE(metrics->on_step(record).is_ok());
  ASSERT_TRUE(metrics->on_step(step_record(1)).is_ok());
  ASSERT_TRUE(metrics->close().is_ok());
  EXPECT_EQ(lines()[0]["reason"], record.bad_numbers);
  EXPECT_FALSE(lines()[1].contains("reason"));
}

TEST_F(Metrics, TellsOfTheLastDurableCheckpoint) {
  EXPECT_EQ(*MetricsFile::last_durable_steps(fs_, kPath), std::nullopt);
  auto metrics = open(0);
  write_steps(*metrics, 0, 9);
  ASSERT_TRUE(metrics->flush().is_ok());
  EXPECT_EQ(*MetricsFile::last_durable_steps(fs_, kPath), std::nullopt);
  for (const int64_t step : {4, 6, 8}) {
    SaveRecord save;
    save.num_steps = step;
    save.told_after_steps = 9;
    if (step == 8) save.status = io_error("planned");
    ASSERT_TRUE(metrics->on_save(save).is_ok());
  }
  SaveRecord skipped;
  skipped.num_steps = skipped.told_after_steps = 9;
  skipped.is_skipped = true;
  ASSERT_TRUE(metrics->on_save(skipped).is_ok());
  EXPECT_EQ(*MetricsFile::last_durable_steps(fs_, kPath), 6);
  put(text() + R"({"event":"save","num_steps":9,"status":"durab)");
  EXPECT_EQ(*MetricsFile::last_durable_steps(fs_, kPath), 6);
}

// A full disk costs a run its saves, not the run; and none of its lines, once there is room again.
TEST_F(Metrics, LinesWaitForRoomOnAFullDisk) {
  auto metrics = open(0);
  write_steps(*metrics, 0, 3);
  ASSERT_TRUE(sync(*metrics).is_ok());
  const std::string whole_lines = text();
  fs_.set_capacity_bytes(whole_lines.size() + 20);
  write_steps(*metrics, 3, 2000);
  EvalRecord eval;
  eval.num_steps = 2000;
  ASSERT_TRUE(metrics->on_evaluation(eval).is_ok());
  EXPECT_EQ(metrics->flush().code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(metrics->sync_flushed().is_ok());
  EXPECT_EQ(text(), whole_lines) << "no torn line stays behind";
  SaveRecord save;
  save.num_steps = save.told_after_steps = 2000;
  save.status = metrics->flush();
  ASSERT_TRUE(metrics->on_save(save).is_ok());
  fs_.set_capacity_bytes(1 << 30);
  write_steps(*metrics, 2000, 2001);
  ASSERT_TRUE(metrics->close().is_ok());
  EXPECT_EQ(numbers("step").size(), 2001u);
  EXPECT_EQ(lines().size(), 2003u);
  open(2001);
}

TEST_F(Metrics, LinesThatFindNoRoomForEverEndTheRun) {
  auto metrics = open(0);
  fs_.set_capacity_bytes(0);
  const std::string long_reason(1 << 20, 'x');
  Status status;
  size_t num_lines = 0;
  for (; status.is_ok() && num_lines < 100; ++num_lines) {
    StepRecord record = step_record(static_cast<int64_t>(num_lines));
    record.bad_numbers = long_reason;
    status = metrics->on_step(record);
  }
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(num_lines, MetricsFile::kMaxPendingBytes / long_reason.size());
  EXPECT_EQ(metrics->close().code(), StatusCode::kResourceExhausted);
}

TEST_F(Metrics, ManyLinesAreWrittenBeforeTheyAreSynced) {
  auto metrics = open(0);
  write_steps(*metrics, 0, 2000);
  EXPECT_THAT(text(), ::testing::Not(IsEmpty()));
  ASSERT_TRUE(sync(*metrics).is_ok());
  EXPECT_EQ(numbers("step").size(), 2000u);
}

}  // namespace
}  // namespace lockstep
