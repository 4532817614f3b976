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

}  // namespace
}  // namespace lockstep
