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
constexpr unsigned kWarpLanes = 32;
/// What the warp's lane `from` hands in.
uint64_t shuffle(uint64_t bits, unsigned from);

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

namespace lockstep::emulated_gpu {

inline unsigned lane_of_thread() {
  return threadIdx.x % kWarpLanes;
}

template <typename T>
T shuffled(T value, unsigned from) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = shuffle(bits, from);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace lockstep::emulated_gpu

// In groups of `width` lanes. Who reaches out of his group gets his own value; xor may reach into an
// earlier one.
template <typename T>
T __shfl_sync(unsigned /*mask*/, T value, int source, int width = 32) {
  namespace gpu = lockstep::emulated_gpu;
  const auto group = static_cast<unsigned>(width);
  const unsigned first = gpu::lane_of_thread() / group * group;
  return gpu::shuffled(value, first + static_cast<unsigned>(source) % group);
}
template <typename T>
T __shfl_down_sync(unsigned /*mask*/, T value, unsigned delta, int width = 32) {
  namespace gpu = lockstep::emulated_gpu;
  const auto group = static_cast<unsigned>(width);
  const unsigned lane = gpu::lane_of_thread();
  return gpu::shuffled(value, lane % group + delta < group ? lane + delta : lane);
}
template <typename T>
T __shfl_xor_sync(unsigned /*mask*/, T value, int bits, int width = 32) {
  namespace gpu = lockstep::emulated_gpu;
  const auto group = static_cast<unsigned>(width);
  const unsigned lane = gpu::lane_of_thread(), from = lane ^ static_cast<unsigned>(bits);
  return gpu::shuffled(value, from / group <= lane / group ? from : lane);
}

inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<unsigned long long>(static_cast<Wide>(a) * b >> 64);
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
