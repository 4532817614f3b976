#pragma once
// What a .cu file needs to be compiled for the processor: it is included before the file
// (-include). Kernels then run on an emulated stream, a warp's 32 threads after one another, in
// lock-step where they shuffle.

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <utility>

namespace lockstep::emulated_gpu {

/// Hands a kernel to a stream; `thread` is what one of its threads does.
cudaError_t launch(const cudaLaunchConfig_t& config, std::function<void()> thread);
/// The value that the thread `delta` lanes on in the calling thread's group of `width` has.
uint64_t shuffle_down(uint64_t bits, unsigned delta, int width);

}  // namespace lockstep::emulated_gpu

// Of the thread that runs.
extern thread_local uint3 threadIdx, blockIdx;
extern thread_local dim3 blockDim, gridDim;

template <typename... Params, typename... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...),
                               Args&&... args) {
  return lockstep::emulated_gpu::launch(
      *config, [kernel, params = std::tuple<Params...>(std::forward<Args>(args)...)] {
        std::apply(kernel, params);
      });
}

template <typename T>
T __shfl_down_sync(unsigned /*mask*/, T value, unsigned delta, int width = 32) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = lockstep::emulated_gpu::shuffle_down(bits, delta, width);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
inline long long __double_as_longlong(double value) {
  long long bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
inline ushort2 make_ushort2(unsigned short x, unsigned short y) {
  return {x, y};
}
inline float2 make_float2(float x, float y) {
  return {x, y};
}
