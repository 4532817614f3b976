#include "lockstep/core/flat/tree.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "lockstep/core/base/check.h"

namespace lockstep {
namespace {

// Keeps k * num_leaves of node (d, k) within 64 bits: d grows to about log2(num_leaves) + 1.
constexpr int64_t kMaxLeaves = int64_t{1} << 30;

void check_leaves(int64_t num_leaves) {
  LOCKSTEP_CHECK(1 <= num_leaves && num_leaves <= kMaxLeaves, "a tree of ", num_leaves, " leaves");
}

// Node (depth, index) of the tree over num_leaves leaves.
struct Node {
  int depth = 0;
  int64_t index = 0;

  LeafRange leaves(int64_t num_leaves) const {
    return {(index * num_leaves) >> depth, ((index + 1) * num_leaves) >> depth};
  }
  Node left() const { return {depth + 1, 2 * index}; }
  Node right() const { return {depth + 1, 2 * index + 1}; }
};

bool contains(LeafRange outer, LeafRange inner) {
  return outer.first <= inner.first && inner.end <= outer.end;
}
bool are_disjoint(LeafRange a, LeafRange b) {
  return a.end <= b.first || b.end <= a.first;
}

void collect_roots(int64_t num_leaves, Node node, LeafRange range, std::vector<LeafRange>* roots) {
  const LeafRange leaves = node.leaves(num_leaves);
  if (leaves.num_leaves() == 0 || are_disjoint(leaves, range)) return;
  if (contains(range, leaves)) {
    roots->push_back(leaves);
    return;
  }
  collect_roots(num_leaves, node.left(), range, roots);
  collect_roots(num_leaves, node.right(), range, roots);
}

// Walks the tree in post-order with a stack of finished sums: slot i is the i-th entry of the
// stack.
class FoldPlanner {
 public:
  FoldPlanner(int64_t num_leaves, LeafRange range) : num_leaves_(num_leaves), range_(range) {}

  FoldPlan plan() {
    plan_.roots = tree_roots(num_leaves_, range_);
    visit(Node{});
    return std::move(plan_);
  }

 private:
  // Leaves one more sum on the stack when the node lies in the range and has leaves.
  void visit(Node node) {
    const LeafRange leaves = node.leaves(num_leaves_);
    if (leaves.num_leaves() == 0 || are_disjoint(leaves, range_)) return;
    if (leaves.num_leaves() == 1) {
      plan_.steps.push_back({.slot = depth_, .merges = {}});
      depth_ += 1;
      plan_.num_slots = std::max(plan_.num_slots, depth_);
      return;
    }
    const int before = depth_;
    visit(node.left());
    visit(node.right());
    if (!contains(range_, leaves)) return;  // not ours alone: its parts stay as they are
    if (depth_ == before + 2) {             // else one child is empty and the other is the node
      plan_.steps.back().merges.push_back({.into = depth_ - 2, .from = depth_ - 1});
      depth_ -= 1;
    }
  }

  int64_t num_leaves_;
  LeafRange range_;
  FoldPlan plan_;
  int depth_ = 0;
};

// Returns the entry that holds the node's sum once the merges so far are done, or -1 for an empty
// node.
int finish_node(int64_t num_leaves, Node node, FinishPlan* plan, size_t* next_root) {
  const LeafRange leaves = node.leaves(num_leaves);
  if (leaves.num_leaves() == 0) return -1;
  if (*next_root < plan->roots.size() && plan->roots[*next_root] == leaves)
    return static_cast<int>((*next_root)++);
  LOCKSTEP_CHECK(leaves.num_leaves() > 1, "leaf ", leaves.first, " is in no root");
  const int left = finish_node(num_leaves, node.left(), plan, next_root);
  const int right = finish_node(num_leaves, node.right(), plan, next_root);
  if (left < 0) return right;
  if (right < 0) return left;
  plan->merges.push_back({.into = left, .from = right});
  return left;
}

}  // namespace

LeafRange leaves_of_rank(int64_t num_leaves, int rank, int world_size) {
  check_leaves(num_leaves);
  LOCKSTEP_CHECK(0 <= rank && rank < world_size, "rank ", rank, " of ", world_size);
  return {rank * num_leaves / world_size, (rank + int64_t{1}) * num_leaves / world_size};
}

std::vector<LeafRange> tree_roots(int64_t num_leaves, LeafRange range) {
  check_leaves(num_leaves);
  LOCKSTEP_CHECK(0 <= range.first && range.first <= range.end && range.end <= num_leaves,
                 "leaves [", range.first, ", ", range.end, ") of ", num_leaves);
  std::vector<LeafRange> roots;
  collect_roots(num_leaves, Node{}, range, &roots);
  return roots;
}

FoldPlan plan_fold(int64_t num_leaves, LeafRange range) {
  return FoldPlanner(num_leaves, range).plan();
}

FinishPlan plan_finish(int64_t num_leaves, int world_size) {
  check_leaves(num_leaves);
  FinishPlan plan;
  plan.first_root_of_rank.push_back(0);
  for (int rank = 0; rank < world_size; ++rank) {
    const LeafRange range = leaves_of_rank(num_leaves, rank, world_size);
    for (const LeafRange root : tree_roots(num_leaves, range)) plan.roots.push_back(root);
    plan.first_root_of_rank.push_back(static_cast<int>(plan.roots.size()));
  }
  size_t next_root = 0;
  const int total = finish_node(num_leaves, Node{}, &plan, &next_root);
  LOCKSTEP_CHECK(total == 0 && next_root == plan.roots.size(), "the roots do not cover the tree");
  return plan;
}

}  // namespace lockstep
