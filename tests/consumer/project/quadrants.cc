#include "quadrants.h"

#include <ATen/ops/empty.h>

#include "lockstep/core/base/text.h"
#include "lockstep/core/data/rng.h"

lockstep::Result<lockstep::Batch> Quadrants::batch(std::span<const int64_t> sample_indices) const {
  const auto n = static_cast<int64_t>(sample_indices.size());
  lockstep::Batch batch = {at::empty({n, 2}, at::kFloat), at::empty({n}, at::kLong), n};
  auto* inputs = batch.inputs.data_ptr<float>();
  auto* targets = batch.targets.data_ptr<int64_t>();
  for (int64_t i = 0; i < n; ++i) {
    lockstep::Rng rng(seed_, static_cast<uint64_t>(sample_indices[static_cast<size_t>(i)]));
    inputs[2 * i] = static_cast<float>(2 * rng.next_uniform() - 1);
    inputs[2 * i + 1] = static_cast<float>(2 * rng.next_uniform() - 1);
    targets[i] = (inputs[2 * i] > 0 ? 1 : 0) + (inputs[2 * i + 1] > 0 ? 2 : 0);
  }
  return batch;
}

std::string Quadrants::identity() const {
  return lockstep::cat("quadrants seed ", seed_, " samples ", num_samples_);
}
