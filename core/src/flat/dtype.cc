#include "lockstep/core/flat/dtype.h"

#include <array>

#include "lockstep/core/base/check.h"

namespace lockstep {
namespace {

struct DtypeInfo {
  Dtype dtype;
  std::string_view name;
  int64_t size_bytes;
  bool is_floating;
};

constexpr std::array<DtypeInfo, 11> kDtypes = {{
    {Dtype::kF32, "F32", 4, true},
    {Dtype::kF64, "F64", 8, true},
    {Dtype::kBF16, "BF16", 2, true},
    {Dtype::kF16, "F16", 2, true},
    {Dtype::kI64, "I64", 8, false},
    {Dtype::kI32, "I32", 4, false},
    {Dtype::kI16, "I16", 2, false},
    {Dtype::kI8, "I8", 1, false},
    {Dtype::kU8, "U8", 1, false},
    {Dtype::kU64, "U64", 8, false},
    {Dtype::kBool, "BOOL", 1, false},
}};

const DtypeInfo& info_of(Dtype dtype) {
  const auto index = static_cast<size_t>(dtype);
  LOCKSTEP_CHECK(index < kDtypes.size() && kDtypes[index].dtype == dtype, "dtype number ", index);
  return kDtypes[index];
}

}  // namespace

std::string_view dtype_name(Dtype dtype) {
  return info_of(dtype).name;
}

std::optional<Dtype> parse_dtype(std::string_view name) {
  for (const DtypeInfo& info : kDtypes) {
    if (info.name == name) return info.dtype;
  }
  return std::nullopt;
}

int64_t dtype_size_bytes(Dtype dtype) {
  return info_of(dtype).size_bytes;
}

bool is_floating(Dtype dtype) {
  return info_of(dtype).is_floating;
}

}  // namespace lockstep
