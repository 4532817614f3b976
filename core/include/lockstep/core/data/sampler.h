#pragma once
// Sampler: which samples a micro-batch holds. A pure function of (recipe, step, micro-batch index),
// so the data position needs no saving and any number of ranks reads the same samples. An epoch has
// floor(n/B) steps of B = global batch samples; its t-th step takes positions t*B .. t*B+B-1 of
// permutation(seed, epoch); the rest of the permutation is dropped. Thread-safety: a value; const
// functions from any thread.

#include <cstdint>
#include <vector>

#include "lockstep/core/base/status.h"

namespace lockstep {

/// Where a step lies in the passes over the data.
struct StepPosition {
  int64_t epoch = 0;          ///< from 0
  int64_t step_in_epoch = 0;  ///< from 0
  bool operator==(const StepPosition&) const = default;
};

class Sampler {
 public:
  /// `micro_batches_per_step` counts forward/backward units (leaves times micro-batches of a leaf).
  /// Errors: kInvalidArgument when a number is below 1, or when the data set is smaller than one
  /// global batch, with both numbers.
  static Result<Sampler> make(int64_t num_samples, int64_t micro_batch_size,
                              int64_t micro_batches_per_step, uint64_t seed);

  int64_t num_samples() const { return num_samples_; }
  int64_t micro_batch_size() const { return micro_batch_size_; }
  int64_t micro_batches_per_step() const { return micro_batches_per_step_; }
  int64_t global_batch_size() const { return micro_batch_size_ * micro_batches_per_step_; }
  int64_t steps_per_epoch() const { return num_samples_ / global_batch_size(); }

  /// Requires: step >= 0.
  StepPosition position(int64_t step) const;
  /// Indices of the samples of one micro-batch, micro_batch_size() of them.
  /// Requires: step >= 0, 0 <= micro_batch < micro_batches_per_step().
  std::vector<int64_t> sample_indices(int64_t step, int64_t micro_batch) const;

 private:
  Sampler(int64_t num_samples, int64_t micro_batch_size, int64_t micro_batches_per_step,
          uint64_t seed);
  int64_t num_samples_;
  int64_t micro_batch_size_;
  int64_t micro_batches_per_step_;
  uint64_t seed_;
};

}  // namespace lockstep
