#include "lockstep/core/data/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "lockstep/core/base/check.h"

namespace lockstep {
namespace {

TEST(Rng, RepeatsForTheSameKeyAndDiffersForOthers) {
  Rng a(1, 2), b(1, 2), other_seed(2, 2), other_sample(1, 3), swapped(2, 1);
  for (int i = 0; i < 100; ++i) {
    uint64_t value = a.next_u64();
    EXPECT_EQ(value, b.next_u64());
    EXPECT_NE(value, other_seed.next_u64());
    EXPECT_NE(value, other_sample.next_u64());
    EXPECT_NE(value, swapped.next_u64());
  }
}

TEST(Rng, UniformFillsTheUnitInterval) {
  Rng rng(1, 1);
  constexpr int kDraws = 100'000;
  double sum = 0;
  for (int i = 0; i < kDraws; ++i) {
    double value = rng.next_uniform();
    ASSERT_GE(value, 0);
    ASSERT_LT(value, 1);
    sum += value;
  }
  // Standard deviation of the mean: sqrt(1/12/n) = 0.0009.
  EXPECT_NEAR(sum / kDraws, 0.5, 6 * 0.0009);
}

TEST(Rng, BelowHitsEveryValueEquallyOften) {
  Rng rng(1, 1);
  constexpr int kDraws = 70'000;
  std::vector<int> counts(7);
  for (int i = 0; i < kDraws; ++i) ++counts.at(rng.next_below(7));
  // Binomial: mean 10000, standard deviation 93.
  for (int count : counts) EXPECT_NEAR(count, kDraws / 7, 6 * 93);
  EXPECT_EQ(rng.next_below(1), 0U);
  EXPECT_THROW(rng.next_below(0), UsageError);
}

TEST(Rng, NormalHasMeanZeroAndVarianceOne) {
  Rng rng(1, 1);
  constexpr int kDraws = 100'000;
  double sum = 0, square_sum = 0;
  for (int i = 0; i < kDraws; ++i) {
    double value = rng.next_normal();
    sum += value;
    square_sum += value * value;
  }
  EXPECT_NEAR(sum / kDraws, 0, 6 / std::sqrt(kDraws));
  EXPECT_NEAR(square_sum / kDraws, 1, 0.03);
}

}  // namespace
}  // namespace lockstep
