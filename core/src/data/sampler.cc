#include "lockstep/core/data/sampler.h"

#include <limits>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/text.h"
#include "lockstep/core/data/permutation.h"

namespace lockstep {

Sampler::Sampler(int64_t num_samples, int64_t micro_batch_size, int64_t micro_batches_per_step,
                 uint64_t seed)
    : num_samples_(num_samples),
      micro_batch_size_(micro_batch_size),
      micro_batches_per_step_(micro_batches_per_step),
      seed_(seed) {}

Result<Sampler> Sampler::make(int64_t num_samples, int64_t micro_batch_size,
                              int64_t micro_batches_per_step, uint64_t seed) {
  if (micro_batch_size < 1 || micro_batches_per_step < 1)
    return invalid_argument_error(
        cat("micro_batch_size and micro_batches_per_step must be at least 1, found ",
            micro_batch_size, " and ", micro_batches_per_step));
  // Compared by division, because the product of two hostile numbers may overflow.
  if (num_samples < 1 || micro_batch_size > num_samples / micro_batches_per_step) {
    constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
    std::string product = micro_batch_size <= kMax / micro_batches_per_step
                              ? cat(micro_batch_size * micro_batches_per_step)
                              : std::string("more than 2^63");
    return invalid_argument_error(
        cat("the training data has ", num_samples, " samples, fewer than one global batch of ",
            product, " (micro_batch_size ", micro_batch_size, " x ", micro_batches_per_step,
            " micro-batches per step); make the batch smaller or give more data"));
  }
  return Sampler(num_samples, micro_batch_size, micro_batches_per_step, seed);
}

StepPosition Sampler::position(int64_t step) const {
  LOCKSTEP_CHECK(step >= 0, "a step is at least 0, not ", step);
  return {.epoch = step / steps_per_epoch(), .step_in_epoch = step % steps_per_epoch()};
}

std::vector<int64_t> Sampler::sample_indices(int64_t step, int64_t micro_batch) const {
  LOCKSTEP_CHECK(micro_batch >= 0 && micro_batch < micro_batches_per_step_, "micro-batch ",
                 micro_batch, " of a step of ", micro_batches_per_step_);
  StepPosition at = position(step);
  Permutation permutation(num_samples_, seed_, static_cast<uint64_t>(at.epoch));
  int64_t first = at.step_in_epoch * global_batch_size() + micro_batch * micro_batch_size_;
  std::vector<int64_t> indices(static_cast<size_t>(micro_batch_size_));
  for (int64_t i = 0; i < micro_batch_size_; ++i)
    indices[static_cast<size_t>(i)] = permutation.at(first + i);
  return indices;
}

}  // namespace lockstep
