#include "lockstep/core/data/permutation.h"

#include <algorithm>
#include <bit>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/hash.h"

namespace lockstep {
namespace {

constexpr int64_t kMaxElems = int64_t{1} << 62;
// Sets this use of mix() apart from every other.
constexpr uint64_t kRoundTag = 0x5045524d55544531;  // "PERMUTE1"

}  // namespace

Permutation::Permutation(int64_t num_elems, uint64_t seed, uint64_t epoch) : num_elems_(num_elems) {
  LOCKSTEP_CHECK(num_elems >= 1 && num_elems <= kMaxElems,
                 "a permutation has 1 to 2^62 elements, not ", num_elems);
  int bits = std::bit_width(static_cast<uint64_t>(num_elems - 1));
  half_bits_ = std::max(1, (bits + 1) / 2);
  half_mask_ = (uint64_t{1} << half_bits_) - 1;
  uint64_t epoch_key = mix(seed, epoch, kRoundTag);
  for (int round = 0; round < kNumRounds; ++round)
    round_keys_[static_cast<size_t>(round)] =
        mix(epoch_key, static_cast<uint64_t>(round), static_cast<uint64_t>(num_elems));
}

int64_t Permutation::at(int64_t position) const {
  LOCKSTEP_CHECK(position >= 0 && position < num_elems_, "position ", position, " of ", num_elems_);
  uint64_t value = static_cast<uint64_t>(position);
  // The network permutes 0 .. 4^half_bits - 1. Following it from a value below n until the next
  // value below n stays on one cycle, so the result is a permutation of 0 .. n-1.
  do {
    uint64_t left = value >> half_bits_;
    uint64_t right = value & half_mask_;
    for (uint64_t key : round_keys_) {
      uint64_t next = left ^ (mix(key, right, kRoundTag) & half_mask_);
      left = right;
      right = next;
    }
    value = (left << half_bits_) | right;
  } while (value >= static_cast<uint64_t>(num_elems_));
  return static_cast<int64_t>(value);
}

}  // namespace lockstep
