#pragma once
// A data set of one's own: points of the plane, labelled by their quadrant. A sample depends on its
// number alone.

#include "lockstep/core/data/dataset.h"

class Quadrants final : public lockstep::Dataset {
 public:
  Quadrants(uint64_t seed, int64_t num_samples) : seed_(seed), num_samples_(num_samples) {}
  int64_t num_samples() const override { return num_samples_; }
  const lockstep::SampleSpec& spec() const override { return spec_; }
  lockstep::Result<lockstep::Batch> batch(std::span<const int64_t> sample_indices) const override;
  std::string identity() const override;

 private:
  uint64_t seed_;
  int64_t num_samples_;
  lockstep::SampleSpec spec_ = {.input_shape = {2}, .num_classes = 4};
};
