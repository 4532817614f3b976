#pragma once
// bfloat16 as the upper half of a float, the same text for the processor and the GPU. Pure.

#include <cstdint>

#include "lockstep/core/device/host_device.h"

namespace lockstep {

/// The bits of the bf16 nearest to `value`, ties to the even one. Too large for bf16: infinity. A
/// NaN stays one.
LOCKSTEP_HOST_DEVICE uint16_t bf16_bits(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  const uint32_t nearest = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
  const uint32_t quiet_nan = (bits >> 16) | 0x40U;
  return static_cast<uint16_t>((bits & 0x7fffffffU) > 0x7f800000U ? quiet_nan : nearest);
}

LOCKSTEP_HOST_DEVICE float float_of_bf16_bits(uint16_t bf16) {
  const uint32_t bits = static_cast<uint32_t>(bf16) << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

}  // namespace lockstep
