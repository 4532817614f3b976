#pragma once
// The reduction tree: the one fixed bracketing in which a step's gradients are added, whatever the
// world size. Node (d, k) of a tree over M leaves covers leaves [floor(k*M/2^d),
// floor((k+1)*M/2^d)). A node of one leaf is that leaf; an empty node is skipped; any other node is
// the sum left + right of its two children. Pure integer arithmetic: no memory, no ranks beyond
// their numbers. Source: design.md section 3.

#include <cstdint>
#include <vector>

namespace lockstep {

/// Leaves [first, end).
struct LeafRange {
  int64_t first = 0;
  int64_t end = 0;
  int64_t num_leaves() const { return end - first; }
  bool operator==(const LeafRange&) const = default;
};

/// The leaves that `rank` of `world_size` works: [floor(rank*M/N), floor((rank+1)*M/N)).
LeafRange leaves_of_rank(int64_t num_leaves, int rank, int world_size);

/// The maximal tree nodes inside `range`, ascending: one when the range is itself a node.
std::vector<LeafRange> tree_roots(int64_t num_leaves, LeafRange range);

/// buffers[into] += buffers[from], with buffers[into] the left operand.
struct FoldMerge {
  int into = 0;
  int from = 0;
  bool operator==(const FoldMerge&) const = default;
};

/// What happens when a leaf is done: it was accumulated in `slot`; then the merges run in order.
struct FoldStep {
  int slot = 0;
  std::vector<FoldMerge> merges;
};

/// How a rank folds its leaves, in ascending order, into its roots with as few buffers as the tree
/// allows.
struct FoldPlan {
  /// Gradient buffers needed: for a power-of-two world at most log2(leaves) + 2; otherwise at most
  /// one a root that is finished, and log2 + 1 for the one at work.
  int num_slots = 0;
  std::vector<FoldStep> steps;   ///< one for each leaf of the range, ascending
  std::vector<LeafRange> roots;  ///< after the last step slot i holds roots[i]
};
FoldPlan plan_fold(int64_t num_leaves, LeafRange range);

/// How whoever holds the roots of all ranks (in rank order, concatenated) finishes the tree: after
/// the merges, entry 0 is the total.
struct FinishPlan {
  std::vector<LeafRange> roots;  ///< of all ranks, ascending
  std::vector<int>
      first_root_of_rank;  ///< world_size + 1 entries: rank r's roots are [first[r], first[r+1])
  std::vector<FoldMerge> merges;
};
FinishPlan plan_finish(int64_t num_leaves, int world_size);

}  // namespace lockstep
