#include "lockstep/core/data/permutation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <vector>

#include "lockstep/core/base/check.h"

namespace lockstep {
namespace {

std::vector<int64_t> elements(int64_t num_elems, uint64_t seed, uint64_t epoch) {
  Permutation permutation(num_elems, seed, epoch);
  std::vector<int64_t> out;
  for (int64_t i = 0; i < num_elems; ++i) out.push_back(permutation.at(i));
  return out;
}

void expect_bijection(int64_t num_elems, uint64_t seed, uint64_t epoch) {
  std::vector<int64_t> sorted = elements(num_elems, seed, epoch);
  std::sort(sorted.begin(), sorted.end());
  for (int64_t i = 0; i < num_elems; ++i)
    ASSERT_EQ(sorted[static_cast<size_t>(i)], i) << "n " << num_elems << " seed " << seed;
}

TEST(Permutation, HitsEveryElementOnce) {
  for (int64_t num_elems = 1; num_elems <= 300; ++num_elems)
    for (uint64_t seed = 0; seed < 4; ++seed) expect_bijection(num_elems, seed, seed * 7);
  for (int64_t num_elems : {509, 1000, 1024, 1025, 4093, 4096, 4097, 16385, 60000, 65537})
    expect_bijection(num_elems, 1, 2);
  std::mt19937_64 random(1);
  for (int i = 0; i < 50; ++i)
    expect_bijection(static_cast<int64_t>(random() % 5000 + 1), random(), random());
}

TEST(Permutation, IsAFunctionOfLengthSeedAndEpoch) {
  EXPECT_EQ(elements(1000, 5, 6), elements(1000, 5, 6));
  EXPECT_NE(elements(1000, 5, 6), elements(1000, 6, 6));
  EXPECT_NE(elements(1000, 5, 6), elements(1000, 5, 7));
  EXPECT_NE(elements(1000, 5, 6), elements(1000, 6, 5));
}

TEST(Permutation, PutsEveryElementEverywhereAboutEquallyOften) {
  constexpr int64_t kElems = 10;
  constexpr int kEpochs = 20000;
  std::vector<std::vector<int>> counts(kElems, std::vector<int>(kElems));
  for (uint64_t epoch = 0; epoch < kEpochs; ++epoch) {
    Permutation permutation(kElems, 3, epoch);
    for (int64_t i = 0; i < kElems; ++i)
      ++counts[static_cast<size_t>(i)][static_cast<size_t>(permutation.at(i))];
  }
  // Each count is binomial with mean 2000 and standard deviation 42; six of those never happen by
  // chance.
  for (const auto& row : counts)
    for (int count : row) EXPECT_NEAR(count, kEpochs / kElems, 6 * 42);
}

TEST(Permutation, LeavesFewNeighboursTogether) {
  std::vector<int64_t> order = elements(60000, 1, 0);
  int num_neighbours = 0;
  for (size_t i = 1; i < order.size(); ++i)
    num_neighbours += std::abs(order[i] - order[i - 1]) == 1;
  // About 2 expected.
  EXPECT_LT(num_neighbours, 15);
}

TEST(Permutation, WorksAtItsLargestLength) {
  constexpr int64_t kElems = int64_t{1} << 62;
  Permutation permutation(kElems, 1, 1);
  std::set<int64_t> seen;
  for (int64_t i = 0; i < 1000; ++i) {
    int64_t element = permutation.at(kElems - 1 - i);
    EXPECT_GE(element, 0);
    EXPECT_LT(element, kElems);
    EXPECT_TRUE(seen.insert(element).second);
  }
}

TEST(Permutation, RefusesWhatIsOutside) {
  EXPECT_THROW(Permutation(0, 1, 1), UsageError);
  EXPECT_THROW(Permutation((int64_t{1} << 62) + 1, 1, 1), UsageError);
  EXPECT_THROW((void)Permutation(5, 1, 1).at(5), UsageError);
  EXPECT_THROW((void)Permutation(5, 1, 1).at(-1), UsageError);
}

// Every recipe's meaning hangs on this order: it must never change.
TEST(Permutation, KeepsItsMeaning) {
  EXPECT_EQ(elements(10, 1, 0), (std::vector<int64_t>{4, 0, 9, 5, 6, 8, 1, 7, 3, 2}));
}

}  // namespace
}  // namespace lockstep
