// The size of buckets: least time by the model of an exchange's cost, and the same on every rank.
#include "bucket_choice.h"

#include <gtest/gtest.h>

#include <mutex>
#include <set>

#include "distributed/test_settings.h"
#include "lockstep/distributed/world.h"

namespace lockstep {
namespace {

constexpr uint64_t kMib = 1 << 20;

// What a step's exchanges take that nothing hides, by the model that the choice is made with.
double cost_of(double bucket_bytes, double total_bytes, const ExchangeCost& cost) {
  return total_bytes / bucket_bytes * cost.latency_s + cost.latency_s +
         bucket_bytes * cost.s_per_byte;
}

TEST(BucketChoice, NoOtherSizeIsCheaper) {
  for (uint64_t total : {2 * kMib, 200 * kMib, 20000 * kMib}) {
    for (double latency_s : {5e-6, 50e-6, 1e-3}) {
      for (double s_per_byte : {2e-12, 3e-10, 8e-9, 8e-8}) {
        const ExchangeCost cost{latency_s, s_per_byte};
        const double best = best_bucket_bytes(total, cost);
        ASSERT_GE(best, 65536);
        ASSERT_LE(best, static_cast<double>(total));
        for (double factor : {0.5, 0.9, 1.1, 2.0}) {
          const double other = std::clamp(best * factor, 65536.0, static_cast<double>(total));
          EXPECT_LE(cost_of(best, static_cast<double>(total), cost),
                    cost_of(other, static_cast<double>(total), cost) * (1 + 1e-12));
        }
      }
    }
  }
}

TEST(BucketChoice, EveryRankGetsAsMuchOfABucket) {
  constexpr double kBlock = 65536;
  EXPECT_EQ(shared_evenly(3.4 * kBlock, 2), 4 * kBlock);
  EXPECT_EQ(shared_evenly(2.9 * kBlock, 2), 2 * kBlock);
  EXPECT_EQ(shared_evenly(kBlock, 2), 2 * kBlock);
  EXPECT_EQ(shared_evenly(100 * kBlock, 3), 99 * kBlock);
  EXPECT_EQ(shared_evenly(100 * kBlock, 256), 100 * kBlock);  // some get none of it
  EXPECT_EQ(shared_evenly(7.3 * kBlock, 1), 7 * kBlock);
}

TEST(BucketChoice, EndsAreRight) {
  EXPECT_EQ(best_bucket_bytes(5 * kMib, {1e-3, 0}), 5.0 * kMib);   // bytes cost nothing: all at once
  EXPECT_EQ(best_bucket_bytes(5 * kMib, {0, 1e-9}), 65536);        // latency costs nothing: blocks
  EXPECT_EQ(best_bucket_bytes(1000, {1e-3, 1e-9}), 1000);          // less than a block in all
}

TEST(BucketChoice, IsTheSameOnEveryRank) {
  for (int ranks : {2, 3, 4}) {
    std::mutex mutex;
    std::set<std::pair<double, double>> found;
    Status status = World::run_threads(
        ranks,
        [&](World& world) -> Status {
          LOCKSTEP_ASSIGN_OR_RETURN(
              const ExchangeCost cost,
              measure_exchange(world.communicator(), world.control_plane(), host_device(), {},
                               Deadline::after_s(30)));
          EXPECT_GE(cost.s_per_byte, 0);
          EXPECT_GE(cost.latency_s, 0);
          std::lock_guard lock(mutex);
          found.emplace(cost.latency_s, cost.s_per_byte);
          return Status::ok();
        },
        testing::quiet());
    EXPECT_TRUE(status.is_ok()) << status.to_string();
    EXPECT_EQ(found.size(), 1U);
  }
}

TEST(BucketChoice, ARankThatFailsFailsAll) {
  Status verdicts[2];
  World::run_threads(
      2,
      [&](World& world) -> Status {
        if (world.world_rank() == 1) world.communicator().abort("a test");
        verdicts[world.world_rank()] =
            measure_exchange(world.communicator(), world.control_plane(), host_device(), {},
                             Deadline::after_s(3))
                .status();
        return Status::ok();
      },
      testing::quiet())
      .ignore();
  for (const Status& verdict : verdicts) {
    EXPECT_FALSE(verdict.is_ok());
    EXPECT_NE(verdict.message().find("rank 1"), std::string::npos) << verdict.message();
  }
}

}  // namespace
}  // namespace lockstep
