#pragma once
// Rng: random numbers for data sets and augmentation, keyed by (seed, sample number). Its i-th
// number is a fixed function of (seed, sample, i) in integer arithmetic, the same on every machine.
// The library's generators are never used for data: they belong to the model's micro-batches.
// Thread-safety: one object, one thread.

#include <cstdint>

namespace lockstep {

class Rng {
 public:
  Rng(uint64_t seed, uint64_t sample);

  uint64_t next_u64();
  /// Uniform in [0, 1), a multiple of 2^-53.
  double next_uniform();
  /// Uniform in 0 .. limit - 1, without bias. Requires: limit >= 1.
  uint64_t next_below(uint64_t limit);
  /// Mean 0, variance 1, close to normal and within [-6, 6]: twelve uniforms added, which rounds
  /// alike everywhere (a logarithm of the C library does not).
  double next_normal();

 private:
  uint64_t seed_;
  uint64_t sample_;
  uint64_t counter_ = 0;
};

}  // namespace lockstep
