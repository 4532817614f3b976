#include "host_layout.h"

#include <gtest/gtest.h>

#include <vector>

namespace lockstep {
namespace {

HostLayout of(const std::vector<int>& first_rank_of_host) {
  return host_layout(first_rank_of_host);
}

TEST(HostLayout, SeesNeighboursThatShareAHost) {
  EXPECT_EQ(of({0}), (HostLayout{1, 1}));
  EXPECT_EQ(of({0, 0, 0}), (HostLayout{1, 3}));
  EXPECT_EQ(of({0, 1, 2, 3}), (HostLayout{4, 1}));
  EXPECT_EQ(of({0, 0, 2, 2, 4, 4}), (HostLayout{3, 2}));
}

TEST(HostLayout, HasNoGroupsWhereHostsDifferOrRanksAreDealtInTurn) {
  EXPECT_EQ(of({0, 0, 0, 3}), (HostLayout{2, 1}));
  EXPECT_EQ(of({0, 1, 0, 1}), (HostLayout{2, 1}));
  EXPECT_EQ(of({0, 1, 1, 0}), (HostLayout{2, 1}));
  EXPECT_EQ(of({0, 0, 2}), (HostLayout{2, 1}));
}

}  // namespace
}  // namespace lockstep
