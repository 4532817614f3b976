#include "lockstep/core/flat/norms.h"

#include <algorithm>
#include <cstdint>

#include "kernel_variants.h"
#include "kernels.h"
#include "lockstep/core/base/check.h"

namespace lockstep {
namespace {

template <typename T>
double sum_of_squares_of(std::span<const T> values) {
  return run_kernel<SumOfSquares>(best_kernel_variant(), values.data(),
                                  static_cast<int64_t>(values.size()));
}

template <typename T>
void block_sums(std::span<const T> values, std::span<double> out) {
  LOCKSTEP_CHECK(out.size() == (values.size() + kBlockElems - 1) / kBlockElems, values.size(),
                 " elements but room for the sums of ", out.size(), " blocks");
  for (double& sum : out) {
    const size_t size = std::min<size_t>(kBlockElems, values.size());
    sum = sum_of_squares_of(values.first(size));
    values = values.subspan(size);
  }
}

// Node (depth, index) of the reduction tree (tree.h) with the blocks as leaves.
double fold_node(std::span<const double> sums, int depth, int64_t index) {
  const auto num_leaves = static_cast<int64_t>(sums.size());
  const int64_t first = (index * num_leaves) >> depth;
  const int64_t end = ((index + 1) * num_leaves) >> depth;
  if (end - first == 1) return sums[static_cast<size_t>(first)];
  return fold_node(sums, depth + 1, 2 * index) + fold_node(sums, depth + 1, 2 * index + 1);
}

}  // namespace

double sum_of_squares(std::span<const float> values) {
  return sum_of_squares_of(values);
}
double sum_of_squares(std::span<const double> values) {
  return sum_of_squares_of(values);
}

void block_sums_of_squares(std::span<const float> values, std::span<double> out_per_block) {
  block_sums(values, out_per_block);
}
void block_sums_of_squares(std::span<const double> values, std::span<double> out_per_block) {
  block_sums(values, out_per_block);
}

double fold_block_sums(std::span<const double> block_sums) {
  LOCKSTEP_CHECK(block_sums.size() <= (size_t{1} << 30), "a fold of ", block_sums.size(),
                 " blocks");
  // A node of two or more leaves has two children that are not empty, so fold_node needs no test
  // for it.
  return block_sums.empty() ? 0.0 : fold_node(block_sums, 0, 0);
}

}  // namespace lockstep
