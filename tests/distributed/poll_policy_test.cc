// When a polling wait looks at its deadline and when it yields.
#include "poll_policy.h"

#include <gtest/gtest.h>

namespace lockstep {
namespace {

constexpr int kLook = PollPolicy::kPollsPerLook;

TEST(PollPolicy, LooksOncePerSixtyFourIdlePolls) {
  PollPolicy policy(1000);
  for (int poll = 1; poll <= 10 * kLook; ++poll) {
    EXPECT_EQ(policy.after_poll(false).should_look, poll % kLook == 0) << "poll " << poll;
  }
}

TEST(PollPolicy, YieldsOnlyAfterARowOfIdlePolls) {
  PollPolicy policy(20);
  for (int row = 0; row < 3; ++row) {
    for (int poll = 1; poll <= 50; ++poll) {
      EXPECT_EQ(policy.after_poll(false).should_yield, poll > 20) << "row " << row << poll;
    }
    EXPECT_FALSE(policy.after_poll(true).should_yield);
  }
}

TEST(PollPolicy, LooksAlsoWhenProgressComesInATrickle) {
  PollPolicy policy(20);
  int num_looks = 0;
  for (int poll = 0; poll < 100 * kLook; ++poll) {
    if (policy.after_poll(poll % 10 == 0).should_look) ++num_looks;
  }
  EXPECT_EQ(num_looks, 90);
}

/// More idle polls than the policy's counters hold, many times over.
TEST(PollPolicy, KeepsLookingAndYieldingInAWaitOfAnyLength) {
  PollPolicy policy(20);
  constexpr int kPolls = 1 << 20;
  int num_looks = 0;
  int num_yields = 0;
  for (int poll = 0; poll < kPolls; ++poll) {
    PollPolicy::Advice advice = policy.after_poll(false);
    num_looks += advice.should_look ? 1 : 0;
    num_yields += advice.should_yield ? 1 : 0;
  }
  EXPECT_EQ(num_looks, kPolls / kLook);
  EXPECT_EQ(num_yields, kPolls - 20);
}

TEST(WireRate, KnowsNothingBeforeALongExchange) {
  WireRate rate;
  EXPECT_EQ(rate.usual_wait_ns(1 << 20), 0);
  rate.saw(WireRate::kMinBytes - 1, 1e9);
  EXPECT_EQ(rate.usual_wait_ns(1 << 20), 0) << "a short exchange says nothing";
  rate.saw(1 << 20, 8.0 * (1 << 20));
  EXPECT_EQ(rate.usual_wait_ns(1 << 10), 8.0 * (1 << 10));
  EXPECT_EQ(rate.usual_wait_ns(0), 0);
}

/// Some exchanges were there before the rank came, some had a late peer; the first one, too.
TEST(WireRate, IsTheMedianWhereverItBegan) {
  constexpr size_t kBytes = 1 << 20;
  for (double first_ns : {1.0, 1e12}) {
    WireRate rate;
    rate.saw(kBytes, first_ns);
    for (int round = 0; round < 200; ++round) {
      for (double ns_per_byte : {8.0, 8.1, 7.9, 0.0, 1e6}) rate.saw(kBytes, ns_per_byte * kBytes);
    }
    EXPECT_NEAR(rate.usual_wait_ns(kBytes) / kBytes, 8.0, 1.7);
  }
}

}  // namespace
}  // namespace lockstep
