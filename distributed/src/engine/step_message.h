#pragma once
// StepMessage: the one small message that every rank sends to every other at the end of a step:
// losses, weights, block norms, flags. Fixed size for a given plan, so that it travels as one
// equal-count all-gather. Pure packing.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace lockstep {

/// Sizes that all ranks derive from the plan.
struct StepMessageShape {
  int64_t max_micro_batches = 0;  ///< of any rank
  int64_t max_blocks = 0;         ///< owned by any rank, all trainable spaces together
  int64_t num_parameters = 0;     ///< trainable tensors
  size_t num_bytes() const;
};

struct StepMessage {
  uint64_t flags = 0;
  uint64_t integer_buffers_hash = 0;
  uint64_t error = 0;  ///< 1: this rank could not finish the step; the reason follows by vote
  std::vector<double> losses;  ///< by this rank's micro-batches
  std::vector<double> weights;
  std::vector<double>
      block_sums;  ///< sums of squares of the owned blocks, ascending, space after space
  std::vector<bool> parameter_used;  ///< by trainable tensor

  /// Requires: out.size() == shape.num_bytes(), no vector longer than the shape says.
  void pack(const StepMessageShape& shape, std::span<std::byte> out) const;
  static StepMessage unpack(const StepMessageShape& shape, std::span<const std::byte> in);
};

}  // namespace lockstep
