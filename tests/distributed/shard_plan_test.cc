#include "lockstep/distributed/shard_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "lockstep/core/base/check.h"
#include "lockstep/distributed/bucketer.h"

namespace lockstep {
namespace {

TEST(Bucketer, CutsFromTheEnd) {
  EXPECT_EQ(plan_buckets(10, 4), (std::vector<BlockRun>{{6, 10}, {2, 6}, {0, 2}}));
  EXPECT_EQ(plan_buckets(4, 4), (std::vector<BlockRun>{{0, 4}}));
  EXPECT_EQ(plan_buckets(3, 100), (std::vector<BlockRun>{{0, 3}}));
  EXPECT_TRUE(plan_buckets(0, 4).empty());
  EXPECT_THROW(plan_buckets(4, 0), UsageError);
}

TEST(Bucketer, ConvertsBytesToBlocks) {
  EXPECT_EQ(blocks_per_bucket(1 << 20, 4), 16);
  EXPECT_EQ(blocks_per_bucket(1 << 20, 8), 8);
  EXPECT_EQ(blocks_per_bucket(0, 4), 1);
}

TEST(ShardPlan, ReversesBitsForPowersOfTwo) {
  ShardPlan plan = ShardPlan::plan({{0, 8}}, 8);
  const int expected[] = {0, 4, 2, 6, 1, 5, 3, 7};
  for (int rank = 0; rank < 8; ++rank) {
    EXPECT_EQ(plan.piece_index(rank), expected[rank]);
    EXPECT_EQ(plan.piece(0, rank), (BlockRun{expected[rank], expected[rank] + 1}));
  }
  EXPECT_EQ(ShardPlan::plan({{0, 6}}, 6).piece_index(5), 5);
}

TEST(ShardPlan, RefusesBucketsWithGaps) {
  EXPECT_THROW(ShardPlan::plan({{5, 8}, {0, 4}}, 2), UsageError);
  EXPECT_THROW(ShardPlan::plan({{4, 8}, {1, 4}}, 2), UsageError);
  EXPECT_THROW(ShardPlan::plan({{0, 4}, {4, 8}}, 2), UsageError);
  EXPECT_THROW(ShardPlan::plan({{4, 4}, {0, 4}}, 2), UsageError);
  EXPECT_THROW(ShardPlan::plan({}, 2), UsageError);
  EXPECT_THROW(ShardPlan::plan({{0, 4}}, 0), UsageError);
}

/// Covers each block once, in each view of the plan, and balances ranks.
void check_properties(const std::vector<BlockRun>& buckets, int world_size) {
  ShardPlan plan = ShardPlan::plan(buckets, world_size);
  std::vector<int> owner(static_cast<size_t>(plan.num_blocks()), -1);
  std::vector<int64_t> counts(static_cast<size_t>(world_size));
  for (int rank = 0; rank < world_size; ++rank) {
    int64_t previous_end = -1;
    for (const BlockRun& run : plan.owned(rank)) {
      ASSERT_GT(run.num_blocks(), 0);
      ASSERT_GT(run.first, previous_end) << "ascending, and merged when adjacent";
      previous_end = run.end;
      for (int64_t block = run.first; block < run.end; ++block) {
        ASSERT_EQ(owner[static_cast<size_t>(block)], -1) << "block " << block << " owned twice";
        owner[static_cast<size_t>(block)] = rank;
      }
      counts[static_cast<size_t>(rank)] += run.num_blocks();
    }
    ASSERT_EQ(plan.num_owned_blocks(rank), counts[static_cast<size_t>(rank)]);
  }
  for (int64_t block = 0; block < plan.num_blocks(); ++block) {
    ASSERT_NE(owner[static_cast<size_t>(block)], -1) << "block " << block << " owned by nobody";
    ASSERT_EQ(plan.owner_of(block), owner[static_cast<size_t>(block)]);
  }
  auto [least, most] = std::minmax_element(counts.begin(), counts.end());
  ASSERT_LE(*most - *least, 1) << "world " << world_size << " buckets " << buckets.size();
  for (int b = 0; b < plan.num_buckets(); ++b) {
    int64_t end = plan.bucket(b).first;
    for (int p = 0; p < world_size; ++p) {
      BlockRun piece = plan.pieces(b, p, p + 1);
      ASSERT_EQ(piece.first, end);
      ASSERT_GE(piece.num_blocks(), plan.bucket(b).num_blocks() / world_size);
      ASSERT_LE(piece.num_blocks(), plan.bucket(b).num_blocks() / world_size + 1);
      end = piece.end;
    }
    ASSERT_EQ(end, plan.bucket(b).end);
  }
}

TEST(ShardPlan, CoversOnceAndBalancesForAllWorldsUpTo40) {
  std::mt19937 random(20261122);
  for (int world_size = 1; world_size <= 40; ++world_size) {
    for (int64_t num_blocks : {int64_t{1}, int64_t{2}, int64_t{world_size}, int64_t{97}}) {
      check_properties(plan_buckets(num_blocks, 1), world_size);
      check_properties(plan_buckets(num_blocks, num_blocks), world_size);
    }
    for (int i = 0; i < 20; ++i) {
      auto num_blocks = static_cast<int64_t>(1 + random() % 500);
      auto per_bucket = static_cast<int64_t>(1 + random() % 60);
      check_properties(plan_buckets(num_blocks, per_bucket), world_size);
    }
  }
}

TEST(ShardPlan, CoversOnceForUnevenBuckets) {
  std::mt19937 random(7);
  for (int i = 0; i < 200; ++i) {
    std::vector<BlockRun> ascending;
    int64_t end = 0;
    for (size_t b = 0; b < 1 + random() % 12; ++b) {
      int64_t first = end;
      end += static_cast<int64_t>(1 + random() % 40);
      ascending.push_back({first, end});
    }
    std::reverse(ascending.begin(), ascending.end());
    check_properties(ascending, static_cast<int>(1 + random() % 40));
  }
}

}  // namespace
}  // namespace lockstep
