#pragma once
// Sums of squares in one fixed order: the same bits on every instruction set and wherever shards
// are cut, as long as they are cut at block edges. The norm of a gradient is the square root of the
// folded block sums. Pure. Thread-safety: any thread.

#include <span>

#include "lockstep/core/flat/layout.h"

namespace lockstep {

/// Sum of squares in fp64: element i is added to lane i mod 16; lanes are then combined pairwise
/// (0+8, 1+9, ...; 0+4, ...; 0+2, ...; 0+1).
double sum_of_squares(std::span<const float> values);
double sum_of_squares(std::span<const double> values);

/// One sum for each block of `values`, which begin at the start of a block. Shapes: out_per_block
/// has ceil(values.size() / kBlockElems) entries; another number is a UsageError.
void block_sums_of_squares(std::span<const float> values, std::span<double> out_per_block);
void block_sums_of_squares(std::span<const double> values, std::span<double> out_per_block);

/// The sum of all blocks of a space, added along the tree of tree.h over block indices. 0 for no
/// blocks.
double fold_block_sums(std::span<const double> block_sums);

}  // namespace lockstep
