#include "elem_values.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace lockstep {
namespace {

template <typename T>
double load(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return static_cast<double>(value);
}

double half_as_double(uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const int fraction = bits & 1023;
  const double sign = (bits & 0x8000) != 0 ? -1 : 1;
  if (exponent == 31) return fraction == 0 ? sign * INFINITY : NAN;
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

}  // namespace

double elem_as_double(Dtype dtype, const std::byte* bytes) {
  uint16_t bits16 = 0;
  if (dtype_size_bytes(dtype) == 2) std::memcpy(&bits16, bytes, 2);
  switch (dtype) {
    case Dtype::kF32:
      return load<float>(bytes);
    case Dtype::kF64:
      return load<double>(bytes);
    case Dtype::kBF16:
      return std::bit_cast<float>(static_cast<uint32_t>(bits16) << 16);
    case Dtype::kF16:
      return half_as_double(bits16);
    case Dtype::kI64:
      return load<int64_t>(bytes);
    case Dtype::kI32:
      return load<int32_t>(bytes);
    case Dtype::kI16:
      return load<int16_t>(bytes);
    case Dtype::kI8:
      return load<int8_t>(bytes);
    case Dtype::kU8:
      return load<uint8_t>(bytes);
    case Dtype::kU64:
      return load<uint64_t>(bytes);
    case Dtype::kBool:
      return load<uint8_t>(bytes);
  }
  return std::numeric_limits<double>::quiet_NaN();
}

}  // namespace lockstep
