#pragma once
// Permutation: a random-looking order of 0 .. n-1 that is a pure function of (n, seed, epoch), with
// random access and no memory: a keyed Feistel network over the next even number of bits, walked
// until it lands below n. The function is part of what a recipe means: changing it changes every
// run. Thread-safety: a value.

#include <array>
#include <cstdint>

namespace lockstep {

class Permutation {
 public:
  /// Requires: 1 <= num_elems <= 2^62.
  Permutation(int64_t num_elems, uint64_t seed, uint64_t epoch);

  int64_t num_elems() const { return num_elems_; }
  /// The element at `position`. Requires: 0 <= position < num_elems(). Cost: below 4 walks
  /// expected, each of kNumRounds mixes.
  int64_t at(int64_t position) const;

 private:
  static constexpr int kNumRounds = 10;
  int64_t num_elems_;
  int half_bits_;
  uint64_t half_mask_;
  std::array<uint64_t, kNumRounds> round_keys_;
};

}  // namespace lockstep
