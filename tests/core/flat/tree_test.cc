// Properties of the reduction tree, checked for every size a run can have: sums are built as text,
// so that a different bracketing is a different string.
#include "lockstep/core/flat/tree.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <string>
#include <vector>

#include "lockstep/core/base/check.h"

namespace lockstep {
namespace {

// The tree by its definition: node (d, k), empty nodes skipped, a node of one leaf is the leaf.
std::string bracketing(int64_t num_leaves, int depth = 0, int64_t index = 0) {
  const int64_t first = (index * num_leaves) / (int64_t{1} << depth);
  const int64_t end = ((index + 1) * num_leaves) / (int64_t{1} << depth);
  if (end == first) return "";
  if (end == first + 1) return std::to_string(first);
  const std::string left = bracketing(num_leaves, depth + 1, 2 * index);
  const std::string right = bracketing(num_leaves, depth + 1, 2 * index + 1);
  if (left.empty() || right.empty()) return left + right;
  return "(" + left + "+" + right + ")";
}

// Executes a rank's fold with texts for gradients; fails the test when a slot in use would be
// overwritten.
std::vector<std::string> fold_texts(int64_t num_leaves, LeafRange range) {
  const FoldPlan plan = plan_fold(num_leaves, range);
  std::vector<std::string> slots(static_cast<size_t>(plan.num_slots));
  EXPECT_EQ(static_cast<int64_t>(plan.steps.size()), range.num_leaves());
  int64_t leaf = range.first;
  for (const FoldStep& step : plan.steps) {
    std::string& slot = slots.at(static_cast<size_t>(step.slot));
    EXPECT_TRUE(slot.empty()) << "leaf " << leaf << " would overwrite " << slot;
    slot = std::to_string(leaf++);
    for (const FoldMerge& merge : step.merges) {
      std::string& into = slots.at(static_cast<size_t>(merge.into));
      std::string& from = slots.at(static_cast<size_t>(merge.from));
      EXPECT_FALSE(into.empty() || from.empty());
      into = "(" + into + "+" + from + ")";
      from.clear();
    }
  }
  EXPECT_LE(plan.roots.size(), slots.size());
  for (size_t i = plan.roots.size(); i < slots.size(); ++i) EXPECT_TRUE(slots[i].empty());
  slots.resize(plan.roots.size());
  return slots;
}

TEST(Tree, RanksPartitionTheLeaves) {
  for (int64_t leaves = 1; leaves <= 64; ++leaves) {
    for (int world = 1; world <= leaves; ++world) {
      int64_t next = 0;
      for (int rank = 0; rank < world; ++rank) {
        const LeafRange range = leaves_of_rank(leaves, rank, world);
        ASSERT_EQ(range.first, next);
        ASSERT_GE(range.num_leaves(), leaves / world);
        ASSERT_LE(range.num_leaves(), (leaves + world - 1) / world);
        next = range.end;
      }
      ASSERT_EQ(next, leaves);
    }
  }
}

TEST(Tree, RootsCoverTheirRangeExactly) {
  for (int64_t leaves = 1; leaves <= 33; ++leaves) {
    for (int64_t first = 0; first <= leaves; ++first) {
      for (int64_t end = first; end <= leaves; ++end) {
        int64_t next = first;
        for (const LeafRange root : tree_roots(leaves, {first, end})) {
          ASSERT_EQ(root.first, next);
          ASSERT_GT(root.end, root.first);
          next = root.end;
        }
        ASSERT_EQ(next, end);
      }
    }
  }
}

TEST(Tree, PowerOfTwoWorldHasOneRootPerRank) {
  for (int64_t leaves = 1; leaves <= 64; ++leaves) {
    for (int world = 1; world <= leaves; world *= 2) {
      for (int rank = 0; rank < world; ++rank) {
        const LeafRange range = leaves_of_rank(leaves, rank, world);
        ASSERT_EQ(tree_roots(leaves, range), std::vector<LeafRange>{range})
            << leaves << " leaves, rank " << rank << " of " << world;
      }
    }
  }
}

TEST(Tree, RecursiveHalvingIsTheTree) {
  // Ranks add with partners 1, 2, 4, ... apart, the lower rank's sum on the left.
  for (int64_t leaves = 1; leaves <= 64; ++leaves) {
    for (int world = 1; world <= leaves; world *= 2) {
      std::vector<std::string> sums;
      for (int rank = 0; rank < world; ++rank)
        sums.push_back(fold_texts(leaves, leaves_of_rank(leaves, rank, world)).at(0));
      for (int apart = 1; apart < world; apart *= 2) {
        for (int rank = 0; rank < world; rank += 2 * apart) {
          std::string& low = sums[static_cast<size_t>(rank)];
          low = "(" + low + "+" + sums[static_cast<size_t>(rank + apart)] + ")";
        }
      }
      ASSERT_EQ(sums[0], bracketing(leaves)) << leaves << " leaves on " << world;
    }
  }
}

TEST(Tree, FoldAndFinishBuildTheSameBracketingForEveryWorld) {
  for (int64_t leaves = 1; leaves <= 40; ++leaves) {
    const std::string expected = bracketing(leaves);
    for (int world = 1; world <= 16 && world <= leaves; ++world) {
      const FinishPlan finish = plan_finish(leaves, world);
      std::vector<std::string> entries;
      ASSERT_EQ(finish.first_root_of_rank.size(), static_cast<size_t>(world) + 1);
      for (int rank = 0; rank < world; ++rank) {
        ASSERT_EQ(finish.first_root_of_rank[static_cast<size_t>(rank)],
                  static_cast<int>(entries.size()));
        for (std::string& root : fold_texts(leaves, leaves_of_rank(leaves, rank, world)))
          entries.push_back(std::move(root));
      }
      ASSERT_EQ(entries.size(), finish.roots.size());
      ASSERT_EQ(finish.first_root_of_rank.back(), static_cast<int>(entries.size()));
      for (const FoldMerge& merge : finish.merges) {
        std::string& into = entries.at(static_cast<size_t>(merge.into));
        into = "(" + into + "+" + entries.at(static_cast<size_t>(merge.from)) + ")";
      }
      ASSERT_EQ(entries[0], expected) << leaves << " leaves on " << world;
    }
  }
}

TEST(Tree, FoldOfAPowerOfTwoWorldNeedsAtMostLog2PlusTwoSlots) {
  for (int64_t leaves = 1; leaves <= 512; ++leaves) {
    for (int world = 1; world <= 16 && world <= leaves; world *= 2) {
      for (int rank = 0; rank < world; ++rank) {
        const LeafRange range = leaves_of_rank(leaves, rank, world);
        const int log2 = std::bit_width(static_cast<uint64_t>(range.num_leaves())) - 1;
        ASSERT_LE(plan_fold(leaves, range).num_slots, log2 + 2)
            << leaves << " leaves, rank " << rank << " of " << world;
      }
    }
  }
}

TEST(Tree, FoldNeverNeedsMoreSlotsThanItsRootsAndTheDeepestOfThem) {
  for (int64_t leaves = 1; leaves <= 512; ++leaves) {
    for (int world = 1; world <= 16 && world <= leaves; ++world) {
      for (int rank = 0; rank < world; ++rank) {
        const FoldPlan plan = plan_fold(leaves, leaves_of_rank(leaves, rank, world));
        int bound = 0;
        for (size_t i = 0; i < plan.roots.size(); ++i) {
          const auto root_leaves = static_cast<uint64_t>(plan.roots[i].num_leaves());
          // A subtree of n leaves is ceil(log2 n) deep: boundaries are rounded, but halving n
          // rounds up at most.
          bound = std::max(
              bound, static_cast<int>(i) + 1 + static_cast<int>(std::bit_width(root_leaves - 1)));
        }
        ASSERT_LE(plan.num_slots, bound) << leaves << " leaves, rank " << rank << " of " << world;
      }
    }
  }
}

TEST(Tree, ChecksItsArguments) {
  EXPECT_THROW(leaves_of_rank(8, 2, 2), UsageError);
  EXPECT_THROW(leaves_of_rank(0, 0, 1), UsageError);
  EXPECT_THROW(tree_roots(4, {2, 5}), UsageError);
}

}  // namespace
}  // namespace lockstep
