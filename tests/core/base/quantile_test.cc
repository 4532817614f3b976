#include "lockstep/core/base/quantile.h"

#include <gtest/gtest.h>

namespace lockstep {
namespace {

TEST(Quantile, IsTheNearestOfTheSortedValues) {
  EXPECT_EQ(quantile({}, 0.5), 0);
  EXPECT_EQ(quantile({7}, 0.95), 7);
  EXPECT_EQ(quantile({3, 1, 2}, 0.5), 2);
  EXPECT_EQ(quantile({4, 1, 3, 2}, 0.5), 3);  // of two in the middle the upper one
  std::vector<double> hundred;
  for (int i = 100; i >= 0; --i) hundred.push_back(i);
  for (int i : {0, 5, 50, 95, 100}) EXPECT_EQ(quantile(hundred, i / 100.0), i);
}

}  // namespace
}  // namespace lockstep
