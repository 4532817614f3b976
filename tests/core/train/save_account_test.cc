// What saves cost, rank by rank and over a run.
// Covers: save_record.cc
#include "lockstep/core/train/save_account.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "lockstep/core/train/save_record.h"

namespace lockstep {
namespace {

SaveRecord durable(int64_t num_steps, double stall_ms) {
  SaveRecord record;
  record.num_steps = num_steps;
  record.save_ms = record.stall_ms = stall_ms;
  return record;
}

TEST(SaveRecordWord, IsNeverAGuess) {
  SaveRecord record;
  EXPECT_EQ(record.word(), SaveWord::kDurable);
  record.status = io_error("no luck");
  EXPECT_EQ(record.word(), SaveWord::kFailed);
  record.is_unknown = true;
  EXPECT_EQ(record.word(), SaveWord::kUnknown);
  EXPECT_EQ(save_word_text(record.word()), "unknown");
  record.is_skipped = true;
  EXPECT_THROW(record.word(), UsageError);
}

TEST(SaveSpread, NamesTheSlowestRankAndTheSpread) {
  SaveFigures figures;
  figures.unique_bytes = 8'000'000;
  figures.ranks = {{4'000'000, 0, 2, 0}, {2'000'000, 0, 3, 1}, {0, 0, 0, 0}, {2'000'000, 0, 1, 1}};
  const auto spread = spread_of(figures);
  ASSERT_TRUE(spread.has_value());
  EXPECT_DOUBLE_EQ(spread->min_gb_per_s, 0.5);
  EXPECT_DOUBLE_EQ(spread->median_gb_per_s, 1);
  EXPECT_DOUBLE_EQ(spread->max_gb_per_s, 2);
  EXPECT_EQ(spread->slowest_rank, 1);
  EXPECT_DOUBLE_EQ(spread->slowest_ms, 4);
  EXPECT_DOUBLE_EQ(spread->slowest_gb_per_s, 0.5);
  EXPECT_DOUBLE_EQ(spread->written_per_unique, 1);
  EXPECT_DOUBLE_EQ(spread->largest_per_mean, 2);
}

TEST(SaveSpread, IsNothingWhereNothingWasWritten) {
  EXPECT_FALSE(spread_of({}).has_value());
  SaveFigures figures;
  figures.ranks.resize(3);
  EXPECT_FALSE(spread_of(figures).has_value());
}

TEST(SaveSpread, HoldsForAnyRanks) {
  std::mt19937_64 random(4);
  for (int round = 0; round < 500; ++round) {
    SaveFigures figures;
    for (uint64_t rank = 0, count = 1 + random() % 9; rank < count; ++rank)
      figures.ranks.push_back(
          {1 + random() % 1000, 1, 0.001 * static_cast<double>(1 + random() % 1000), 0});
    const auto spread = spread_of(figures);
    ASSERT_TRUE(spread.has_value());
    EXPECT_LE(spread->min_gb_per_s, spread->median_gb_per_s);
    EXPECT_LE(spread->median_gb_per_s, spread->max_gb_per_s);
    EXPECT_GE(spread->largest_per_mean, 1 - 1e-12);
    EXPECT_EQ(spread->written_per_unique, 0) << "not known";
    for (const RankSaveFigures& each : figures.ranks) {
      EXPECT_LE(each.disk_ms(), spread->slowest_ms);
      EXPECT_GE(each.gb_per_s(), spread->min_gb_per_s);
    }
  }
}

class Account : public ::testing::Test {
 protected:
  void steps(int64_t first, int64_t end) {
    for (int64_t step = first; step < end; ++step) {
      StepRecord record;
      record.step = step;
      record.step_ms = 100;
      ASSERT_TRUE(account_.on_step(record).is_ok());
    }
  }
  void save(const SaveRecord& record) { ASSERT_TRUE(account_.on_save(record).is_ok()); }
  SaveAccount account_{5};
};

TEST_F(Account, CountsByWhatSavesCameTo) {
  SaveRecord bad = durable(6, 1);
  bad.status = io_error("no luck");
  save(bad);
  bad.is_unknown = true;
  save(bad);
  SaveRecord skipped;
  skipped.is_skipped = true;
  save(skipped);
  save(durable(6, 9));
  save(durable(7, 2));
  const SaveSummary summary = account_.summary(130);
  EXPECT_EQ(summary.num_durable, 2);
  EXPECT_EQ(summary.num_failed, 1);
  EXPECT_EQ(summary.num_unknown, 1);
  EXPECT_EQ(summary.num_skipped, 1);
  EXPECT_EQ(summary.num_saves(), 4);
  EXPECT_DOUBLE_EQ(summary.stall_ms_median, 1.5);
  EXPECT_DOUBLE_EQ(summary.stall_ms_worst, 9);
  EXPECT_DOUBLE_EQ(summary.stall_share, 0.1);
  EXPECT_EQ(account_.durable_steps(), 7);
}

TEST_F(Account, SaysWhatAFailureWouldCost) {
  steps(5, 9);
  save(durable(7, 1));  // behind training: two steps have been done since
  SaveSummary summary = account_.summary(1000);
  EXPECT_EQ(summary.at_risk_steps_now, 2);
  EXPECT_EQ(summary.at_risk_steps_most, 4);
  EXPECT_DOUBLE_EQ(summary.at_risk_s_most, 0.4);
  SaveRecord bad = durable(9, 1);
  bad.status = io_error("no luck");
  save(bad);
  EXPECT_EQ(account_.summary(1000).at_risk_steps_now, 2) << "a failed save protects nothing";
  save(durable(9, 1));
  summary = account_.summary(1000);
  EXPECT_EQ(summary.at_risk_steps_now, 0);
  EXPECT_EQ(summary.at_risk_s_now, 0);
  EXPECT_EQ(summary.at_risk_steps_most, 4);
}

TEST_F(Account, WritingBehindTrainingIsNotAStall) {
  SaveRecord record = durable(6, 10);
  record.is_behind = true;
  record.save_ms = 60;
  save(record);
  const SaveSummary summary = account_.summary(1000);
  EXPECT_DOUBLE_EQ(summary.behind_share, 0.05);
  EXPECT_DOUBLE_EQ(summary.stall_share, 0.01);
}

TEST_F(Account, ARollBackIsWhereTheCountBegins) {
  steps(5, 9);
  ASSERT_TRUE(account_.on_roll_back(5, "bad").is_ok());
  EXPECT_EQ(account_.summary(1000).at_risk_steps_now, 0);
  EXPECT_EQ(account_.summary(0).stall_share, 0);
}

}  // namespace
}  // namespace lockstep
