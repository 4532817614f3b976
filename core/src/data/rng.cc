#include "lockstep/core/data/rng.h"

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/hash.h"

namespace lockstep {

namespace {

// Keeps these numbers apart from others that are mixed from the same seed.
constexpr uint64_t kRngTag = 0x53414d504c455231;  // "SAMPLER1"

}  // namespace

Rng::Rng(uint64_t seed, uint64_t sample) : seed_(mix(seed, kRngTag, 0)), sample_(sample) {}

uint64_t Rng::next_u64() {
  return mix(seed_, sample_, counter_++);
}

double Rng::next_uniform() {
  return static_cast<double>(next_u64() >> 11) * 0x1.0p-53;
}

uint64_t Rng::next_below(uint64_t limit) {
  LOCKSTEP_CHECK(limit >= 1, "next_below needs a limit of at least 1");
  // Values from the last, incomplete run of `limit` numbers would favour small results: draw again.
  uint64_t rest = (0 - limit) % limit;
  uint64_t value = next_u64();
  while (value < rest) value = next_u64();
  return value % limit;
}

double Rng::next_normal() {
  double sum = -6;
  for (int i = 0; i < 12; ++i) sum += next_uniform();
  return sum;
}

}  // namespace lockstep
