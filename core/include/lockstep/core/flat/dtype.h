#pragma once
// Element types of flat spaces, named as safetensors names them. Independent of LibTorch on
// purpose: the checkpoint and its tools are built and run without it.

#include <cstdint>
#include <optional>
#include <string_view>

namespace lockstep {

enum class Dtype : uint8_t { kF32, kF64, kBF16, kF16, kI64, kI32, kI16, kI8, kU8, kU64, kBool };

/// "F32", "BF16", "BOOL", ... (the safetensors names).
std::string_view dtype_name(Dtype dtype);
/// The type that dtype_name() wrote, or nothing.
std::optional<Dtype> parse_dtype(std::string_view name);
int64_t dtype_size_bytes(Dtype dtype);
/// F32, F64, BF16, F16.
bool is_floating(Dtype dtype);

}  // namespace lockstep
