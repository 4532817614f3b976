#include "lockstep/distributed/tree_reducer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "distributed/test_settings.h"
#include "lockstep/core/base/check.h"
#include "lockstep/distributed/bucketer.h"
#include "lockstep/distributed/world.h"

namespace lockstep {
namespace {

using lockstep::testing::quiet;
using lockstep::testing::soon;

template <typename T>
FlatSpace space_of(int64_t num_elems) {
  FlatSpace space;
  space.name = "trainable";
  space.dtype = sizeof(T) == 4 ? Dtype::kF32 : Dtype::kF64;
  space.num_elems = num_elems;
  return space;
}

/// Leaf values over many magnitudes and both signs: nearly every other bracketing gives other bits.
template <typename T>
std::vector<std::vector<T>> make_leaves(int64_t num_leaves, int64_t num_elems) {
  std::mt19937 random(static_cast<uint32_t>(num_leaves * 1000 + num_elems));
  std::vector<std::vector<T>> leaves(static_cast<size_t>(num_leaves));
  for (auto& leaf : leaves) {
    leaf.resize(static_cast<size_t>(num_elems));
    for (T& value : leaf) {
      auto mantissa = static_cast<T>(static_cast<int32_t>(random()));
      value = std::ldexp(mantissa, static_cast<int>(random() % 24));
    }
  }
  return leaves;
}

/// The definition, word for word: node (d, k) covers [floor(k*M/2^d), floor((k+1)*M/2^d)); a node
/// of one leaf is that leaf, an empty node is skipped, any other is left + right.
template <typename T>
std::vector<T> tree_sum(const std::vector<std::vector<T>>& leaves, int depth, int64_t k) {
  auto num_leaves = static_cast<int64_t>(leaves.size());
  int64_t first = k * num_leaves >> depth;
  int64_t end = (k + 1) * num_leaves >> depth;
  if (first == end) return {};
  if (end - first == 1) return leaves[static_cast<size_t>(first)];
  std::vector<T> left = tree_sum(leaves, depth + 1, 2 * k);
  std::vector<T> right = tree_sum(leaves, depth + 1, 2 * k + 1);
  if (left.empty()) return right;
  if (right.empty()) return left;
  for (size_t i = 0; i < left.size(); ++i) left[i] = left[i] + right[i];
  return left;
}

/// What a rank does before the reducer: folds its leaves into its roots.
template <typename T>
std::vector<std::vector<T>> fold(const std::vector<std::vector<T>>& leaves, int rank,
                                 int world_size) {
  auto num_leaves = static_cast<int64_t>(leaves.size());
  LeafRange range = leaves_of_rank(num_leaves, rank, world_size);
  FoldPlan plan = plan_fold(num_leaves, range);
  std::vector<std::vector<T>> slots(static_cast<size_t>(plan.num_slots));
  for (int64_t i = 0; i < range.num_leaves(); ++i) {
    const FoldStep& step = plan.steps[static_cast<size_t>(i)];
    slots[static_cast<size_t>(step.slot)] = leaves[static_cast<size_t>(range.first + i)];
    for (const FoldMerge& merge : step.merges) {
      auto& into = slots[static_cast<size_t>(merge.into)];
      const auto& from = slots[static_cast<size_t>(merge.from)];
      for (size_t e = 0; e < into.size(); ++e) into[e] += from[e];
    }
  }
  slots.resize(plan.roots.size());
  return slots;
}

template <typename T>
bool same_bits(const T* a, const T* b, int64_t num_elems) {
  return std::memcmp(a, b, static_cast<size_t>(num_elems) * sizeof(T)) == 0;
}

/// Reduces and gathers every bucket on `world_size` threads and compares each rank's bits with
/// `expected`.
template <typename T>
void check_reduction(const std::vector<std::vector<T>>& leaves, const std::vector<T>& expected,
                     int world_size, int64_t blocks_per_bucket, const TreeReducerOptions& options) {
  auto num_leaves = static_cast<int64_t>(leaves.size());
  FlatSpace space = space_of<T>(static_cast<int64_t>(expected.size()));
  ShardPlan plan = ShardPlan::plan(plan_buckets(space.num_blocks(), blocks_per_bucket), world_size);
  auto rank_main = [&](World& world) -> Status {
    Communicator& communicator = world.communicator();
    TreeReducer reducer(communicator, space, plan, num_leaves, options);
    std::vector<std::vector<T>> roots = fold(leaves, world.world_rank(), world_size);
    EXPECT_EQ(roots.size(), static_cast<size_t>(reducer.num_roots()));
    std::vector<void*> root_pointers;
    for (auto& root : roots) root_pointers.push_back(root.data());
    std::vector<T> values(expected.size());
    for (int b = 0; b < plan.num_buckets(); ++b) {
      uint64_t before = communicator.num_bytes_sent();
      LOCKSTEP_RETURN_IF_ERROR(
          reducer.reduce_bucket(b, std::span<void* const>(root_pointers), soon()));
      EXPECT_EQ(communicator.num_bytes_sent() - before, reducer.reduce_bytes_sent(b));
      ElemRun mine = reducer.piece_elems(b);
      EXPECT_TRUE(
          same_bits(roots[0].data() + mine.first, expected.data() + mine.first, mine.num_elems()))
          << "sum of bucket " << b << " at rank " << world.world_rank() << " of " << world_size
          << ", " << num_leaves << " leaves";
      std::copy_n(roots[0].data() + mine.first, mine.num_elems(), values.data() + mine.first);
      before = communicator.num_bytes_sent();
      LOCKSTEP_RETURN_IF_ERROR(reducer.all_gather_bucket(b, values.data(), soon()));
      EXPECT_EQ(communicator.num_bytes_sent() - before, reducer.all_gather_bytes_sent(b));
    }
    EXPECT_TRUE(same_bits(values.data(), expected.data(), space.num_elems))
        << "gathered at rank " << world.world_rank() << " of " << world_size;
    return world.shutdown();
  };
  Status status = World::run_threads(world_size, rank_main, quiet());
  ASSERT_TRUE(status.is_ok()) << status.to_string();
}

constexpr int64_t kThreeBlocksAndABit = 3 * kBlockElems + 640;

/// Chunks that divide neither blocks nor pieces, and so few in flight that windows are many.
constexpr TreeReducerOptions kOddChunks{
    .chunk_bytes = 20'000, .chunks_in_flight = 2, .gather_chunk_bytes = 12'345};

template <typename T>
void check_all_worlds(std::initializer_list<int64_t> nums_leaves) {
  for (const int64_t num_leaves : nums_leaves) {
    auto leaves = make_leaves<T>(num_leaves, kThreeBlocksAndABit);
    auto expected = tree_sum(leaves, 0, 0);
    for (int world_size = 1; world_size <= std::min<int64_t>(num_leaves, 16); ++world_size) {
      int64_t blocks_per_bucket = 1 + (num_leaves + world_size) % 4;
      ASSERT_NO_FATAL_FAILURE(
          check_reduction(leaves, expected, world_size, blocks_per_bucket, kOddChunks));
    }
  }
}

TEST(TreeReducer, SumsFloatsAlongTheTreeOnEveryWorld) {
  check_all_worlds<float>({1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16, 19, 24});
}
TEST(TreeReducer, SumsDoublesAlongTheTreeOnEveryWorld) {
  check_all_worlds<double>({1, 5, 8, 11});
}

TEST(TreeReducer, BucketAndChunkSizesChangeNoBit) {
  constexpr int64_t kElems = 21 * kBlockElems - 64;
  auto leaves = make_leaves<float>(12, kElems);
  auto expected = tree_sum(leaves, 0, 0);
  for (int world_size : {2, 3, 4, 6, 8, 12}) {
    for (int64_t blocks_per_bucket : {1, 2, 5, 8, 21}) {
      for (TreeReducerOptions options :
           {TreeReducerOptions{}, kOddChunks, TreeReducerOptions{1 << 30, 1}}) {
        if (options.chunk_bytes > 1 << 20 && !is_power_of_two(world_size))
          options.chunk_bytes = 1 << 20;
        ASSERT_NO_FATAL_FAILURE(
            check_reduction(leaves, expected, world_size, blocks_per_bucket, options));
      }
    }
  }
}

TEST(TreeReducer, GroupsThatExchangeDirectlyChangeNoBit) {
  for (int64_t num_leaves : {16, 21}) {
    auto leaves = make_leaves<float>(num_leaves, kThreeBlocksAndABit);
    auto expected = tree_sum(leaves, 0, 0);
    for (int world_size : {2, 4, 8, 16}) {
      for (int direct_ranks : {1, 4, 8, 32}) {
        TreeReducerOptions options = kOddChunks;
        options.direct_ranks = direct_ranks;
        ASSERT_NO_FATAL_FAILURE(check_reduction(leaves, expected, world_size, 2, options));
      }
    }
  }
}

TEST(TreeReducer, LeavesOfBf16TravelAsSuchAndChangeNoBit) {
  for (int64_t num_leaves : {1, 2, 3, 4, 6, 8, 11, 16}) {
    auto leaves = make_leaves<float>(num_leaves, kThreeBlocksAndABit);
    for (auto& leaf : leaves)
      host_device().compute().round_to_bf16(leaf.data(), leaf.data(), kThreeBlocksAndABit);
    auto expected = tree_sum(leaves, 0, 0);
    for (int world_size = 1; world_size <= num_leaves; ++world_size) {
      for (int direct_ranks : {2, 4}) {
        TreeReducerOptions options = kOddChunks;
        options.leaves_are_bf16 = true;
        options.direct_ranks = direct_ranks;
        ASSERT_NO_FATAL_FAILURE(check_reduction(leaves, expected, world_size, 3, options));
      }
    }
  }
}

TEST(TreeReducer, SendsHalfTheBytesOfALeafInBf16) {
  // Rank by rank of 4: 6 leaves are 1 + 2 + 1 + 2, and what was added is float again.
  FlatSpace space = space_of<float>(4 * kBlockElems);
  auto bytes_of_ranks = [&](int64_t num_leaves, int direct_ranks) {
    std::vector<uint64_t> bytes(4);
    Status status = World::run_threads(
        4,
        [&](World& world) {
          TreeReducer reducer(world.communicator(), space, ShardPlan::plan(plan_buckets(4, 4), 4),
                              num_leaves,
                              {.direct_ranks = direct_ranks, .leaves_are_bf16 = true});
          bytes[static_cast<size_t>(world.world_rank())] = reducer.reduce_bytes_sent(0);
          return Status::ok();
        },
        quiet());
    EXPECT_TRUE(status.is_ok()) << status.to_string();
    return bytes;
  };
  const uint64_t b = 4 * kBlockElems * sizeof(float);
  using Bytes = std::vector<uint64_t>;
  EXPECT_EQ(bytes_of_ranks(4, 4), (Bytes{3 * b / 8, 3 * b / 8, 3 * b / 8, 3 * b / 8}));
  EXPECT_EQ(bytes_of_ranks(4, 2), (Bytes{b / 2, b / 2, b / 2, b / 2}));
  EXPECT_EQ(bytes_of_ranks(6, 2), (Bytes{b / 2, 3 * b / 4, b / 2, 3 * b / 4}));
  EXPECT_EQ(bytes_of_ranks(8, 2), (Bytes{3 * b / 4, 3 * b / 4, 3 * b / 4, 3 * b / 4}));
}

TEST(TreeReducer, SumsOfBf16LeavesAreAsCloseToTheExactSumAsTheirRoundingAllows) {
  // Each leaf is off by at most 2^-8 of itself, each of the log2(16) = 4 additions above it by
  // 2^-24 of what it adds.
  constexpr int64_t kLeaves = 16;
  const auto exact = make_leaves<float>(kLeaves, kBlockElems);
  auto rounded = exact;
  for (auto& leaf : rounded)
    host_device().compute().round_to_bf16(leaf.data(), leaf.data(), kBlockElems);
  const std::vector<float> sums = tree_sum(rounded, 0, 0);
  const double bound = 0x1p-8 + 4 * 0x1p-24 * (1 + 0x1p-8);
  double worst = 0;
  for (size_t e = 0; e < sums.size(); ++e) {
    double sum = 0, magnitude = 0;
    for (const auto& leaf : exact) {
      sum += static_cast<double>(leaf[e]);
      magnitude += std::abs(static_cast<double>(leaf[e]));
    }
    worst = std::max(worst, std::abs(static_cast<double>(sums[e]) - sum) / magnitude);
  }
  EXPECT_LE(worst, bound);
  EXPECT_GT(worst, bound / 16) << "the leaves were not rounded";
}

TEST(TreeReducer, AnotherBracketingGivesOtherBits) {
  // Guards the tests above: with these inputs a wrong order can't pass unseen.
  auto leaves = make_leaves<float>(12, kBlockElems);
  std::vector<float> in_tree = tree_sum(leaves, 0, 0);
  std::vector<float> in_sequence = leaves[0];
  for (size_t i = 1; i < leaves.size(); ++i) {
    for (size_t e = 0; e < in_sequence.size(); ++e) in_sequence[e] += leaves[i][e];
  }
  int num_different = 0;
  for (size_t e = 0; e < in_tree.size(); ++e) num_different += in_tree[e] != in_sequence[e];
  EXPECT_GT(num_different, kBlockElems / 4);
}

TEST(TreeReducer, SendsTwiceNMinusOneOverNOfTheBytesForPowersOfTwo) {
  for (int world_size : {1, 2, 4, 8, 16}) {
    int64_t num_elems = 32 * kBlockElems;
    FlatSpace space = space_of<float>(num_elems);
    ShardPlan plan = ShardPlan::plan(plan_buckets(32, 16), world_size);
    auto rank_main = [&](World& world) -> Status {
      TreeReducer reducer(world.communicator(), space, plan, 16);
      std::vector<float> values(static_cast<size_t>(num_elems), 1.0F);
      void* root = values.data();
      for (int b = 0; b < plan.num_buckets(); ++b) {
        LOCKSTEP_RETURN_IF_ERROR(
            reducer.reduce_bucket(b, std::span<void* const>(&root, 1), soon()));
        LOCKSTEP_RETURN_IF_ERROR(reducer.all_gather_bucket(b, root, soon()));
      }
      auto n = static_cast<uint64_t>(world_size);
      EXPECT_EQ(world.communicator().num_bytes_sent(),
                2 * (n - 1) * static_cast<uint64_t>(space.num_bytes()) / n);
      EXPECT_EQ(values, std::vector<float>(static_cast<size_t>(num_elems), static_cast<float>(n)));
      return world.shutdown();
    };
    Status status = World::run_threads(world_size, rank_main, quiet());
    ASSERT_TRUE(status.is_ok()) << status.to_string();
  }
}

TEST(TreeReducer, HoldsAsMuchScratchAsItSays) {
  FlatSpace space = space_of<float>(100 * kBlockElems);
  auto scratch_at = [&](int world_size, int64_t num_leaves) {
    int64_t scratch = -1;
    Status status = World::run_threads(
        world_size,
        [&](World& world) {
          ShardPlan plan = ShardPlan::plan(plan_buckets(100, 10), world_size);
          TreeReducer reducer(world.communicator(), space, plan, num_leaves,
                              {.chunk_bytes = 1 << 16, .chunks_in_flight = 3});
          if (world.world_rank() == 0) scratch = reducer.scratch_bytes();
          return Status::ok();
        },
        quiet());
    EXPECT_TRUE(status.is_ok()) << status.to_string();
    return scratch;
  };
  EXPECT_EQ(scratch_at(1, 12), 0);
  EXPECT_EQ(scratch_at(4, 12), 3 << 16);
  const FinishPlan finish = plan_finish(12, 3);
  const auto num_others = static_cast<int64_t>(finish.roots.size()) - finish.first_root_of_rank[1];
  EXPECT_EQ(scratch_at(3, 12), 3 * num_others << 16);
}

TEST(TreeReducer, RefusesWhatDoesNotFit) {
  World world = World::solo(quiet());
  FlatSpace space = space_of<float>(4 * kBlockElems);
  ShardPlan plan = ShardPlan::plan(plan_buckets(4, 2), 1);
  EXPECT_THROW(TreeReducer(world.communicator(), space, ShardPlan::plan({{0, 3}}, 1), 4),
               UsageError);
  EXPECT_THROW(TreeReducer(world.communicator(), space, ShardPlan::plan({{0, 4}}, 2), 4),
               UsageError);
  EXPECT_THROW(TreeReducer(world.communicator(), space, plan, 0), UsageError);
  EXPECT_THROW(TreeReducer(world.communicator(), space, plan, 4, {.direct_ranks = 3}), UsageError);
  TreeReducer reducer(world.communicator(), space, plan, 4);
  EXPECT_THROW(reducer.reduce_bucket(0, std::span<void* const>(), soon()).ignore(), UsageError);
}

}  // namespace
}  // namespace lockstep
